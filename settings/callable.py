"""The name of a WSGI callable, or of a factory with its arguments."""

from __future__ import annotations

import ast
import json
from typing import Annotated

from pydantic import AfterValidator

from settings.constraint import matching


def _check_call(value: str) -> str:
    """Reject a factory's arguments unless they are literals, which each gateway reads the same."""
    _, parenthesis, rest = value.partition("(")
    try:
        call = ast.parse(f"f({rest}", mode="eval").body if parenthesis else ast.Call(ast.Name("f"), [], [])
        # `f(1)+(2)` is no call, and `f()()` is that of another.
        assert isinstance(call, ast.Call)  # noqa: S101
        assert isinstance(call.func, ast.Name)  # noqa: S101
        assert all(keyword.arg for keyword in call.keywords)  # noqa: S101
        for each in [*call.args, *(keyword.value for keyword in call.keywords)]:
            ast.literal_eval(each)
    except (SyntaxError, ValueError, AssertionError):
        raise ValueError(
            f'{json.dumps(value)}: its arguments should be literals, such as "production", 2 or debug=True; write '
            "anything else into a function of the application"
        ) from None
    return value


# PEP 3333 callable: dotted module, colon, dotted name in it; behind that a factory's arguments, in characters that no
# gateway's configuration gives a meaning.
Callable = Annotated[
    str,
    matching(
        r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*(\([A-Za-z0-9_ ,='\".:/+-]*\))?$",
        "module:name of the WSGI callable, such as shop.wsgi:application; with a factory, write what calls it, such as "
        'shop:create_app("production")',
        max_length=200,
    ),
    AfterValidator(_check_call),
]
