"""A stack file is taken as it is or refused with every problem at once."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from harness.mock_aws import fill_placeholders
from settings.schema import stack_file_schema
from settings.secrets import find_misplaced
from settings.stack import Settings
from settings.stack_file import parse
from tests.unit.stack_blocks import ROOT, app, config_of, of_app, problems_of, production, shipped, smallest

STACK_FILES = sorted((ROOT / "stacks").glob("Pulumi.*.yaml"))


def test_the_smallest_stack_has_three_servers() -> None:
    assert parse(config_of(smallest({})), project=ROOT).apps["hello"].fleet.servers == 3


PATH_WORDS = "a path such as /healthz that begins with a slash, of letters, digits and any of _ . / ~ -"
NAME_WORDS = "a name of letters, digits and _ that begins with no digit, such as LOG_LEVEL"


def test_nine_mistakes_make_nine_lines() -> None:
    hello = {
        "source": "nowhere", "modul": "hello.wsgi:app", "health_path": "healthz", "environment": {"1A": "x"},
        "gateway": {"processes": 0, "thread": 3}, "fleet": {"servers": "3"},
    }  # fmt: skip
    found = problems_of({"platform": "gcp", "apps": {"hello": hello}, "lxd": {"port": 80}})
    assert [line.partition("; correct")[0] for line in found] == [
        'platform: "gcp": should be "lxd" or "aws"',
        f'apps.hello.health_path: "healthz": should be {PATH_WORDS}',
        f'apps.hello.environment.1A: "1A": should be {NAME_WORDS}; rename it',
        'apps.hello.gateway.processes: 0: should be "auto" or a whole number from 1 to 256',
        "apps.hello.gateway.thread: unknown key; did you mean threads?",
        'apps.hello.fleet.servers: "3": should be a whole number from 1 to 1000; write 3, without quotes',
        "apps.hello.modul: unknown key; did you mean module?",
        "lxd.port: 80: should be a whole number from 1024 to 65535",
        'apps.hello.source: "nowhere": no such folder; write its path from the project\'s folder',
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(({"module": value}, "module: ") for value in ("hello.wsgi", "a:b\nmaster = false", "a:b\n", "$(ls):b")),
        *(({"module": f"a:b({value})"}, "module: ") for value in ("%d", "c", "**c", "f()", ")(", "1)+(2", "'", "a=b")),
        ({"python_path": ["/etc"]}, "python_path.0: "),
        ({"python_path": ["src"]}, 'python_path.0: "src": no such folder in examples/flask-hello'),
        (
            {"python_path": ["hello"], "environment": {"PYTHONPATH": "x"}},
            "python_path: PYTHONPATH: is set by",
        ),
        *(({"health_path": value}, "health_path: ") for value in ("/x; return 200", "/\n")),
        *(({"system_packages": [value]}, "system_packages.0: ") for value in ("libpq5; reboot", "-o")),
        ({"requirements": "hello/../requirements.txt"}, "requirements: "),
        ({"requirements": "../r.txt"}, 'requirements: "../r.txt": no such file in examples/flask-hello'),
        ({"static": {"folder": "../x"}}, 'static.folder: "../x": should be a relative path'),
        ({"requirements": "missing.txt"}, 'requirements: "missing.txt": no such file in examples/flask-hello'),
        ({"environment": {"A B": "x"}}, 'environment["A B"]: "A B": should be'),
        ({"environment": {"A": "x\0y"}}, "environment.A: "),
        ({"environment": {"A": 5}}, "environment.A: 5: should be text"),
        (
            {"environment": {"A": "1"}, "generated_secrets": ["A"]},
            "generated_secrets: A: is set by environment as well",
        ),
        ({"environment": {"WSGI_FLEET_RELEASE": "1"}}, "environment: WSGI_FLEET_RELEASE: is set by the product itself"),
        ({"fleet": {"servers": 0}}, "fleet.servers: 0: should be a whole number from 1 to 1000"),
        ({"fleet": {"servers": True}}, "fleet.servers: true: should be a whole number from 1 to 1000"),
        (
            {"fleet": {"size": {"memory_mib": 1}}},
            "fleet.size.memory_mib: 1: should be a whole number from 256 to 1048576",
        ),
    ],
)
def test_a_bad_value_of_an_application_is_refused_with_its_path(given: dict[str, Any], message: str) -> None:
    (line,) = of_app(**given)
    assert line.startswith(message)


def test_a_name_that_is_no_host_name_is_refused() -> None:
    for name in ("Hello", "hello_world", "-a", "a-", "a" * 21, "a\n", "a;b", ""):
        assert any("apps" in line for line in problems_of({"apps": {name: app()}})), name


def test_a_secret_does_not_show_in_the_settings() -> None:
    parsed = parse(config_of(smallest({"apps": {"hello": app(secrets={"PASSWORD": "hunter2"})}})), project=ROOT)
    assert "hunter2" not in repr(parsed)
    assert parsed.apps["hello"].secrets["PASSWORD"].get_secret_value() == "hunter2"


def test_a_secret_in_plain_is_refused_and_so_is_an_encrypted_value_that_is_none() -> None:
    blocks = {"apps": {"hello": app(secrets={"A": "hunter2", "B": "x"}, environment={"TOKEN": "x"})}}
    secret, path = ("apps", "hello", "secrets", "B"), "apps.hello.secrets.A"
    remedy = f"remove it, rotate the secret, and run `pulumi config set --secret --path wsgi-fleet:{path}`"
    assert problems_of(blocks, [secret]) == [f"{path}: (secret): is stored in plain text; {remedy}"]
    assert problems_of(blocks, [("apps",)]) == []
    # What is no text is set anew as text, so nothing is said of its type.
    (line,) = problems_of({"apps": {"hello": app(secrets={"A": 5})}}, [])
    assert line == f"{path}: (secret): is stored in plain text; {remedy}"
    (line,) = problems_of(blocks, [secret[:3], ("apps", "hello", "environment", "TOKEN")])
    problem = "is encrypted, and would be stored in plain text; set it in `apps.hello.secrets`"
    assert line == f"apps.hello.environment.TOKEN: (secret): {problem}"


@pytest.mark.parametrize(
    "path",
    [
        "balancer.max_body_mib", "balancer.hostnames.0", "balancer.error_pages.unavailable", "balancer.proxy.kind",
        "balancer.proxy.snippets.0.file", "apps.hello.module", "apps.hello.environment.A", "apps.hello.source",
        "apps.hello.hosts.0", "apps.hello.path", "apps.hello.generated_secrets.0", "apps.hello.passwrd",
        "apps.hello.settings_file.values.a", "apps.hello.fleet.servers", "apps.hello.fleet", "apps", "platform", "vpc",
        "security_updates.window", "apps.hello.health_path.x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["hunter2", "4711"])
def test_an_encrypted_value_in_a_wrong_place_is_never_shown(path: str, value: str) -> None:
    blocks = smallest({"balancer": {"hostnames": ["a.test"], "proxy": {"snippets": [{"context": "http"}]}}})
    blocks["apps"]["hello"] |= {"hosts": ["x"], "generated_secrets": ["X"]}
    blocks["apps"]["hello"]["settings_file"] = {"variable": "F", "values": {"A": 1}}
    *above, last = keys = path.split(".")
    here: Any = blocks
    for key in above:
        here = here[int(key)] if key.isdigit() else here.setdefault(key, {})
    here[int(last) if last.isdigit() else last] = value
    found = problems_of(blocks, [tuple(keys)])
    assert not any(value in line or 'encrypted"' in line or "\0" in line for line in found)
    (line,) = [line for line in found if line.startswith(f"{path}: ") and "unknown key" not in line]
    assert line.startswith(f"{path}: (secret): is encrypted, and would be stored in plain text; set it ")
    # A whole block that is encrypted.
    found = problems_of(blocks, [tuple(keys[:1])])
    assert not any(value in line for line in found)
    assert found


def test_every_setting_whose_type_is_secret_is_known_as_one() -> None:
    blocks = {
        "apps": {"a": {"secrets": {"A": "x"}, "environment": {"B": "y"}, "hooks": {"failed": {"webhook": "x"}}}},
        "balancer": {"tls": {"private_key": "x"}, "proxy": {"basic_auth": {"users": {"ann": "x"}, "realm": "y"}}},
        "aws": {"ssh_private_key": "x", "region": "y"},
        "monitoring": {"webhook_url": "x", "scrape_from": "y"},
    }
    assert [line.partition(": (secret)")[0] for line in find_misplaced(blocks, [])] == [
        "apps.a.hooks.failed.webhook",
        "apps.a.secrets.A",
        "aws.ssh_private_key",
        "balancer.proxy.basic_auth.users.ann",
        "balancer.tls.private_key",
        "monitoring.webhook_url",
    ]
    assert json.dumps(Settings.model_json_schema()).count('"format": "password"') == 6


def test_platform_aws_without_its_block_is_refused() -> None:
    (line,) = problems_of({"platform": "aws"})
    assert line == "aws: missing; set it, for platform aws needs it (see stacks/Pulumi.example.yaml)"


def of_aws(**changes: Any) -> list[str]:
    """Return the problems of prod's block with settings of its VPC (`vpc`), or its own, changed."""
    vpc = changes.pop("vpc", {})
    return problems_of(production(**changes, vpc=vpc and production()["aws"]["vpc"] | vpc))


THERE = {"vpc_id": "vpc-0123456a", "balancer_subnet_id": "subnet-0123456a", "app_subnet_ids": ["subnet-0123456b"]}
WAYS = "set either vpc (created for this stack), or all of vpc_id, balancer_subnet_id, app_subnet_ids (an existing VPC)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vpc": {"nat_gateways": "single"}, **THERE}, f"aws.vpc: conflicts with {', '.join(THERE)}; {WAYS}"),
        ({"vpc": {"nat_gateways": "single"}, "vpc_id": "vpc-0123456a"}, f"aws.vpc: conflicts with vpc_id; {WAYS}"),
        ({"vpc": None}, f"aws.{', '.join(THERE)}: missing; {WAYS}"),
        ({"vpc": None, **THERE, "app_subnet_ids": []}, f"aws.app_subnet_ids: missing; {WAYS}"),
        ({"vpc": {"cidr": "10.20.1.0/16"}}, 'aws.vpc.cidr: "10.20.1.0/16": is an address in a network'),
        ({"vpc": {"cidr": "10.256.0.0/16"}}, 'aws.vpc.cidr: "10.256.0.0/16": is no IPv4 network'),
        ({"vpc": {"cidr": "10.20.0.0/16\n"}}, 'aws.vpc.cidr: "10.20.0.0/16\\n": should be an IPv4 network such as'),
        ({"vpc": {"cidr": "10.0.0.0/8"}}, 'aws.vpc.cidr: "10.0.0.0/8": should be a /16 to /22 within 10.0.0.0/8, '),
        ({"vpc": {"cidr": "10.20.0.0/23"}}, 'aws.vpc.cidr: "10.20.0.0/23": should be a /16'),
        ({"vpc": {"cidr": "203.0.0.0/16"}}, 'aws.vpc.cidr: "203.0.0.0/16": should be a /16'),
        ({"vpc": {"cidr": "172.32.0.0/16"}}, 'aws.vpc.cidr: "172.32.0.0/16": should be a /16'),
        ({"vpc": {"zones": []}}, "aws.vpc.zones: []: should"),
        ({"vpc": {"zones": ["eu-central-1a", "eu-central-1a"]}}, "aws.vpc.zones: eu-central-1a: is named twice"),
        ({"vpc": {"zones": ["eu-west-1a"]}}, "aws.vpc.zones: eu-west-1a: is not in aws.region"),
        ({"vpc": {"zones": ["eu-central-1"]}}, 'aws.vpc.zones.0: "eu-central-1": should be an availability zone such'),
        ({"vpc": {"zones": ["us-west-2-lax-1a"]}}, 'aws.vpc.zones.0: "us-west-2-lax-1a": should be an availability'),
        ({"vpc": {"nat_gateways": "two"}}, 'aws.vpc.nat_gateways: "two": should be'),
        (
            {"vpc": {"nat_gateways": "none"}},
            "aws.vpc.nat_gateways: none: leaves app servers no way to install packages",
        ),
        ({"vpc": {"flow_log_days": 31}}, "aws.vpc.flow_log_days: 31: should be 1, 3, 5, 7, 14, 30"),
        ({"vpc": {"flow_log_days": False}}, "aws.vpc.flow_log_days: false: should be 1, 3, 5"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_its_path(given: dict[str, Any], message: str) -> None:
    found = of_aws(**given)
    assert len(found) == 1, found
    assert found[0].startswith(message)


def test_a_network_without_room_for_old_and_new_servers_is_refused() -> None:
    def of(servers: int) -> list[str]:
        # 64 addresses, of which AWS keeps 5 and endpoints take 5: twice 27 servers.
        vpc = {"cidr": "10.20.0.0/22", "zones": ["eu-central-1a", "eu-central-1b"]}
        fleet = {"servers": servers, "size": {"instance_type": "t4g.small"}}
        return problems_of(production(vpc=vpc) | {"apps": {"hello": app(fleet=fleet)}})

    assert of(54) == []
    (message,) = of(55)
    assert message.startswith(
        "aws.vpc.cidr: 10.20.0.0/22: has room for 27 app servers in each of 2 zones, and there are"
    )


@pytest.mark.parametrize("file", STACK_FILES, ids=lambda file: file.stem)
def test_every_stack_file_parses_and_fits_the_schema(file: Path) -> None:
    jsonschema.validate(yaml.safe_load(file.read_text()), stack_file_schema())
    assert problems_of(fill_placeholders(shipped(file.stem.partition(".")[2]))) == []


def test_the_example_shows_every_setting() -> None:
    def missing(schema: dict[str, Any], value: Any, path: str) -> list[str]:
        for option in [schema, *schema.get("anyOf", [])]:
            if "$ref" in option:
                schema = definitions[option["$ref"].rpartition("/")[2]]
        absent = [f"{path}.{key}" for key in schema.get("properties", {}) if key not in value]
        for key, inner in schema.get("properties", {}).items():
            if key in value and value[key] is not None:
                absent += missing(inner, value[key], f"{path}.{key}")
        return absent

    whole = Settings.model_json_schema()
    definitions = whole["$defs"]
    output = shipped("example")
    assert missing(whole, output, "") == []
    assert missing(definitions["App"], output["apps"]["hello"], "apps.hello") == []
    # The example has neither a group of servers nor a load balancer, so these blocks are comments.
    for name, model, margin in (("capacity", "Capacity", 8), ("access_logs", "AccessLogs", 6)):
        text = (ROOT / "stacks" / "Pulumi.example.yaml").read_text().partition(f"{name}: null\n")[2]
        block = takewhile(re.compile(rf" {{{margin}}}#  ").match, text.splitlines())
        lines = [line.replace("#", " ", 1) for line in block]
        assert missing(definitions[model], yaml.safe_load("\n".join(lines)), name) == []


def test_the_schema_knows_secrets_that_pulumi_has_encrypted() -> None:
    document = yaml.safe_load((ROOT / "stacks" / "Pulumi.prod.yaml").read_text())
    for key in ("secure", "unsure"):
        secret = {key: "v1:abc"}
        document["config"]["wsgi-fleet:apps"]["hello"]["secrets"] = {"PASSWORD": secret}
        document["config"]["wsgi-fleet:aws"]["ssh_private_key"] = secret
        with contextlib.nullcontext() if key == "secure" else pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, stack_file_schema())


def test_every_whole_number_has_bounds() -> None:
    def integers(schema: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(schema, dict):
            if schema.get("type") == "integer":  # pyright: ignore
                yield path, schema
            for key, value in schema.items():  # pyright: ignore
                yield from integers(value, f"{path}.{key}")
        elif isinstance(schema, list):
            for each in schema:  # pyright: ignore
                yield from integers(each, path)

    found = dict(integers(Settings.model_json_schema()["$defs"], ""))
    assert [
        path for path, each in found.items() if "enum" not in each and not {"minimum", "maximum"} <= each.keys()
    ] == []
    assert found


def test_make_local_finds_the_port_of_lxd_without_a_reader_of_yaml(tmp_path: Path) -> None:
    script = (ROOT / "tools" / "local").read_text()
    lines = script[script.index("port=$(awk") : script.index("other_port=")]
    for lxd, port in {
        "{port: 8380}": "8380", "{pool: x,\n    port: 8380}": "8380", "{tls_port: 1}": "8080",
        "\n    # port: 1\n    port: 8380  # port: 2": "8380",
    }.items():  # fmt: skip
        (tmp_path / "stack.yaml").write_text(
            f"config:\n  wsgi-fleet:platform: lxd\n  wsgi-fleet:lxd: {lxd}\n  x: {{port: 3}}\n"
        )
        run = ["bash", "-c", f"stack_file={tmp_path}/stack.yaml\n{lines}\necho $port"]
        assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip() == port


def test_the_schema_in_stacks_is_that_of_the_types() -> None:
    kept = json.loads((ROOT / "stacks" / "settings.schema.json").read_text())
    assert kept == stack_file_schema(), "run `make schema`"
