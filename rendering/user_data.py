"""What a machine boots with, as cloud-init reads it; small, for EC2 takes 16 KiB of it."""

from __future__ import annotations

import ast
import contextlib
import io
import tokenize
from collections.abc import Mapping, Sequence
from functools import cache

import yaml

from rendering.templates import read_file


class _Dumper(yaml.CSafeDumper):
    """Writes text of several lines as a block, so that a person can read the document."""


def _text(dumper: yaml.CSafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(  # pyright: ignore[reportUnknownMemberType]
        "tag:yaml.org,2002:str", value, style="|" if "\n" in value else None
    )


_Dumper.add_representer(str, _text)


def _parse(text: str) -> ast.Module:
    """Parse a script.

    Python 3.11 counts the depth of all threads that parse together (python/cpython#106905), so try again.
    """
    for _ in range(9):
        with contextlib.suppress(SystemError):
            return ast.parse(text)
    return ast.parse(text)


@cache
def minified_script(name: str) -> str:
    """Return a script of machine/ without its comments and docstrings.

    Each line keeps its number, so that a traceback from a machine points into the file of the project.
    """
    text = read_file(f"machine/{name}.py")
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line, column = token.start
        if token.type == tokenize.COMMENT and not token.string.startswith("#!"):
            lines[line - 1] = lines[line - 1][:column].rstrip()
    for node in ast.walk(_parse(text)):
        # A program prints its own as its usage.
        is_usage = isinstance(node, ast.Module) and "__doc__" in text
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
            and not is_usage
        ):
            words = node.body[0]
            end = words.end_lineno or words.lineno
            lines[words.lineno - 1 : end] = [""] * (end - words.lineno + 1)
            if isinstance(node, ast.Module):
                lines[words.lineno - 1] = f"# machine/{name}.py of wsgi-fleet without its comments; lines as there"
            elif len(node.body) == 1:
                # With nothing else in it, the block needs a statement.
                lines[words.lineno - 1] = " " * words.col_offset + "..."
    return "\n".join(lines) + "\n"


def without_comments(text: str) -> str:
    """Return a unit file without its comments but the first, which says what made it. Templates explain themselves."""
    first, *lines = text.splitlines(keepends=True)
    return first + "".join(line for line in lines if not line.startswith("#"))


def cloud_config(files: Mapping[str, tuple[str, str]], command: Sequence[str]) -> str:
    """Return a cloud-init document. files: path -> (mode, content); command: run once at the first boot."""
    document = {
        # One host key is enough and makes the boot a second shorter.
        "ssh_genkeytypes": ["ed25519"],
        "write_files": [
            {"path": path, "permissions": mode, "owner": "root:root", "content": content}
            for path, (mode, content) in files.items()
        ],
        "runcmd": [list(command)],
    }
    return "#cloud-config\n# Made by wsgi-fleet.\n" + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1000)
