"""Whether IAM would let a call through, by the rules of its evaluation within one account.

An explicit Deny wins, then an Allow is needed (IAM user guide, "Policy evaluation logic"). What it cannot judge is an
error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

STATEMENT = {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}


def allows(documents: Iterable[str], action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    """Return whether these policies let a call through.

    documents: policies as JSON text. resource: an ARN. context: condition keys of the call and their values.
    Raises ValueError for elements and operators that are not known here.
    """
    effects = {
        statement["Effect"]
        for document in documents
        for statement in statements(document)
        if _applies(statement, action, resource, context or {})
    }
    return "Allow" in effects and "Deny" not in effects


def statements(document: str) -> list[dict[str, Any]]:
    """Return the statements of a policy. Raises ValueError for another version of the language."""
    policy = json.loads(document)
    if policy["Version"] != "2012-10-17":
        raise ValueError(f"version {policy['Version']}")
    return cast("list[dict[str, Any]]", _list(policy["Statement"]))


def actions(document: str) -> list[str]:
    """Return the actions that a policy's statements allow."""
    allowed = [statement for statement in statements(document) if statement["Effect"] == "Allow"]
    return [action for statement in allowed for action in _list(statement["Action"])]


def _applies(statement: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    if strange := statement.keys() - STATEMENT:
        raise ValueError(f"elements {sorted(strange)} are not known")
    return (
        any(_like(pattern.lower(), action.lower()) for pattern in _list(statement["Action"]))
        # In a role's trust policy there is none.
        and any(_like(pattern, resource) for pattern in _list(statement.get("Resource", "*")))
        and all(
            _holds(operator, key, _list(wanted), context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _holds(operator: str, key: str, wanted: list[str], context: Mapping[str, str]) -> bool:
    base = operator.removesuffix("IfExists")
    if base not in ("Bool", "StringEquals", "StringLike"):
        raise ValueError(f"operator {operator} is not known")
    found = {name.lower(): value for name, value in context.items()}.get(key.lower())
    if found is None:
        return operator.endswith("IfExists")
    if base == "Bool":
        return found.lower() in [value.lower() for value in wanted]
    return any(_like(value, found) if base == "StringLike" else value == found for value in wanted)


def _like(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text, re.DOTALL) is not None


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]
