"""Read requirement files as pip does: encodings, continued lines, files that include others, and what is local."""

from __future__ import annotations

import base64
import codecs
import hashlib
import http.client
import os
import re
import shlex
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

# pip's own patterns (req_file.py): comments, `${NAME}`, and where a file says its encoding (PEP 263).
COMMENT = re.compile(r"(^|\s+)#.*$")
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
ENCODING = re.compile(rb"#.*coding[:=]\s*([-\w.]+)")
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
INCLUDE = re.compile(r"\s*(-r|-c|--requirement|--constraint)(?:\s*=\s*|\s*)(?P<file>.+)$")
EDITABLE = re.compile(r"\s*(?:-e|--editable)(?:[\s=]|$)")
# uv refuses these, and takes the same without the option (`pip freeze` writes them).
EDITABLE_GIT = re.compile(r"(?:-e|--editable)[\s=]*(['\"]?)(git\+[^'\"]+)\1$")
HASH = re.compile(r"\s--hash[\s=]")
# pip alone reads these: of one requirement uv refuses them, of all it ignores them, which may give other versions.
OPTION_OF_PIP = re.compile(
    r"(?:^|\s)(--(?:config-settings?|global-option|pre|prefer-binary|trusted-host|use-feature))(?![\w-])"
)
# Paths as pip and uv take them: by their beginning, or after the name of a package.
LOCAL = re.compile(r"\s*(?:[./]|file:|(?:-f|--find-links)[\s=]*(?!https?:)|[^#]*@\s*(?:file:|[./]))")
TIMEOUT_S = 60


class RequirementError(Exception):
    """A requirement file cannot be read."""


class RequirementFiles:
    """A requirement file and all that it includes, as UTF-8 below a folder, so that every installer reads the same.

    code: the folder that paths are relative to. variables: what `${NAME}` stands for. texts: of all files. names: of
    the variables that they use. is_local: whether something of the code is itself installed; is_editable: as it is.
    has_hashes: whether a line has one. option_of_pip: one that a line has and no other installer reads; "" for none.
    """

    def __init__(self, file: Path, code: Path, folder: Path, variables: Mapping[str, str]) -> None:
        self.code, self.variables = code, variables
        self.texts: list[str] = []
        self.names: set[str] = set()
        self.is_local = self.is_editable = self.has_hashes = False
        self.option_of_pip = ""
        self._folder, self._copies, self._first = folder, dict[str, Path](), str(file)
        self.file = self._copy(str(file))

    def _copy(self, location: str, where: str = "") -> Path:
        """Return the copy of a file or URL; make it and those of what it includes where there is none.

        where: file and line that include it, for errors.
        """
        if location not in self._copies:
            copy = self._copies[location] = self._folder / f"{len(self._copies)}.txt"
            text = decode(self._read(location, where))
            self.texts.append(text)
            self.names.update(VARIABLE.findall(text))
            # Each at its place, for installers name the number of a line.
            lines = [""] * len(text.splitlines())
            for number, line in join_lines(text):
                lines[number - 1] = self._translate(line, location, number)
            copy.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return self._copies[location]

    def _translate(self, line: str, location: str, number: int) -> str:
        """Return a line for the copy of the file at location, in which other files are named by their copies."""
        if included := INCLUDE.match(line):
            where = f"{self._name(location)}, line {number}: "
            try:
                # As on a command line: a name with spaces is quoted.
                words = shlex.split(included["file"])
            except ValueError as error:
                name = without_credentials(included["file"])
                raise RequirementError(f"{where}{name}: {error}; write the name in double quotes") from None
            name = self._expand("".join(words[:1]))
            if not _is_url(name):
                name = (
                    f"{location.rpartition('/')[0]}/{name}" if _is_url(location) else str(Path(location).parent / name)
                )
            return f"{included[1]} {self._copy(name if _is_url(name) else os.path.normpath(name), where)}"
        if git := EDITABLE_GIT.match(line):
            line = git[2]
        self.has_hashes |= bool(HASH.search(line))
        if option := OPTION_OF_PIP.search(line):
            self.option_of_pip = option[1]
        self.is_editable |= bool(EDITABLE.match(line))
        self.is_local |= self.is_editable or bool(LOCAL.match(line)) or self._is_path(line)
        return line

    def _is_path(self, line: str) -> bool:
        """Return whether a line is about a path of the code: libs/common, wheels/a.whl, common @ libs/common."""
        path = re.split(r"[\[;\s]", re.sub(r"^[\w.\[\],-]+\s*@\s*", "", line.strip()), maxsplit=1)[0]
        return "/" in path and (self.code / path).exists()

    def _expand(self, text: str) -> str:
        return VARIABLE.sub(lambda found: self.variables.get(found[1], found[0]), text)

    def _name(self, location: str) -> str:
        return without_credentials(location).removeprefix(f"{self.code}/")

    def _read(self, location: str, where: str) -> bytes:
        try:
            if _is_url(location):
                return download(location)
            # Root reads it, and what it has appears in errors.
            # Beside the first one lies what the release itself brings, or code.
            folders = (self.code, Path(self._first).parent)
            if not any(Path(location).resolve().is_relative_to(each.resolve()) for each in folders):
                raise OSError("lies outside of the source")
            return Path(location).read_bytes()
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = without_credentials(str(getattr(error, "strerror", None) or error))
            raise RequirementError(
                f"{where}{self._name(location)}: {why}; it must be a file in the source, or a URL that servers reach"
            ) from None

    def with_names(self, text: str) -> str:
        """Return what an installer says of the copies with the names of the files themselves."""
        for location, copy in self._copies.items():
            text = text.replace(str(copy), self._name(location))
        return text

    def digest(self) -> str:
        """Return the sha256 of all texts."""
        return hashlib.sha256("\0".join(self.texts).encode()).hexdigest()


def decode(content: bytes) -> str:
    """Return the text of a requirement file: by its mark, by the encoding that it says, as UTF-8, or as Latin-1."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, errors="replace")
    for line in content.split(b"\n")[:2]:
        if declared := ENCODING.match(line):
            try:
                return content.decode(declared[1].decode())
            except (LookupError, UnicodeDecodeError):
                break
    try:
        return content.decode()
    except UnicodeDecodeError:
        # Of an older editor; names of packages are ASCII, so this is about comments.
        return content.decode("latin-1")


def join_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a requirement file without comments, each with its number.

    One that ends with a backslash goes on in the next.
    """
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first if joined else number
        is_comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not is_comment:
            joined += line[:-1]
        else:
            if whole := COMMENT.sub("", f"{joined} {line}" if joined else line).strip():
                yield first, whole
            joined = ""
    if joined.strip():
        yield first, joined.strip()


def download(url: str) -> bytes:
    """Return what a URL has; user and password in it are sent as pip sends them. Raises OSError, ValueError."""
    parts = urlsplit(url)
    request = urllib.request.Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())  # noqa: S310
    if parts.username:
        word = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(word.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310  only http and https get here
        return response.read()


def without_credentials(text: str) -> str:
    """Return a text without user and password in its URLs."""
    return re.sub(r"(://)[^/\s@]+@", r"\1[removed]@", text)


def _is_url(location: str) -> bool:
    return location.startswith(("http://", "https://"))
