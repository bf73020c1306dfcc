"""Shorten what servers say of a failure: the cause first, and equal causes once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from releases import python_requirement

# Frames of a traceback to show, from the innermost, and lines of a log that contains no traceback.
FRAMES, LINES = 4, 8
# Different failures to describe, of as many servers.
CAUSES = 4
_TRACEBACK = "Traceback (most recent call last)"
# Python's imports and the product's own launchers.
_FOREIGN = re.compile(r'\s*File "(?:<frozen |/usr/lib/python3|[^"]*/gateway/gateway_)')
# What announces a log, of which nothing is of the application.
_NOTHING_QUOTED = re.compile(r"(?:; its last lines)?:$")
# A time, or the id of a process.
_MOMENT = re.compile(r"\d\d:\d\d(?::\d\d)?|\d{3,}")
_MARKS = re.compile(r"[\s~^]+")
# What systemd and uWSGI add to each start and end of a process.
_NOISE = re.compile(
    r"\s*(?:app[-@]\S+\.service: |(?:Failed to start|Starting|Started) |VACUUM: |unlink\(\): |running \"unix_signal"
    r"|\*\*\* |spawned uWSGI |added \S+ to pythonpath|WSGI app \d|mapped \d+ bytes "
    r"|--- Python VM |Python (?:version: |main interpreter )|python threads support |your (?:server|mercy) "
    r"|setting request )"
)
_PREFIX = re.compile(
    r"/srv/app/(?:(?:releases|slots)/\w+/code/(?:\./)?|(?:venvs/\w+|\w+/\w+/venv)/lib/python[\d.]+/site-packages/)"
)


# What a failure contains -> what to do about it, for a person who never saw it. The first one that fits.
HINTS = {
    "No module named 'pkg_resources'": (
        "pkg_resources is a part of setuptools, which virtualenvs come without: add setuptools<81 to the requirements"
    ),
    # Of a dotted name, Python has found what is before the last dot.
    r"No module named '(\S+)\.(\w+)'": "{0} has no module {1}; correct `module` of the application, or that import",
    r"^[\w ]+: (\w+)[\w.]*:[\s\S]*No module named '\1'": (
        "there is no module {0}; correct `module`, a dotted path from the folder `source` (or `python_path`), or add "
        "its package to the requirements"
    ),
    r"No module named '(\S+)'": "{0} is not installed; add its package to the requirements",
    r"^[\w ]+: ([\w.]+):(\w+)\b[\s\S]*(?:AttributeError: module '\1' has|'\1' object has) no attribute '\2'": (
        "{0} has no {1}; write the name of its callable into `module`, or of its factory: module: {0}:create_app()"
    ),
    r"TypeError: (\w+)\(\) takes [\w ]+ positional arguments? but 2 were given": (
        "if {0} is a factory, which returns the application, call it in `module`: {0}()"
    ),
    r"environ\[[\s\S]*KeyError: '(\w+)'": (
        "{0} is not set: add it to environment, secrets or generated_secrets of the application"
    ),
    r"unable to open database file|[Rr]ead-only (?:file system|database)": (
        "the code is read-only on servers: put files that are written, such as SQLite's, below /var/lib/app"
    ),
    "without having set the STATIC_ROOT": (
        "set STATIC_ROOT to a folder of the code, and static.folder to its name (docs/django.md)"
    ),
    "Address already in use": (
        "a port that the import opens is taken by the release that still serves, for two run side by side: choose it "
        "by WSGI_FLEET_SLOT (proof, blue, green), or open it in one of `workers`"
    ),
    r"but 400\b.*\(Host: (\S+)\)": (
        "the application refuses requests for {0}: let it accept that name (Django: ALLOWED_HOSTS), or set health_host "
        "to one that it accepts"
    ),
    "but 30[1278] to https://": (
        "the application redirects HTTP to HTTPS by itself: set balancer.tls, with which it is asked as if by HTTPS, "
        "or exempt health_path (Django: SECURE_REDIRECT_EXEMPT beside SECURE_SSL_REDIRECT)"
    ),
    r"but 3\d\d to (\S+),": "health_path must respond with 200 itself, without a redirect: this one leads to {0}",
    r"but 40[13]\b": "health_path must respond without log-in",
    r"but 40[45]\b": "the application has no such path: set health_path to one that responds to GET with status 200",
    r"but timed out\b": (
        "the application started, and its health path waits for something that servers may not reach, such as a "
        "database; give such calls a timeout of a few seconds"
    ),
    # A 500 alone may be anything; with a traceback, it is known what it is.
    r"^stage: (?:(?![\s\S]*Traceback \(most)[\s\S]*but 500\b|[\s\S]*(?:no such table|UndefinedTable"
    r"|relation \S+ does not exist|[Tt]able '?\S+ (?:doesn't|does not) exist))": (
        "if the health path needs tables that rollout.release_task makes, set rollout.task_before_proof to true "
        "(docs/migrations.md)"
    ),
}


def hint_for(phase: str, why: str) -> str:
    """Return what to do about a failure; "" where nothing is known."""
    text = f"{phase}: {why}"
    found = ((re.search(pattern, text), hint) for pattern, hint in HINTS.items())
    return next((hint.format(*match.groups()) for match, hint in found if match), "")


def shorten(why: str) -> str:
    """Return a failure with the indented lines that it quotes reduced to those of the application."""
    if of_python := python_requirement.shorten(why):
        return of_python
    head = [line for line in why.splitlines() if not line.startswith(" ")]
    quoted = [_PREFIX.sub("", line) for line in why.splitlines() if line.startswith(" ") and not _NOISE.match(line)]
    if not quoted:
        head = [_NOTHING_QUOTED.sub("", line) for line in head]
    tracebacks = [number for number, line in enumerate(quoted) if line.lstrip().startswith(_TRACEBACK)]
    return "\n".join([*head, *(_traceback(quoted[tracebacks[-1] :]) if tracebacks else distinct(quoted)[-LINES:])])


def distinct(lines: Sequence[str]) -> list[str]:
    """Return lines without those that come again later with other times and ids, as of a process that is restarted."""
    last = {_MOMENT.sub("#", line): number for number, line in enumerate(lines)}
    return [lines[number] for number in sorted(last.values())]


def _traceback(lines: Sequence[str]) -> list[str]:
    """Return a traceback with the application's innermost frames and the exception, without what follows it."""
    margin = len(lines[0]) - len(lines[0].lstrip())
    frames: list[list[str]] = []
    error: list[str] = []
    for line in lines[1:]:
        is_outer = len(line) - len(line.lstrip()) <= margin
        if error and is_outer:
            break
        if error or is_outer:
            error.append(line)
        elif line.lstrip().startswith('File "'):
            frames.append([line])
        elif frames and not _MARKS.fullmatch(line):
            frames[-1].append(line)
    kept_lines = [
        line for frame in [each for each in frames if not _FOREIGN.match(each[0])][-FRAMES:] for line in frame
    ]
    return [lines[0], *kept_lines, *error[:LINES]]


def group(failures: Iterable[tuple[str, str, str]], servers: int) -> str:
    """Return failures as a text. failures: server, phase, cause. servers: how many there are.

    Those that begin and end alike, but for numbers, are described once. Lines with what to do come last.
    """
    same: defaultdict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for server, phase, why in failures:
        short = shorten(why)
        first, last = short.partition("\n")[0], short.rpartition("\n")[2]
        ends = (re.sub(r"0x[0-9a-f]+|\d+", "#", line.replace(server, "#")) for line in (first, last))
        same[phase, *ends].append((server, short))
    texts: list[str] = []
    hints: dict[str, None] = {}
    for (phase, *_), each in sorted(same.items(), key=lambda item: min(item[1])):
        names, whys = zip(*sorted(each), strict=True)
        where = f"on all {servers} servers" if len(names) == servers > 1 else ", ".join(names)
        first, *quoted = whys[0].splitlines() or [""]
        # The first failure is shown whole, of the others what they end with.
        if len(texts) < CAUSES and (hint := hint_for(phase, whys[0])):
            hints[f"hint: {hint}"] = None
        texts.append("\n".join([f"{where}, {phase}: {first}", *(quoted[-1:] if texts else quoted)]))
    more = [f"and {len(texts) - CAUSES} failures more"] if len(texts) > CAUSES else []
    return "\n".join([*texts[:CAUSES], *more, *hints])
