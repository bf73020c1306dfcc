"""Checks of the credentials, the image, the plugins and the connection to the balancer for a fleet on EC2."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, cast

from pydantic import ValidationError

from platforms.aws.credentials import ASK_YOURSELF, REMEDIES
from platforms.aws.image import DEBIAN_OWNER, ImageKind
from platforms.diagnosis import Finding
from settings.aws import Aws
from settings.operating_system import DEFAULT_OS, OPERATING_SYSTEMS
from settings.size import Size

# Seconds: a person waits for the response.
CONNECT_S, READ_S, PLUGINS_S = 5, 10, 30
SSH = 22
# States of an endpoint (AWS's user guide, connect-using-eice.html).
USABLE_STATES = ("create-complete", "update-in-progress", "update-complete", "update-failed")
IMAGE_PERMISSION = "Ask the administrator of the account for ec2:DescribeImages; `pulumi up` needs it, too."


def check_host(blocks: Mapping[str, Any], *, stack: str) -> list[Finding]:
    """Check the plugins, the settings, the credentials and the image. Nothing is changed. blocks: of the stack file."""
    findings = list(check_plugins())
    block: Mapping[str, Any] = blocks.get("aws") or {}
    # Encrypted values are not readable here, and the checks below do not need them.
    unencrypted = {key: value for key, value in block.items() if not key.startswith("ssh_")}
    try:
        config = Aws.model_validate_json(json.dumps(unencrypted))
    except ValidationError as error:
        wrong = ", ".join(dict.fromkeys(str(each["loc"][0]) if each["loc"] else "aws" for each in error.errors()))
        remedy = f"`./fleet config -s {stack}` tells each with what is allowed; mend stacks/Pulumi.{stack}.yaml."
        return [*findings, Finding("settings of AWS", f"these cannot work: {wrong}", remedy)]
    return [*findings, *check_account(config, image_kind(blocks))]


def image_kind(blocks: Mapping[str, Any]) -> ImageKind:
    """Return what the machines of a stack file boot. All have the architecture of the first of them."""
    system = OPERATING_SYSTEMS.get(blocks.get("os", ""), DEFAULT_OS)
    try:
        front: Mapping[str, Any] = blocks.get("balancer") or {}
        is_alb = front.get("kind") == "alb"
        first: Mapping[str, Any] = next(iter(blocks["apps"].values()))["fleet"] if is_alb else front
        size = Size.model_validate_json(json.dumps(first["size"]))
    except (AttributeError, KeyError, StopIteration, TypeError, ValidationError):
        size = Size()
    return ImageKind(system, size.architecture)


def check_plugins() -> Iterator[Finding]:
    """Check the engine's plugins. The first `up` downloads them if it can."""
    try:
        listing = subprocess.run(
            ["pulumi", "plugin", "ls", "--json"], check=True, capture_output=True, timeout=PLUGINS_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        installed = {(each["name"], each["version"]) for each in json.loads(listing.stdout)}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        yield Finding("plugins of Pulumi", f"`pulumi plugin ls` does not list them: {error}", "Run `make setup`.")
        return
    for name in ("aws", "command"):
        required = version(f"pulumi-{name}")
        if (name, required) in installed or shutil.which(f"pulumi-resource-{name}"):
            yield Finding(f"plugin {name}")
        else:
            remedy = f"`pulumi plugin install resource {name} {required}` fetches it, as the first `pulumi up` does."
            yield Finding(f"plugin {name}", f"version {required} is not installed", remedy)


def check_account(aws: Aws, kind: ImageKind) -> Iterator[Finding]:
    """Check which identity AWS sees, and whether the image is one that machines here can boot."""
    # Loaded late: boto3 takes half a second.
    import boto3  # noqa: PLC0415
    from botocore import exceptions  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries={"total_max_attempts": 2})
    subject = "AWS credentials"
    try:
        session = cast("Any", boto3).Session(region_name=aws.region)
        identity = session.client("sts", config=config).get_caller_identity()
        yield Finding(f"{subject} ({identity['Arn']})")
        subject = f"image {aws.ami}"
        images = session.client("ec2", config=config).describe_images(ImageIds=[aws.ami])["Images"]
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        remedy = (
            "Is that a region (`aws.region`), and is there a way to it from here: DNS, proxy (HTTPS_PROXY), firewall?"
        )
        yield Finding(f"region {aws.region}", str(error), remedy)
    except exceptions.ClientError as error:
        code = str(cast("Any", error).response["Error"]["Code"])
        if code.startswith("InvalidAMIID"):
            yield _no_image(aws)
        else:
            yield Finding(
                subject, str(error), {**REMEDIES, "UnauthorizedOperation": IMAGE_PERMISSION}.get(code, ASK_YOURSELF)
            )
    except exceptions.BotoCoreError as error:
        yield Finding(subject, str(error), REMEDIES.get(type(error).__name__, ASK_YOURSELF))
    else:
        yield image(images[0], identity["Account"], kind) if images else _no_image(aws)


def image(found: Mapping[str, Any], account_id: str, kind: ImageKind) -> Finding:
    """Check an image as EC2 describes it.

    Its owner is reported and not judged: a company may share its own.
    """
    owner = {DEBIAN_OWNER: "Debian's", account_id: "yours"}.get(found["OwnerId"], f"of account {found['OwnerId']}")
    subject = f"image {found['ImageId']} ({owner})"
    problem = kind.find_problem(found)
    if not problem and found["State"] != "available":
        problem = f"it is {found['State']}"
    if not problem:
        return Finding(subject)
    return Finding(subject, problem, "The comment above `ami` in stacks/Pulumi.example.yaml says how to find one.")


def check_ssh(reach: Mapping[str, Any]) -> Finding:
    """Check whether the balancer's port 22 responds from here: all other machines are reached through it."""
    address = str(reach["jump_address"])
    subject = f"port {SSH} of the balancer ({address})"
    try:
        socket.create_connection((address, SSH), timeout=CONNECT_S).close()
    except TimeoutError:
        remedy = (
            "Is your address in aws.admin_cidrs (`curl https://checkip.amazonaws.com` prints it), and does your "
            "network let you out to port 22? Else the balancer is down: `pulumi up --refresh`."
        )
        return Finding(subject, f"it did not respond in {CONNECT_S} s", remedy)
    except OSError as error:
        remedy = "Its SSH server is down, or the machine just boots; see its log in the EC2 console."
        return Finding(subject, str(error), remedy)
    return Finding(subject)


def check_endpoint(reach: Mapping[str, Any]) -> Finding:
    """Check whether the endpoint accepts tunnels. Checks of machines show whether the operator may open one."""
    # Loaded late: boto3 takes half a second.
    import boto3  # noqa: PLC0415
    from botocore import exceptions  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    endpoint = reach["endpoint"]
    subject = f"endpoint {endpoint['id']}"
    config = Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries={"total_max_attempts": 2})
    try:
        ec2 = cast("Any", boto3).Session(region_name=endpoint["region"]).client("ec2", config=config)
        (found,) = ec2.describe_instance_connect_endpoints(InstanceConnectEndpointIds=[endpoint["id"]])[
            "InstanceConnectEndpoints"
        ]
    except exceptions.ClientError as error:
        code = str(cast("Any", error).response["Error"]["Code"])
        remedies = {
            **REMEDIES,
            "UnauthorizedOperation": "Ask the administrator of the account for ec2:DescribeInstanceConnectEndpoints.",
            "InvalidInstanceConnectEndpointId.NotFound": "`pulumi up --refresh` makes it again.",
        }
        return Finding(subject, str(error), remedies.get(code, ASK_YOURSELF))
    except exceptions.BotoCoreError as error:
        return Finding(subject, str(error), REMEDIES.get(type(error).__name__, ASK_YOURSELF))
    if found["State"] in USABLE_STATES:
        return Finding(subject)
    why = f"it is {found['State']}" + (f": {found['StateMessage']}" if found.get("StateMessage") else "")
    return Finding(subject, why, "A new one takes minutes; `pulumi up --refresh` makes one that failed again.")


def _no_image(aws: Aws) -> Finding:
    return Finding(
        f"image {aws.ami}",
        f"{aws.region} has no such image, or it is not for your account",
        "Ids differ by region; the comment above `ami` in stacks/Pulumi.example.yaml says how to find one.",
    )
