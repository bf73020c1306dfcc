"""aws.image: baked: what the program asks for, and how an image is made, reused and removed in an emulated account."""

from __future__ import annotations

import base64
import importlib
import json
import subprocess
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from harness.mock_aws import BAKED_IMAGE
from harness.mock_engine import UNKNOWN
from platforms.aws import baked_image
from platforms.aws.baked_image import BY_ITSELF, TAG, BakeError, Baking
from platforms.aws.instance import USER_DATA_BYTES
from rendering.common import PREBUILT_PACKAGES, prebuilt_scripts
from rendering.image import BAKE_FAILED, image_user_data
from rendering.paths import SCRIPTS
from tests.aws.account import Account
from tests.aws.auth_proxy import ACCOUNT
from tests.aws.server import ROOT_DEVICE, image, serving
from tests.unit.aws_fleet import GROUP, IN, INSTANCE, OUT, built, given, planned, run
from tests.unit.stack_blocks import problems_of, production
from tests.unit.test_alb_settings import stack
from tests.unit.test_aws_group import SPOT, TEMPLATE

REGION = "eu-central-1"
TAGS = {"cost-center": "42", "wsgi-fleet:project": "p", "wsgi-fleet:stack": "prod"}
CHANGES = ("run_instances", "create_image", "create_tags", "terminate_instances", "deregister_image", "delete_snapshot")


class Killed(BaseException):
    """The process ended here: nothing after it reaches AWS."""


@dataclass
class Cloud:
    """An account, and the time of a test. look: called each time that somebody waits. console: of every instance.

    left: calls that change something until the process is killed. changes: those that were made.
    """

    account: Account
    props: dict[str, Any]
    look: Callable[[], None]
    now_s: float = 0.0
    console: str = ""
    left: int = 1000
    changes: list[str] = field(default_factory=list[str])

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.account.aws.ec2, name)

        def carry_out(**parameters: Any) -> Any:
            if self.left <= 0:
                raise Killed(name)
            if name in CHANGES:
                self.left -= 1
                self.changes.append(name)
            return call(**parameters)

        # A paginator is no call, and its calls change nothing.
        return call if name == "get_paginator" else carry_out

    def get_console_output(self, **parameters: Any) -> Any:
        assert parameters["Latest"]
        return {"Output": self.console}

    def baking(self, **changes: Any) -> Baking:
        made = Baking(self.props | changes)
        made.__dict__["ec2"] = self
        return made

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.look()

    def instances(self) -> list[dict[str, Any]]:
        pages = self.account.aws.ec2.describe_instances()["Reservations"]
        every = [each for page in pages for each in page["Instances"]]
        return [each for each in every if each["State"]["Name"] != "terminated"]

    def images(self) -> list[dict[str, Any]]:
        return self.account.aws.ec2.describe_images(Owners=["self"])["Images"]

    def snapshots(self) -> list[dict[str, Any]]:
        return self.account.aws.ec2.describe_snapshots(Filters=[{"Name": "tag-key", "Values": [TAG]}])["Snapshots"]

    def switch_off(self, reason: str = BY_ITSELF) -> None:
        """Stop every instance, as for this reason."""
        models: Any = importlib.import_module("moto.ec2.models")
        state: Any = importlib.import_module("moto.ec2.models.instances").StateReason
        for each in self.instances():
            instance = models.ec2_backends[ACCOUNT][REGION].get_instance(each["InstanceId"])
            if instance.is_running():
                instance.stop()
                instance.state_reason = state("it did so", reason)


@pytest.fixture(scope="module")
def account() -> Generator[Account]:
    with serving() as endpoint:
        yield Account(endpoint, REGION)


@pytest.fixture
def cloud(account: Account, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Return an empty account in which an instance switches itself off when somebody waits for it."""
    importlib.import_module("moto.ec2.models").ec2_backends[ACCOUNT][REGION].reset()
    (subnet, *_) = account.aws.ec2.describe_subnets()["Subnets"]
    (group, *_) = account.aws.ec2.describe_security_groups()["SecurityGroups"]
    props = {
        "name": "wsgi-fleet-1", "region": REGION, "base": image(account), "root_device": ROOT_DEVICE,
        "instance_type": "t4g.small", "disk_gib": 8.0, "subnet": subnet["SubnetId"], "group": group["GroupId"],
        "ipv6": False, "user_data": "#cloud-config\n", "tags": TAGS,
    }  # fmt: skip
    made = Cloud(account, props, lambda: made.switch_off())  # noqa: PLW0108
    monkeypatch.setattr(baked_image, "time", SimpleNamespace(monotonic=lambda: made.now_s, sleep=made.sleep))
    monkeypatch.setattr(baked_image, "log", list[str]().append)
    return made


def tags_of(found: dict[str, Any]) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in found["Tags"]}


pytestmark = pytest.mark.aws


def test_an_image_is_made_of_an_instance_that_nobody_can_connect_to(cloud: Cloud) -> None:
    builders: list[dict[str, Any]] = []

    def look() -> None:
        builders.extend(cloud.instances())
        cloud.switch_off()

    cloud.look = look
    id_ = cloud.baking().make()
    (builder, *_), (made,), (snapshot,) = builders, cloud.images(), cloud.snapshots()
    assert (made["ImageId"], made["Name"], made["Public"]) == (id_, "wsgi-fleet-1", False)
    assert tags_of(made) == tags_of(snapshot) == TAGS | {"Name": "prod-image", TAG: "wsgi-fleet-1"}
    assert tags_of(builder) == TAGS | {"Name": "prod-image-builder", TAG: "wsgi-fleet-1"}
    assert builder.keys() & {"PublicIpAddress", "KeyName", "IamInstanceProfile"} == set()
    options = builder["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
    ec2 = cloud.account.aws.ec2
    asked = {"InstanceId": builder["InstanceId"]}
    behaviour = ec2.describe_instance_attribute(**asked, Attribute="instanceInitiatedShutdownBehavior")
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "stop"
    user_data = ec2.describe_instance_attribute(**asked, Attribute="userData")["UserData"]["Value"]
    assert base64.b64decode(user_data) == b"#cloud-config\n"
    assert cloud.instances() == []


def test_the_disk_of_the_builder_is_encrypted(cloud: Cloud) -> None:
    volumes: list[bool] = []

    def look() -> None:
        volumes.extend(each["Encrypted"] for each in cloud.account.aws.ec2.describe_volumes()["Volumes"])
        cloud.switch_off()

    cloud.look = look
    cloud.baking().make()
    assert volumes == [True]


def test_an_image_that_is_there_is_used_again(cloud: Cloud) -> None:
    first = cloud.baking().make()
    cloud.changes.clear()
    assert cloud.baking().make() == first
    assert cloud.changes == ["create_tags"]


@pytest.mark.parametrize("calls", range(1, 5))
def test_an_up_that_is_killed_after_any_call_is_continued_by_the_next_one(cloud: Cloud, calls: int) -> None:
    cloud.left = calls
    try:
        cloud.baking().make()
    except Killed:
        assert cloud.changes == list(CHANGES[:calls])
    cloud.left = 1000
    id_ = cloud.baking().make()
    assert [each["ImageId"] for each in cloud.images()] == [id_]
    assert cloud.instances() == []
    assert (cloud.changes.count("run_instances"), cloud.changes.count("create_image")) == (1, 1)


def test_what_a_killed_up_with_other_settings_left_is_removed(cloud: Cloud) -> None:
    cloud.baking(name="wsgi-fleet-2").make()
    cloud.left = 1
    with pytest.raises(Killed):
        cloud.baking(name="wsgi-fleet-3").make()
    cloud.left = 1000
    cloud.baking().make()
    assert [each["Name"] for each in cloud.images()] == ["wsgi-fleet-1"]
    assert {tags_of(each)[TAG] for each in cloud.snapshots()} == {"wsgi-fleet-1"}
    assert cloud.instances() == []


def test_another_stack_is_left_alone(cloud: Cloud) -> None:
    other = TAGS | {"wsgi-fleet:stack": "dev"}
    cloud.baking(name="wsgi-fleet-2", tags=other).make()
    cloud.baking().make()
    cloud.baking().remove(cloud.baking().find_image())
    assert [each["Name"] for each in cloud.images()] == ["wsgi-fleet-2"]


def test_a_script_that_fails_ends_it_with_the_last_lines_of_the_console(cloud: Cloud) -> None:
    cloud.look = lambda: None
    cloud.console = "\n".join(["first", *["..."] * 20, "E: Unable to locate package nginx", f"{BAKE_FAILED} (1)"])
    with pytest.raises(BakeError, match=r"(?s)its script failed.*\nE: Unable to .*\(1\)$") as error:
        cloud.baking().make()
    assert "first" not in str(error.value)
    assert (cloud.now_s, cloud.instances(), cloud.images()) == (baked_image.PROGRESS_S, [], [])


def test_an_instance_that_does_not_end_is_given_up(cloud: Cloud) -> None:
    def look() -> None:
        cloud.now_s += 300

    cloud.look = look
    with pytest.raises(BakeError, match=r"it did not end in 1200 s\..*Its console ends:\n\(empty\)$"):
        cloud.baking().make()
    assert (cloud.instances(), cloud.images()) == ([], [])


def test_an_instance_that_somebody_else_stops_becomes_no_image(cloud: Cloud) -> None:
    cloud.look = lambda: cloud.switch_off("Client.UserInitiatedShutdown")
    with pytest.raises(BakeError, match=r"somebody else ended it \(stopped\)"):
        cloud.baking().make()
    assert (cloud.instances(), cloud.images()) == ([], [])


def test_an_image_that_aws_cannot_make_is_removed_and_made_again(cloud: Cloud) -> None:
    models: Any = importlib.import_module("moto.ec2.models")
    amis: dict[str, Any] = models.ec2_backends[ACCOUNT][REGION].amis
    made = cloud.baking().make()
    amis[made].state = "failed"
    assert cloud.baking().find_image() == ""
    again = cloud.baking().make()
    assert [each["ImageId"] for each in cloud.images()] == [again]


def test_an_error_of_aws_says_what_to_do(cloud: Cloud) -> None:
    with pytest.raises(BakeError, match=r"InvalidSubnetID\.NotFound.*`\./fleet doctor`"):
        cloud.baking(subnet="subnet-00000000").make()


def test_a_deleted_image_leaves_nothing_and_one_that_is_gone_is_no_error(cloud: Cloud) -> None:
    id_ = cloud.baking().make()
    cloud.baking().remove(id_)
    assert (cloud.images(), cloud.snapshots()) == ([], [])
    cloud.baking().remove(id_)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_deletion_that_is_killed_is_finished_by_the_next_one(cloud: Cloud, calls: int) -> None:
    id_ = cloud.baking().make()
    cloud.left = calls
    with pytest.raises(Killed):
        cloud.baking().remove(id_)
    cloud.left = 1000
    cloud.baking().remove(id_)
    assert (cloud.images(), cloud.snapshots()) == ([], [])


def test_an_image_stays_while_there_are_machines_of_it(cloud: Cloud) -> None:
    id_ = cloud.baking().make()
    ec2 = cloud.account.aws.ec2
    machine = ec2.run_instances(ImageId=id_, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]

    def advance() -> None:
        cloud.now_s += 60

    cloud.look = advance
    cloud.baking().remove(id_)
    assert [each["ImageId"] for each in cloud.images()] == [id_]
    # The last one leaves a group some time after the refresh has ended.
    cloud.look = lambda: ec2.terminate_instances(InstanceIds=[machine])
    cloud.baking().remove(id_)
    assert cloud.images() == []


def test_only_another_name_or_region_makes_another_image() -> None:
    provider = baked_image._Provider()  # pyright: ignore[reportPrivateUsage]
    olds: dict[str, Any] = {"name": "a", "region": REGION, "instance_type": "t4g.small", "tags": {}}
    same = provider.diff("ami-1", olds, olds | {"instance_type": "t4g.large", "subnet": "subnet-2"})
    other = provider.diff("ami-1", olds, olds | {"name": "b"})
    assert (same.changes, other.changes, other.replaces, other.delete_before_replace) == (False, True, ["name"], False)


def test_every_machine_boots_the_image_and_its_builder_lets_nobody_in() -> None:
    made = built(image="baked")
    assert {each.inputs["ami"] for each in made.of(INSTANCE)} == {"machine-image-id"}
    assert made.one(BAKED_IMAGE).inputs["base"] == "ami-0123456789abcdef0"
    builders = next(each for each in made.of(GROUP) if each.name == "image-builder")
    assert made.one(BAKED_IMAGE).inputs["group"] == "image-builder-id"
    assert [each for each in made.of(IN) if each.parent == builders.urn] == []
    ports = {each.inputs["toPort"] for each in made.of(OUT) if each.parent == builders.urn}
    assert ports == {80, 443}
    assert built().of(BAKED_IMAGE) == []


def test_a_preview_does_not_know_the_image_yet() -> None:
    made = run(given(image="baked"), preview=True)
    assert {each.inputs["ami"] for each in made.of(INSTANCE)} == {UNKNOWN}


def test_a_group_launches_the_image_which_has_another_name_for_another_base() -> None:
    def plan(**aws: Any) -> Any:
        return planned(**stack(aws={"image": "baked", **aws}, apps={"hello": SPOT}))

    first, second = plan(), plan(ami="ami-00000001")
    assert first.one(TEMPLATE).inputs["imageId"] == "machine-image-id"
    names = {each.one(BAKED_IMAGE).inputs["name"] for each in (first, second)}
    assert len(names) == 2


def test_the_builder_runs_what_the_image_of_lxd_has_done() -> None:
    text = image_user_data()
    assert len(text.encode()) < USER_DATA_BYTES
    document: dict[str, Any] = yaml.safe_load(text)
    assert document["runcmd"] == [[f"{SCRIPTS}/bake-image", *PREBUILT_PACKAGES]]
    files = {each["path"]: each["content"] for each in document["write_files"]}
    assert tuple(files[path] for path in sorted(files) if "/image-" in path) == prebuilt_scripts()
    assert f'"{BAKE_FAILED} (' in files[f"{SCRIPTS}/bake-image"]


def test_a_script_that_fails_says_so_and_leaves_the_machine_on(tmp_path: Path) -> None:
    document: dict[str, Any] = yaml.safe_load(image_user_data())
    files = {Path(each["path"]).name: each["content"] for each in document["write_files"]}
    console, log = tmp_path / "console", tmp_path / "log"
    log.write_text("E: no such package\n")
    text = files["bake-image"].replace(SCRIPTS, str(tmp_path)).replace("/dev/console", str(console))
    (tmp_path / "bake-image").write_text(text.replace("/var/log/cloud-init-output.log", str(log)))
    (tmp_path / "install-packages").write_text("#!/bin/sh\nexit 3\n")
    for name in ("systemctl", "apt-get", "rm", "cloud-init"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/calls\n')
    for each in tmp_path.iterdir():
        each.chmod(0o755)
    ended = subprocess.run(
        ["/bin/sh", tmp_path / "bake-image", "nginx"], env={"PATH": f"{tmp_path}:/bin"}, check=False, timeout=30
    )
    assert ended.returncode == 3
    assert console.read_text() == f"E: no such package\n{BAKE_FAILED} (3)\n"
    assert (tmp_path / "calls").read_text() == "systemctl stop apt-daily.timer apt-daily-upgrade.timer\n"


def test_the_setting_is_one_of_two_words() -> None:
    assert problems_of(production(image="baked")) == []
    (problem,) = problems_of(production(image="bake"))
    assert problem.startswith('aws.image: "bake"'), problem
    assert '"debian"' in problem or "debian" in problem
    assert json.dumps(problem)
