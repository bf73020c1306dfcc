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
        is_literal = not parenthesis or _is_call_with_literals(ast.parse(f"f({rest}", mode="eval").body)
    except SyntaxError:
        is_literal = False
    if not is_literal:
        raise ValueError(
            f'{json.dumps(value)}: its arguments should be literals, such as "production", 2 or debug=True; write '
            "anything else into a function of the application"
        )
    return value


def _is_call_with_literals(node: ast.expr) -> bool:
    """Return whether this is a call of a name: `f(1)+(2)` is no call, and `f()()` is that of another."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return False
    try:
        for each in [*node.args, *(keyword.value for keyword in node.keywords)]:
            ast.literal_eval(each)
    except ValueError:
        return False
    return all(keyword.arg for keyword in node.keywords)


# PEP 3333 callable: dotted module, colon, dotted name in it; behind that a factory's arguments, in characters that no
# gateway's configuration gives a meaning.
Callable = Annotated[
    str,
    matching(
        r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*(\([A-Za-z0-9_ ,='\".:/+-]*\))?$",
        "module:name of the WSGI callable, such as shop.wsgi:application, of letters, digits, _ and dots; "
        "with a factory, write what calls it, such as "
        'shop:create_app("production")',
        max_length=200,
    ),
    AfterValidator(_check_call),
]
