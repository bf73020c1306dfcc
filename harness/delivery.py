"""Find out how each file of machine/ and templates/ reaches a machine: a table for docs/extending.md."""

from __future__ import annotations

import base64
import contextlib
import gzip
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from gateways import GATEWAYS
from harness import mock_aws, mock_lxd
from harness.program import ROOT, plan, project, stack_file
from harness.recorded import Registered
from rendering import templates, user_data

FOLDERS = ("machine", "templates")
# What ./fleet writes for people: no machine gets it.
FOR_PEOPLE = "templates/report/"
APP_SERVERS, BALANCER = "user data of app servers", "user data of the balancer"
IMAGE, BAKED, RELEASE = "image of `lxd`", "baked image of `aws`", "release"
GROUP_DATA, GROUP_FILES = "user data of groups", "file that groups boot"
TEMPLATE, OBJECT = "aws:ec2/launchTemplate:LaunchTemplate", "aws:s3/bucketObjectv2:BucketObjectv2"
# Way -> machines that a change of its text replaces.
REPLACES = {APP_SERVERS: "app servers", BALANCER: "the balancer", BAKED: "all that boot it", IMAGE: "all of `lxd`"}
_MARK = re.compile(r"MARK\d+Z")


@contextlib.contextmanager
def render_marked() -> Generator[dict[str, str]]:
    """Render from copies of the files for the block, each with a mark of its own at its end. Yields mark -> file."""
    with tempfile.TemporaryDirectory() as folder:
        marks: dict[str, str] = {}
        for name in FOLDERS:
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        for file in sorted(each for name in FOLDERS for each in Path(folder, name).rglob("*") if each.is_file()):
            mark = f"MARK{len(marks)}Z"
            marks[mark] = str(file.relative_to(folder))
            with file.open("a") as end:
                end.write(f"\n{mark} = 1\n")
        environment: Any = templates._environment  # pyright: ignore[reportPrivateUsage]
        searched = mock.patch.object(environment.loader, "searchpath", [str(Path(folder, "templates"))])
        caches = (user_data.minified_script.cache_clear, environment.cache.clear)
        for clear in caches:
            clear()
        try:
            with mock.patch.object(templates, "ROOT", Path(folder)), searched:
                yield marks
        finally:
            for clear in caches:
                clear()


def markdown_table() -> str:
    """Return a Markdown table of all files; docs/extending.md contains it."""
    rows = ["| file | reaches a machine by | a change of it replaces |", "| --- | --- | --- |"]
    for file, ways in delivery().items():
        replaced = [REPLACES[way] for way in sorted(ways) if way in REPLACES]
        rows.append(f"| `{file}` | {', '.join(sorted(ways)) or 'nothing'} | {', '.join(replaced) or 'no machine'} |")
    return "\n".join(rows) + "\n"


def delivery() -> dict[str, set[str]]:
    """Return the ways of each file to a machine, {} for one that none gets. Renders stacks that use every setting."""
    with render_marked() as marks, tempfile.TemporaryDirectory() as folder, contextlib.chdir(project(Path(folder))):
        found = {file: set[str]() for file in marks.values() if not file.startswith(FOR_PEOPLE)}
        for stack, changes in _stacks():
            for each in plan(stack, **changes).resources:
                for mark in _MARK.findall(json.dumps(each.inputs, default=vars) + _user_data_of(each)):
                    found[marks[mark]].add(_delivery_of(each))
    return found


def _stacks() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield stack files and changes of them: each gateway in each process layout, each proxy, monitoring on AWS."""
    layouts: tuple[dict[str, Any], ...] = (
        {},
        {"local_proxy": True},
        {"local_proxy": True, "process_manager": "supervisord"},
    )
    changes = {"static": {"folder": "hello"}, "build": None, "sticky_sessions": True}
    hello: dict[str, Any] = stack_file("example")["apps"]["hello"] | changes
    apps = {
        f"a{number}": hello
        | {"path": f"/{number}", "gateway": {"kind": kind, "processes": 2}, "fleet": {"servers": 1, **layout}}
        | ({"streaming": None} if GATEWAYS[kind].no_streaming else {})
        for number, (kind, layout) in enumerate(itertools.product(GATEWAYS, layouts))
    }
    balancer = stack_file("example")["balancer"]
    proxy = balancer["proxy"] | {"geoip": True}
    metrics: dict[str, Any] = {"monitoring": {"enabled": True}}
    yield "example", {"apps": apps | {"hello": hello}, "balancer": balancer | {"proxy": proxy}, **metrics}
    apache: dict[str, Any] = {"kind": "apache", "cache": None, "memcached": None, "snippets": []}
    yield "example", {"apps": {"hello": hello}, "balancer": balancer | {"proxy": proxy | apache}}
    alarms = stack_file("prod")["aws"] | {"alarms": {"sns_topic_arn": "arn:aws:sns:eu-central-1:123456789012:fleet"}}
    prod = stack_file("prod")["apps"]["hello"]
    capacity = {"capacity": {"min": 1, "max": 2}}
    small = {name: value for name, value in prod["fleet"].items() if name != "servers"} | capacity
    every = {"hello": prod, "group": prod | {"path": "/group", "fleet": small}}
    metrics["monitoring"]["scrape_from"] = "10.20.0.0/24"
    yield "prod", {"aws": alarms | {"image": "baked"}, "apps": every, **metrics}
    yield "prod", {"aws": alarms, "apps": every, "balancer": stack_file("prod")["balancer"] | {"self_healing": True}}
    tunnel = alarms | {"transport": "instance_connect_endpoint", "admin_cidrs": []}
    server: dict[str, Any] = {
        "gateway": {"kind": "gunicorn", "processes": 2},
        "fleet": {"servers": 1, "local_proxy": True, "size": {"instance_type": "t3.medium"}},
    }
    front = {"kind": "alb", "hostnames": ["shop.example.org"]}
    fleet: dict[str, Any] = server["fleet"] | capacity
    del fleet["servers"]
    group = hello | server | {"fleet": fleet, "path": "/group", "schedules": {}, "workers": {}}
    yield "prod", {"aws": tunnel, "apps": {"hello": hello | server, "group": group}, "balancer": front}


def _user_data_of(resource: Registered) -> str:
    """Return what a launch template has packed; "" of any other resource."""
    is_template = resource.type == TEMPLATE
    return gzip.decompress(base64.b64decode(resource.inputs["userData"])).decode() if is_template else ""


def _delivery_of(resource: Registered) -> str:
    if resource.type == mock_lxd.MACHINE:
        return BALANCER if resource.name == "balancer" else APP_SERVERS
    if resource.type in (mock_lxd.IMAGE, mock_lxd.ROLLOUT):
        return IMAGE if resource.type == mock_lxd.IMAGE else RELEASE
    if resource.type == OBJECT and resource.name.endswith("-kept"):
        # For the machine that takes the balancer's place.
        return f"step `{resource.name.removesuffix('-kept')}`"
    if resource.type == mock_aws.BAKED_IMAGE:
        return BAKED
    if resource.type in (TEMPLATE, OBJECT):
        return GROUP_DATA if resource.type == TEMPLATE else GROUP_FILES
    return f"step `{re.sub(r'^(hello|a[0-9]+)-[0-9]+', 'SERVER', resource.name)}`"
