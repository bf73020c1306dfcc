"""What the operator's side asks of a group, as the stand-in of Auto Scaling answers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from platforms.aws import instance_refresh
from platforms.aws.instance_refresh import Refresh, RefreshError
from platforms.aws.scaling import ScalingGroup
from platforms.server_group import Phase
from tests.aws.scaling_group import Group
from tests.unit.test_aws_groups import LAUNCH, REGION, TERMINATE, Site, region, site, versions

__all__ = ["region", "site"]
pytestmark = pytest.mark.aws


def make_group(site: Site, group: Group) -> ScalingGroup:
    made = ScalingGroup(REGION, group.name, site.targets)
    made.__dict__ |= {"client": site.api, "ec2": site.account.aws.ec2}
    made._elb.__dict__["client"] = site.account.aws.elbv2  # pyright: ignore[reportPrivateUsage]
    return made


def refresh(
    site: Site, group: Group, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Bring a group to the second version of its template, and look at it where a person would wait."""

    def sleep(_seconds: float) -> None:
        site.look(group)
        meanwhile()

    monkeypatch.setattr(instance_refresh, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    made = Refresh(REGION, group.name)
    made.__dict__["client"] = site.api
    made.run({"LaunchTemplate": {"LaunchTemplateId": site.template, "Version": "2"}})


def test_members_are_where_the_group_has_them(site: Site) -> None:
    group = site.group(LAUNCH, TERMINATE)
    operator = make_group(site, group)
    (id_,) = site.until(group, "Pending:Wait")
    (waiting,) = operator.members()
    assert (waiting.id, waiting.phase, waiting.takes_part) == (id_, Phase.WAITING, True)
    # Of one that waits AWS takes no protection.
    operator.protect([id_], on=True)
    site.complete(group, LAUNCH, id_)
    site.until(group, "InService")
    assert ([each.phase for each in operator.members()], operator.healthy()) == ([Phase.SERVING], {id_})
    operator.protect([id_], on=True)
    assert site.shown(group)["Instances"][0]["ProtectedFromScaleIn"] is True
    operator.protect([id_, "i-00000000000000000"], on=False)
    operator.replace(id_)
    while id_ in group.instances and group.instances[id_].state == "InService":
        site.look(group)
    assert {each.id: each.phase for each in operator.members()}[id_] is Phase.LEAVING


def test_one_on_standby_takes_part_and_comes_back(site: Site) -> None:
    group = site.group(desiredCapacity=2, minSize=1)
    first, _ = site.until(group, "InService", "InService")
    operator = make_group(site, group)
    operator.stand_by(first, on=True)
    site.until(group, "Standby", "InService")
    assert {each.id: each.phase for each in operator.members() if each.takes_part}[first] is Phase.STANDBY
    operator.stand_by(first, on=False)
    site.until(group, "InService", "InService")


def test_a_refresh_brings_every_server_to_the_template(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    group = site.group(desiredCapacity=2)
    site.until(group, "InService", "InService")
    refresh(site, group, monkeypatch)
    site.until(group, "InService", "InService")
    assert (versions(group), site.shown(group)["LaunchTemplate"]["Version"]) == (["2", "2"], "2")


def test_a_refresh_whose_servers_give_up_goes_back_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    group = site.group(LAUNCH)
    (id_,) = site.until(group, "Pending:Wait")
    site.complete(group, LAUNCH, id_)
    site.until(group, "InService")

    def give_up() -> None:
        for each in list(group.instances.values()):
            if each.state == "Pending:Wait" and each.template["Version"] == "2":
                site.complete(group, LAUNCH, each.id, "ABANDON")

    with pytest.raises(RefreshError, match=r"\(RollbackSuccessful\): 2 servers did not come"):
        refresh(site, group, monkeypatch, give_up)
    assert (site.until(group, "InService"), versions(group)) == ([id_], ["1"])
