"""Read the release store from a machine: a folder, or an S3 bucket and parameters by the role of the machine (curl)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

# EC2 instance metadata service, version 2 (a token first). Elsewhere where AWS's own variable for it says so.
METADATA = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/") + "/latest"
TIMEOUT_S = 120
# For an archive: as long as staging may take at most (rollout.stage_timeout_s).
FILE_TIMEOUT_S = 3600
# In the root of a store that is a folder.
MARK = ".store"


class FetchError(Exception):
    """The store does not respond, or does not have the key."""


def fetch(store: str, key: str, *, missing_ok: bool = False) -> bytes:
    """Return the content of a key. store: file:///folder or s3://bucket/prefix. A missing key is b"" if missing_ok."""
    url = urlsplit(store)
    try:
        found = (
            _read_folder(Path(url.path) / key)
            if url.scheme == "file"
            else _read_bucket(url.netloc, f"{url.path.strip('/')}/{key}")
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise FetchError(f"the store {store} does not respond: {error}") from error
    if found is None and not missing_ok:
        raise FetchError(f"the store {store} has no {key}; publish it again with `pulumi up`")
    return found or b""


def fetch_file(store: str, key: str, target: Path) -> None:
    """Write the content of a key into a file, however large it is. Raises FetchError."""
    url = urlsplit(store)
    try:
        if url.scheme == "file":
            file = _find_in_folder(Path(url.path) / key)
            is_there = bool(file and shutil.copyfile(file, target))
        else:
            path = f"{url.netloc}{quote(f'{url.path}/{key}')}"
            is_there = _is_found(_send_signed("s3", path, f'output = "{target}"', timeout_s=FILE_TIMEOUT_S)[1])
    except (OSError, subprocess.SubprocessError) as error:
        raise FetchError(f"the store {store} does not respond: {error}") from error
    if not is_there:
        raise FetchError(f"the store {store} has no {key}; publish it again with `pulumi up`")


def _read_folder(path: Path) -> bytes | None:
    file = _find_in_folder(path)
    return file.read_bytes() if file else None


def _find_in_folder(path: Path) -> Path | None:
    if path.exists():
        return path
    # A store that is not mounted must not look like one without a pointer.
    if not any((parent / MARK).exists() for parent in path.parents):
        raise OSError(f"{path.parent} is not mounted")
    return None


def metadata(path: str, token: str = "") -> str:
    """Return the machine's metadata at a path; without a token, a new token. Raises OSError."""
    headers = {"X-aws-ec2-metadata-token": token} if token else {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    method = "GET" if token else "PUT"
    request = urllib.request.Request(f"{METADATA}/{path}", headers=headers, method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
        return response.read().decode()


def credentials(token: str) -> dict[str, str]:
    """Return the credentials of this machine's role: AccessKeyId, SecretAccessKey, Token, Expiration."""
    role = metadata("meta-data/iam/security-credentials/", token).strip()
    return json.loads(metadata(f"meta-data/iam/security-credentials/{role}", token))


def host(service: str, region: str) -> str:
    """Return the name under which a service of the region responds."""
    return f"{service}.{region}.{'amazonaws.com.cn' if region.startswith('cn-') else 'amazonaws.com'}"


def _read_bucket(bucket: str, key: str) -> bytes | None:
    content, status = _send_signed("s3", f"{bucket}/{quote(key)}")
    return content if _is_found(status) else None


def _is_found(status: str) -> bool:
    if status not in ("200", "404"):
        raise OSError(f"S3 responded with {status}")
    return status == "200"


def _send_signed(service: str, path: str, *lines: str, timeout_s: int = TIMEOUT_S) -> tuple[bytes, str]:
    """Return the response of a service of the region, and the status. lines: of a curl configuration.

    Signature Version 4 by curl (>= 7.75), which reads the credentials from standard input.
    """
    token = metadata("api/token")
    key, region = credentials(token), metadata("meta-data/placement/region", token)
    config = "\n".join(
        [
            f'url = "https://{host(service, region)}/{path}"',
            f'user = "{key["AccessKeyId"]}:{key["SecretAccessKey"]}"',
            f'header = "x-amz-security-token: {key["Token"]}"',
            f'aws-sigv4 = "aws:amz:{region}:{service}"',
            "silent\nshow-error\nretry = 5\nretry-connrefused",
            f'max-time = {timeout_s}\nwrite-out = "%{{stderr}}%{{http_code}}"',
            *lines,
        ]
    )
    result = subprocess.run(["curl", "--config", "-"], check=False, input=config.encode(), capture_output=True)
    printed = result.stderr.decode(errors="replace").strip()
    if result.returncode:
        raise OSError(f"{service} responded with {printed}")
    return result.stdout, printed[-3:]


def fetch_secrets(store: str, release: str) -> dict[str, str]:
    """Return the secrets of a release: parameters with the name of the bucket's prefix; a folder has none."""
    url = urlsplit(store)
    found: dict[str, str] = {}
    if url.scheme != "s3":
        return found
    query = {"Path": f"/wsgi-fleet{url.path}/{release}", "WithDecryption": True}
    try:
        while True:
            response = _get_parameters(query)
            for each in response["Parameters"]:
                # The rollout writes values as JSON text.
                found[each["Name"].rpartition("/")[2]] = json.loads(each["Value"])
            if not response.get("NextToken"):
                return found
            query["NextToken"] = response["NextToken"]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise FetchError(f"the parameters below {query['Path']} cannot be read: {error}") from error


def _get_parameters(query: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps(query).replace("\\", "\\\\").replace('"', '\\"')
    content, status = _send_signed(
        "ssm",
        "",
        'header = "content-type: application/x-amz-json-1.1"',
        'header = "x-amz-target: AmazonSSM.GetParametersByPath"',
        f'data = "{body}"',
    )
    if status != "200":
        raise OSError(f"SSM responded with {status} {content.decode(errors='replace')[:300]}")
    return json.loads(content)
