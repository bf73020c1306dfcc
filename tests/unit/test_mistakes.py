"""Every setting of the example with wrong values of every type, and wrong keys at every level."""

from __future__ import annotations

import copy
import functools
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from settings import yaml_mistake as mistakes
from settings.constraint import WORDS
from settings.mistake import ALL_KEYS
from settings.schema import stack_file_schema
from settings.stack_file import WIDTH, SettingsError, parse, read
from settings.yaml_file import REWRITES
from tests.unit.stack_blocks import ROOT, config_of, shipped

EXAMPLE = shipped("example")
Path = tuple[str | int, ...]
HIDDEN = "hunter2"
LONGEST = 400
STRANGE = mistakes.PLAIN["cannot start any token"]
INTEGRAL, NUMBER, DATE, INFINITE, WORD = REWRITES.values()
WRONG: list[Any] = [
    None, True, 0, -1, 7, 2**40, 1.5, 3.0, "", "yes", "5", "no good; value", "256.1.1.1/33", "x" * 70_000, HIDDEN, [],
    [[]], [HIDDEN], {}, {"no such key": 1},
]  # fmt: skip
# Words of pydantic, of JSON schemas and of Python, which nobody who writes a stack file need know.
JARGON = re.compile(
    r"pattern|[Ii]nput|valid (string|integer|boolean|list|dict)|value_error|Value error|dictionary|instance of|"
    r"greater than|less than|\^|\\d|\bNone\b|\bTrue\b|\bFalse\b|'[^']*'|Traceback|constrained|literal|permitted"
)
# Characters that have a name in the words for a pattern.
NAMES = {"hyphens": "-", "dots": ".", "colons": ":", "blanks": " ", "caret": "^"}
NAMED = re.compile("|".join(NAMES))
# What nobody types, and texts that are read by more than a pattern: ids of AWS, PEM, ISO 3166, times, arguments.
FIXED_FORMS = (
    "^ami-", "^vpc-", "^subnet-", "^arn:", "^Z[", "^[a-z]{2}(-", r"^[a-z0-9-]+\.(", "^[A-Za-z0-9+/= ",
    "^[A-Z][", "^((Mon", "^[A-Za-z0-9 *", "^[A-Za-z_][A-Za-z0-9_.]*:", r"^(\d", "^([1-9]", r"^[^\x00",
    "^[!", "^[0-9a-f.:]",
)  # fmt: skip
KEY = r'[\w…-]+|\[".*?"\]'
LINE = re.compile(rf"({KEY})((\.|(?=\[))({KEY}|\*))*(, [\w-]+)*: .+?[;?]")
SECRET_PATHS = ("secrets", "users", "private_key", "ssh_private_key")


def places(node: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()  # pyright: ignore
    for key, value in items:  # pyright: ignore
        yield from places(value, (*path, key))  # pyright: ignore


def at(document: Any, path: Path) -> Any:
    return functools.reduce(lambda value, step: value[step], path, document)


def changed(path: Path, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(EXAMPLE)
    at(document, path[:-1])[path[-1]] = value
    return document


def problems(document: dict[str, Any]) -> tuple[list[str], str]:
    """Return what is wrong with a document: problem by problem, and as it is shown."""
    try:
        parse(config_of(document), project=ROOT, where="stacks/Pulumi.x.yaml")
    except SettingsError as error:
        return error.problems, str(error)
    return [], ""


USUAL = set(problems(EXAMPLE)[0])


def assert_reads_well(document: dict[str, Any]) -> list[str]:
    found, output = problems(document)
    for line in found:
        assert not JARGON.search(line), line
        assert LINE.match(line), line
        assert line.isprintable(), line
        assert HIDDEN not in line or not set(re.findall(r"\w+", line.partition(": ")[0])) & set(SECRET_PATHS), line
        assert len(line) <= LONGEST, line
    # One line for a mistake. A mapping's name and its value are two.
    settings = [line.partition(": ")[0] for line in found if not line.endswith(("; rename it", "so shorten it"))]
    assert sorted(settings) == sorted(set(settings)), found
    # Nothing but a word that cannot be broken is wider.
    assert [line for line in output.splitlines() if len(line) > WIDTH and " " in line.strip()[: WIDTH - 4]] == []
    assert output.count("\n  wsgi-fleet:") == len(found)
    return [line for line in found if line not in USUAL]


@pytest.mark.parametrize("block", EXAMPLE)
def test_a_wrong_value_is_reported_with_path_value_and_remedy_in_plain_words(block: str) -> None:
    for path in places(EXAMPLE[block], (block,)):
        new = [(value, line) for value in WRONG for line in assert_reads_well(changed(path, value))]
        # Whatever is there, is one.
        assert new or "values" in path, path
        for value, line in new:
            # PEM is not repeated: it has many lines.
            if line.startswith(f"{'.'.join(map(str, path))}: ") and "certificate" not in line:
                given = line.partition(": ")[2].partition(": ")[0].partition("…")[0].replace("\\", "").strip('"')
                assert given.startswith(("(secret)", "missing; ")) or given in json.dumps(value), line


@pytest.mark.parametrize("block", ["", *EXAMPLE])
def test_a_wrong_key_is_reported_in_plain_words(block: str) -> None:
    for path in places(EXAMPLE[block], (block,)) if block else [()]:
        if isinstance(at(EXAMPLE, path), dict):
            for key in ("no such key", "kindd", "", "é", 'a"b', "x" * 300):
                assert_reads_well(changed((*path, key), 1))


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        (("apps", "hello", "environment", "DEBUG"), True, 'quote it: "true"'),
        (("apps", "hello", "environment", "PORT"), 8000, 'quote it: "8000"'),
        (("apps", "hello", "module"), "app", 'with a factory, write what calls it, such as shop:create_app("'),
        (("apps", "hello", "fleet", "servers"), "3", "write 3, without quotes"),
        (("apps", "hello", "fleet", "servers"), 3.0, "write 3"),
        (("apps", "hello", "fleet", "servers"), "3.0", "write 3, without quotes"),
        (("apps", "hello", "fleet", "servers"), 2000.0, "correct it, or remove it for the default, 3"),
        (("apps", "hello", "fleet", "servers"), "0", "correct it, or remove it for the default, 3"),
        (("apps", "hello", "strip_path"), "no", "write false, without quotes"),
        (("apps", "hello", "hosts"), "shop.example.org", "write it as a list, in brackets"),
        (("balancer", "hostnames"), ["https://shop.example.org/"], "remove scheme, port and path"),
    ],
)
def test_a_usual_mistake_has_a_remedy_of_its_own(path: Path, value: Any, remedy: str) -> None:
    (line,) = [line for line in assert_reads_well(changed(path, value)) if line.startswith(".".join(map(str, path)))]
    assert f"; {remedy}" in line


def test_a_secret_is_masked_whatever_its_type() -> None:
    for path in ((), ("PASSWORD",)):
        for value in (4711, [4711], "4711" * 10_000):
            found, _ = problems(changed(("apps", "hello", "secrets", *path), value if path else [value]))
            assert not any("4711" in line for line in found)


@pytest.mark.parametrize(
    ("path", "value", "output"),
    [
        ("balancer", 5, "5"),
        ("balancer.proxy", "nginx", '"nginx"'),
        ("balancer.tls", 443, "443"),
        ("apps.hello", [], "[]"),
        ("apps.hello.secrets", [], "[]"),
        ("apps", ["hunter2"], "[…]"),
        ("balancer.proxy.basic_auth.users", {"ann": {"x": "hunter2"}}, "{…}"),
        ("balancer.tls", "-----BEGIN PRIVATE KEY-----", "(secret)"),
    ],
)
def test_only_what_may_be_a_secret_is_masked(path: str, value: Any, output: str) -> None:
    (line,) = [line for line in assert_reads_well(changed(tuple(path.split(".")), value)) if line.startswith(path)]
    assert line.partition(": ")[2].startswith(f"{output}: should be ")


def test_every_mistake_fits_into_eighty_columns_and_a_key_is_one() -> None:
    document = changed(("apps", "hello", "modul"), "x")
    del document["apps"]["hello"]["module"]
    assert assert_reads_well(document) == ["apps.hello.modul: unknown key; did you mean module?"]
    (line,) = assert_reads_well(changed(("apps", "hello", "servers"), 3))
    assert line == "apps.hello.servers: unknown key; did you mean fleet.servers?"
    (line,) = assert_reads_well(changed(("apps", "hello", "qqqqqq"), 3))
    assert line == f"apps.hello.qqqqqq: unknown key; remove it; {ALL_KEYS}"
    found, output = problems(document | {"platform": "lxc", "lxd": {"port": 80}})
    lines = output.splitlines()
    assert lines[0] == f"stacks/Pulumi.x.yaml has {len(found)} problems; nothing was changed:"
    assert 3 <= len(found) < len(lines) <= 20
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("config:\n  a:\n\tb: 1\n",
         [f'line 3, column 1: "\\tb: …": {STRANGE}']),
        ("config:\n  a: b: c\n",
         [f'line 2, column 7: "  a: …": {mistakes.SECOND_COLON}']),
        ("config:\n  a: 1\n b: 2\n",
         [f'line 3, column 2: " b: …": {mistakes.NO_FIT}']),
        ("config:\n  a: [1, 2\n  b: 3\n",
         [f'line 2, column 6: "  a: …": {mistakes.OPEN_BRACKET}']),
        ("config:\n  a: 1\n  b: 2\n  a: 3\n  b: 4\n",
         ['line 4, column 3: "  a: …": has the key a a second time, after line 2; keep one of both',
          'line 5, column 3: "  b: …": has the key b a second time, after line 3; keep one of both']),
        ("config:\n  a: @x\n",
         [f'line 2, column 6: "  a: …": {STRANGE}']),
        ('config:\n  a: "x\n  b: c\n',
         [f'line 2, column 6: "  a: …": {mistakes.NOT_CLOSED}']),
        ('config:\n  a: "x\n  b: "hunter2"\n',
         [f'line 2, column 6: "  a: …": {mistakes.NOT_CLOSED}']),
        ("config:\n  a: 'it's hunter2'\n",
         [f'line 2, column 10: "  a: …": {mistakes.AFTER_THE_END}']),
        ("config:\n  a: b\n  hunter2\n\n\n  c: d\n", [f'line 3, column 3: "  …": {mistakes.NO_PAIR}']),
        ("config:\n  a:hunter2\n  c: d\n", [f'line 2, column 3: "  …": {mistakes.NO_PAIR}']),
        ("config:\n  a: b\n    c: d\n", [f'line 3, column 6: "    c: …": {mistakes.INDENTED}']),
        ("config:\n  hosts:\n    - *.shop.example.org\n",
         ['line 3, column 7: "    - …": has text that begins with *; quote it: "*.shop.example.org"']),
        ("config:\n  a: [*.hunter2]\n", [f'line 2, column 7: "  a: …": {mistakes.UNQUOTED}']),
        ("config:\n  a: - hunter2\n",
         [f'line 2, column 6: "  a: …": {mistakes.PLAIN["sequence entries are not allowed"]}']),
        ("config:\n  a: 3.0\n", [f'line 2, column 6: "  a: …": {INTEGRAL}']),
        ("config:\n  a\0: 1\n",
         ['line 2, column 4: "  …": has a control character; remove it']),
        ("config:\n  a: b\n  - hunter2: *x\n",
         [f'line 3, column 3: "  - …": {mistakes.NO_FIT}']),
        ('config:\n  a: "b\n  hunter2',
         [f'line 2, column 6: "  a: …": {mistakes.NOT_CLOSED}']),
        ("config:\n  a: &a [hunter2, *a]\n", [f'line 2, column 6: "  a: …": {mistakes.IN_ITSELF}']),
        ("config:\n  a: {b: " + "9" * 5000 + "}\n", [f'line 2, column 10: "  a: …": {NUMBER}']),
        ("config:\n  a: [.inf, 012, 2020-01-01]\n  1_0: True\n",
         [f'line 2, column 7: "  a: …": {INFINITE}', f'line 2, column 13: "  a: …": {NUMBER}',
          f'line 2, column 18: "  a: …": {DATE}', f'line 3, column 3: "  1_0: …": {NUMBER}',
          f'line 3, column 8: "  1_0: …": {WORD}']),
        *((f"config:\n  a: {tag}\n", [f'line 2, column 6: "  a: …": {mistakes.TAGGED}'])
          for tag in ("!!bool hunter2", "!!set {a}", "!!omap [a: 1]", "!!binary hunter2")),
        ("config:\n  a: !hunter2 x\n", [f'line 2, column 6: "  a: …": {mistakes.TAGGED}']),
        ("config:\n  a: *hunter2\n", [f'line 2, column 6: "  a: …": {mistakes.UNQUOTED}']),
        ("config:\n  ? [hunter2]\n  : x\n", [f'line 2, column 5: "  …": {mistakes.NO_NAME}']),
        ("config:\n  null: hunter2\n", [f'line 2, column 3: "  null: …": {mistakes.NO_NAME}']),
        ("config:\n  a: 1\n--- hunter2\n", [f'line 3, column 1: "…": {mistakes.PLAIN["a single document"]}']),
        ("config:\n  a:\n    " + "[" * 3000 + "\n", [f'line 3, column COLUMN: "    …": {mistakes.TOO_DEEP}']),
        ("%YAML hunter2\n---\nconfig: {}\n", ['line 1, column 7: "…": is no YAML; mend this line']),
    ],
)  # fmt: skip
def test_a_mistake_in_yaml_is_reported_with_line_column_and_text(
    tmp_path: pathlib.Path, text: str, problems: list[str]
) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as error:
        read(file, project=ROOT)
    found = [re.sub(r"column \d{3,}", "column COLUMN", each) for each in error.value.problems]
    assert found == problems
    assert HIDDEN not in str(error.value)
    assert not JARGON.search("\n".join(problems))


def test_every_pattern_has_words() -> None:
    text = json.dumps(stack_file_schema())
    patterns = {json.loads(f'"{each}"') for each in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', text)}
    assert patterns
    assert patterns <= WORDS.keys()


@pytest.mark.parametrize("pattern", [each for each in WORDS if not each.startswith(FIXED_FORMS)])
def test_words_name_every_character_that_a_pattern_allows(pattern: str) -> None:
    classes = "".join(re.findall(r"\[([^^\]][^\]]*)\]", pattern))
    allowed = set(re.sub(r"[a-zA-Z0-9]-[a-zA-Z0-9]|\w", "", classes))
    words = NAMED.sub(lambda found: f"{found[0]} {NAMES[found[0]]}", WORDS[pattern])
    assert {each for each in allowed if each not in words} == set()
    assert ("etters" in words) == ("a-z" in classes)
