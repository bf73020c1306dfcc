"""Rules that lead requests elsewhere: redirects, which a client sees, and rewrites, which the application alone sees.

Paths are templates, not regular expressions: `/old` is that path, `{name}` one segment, `{name:int}` digits, and a `*`
at the end the rest. What they become in Nginx matches in time that grows with the path's length alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from settings.constraint import matching
from settings.model import Model, reject

_PLACE = re.compile(r"\{(?P<name>[a-z][a-z0-9_]*)(?::(?P<kind>[a-z]+))?\}")
# How many rules a request may match one after the other before a chain of redirects is reported as a loop; browsers
# give up after 20 (Fetch standard, 4.4).
MAX_CHAIN = 20


def _template(value: str) -> str:
    names = [place["name"] for place in _PLACE.finditer(value)]
    if strange := [place[0] for place in _PLACE.finditer(value) if place["kind"] not in (None, "int")]:
        raise ValueError(
            f"{json.dumps(value)}: {strange[0]} has an unknown kind; the only one is int, so write {{{names[0]}:int}}"
        )
    if set("{}*") & set(_PLACE.sub("", value.removesuffix("*"))):
        raise ValueError(
            f"{json.dumps(value)}: has other braces or stars; write {{name}} or {{name:int}} for a part, * at the end"
        )
    if len(names) != len(set(names)):
        raise ValueError(f"{json.dumps(value)}: names a part twice; give each a name of its own")
    if "}{" in value or "}*" in value:
        raise ValueError(f"{json.dumps(value)}: nothing separates two of its parts; put a / between them")
    return value


def _target(value: str) -> str:
    rest = _PLACE.sub("", value.removesuffix("*"))
    if set("{}*") & set(rest) or any(place["kind"] for place in _PLACE.finditer(value)):
        raise ValueError(
            f"{json.dumps(value)}: has other braces or stars; write {{name}} of its rule's path, and a * at the end"
        )
    return value


PathTemplate = Annotated[
    str,
    matching(
        r"^/[A-Za-z0-9_./~{}:*-]*$",
        "a path such as /old, /item/{id} or /old/*, of letters, digits and any of _ . / ~ { } : * -",
        max_length=500,
    ),
    AfterValidator(_template),
]
# A second slash at the beginning would be another host to a browser.
PathTarget = Annotated[
    str,
    matching(
        r"^/([A-Za-z0-9_.~{}*-][A-Za-z0-9_./~{}*-]*)?$",
        "a path such as /items/{id}/, of letters, digits and any of _ . / ~ { } * -",
        max_length=500,
    ),
    AfterValidator(_target),
]
UrlTarget = Annotated[
    str,
    matching(
        (
            r"^(https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?)?"
            r"/([A-Za-z0-9_.~{}*%?-][A-Za-z0-9_./~{}*%?=&+-]*)?$"
        ),
        "a path such as /new, or a URL such as https://shop.example.org/new, with letters, digits and any of "
        "_ . / ~ { } * % ? = & + - in the path",
        max_length=1000,
    ),
    AfterValidator(_target),
]


class Rule(Model):
    """What redirects and rewrites share. `path` of the template, `to` with the parts that it names."""

    path: PathTemplate = Field(description="/old, /item/{id}, /item/{id:int} (digits), /old/* (all beneath)")
    to: str
    keep_query: bool = Field(default=True, description="what follows the ? goes along")

    @property
    def placeholders(self) -> list[str]:
        """Return the names of the parts, in order; "*" is the rest."""
        return [place["name"] for place in _PLACE.finditer(self.path)] + ["*"] * self.path.endswith("*")

    @model_validator(mode="after")
    def _check_placeholders(self) -> Rule:
        used = [place["name"] for place in _PLACE.finditer(self.to)] + ["*"] * self.to.endswith("*")
        if unknown := [name for name in used if name not in self.placeholders]:
            parts = ", ".join(self.placeholders) or "no parts"
            reject(f"to: {self.to}: {unknown[0]} is no part of the path {self.path}; take one of its own: {parts}")
        return self

    @model_validator(mode="after")
    def _check_query(self) -> Rule:
        if "?" in self.to and self.keep_query:
            reject(f"to: {self.to}: has a query of its own; set keep_query: false")
        return self

    def expand(self, values: Mapping[str, str]) -> str:
        """Return the target with its placeholders replaced by these values."""
        text = _PLACE.sub(lambda place: values[place["name"]], self.to.removesuffix("*"))
        return text + values["*"] if self.to.endswith("*") else text

    def pattern(self, segment: str, rest: str) -> str:
        """Return the path as a regular expression without its end.

        segment and rest are what one part and `*` match.
        """
        made, at = "^", 0
        text = self.path.removesuffix("*")
        for place in _PLACE.finditer(text):
            made += re.escape(text[at : place.start()]) + (r"([0-9]+)" if place["kind"] else f"({segment})")
            at = place.end()
        made += re.escape(text[at:])
        # Nginx's own parser takes the backslash before a minus for nothing, and none is needed.
        return made.replace(r"\-", "-") + (f"({rest})" if self.path.endswith("*") else "")


class Redirect(Rule):
    """A redirect of requests for `path`. The path is compared as the client wrote it."""

    to: UrlTarget = Field(description="a path, or a URL with http:// or https://; parts of the path as {name}, *")
    permanent: bool = Field(default=True, description="308, which browsers remember; false: 307. Both keep the method")

    @property
    def regex(self) -> str:
        """Return the pattern of a path as the client wrote it.

        The path is not decoded: no line ends can get into the response. What a part matches begins neither with
        / nor with a backslash: `//host` in a target would lead anywhere.
        """
        return self.pattern(r"[^/?\\]+", r"(?:[^/?\\][^?]*)?") + r"(?:\?.*)?$"


class Rewrite(Rule):
    """A request for `path` reaches the application as one for `to`; the client sees nothing of it."""

    to: PathTarget = Field(description="a path; parts of the rule's path as {name}, *")

    @property
    def regex(self) -> str:
        """Return the pattern of a decoded path. `$` would match before a line end as well."""
        return self.pattern(r"[^/]+", r"(?s:.*)") + r"\z"


def loops(redirects: Sequence[Redirect], hostnames: Sequence[str] = ()) -> list[str]:
    """Return the redirects that never end, each with the way that a client goes.

    hostnames: names by which a URL leads back here. It tries one path for each rule, so it may miss a loop that only
    some paths run into.
    """
    found: list[str] = []
    for rule in redirects:
        way = [_PLACE.sub("1", rule.path).replace("*", "1")]
        while len(way) <= MAX_CHAIN and (step := _next(redirects, way[-1], hostnames)):
            way.append(step)
            if step in way[:-1]:
                break
        if len(way) > MAX_CHAIN or way[-1] in way[:-1]:
            found.append(
                f"{rule.path}: redirects back to itself ({' -> '.join(way[:4])}{' ...' * (len(way) > 4)}); change it"
            )
    return found


def _next(redirects: Sequence[Redirect], path: str, hostnames: Sequence[str]) -> str | None:
    """Return the path to which the first matching rule leads; None if no rule matches or it leaves the site."""
    for rule in redirects:
        if match := re.match(rule.regex, path):
            target = rule.expand({name: match[number] for number, name in enumerate(rule.placeholders, 1)})
            host = re.match(r"https?://([^/:]+)(:[0-9]+)?", target)
            if host and host[1] not in hostnames:
                return None
            return target[host.end() :] if host else target
    return None
