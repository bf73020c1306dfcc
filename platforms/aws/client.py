"""Clients of AWS's services on the operator's side, and their errors as those of the platform."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

RETRIES: Mapping[str, Any] = {"mode": "standard", "max_attempts": 5}


def client(service: str, region: str, retries: Mapping[str, Any] = RETRIES) -> Any:
    """Return the client of a service. retries: of botocore.

    boto3 is loaded here, for it takes half a second, and other platforms never need it. A call is the first to use the
    network.
    """
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(retries=cast("Any", dict(retries)), connect_timeout=10, read_timeout=60)
    return cast("Any", boto3).client(service, region_name=region, config=config)


@contextmanager
def convert_errors(kind: type[Exception]) -> Generator[None]:
    """Raise an error of AWS in the block as one of this kind, with what to do."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise kind(f"{error}; `./fleet doctor` looks at the credentials") from error
