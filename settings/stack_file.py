"""Turn a stack file into Settings, or into one error that lists every problem."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from settings import Settings
from settings.constraint import ENCRYPTED
from settings.schema import known_keys
from settings.secrets import NAMESPACE, KeyPath, encrypted_paths, find_misplaced

# Steps into unions and mapping keys, which pydantic puts into a location and no user has written.
NO_STEP = re.compile(r"^(constrained-\w+|literal\[.*\]|int|\[key\])$")

_NO_UTF_8 = "is no text in UTF-8"


class SettingsError(Exception):
    """A stack file cannot be used. The text lists every problem, one a line, as `path: value: what is allowed`."""

    def __init__(self, problems: list[str], where: str) -> None:
        self.problems = problems
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{where} has {count}; nothing was changed:", *(f"  {line}" for line in problems)]))


def parse(
    config: Mapping[str, str],
    *,
    project: Path,
    where: str = "the stack file",
    encrypted: Collection[KeyPath] | None = None,
) -> Settings:
    """Return the settings in a stack's configuration.

    config: full key (`wsgi-fleet:apps`) -> value as Pulumi hands it over: a string, JSON text for mappings and lists.
    encrypted: paths of what the stack file has encrypted, where that is known; secrets elsewhere are rejected.
    project: the folder that `source` is relative to; sources and requirements are looked for there.
    Raises SettingsError with every problem at once. Values of secrets never appear in it.
    """
    problems: list[str] = []
    data: dict[str, Any] = {}
    for key, text in sorted(config.items()):
        namespace, _, name = key.partition(":")
        if namespace != NAMESPACE:
            continue
        try:
            data[name] = text if name == "platform" else json.loads(text)
        except ValueError:
            data[name] = text
        except RecursionError:
            problems.append(f"{name}: is nested too deeply")
    # What JSON can say and no file can hold: half of a character that takes two.
    problems += [f"{name}: {_NO_UTF_8}" for name, value in data.items() if not _is_text(value)]
    if problems:
        raise SettingsError(problems, where)
    problems += _with_files(data, project)
    settings: Settings | None = None
    try:
        # JSON mode: strict about types, yet a JSON string becomes a SecretStr.
        settings = Settings.model_validate_json(json.dumps(data), context={"platform": data.get("platform")})
    except ValidationError as error:
        problems += _lines(error.errors(include_url=False))
    problems += _missing_files(data, project)
    if encrypted is not None:
        problems += find_misplaced(data, encrypted)
    if problems or settings is None:
        raise SettingsError(problems, where)
    return settings


def read(file: Path, *, project: Path) -> Settings:
    """Return the settings of a stack file; what is encrypted there is ENCRYPTED. Raises SettingsError, OSError."""
    where = f"{file.parent.name}/{file.name}"
    try:
        document: Any = yaml.safe_load(file.read_text())
        config = {str(key): value for key, value in _mapping(_mapping(document).get("config")).items()}
        encrypted = encrypted_paths(config)
        texts = {key: _handed_over(_without_secrets(value)) for key, value in config.items()}
    except UnicodeDecodeError as error:
        raise SettingsError([_NO_UTF_8], where) from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        # An alias of what it stands in, a date as a key, a number of 5,000 digits: YAML has more than settings can be.
        raise SettingsError(["is no YAML: " + " ".join(str(error).split())], where) from error
    return parse(texts, project=project, where=where, encrypted=encrypted)


def _is_text(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is(test: Callable[[], bool]) -> bool:
    """Return whether a file passes the test. A name that no file can have (with a NUL, or too long) is no file's."""
    try:
        return test()
    except (OSError, ValueError, RuntimeError):
        return False


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(item) for item in cast("list[Any]", value)]
    inner = _mapping(value)
    if set(inner) == {"secure"}:
        return ENCRYPTED
    return {key: _without_secrets(item) for key, item in inner.items()} if isinstance(value, dict) else value


def _handed_over(value: Any) -> str:
    """Return a value as Pulumi gives it to a program."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _missing_files(data: Mapping[str, Any], project: Path) -> list[str]:
    """Return problems with the files that settings name, found even when other settings are wrong."""
    problems: list[str] = []
    for name, app in _mapping(data.get("apps")).items():
        source = _mapping(app).get("source")
        if not isinstance(source, str):
            continue
        folder = project / source
        requirements = _mapping(app).get("requirements", "requirements.txt")
        if not _is(folder.is_dir):
            problems.append(f"apps.{name}.source: {source!r}: no such folder in the project")
        elif isinstance(requirements, str) and not _is((folder / requirements).is_file):
            problems.append(
                f"apps.{name}.requirements: {requirements!r}: no such file in {source}; "
                "make one (it may be empty) that lists the packages the application imports"
            )
        static = _mapping(_mapping(app).get("static")).get("folder")
        is_made = _mapping(app).get("build") is not None
        if is_made or not isinstance(static, str) or not _is(folder.is_dir):
            continue
        if not _is((folder / static).is_dir):
            problems.append(
                f"apps.{name}.static.folder: {static!r}: no such folder in {source}; "
                f"make one, or name the command that does as apps.{name}.build"
            )
    return problems


def _with_files(data: Mapping[str, Any], project: Path) -> list[str]:
    """Put the text of each snippet's file beside its name. Problems with these files."""
    problems: list[str] = []
    snippets = _mapping(_mapping(data.get("balancer")).get("proxy")).get("snippets")
    for number, snippet in enumerate(cast("list[Any]", snippets) if isinstance(snippets, list) else []):
        name = _mapping(snippet).get("file")
        if not isinstance(name, str):
            continue
        path, file = f"balancer.proxy.snippets.{number}", project / name
        if _mapping(snippet).get("text") is not None:
            problems.append(f"{path}: text stands beside file; give one of them")
            continue
        # Whatever is wrong with the file, it is told once, and not as a missing text.
        snippet["text"] = "# missing"
        if not _is(lambda file=file: file.resolve().is_relative_to(project.resolve()) and file.is_file()):
            problems.append(f"{path}.file: {name!r}: no such file in the project")
        else:
            try:
                snippet["text"] = file.read_text()
            except UnicodeDecodeError:
                problems.append(f"{path}.file: {name!r}: {_NO_UTF_8}")
            except OSError as error:
                problems.append(f"{path}.file: {name!r}: {error.strerror}; make it readable")
    return problems


def _lines(errors: Sequence[ErrorDetails]) -> list[str]:
    """Return one line for each mistake; what several members of a union say of one value is joined."""
    lines: dict[str, list[str]] = {}
    for details in errors:
        location = [str(part) for part in details["loc"] if not NO_STEP.match(str(part))]
        head, what = _problem(details, location)
        # What is wrong with the whole is a line for each, and no alternative to one another.
        for line in what.split("\n") if not location else ():
            lines[line] = [""]
        if location:
            lines.setdefault(head, []).append(what)
    return [head + " or ".join(dict.fromkeys(whats)) for head, whats in lines.items()]


def _problem(details: ErrorDetails, location: list[str]) -> tuple[str, str]:
    """Return where and what one mistake is."""
    path = ".".join(location)
    kind, message = details["type"], details["msg"]
    if kind == "extra_forbidden":
        known = known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        return f"{path}: unknown key; ", f"did you mean {near[0]}?" if near else "allowed: " + ", ".join(known)
    if kind == "missing":
        return f"{path}: ", "missing; it is required"
    if kind == "value_error":
        return (f"{path}: " if path else ""), message.removeprefix("Value error, ")
    message = message.removeprefix("Input ").removeprefix("String ").removeprefix("should ")
    return f"{path}: {_shown(details, location)}: should ", message


def _shown(details: ErrorDetails, location: list[str]) -> str:
    """Return the given value as text, unless it may be a secret."""
    if {"secrets", "ssh_private_key", "private_key", "users"} & set(location):
        return "(secret)"
    value = json.dumps(details["input"], default=str)
    return value if len(value) <= 60 else value[:57] + "..."
