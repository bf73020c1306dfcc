"""What a control is, which findings are meant, and how a plan is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True)
class Planned:
    """A resource of a plan. parent: URN, or "".

    inputs: as Pulumi spells them; secrets without their values, and None for what is not known before the first `up`.
    """

    type: str
    name: str
    urn: str
    parent: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class Violation:
    """A resource that fails a control, and what is wrong with it."""

    control: Control
    resource: Planned
    problem: str


@dataclass(frozen=True)
class Control:
    """judge: yields each resource of a plan that fails, with the words for it."""

    id: str
    title: str
    remedy: str
    judge: Callable[[Sequence[Planned]], Iterator[tuple[Planned, str]]]


@dataclass(frozen=True)
class Accepted:
    """A finding that is meant. stacks: where; empty for all."""

    control: str
    resource: str
    reason: str
    stacks: frozenset[str] = frozenset()


CONTROLS: list[Control] = []
ACCEPTED = (
    Accepted("EC2.9", "balancer", "It takes requests from the internet, and may be the jump host for admin_cidrs."),
    Accepted("EC2.25", "balancer", "The same of a balancer that heals itself (`balancer.self_healing`)."),
    Accepted("EC2.6", "vpc", "Flow logs cost, and nothing of worth is in dev.", frozenset({"dev"})),
)


def findings(plan: Sequence[Planned], *, stack: str) -> list[Violation]:
    """Return every finding that is not accepted."""
    found = [Violation(control, *each) for control in CONTROLS for each in control.judge(plan)]
    return [
        each
        for each in found
        if not any(
            (accepted.control, accepted.resource) == (each.control.id, each.resource.name)
            and (not accepted.stacks or stack in accepted.stacks)
            for accepted in ACCEPTED
        )
    ]


Judge = Callable[[Sequence[Planned]], Iterator[tuple[Planned, str]]]


def block(inputs: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a block among the inputs; an empty one where it is not given."""
    return cast("Mapping[str, Any]", inputs.get(key) or {})


def judge_each(type_: str, is_good: Callable[[Mapping[str, Any]], bool], problem: str) -> Judge:
    """Return a judge that finds resources of a type whose inputs are not good."""

    def judge(plan: Sequence[Planned]) -> Iterator[tuple[Planned, str]]:
        for each in plan:
            if each.type == type_ and not is_good(each.inputs):
                yield each, problem

    return judge


def control(id_: str, title: str, remedy: str) -> Callable[[Judge], Judge]:
    """Make the function a control."""

    def add(judge: Judge) -> Judge:
        CONTROLS.append(Control(id_, title, remedy, judge))
        return judge

    return add
