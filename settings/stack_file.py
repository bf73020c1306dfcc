"""Turn a stack file into Settings, or into one error that lists every problem."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from settings.constraint import ENCRYPTED, MASK
from settings.mistake import describe_all, shorten
from settings.requirement_files import REQUIREMENT_FILES
from settings.secrets import NAMESPACE, Hidden, KeyPath, encrypted_paths, find_misplaced, is_encrypted
from settings.stack import Settings
from settings.yaml_file import YamlError, load

# Columns of a line, four of them for the engine's own indentation.
WIDTH = 80 - 4

# Keys of a stack file that Pulumi reads (sdk/go/common/workspace/project.go).
ROOT_KEYS = frozenset({"config", "secretsprovider", "encryptedkey", "encryptionsalt", "environment"})
# Pulumi hands the configuration over as one variable, decrypted. Linux takes 128 KiB with its name (MAX_ARG_STRLEN).
CONFIG_BYTES = 131_072 - 64
_FROM_PROJECT = "write its path from the project's folder"
_NO_UTF_8 = "is no text in UTF-8; save the file in UTF-8"


class SettingsError(Exception):
    """A stack file cannot be used.

    problems: all there are, each as `path: value: what is wrong; what to do`. prefix: what is in front of the paths.
    """

    def __init__(self, problems: list[str], where: str, prefix: str = f"{NAMESPACE}:") -> None:
        self.problems = problems = [shorten(line) for line in problems]
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [_wrap(prefix + line) for line in problems]
        super().__init__("\n".join([f"{where} has {count}; nothing was changed:", *lines]))


def _wrap(line: str) -> str:
    return textwrap.fill(
        line, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


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
            problems.append(f"{name}: is nested too deeply; write it with fewer levels")
    # What JSON can say and no file can hold: half of a character that takes two.
    problems += [f"{name}: {_NO_UTF_8}" for name, value in data.items() if not _is_text(value)]
    if problems:
        raise SettingsError(problems, where)
    hidden = Hidden(data, encrypted or ())
    data = hidden.replace(data)
    problems += _with_files(data, project)
    settings: Settings | None = None
    try:
        # JSON mode: strict about types, yet a JSON string becomes a SecretStr.
        settings = Settings.model_validate_json(
            json.dumps(data), context={"platform": data.get("platform"), "project": project}
        )
    except ValidationError as error:
        problems += describe_all(error.errors(include_url=False))
    # A wrong path names no file.
    reported = {_setting(line) for line in problems}
    problems += [line for line in _missing_files(data, project) if _setting(line) not in reported]
    problems = list(hidden.mask(problems))
    if encrypted is not None:
        misplaced = find_misplaced(data, encrypted)
        # The remedy for a secret in plain text is to set it anew as text, so its type needs no line of its own.
        of_types = {f"{_setting(line)}: {MASK}: should be text" for line in misplaced}
        problems = [line for line in problems if line.partition("; ")[0] not in of_types] + misplaced
    if problems or settings is None:
        raise SettingsError(problems, where)
    return settings


def _setting(line: str) -> str:
    return line.partition(": ")[0]


def load_document(file: Path) -> Any:
    """Return what a stack file contains as YAML. Raises SettingsError where it is none; OSError."""
    try:
        return load(file.read_text())
    except UnicodeDecodeError as error:
        raise SettingsError([_NO_UTF_8], where_of(file), prefix="") from error
    except YamlError as error:
        raise SettingsError(error.problems, where_of(file), prefix="") from error


def load_config(file: Path) -> dict[str, Any]:
    """Return the values of a stack file by full key (`wsgi-fleet:apps`), as Pulumi takes them from it.

    Raises as load_document.
    """
    config: dict[str, Any] = {}
    document = _mapping(load_document(file))
    problems = [
        f"{key}: is nothing that Pulumi reads; did you mean config?" for key in document if key not in ROOT_KEYS
    ]
    for key, value in _mapping(document.get("config")).items():
        # sdk/go/common/workspace/project.go: a key without a namespace has that of the project.
        words = key.replace(":config:", ":", 1).split(":")
        name = ":".join(words if len(words) > 1 else [NAMESPACE, *words])
        if name in config:
            problems.append(f"{name}: is set under two names; keep one of them")
        namespace = name.partition(":")[0]
        if namespace != NAMESPACE and get_close_matches(namespace, [NAMESPACE], cutoff=0.8):
            problems.append(f"{name}: is of another namespace, and not read; did you mean {NAMESPACE}?")
        config[name] = value
    if problems:
        raise SettingsError(problems, where_of(file), prefix="")
    return config


def where_of(file: Path) -> str:
    """Return how a stack file is named to people: stacks/Pulumi.STACK.yaml."""
    return f"{file.parent.name}/{file.name}"


def read(file: Path, *, project: Path) -> Settings:
    """Return the settings of a stack file; encrypted values are ENCRYPTED. Raises SettingsError, OSError."""
    where = where_of(file)
    try:
        config = load_config(file)
        encrypted = encrypted_paths(config)
        texts = {key: _as_passed_by_pulumi(_without_secrets(value)) for key, value in config.items()}
        decrypted = {key: _without_secrets(value, _pad_to_decrypted_length) for key, value in config.items()}
        passed = len(json.dumps({key: _as_passed_by_pulumi(value) for key, value in decrypted.items()}))
    except (RecursionError, ValueError, TypeError) as error:
        # YAML has more than settings can be.
        problem = "is YAML that settings cannot be; use text, numbers, true, false, null, lists and mappings"
        raise SettingsError([problem], where, prefix="") from error
    if passed > CONFIG_BYTES:
        problem = (
            f"config: has {passed // 1024} KiB, and Pulumi can pass on {CONFIG_BYTES // 1024}; move large values into "
            "files of the application, or fetch them when it starts"
        )
        raise SettingsError([problem], where, prefix="")
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


def _without_secrets(value: Any, replace: Callable[[str], str] = lambda _: ENCRYPTED) -> Any:
    """Return a value with each encrypted text replaced."""
    if isinstance(value, list):
        return [_without_secrets(item, replace) for item in cast("list[Any]", value)]
    inner = _mapping(value)
    if is_encrypted(inner):
        return replace(inner["secure"])
    return {key: _without_secrets(each, replace) for key, each in inner.items()} if isinstance(value, dict) else value


def _pad_to_decrypted_length(text: str) -> str:
    # Base64, of three bytes in four characters.
    return "x" * (len(text) * 3 // 4)


def _as_passed_by_pulumi(value: Any) -> str:
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
        requirements = _mapping(app).get("requirements")
        if not _is(folder.is_dir):
            problems.append(f"apps.{name}.source: {json.dumps(source)}: no such folder; {_FROM_PROJECT}")
        elif source and isinstance(requirements, str) and not _is((folder / requirements).is_file):
            problems.append(
                f"apps.{name}.requirements: {json.dumps(requirements)}: no such file in {source}; "
                "make one (it may be empty) that lists the packages the application imports"
            )
        elif source and requirements is None and not any(_is((folder / each).is_file) for each in REQUIREMENT_FILES):
            problems.append(
                f"apps.{name}.requirements: {source} has none of {', '.join(REQUIREMENT_FILES)}; make requirements.txt "
                "(it may be empty), or name the file that lists the packages"
            )
        paths = _mapping(app).get("python_path")
        for number, path in enumerate(cast("list[Any]", paths) if isinstance(paths, list) else []):
            if isinstance(path, str) and not _is((folder / path).is_dir):
                problem = f"apps.{name}.python_path.{number}: {json.dumps(path)}: no such folder in {source}"
                problems.append(f"{problem}; write its path from there, such as src")
        static = _mapping(_mapping(app).get("static")).get("folder")
        is_made = _mapping(app).get("build") is not None
        if is_made or not isinstance(static, str) or not _is(folder.is_dir):
            continue
        if not _is((folder / static).is_dir):
            problems.append(
                f"apps.{name}.static.folder: {json.dumps(static)}: no such folder in {source}; "
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
            problems.append(f"{path}: text conflicts with file; set one of them")
            continue
        # A mistake in the file is reported once, and not as a missing text.
        snippet["text"] = "# missing"
        if not _is(lambda file=file: file.resolve().is_relative_to(project.resolve()) and file.is_file()):
            problems.append(f"{path}.file: {json.dumps(name)}: no such file in the project; {_FROM_PROJECT}")
        else:
            try:
                snippet["text"] = file.read_text()
            except UnicodeDecodeError:
                problems.append(f"{path}.file: {json.dumps(name)}: {_NO_UTF_8}")
            except OSError as error:
                problems.append(f"{path}.file: {json.dumps(name)}: {error.strerror}; make it readable")
    return problems
