"""Load the application of a release: a callable that a module has, or what a factory in it returns."""

from __future__ import annotations

import ast
import importlib
import operator
import os
import sys
from typing import Any


def load_application(name: str) -> Any:
    """Return the callable that `module:name` names, from the folder this runs in; call `module:factory("literal")`.

    Raises TypeError where it is no callable, and whatever the application raises.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    path, parenthesis, _ = attribute.partition("(")
    found = operator.attrgetter(path)(importlib.import_module(module))
    if parenthesis:
        call = ast.parse(attribute, mode="eval").body
        assert isinstance(call, ast.Call)  # noqa: S101  settings/callable.py has checked it
        arguments = [ast.literal_eval(each) for each in call.args]
        found = found(*arguments, **{str(each.arg): ast.literal_eval(each.value) for each in call.keywords})
    if not callable(found):
        raise TypeError(f"{name} is {type(found).__name__}, which is no WSGI application")
    return found
