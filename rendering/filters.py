"""Write settings of the proxy in the words of Nginx and Apache; templates use these functions as filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from settings.header import VARIABLE, Headers
from settings.proxy import Compression, Proxy
from settings.rewriting import Redirect, Rewrite, Rule

# The variables of settings/header.py, as templates/nginx/ calls them.
NGINX_VARIABLES: Mapping[str, str] = {
    "client_address": "remote_addr",
    "country": "geoip_country_code",
    "host": "host",
    "request_id": "rid",
    "scheme": "client_scheme",
}


def nginx_headers(headers: Headers) -> dict[str, str]:
    """Return the headers to set, for Nginx."""
    return {name: VARIABLE.sub(_nginx_variable, value) for name, value in headers.set.items()}


def nginx_request_headers(headers: Headers) -> dict[str, str]:
    """Return the same, with "" for each header that the application shall not see."""
    return {**nginx_headers(headers), **dict.fromkeys(headers.remove, "")}


def apache_headers(headers: Headers) -> dict[str, str]:
    """Return the headers to set, for Apache's mod_headers."""
    return {name: _apache_value(value) for name, value in headers.set.items()}


def _nginx_variable(found: re.Match[str]) -> str:
    return f"${{{NGINX_VARIABLES[found[1]]}}}"


def _apache_value(value: str) -> str:
    """Return a value as mod_headers reads it, which takes percent signs, and `expr=` at the beginning, for its own."""
    made = VARIABLE.sub(lambda found: f"%{{FLEET_{found[1].upper()}}}e", value.replace("%", "%%"))
    return f"%{{FLEET_NOTHING}}e{made}" if made.startswith("expr=") else made


def exact_path_regex(paths: Sequence[str]) -> list[str]:
    r"""Return paths as regular expressions for Nginx's $uri.

    They end with `\z`, for `$` would match before a line end as well.
    """
    return [rf"^{path.replace('.', '[.]')}\z" for path in paths]


def path_prefix_regex(paths: Sequence[str]) -> list[str]:
    """Return the same expressions, in which a path that ends with a slash matches all paths below it."""
    return [f"^{path.replace('.', '[.]')}" if path.endswith("/") else exact_path_regex([path])[0] for path in paths]


def captures(rule: Rule) -> dict[str, str]:
    """Return placeholder -> what Nginx and mod_rewrite call it after a match."""
    return {name: f"${number}" for number, name in enumerate(rule.placeholders, 1)}


def nginx_return(rule: Redirect) -> str:
    """Return status, colon and target."""
    query = "$is_args$args" if rule.keep_query else ""
    return f"{308 if rule.permanent else 307}:{rule.expand(captures(rule))}{query}"


def nginx_target(rule: Rewrite) -> str:
    """Return the target; without a ? at its end Nginx keeps the query."""
    return rule.expand(captures(rule)) + ("" if rule.keep_query else "?")


def snippets_of(proxy: Proxy, context: str) -> list[str]:
    """Return the texts for this place of the site, in lines by which machine/balancer/proxy.py finds the setting."""
    sources = [(f"balancer.proxy.snippets.{number}", snippet) for number, snippet in enumerate(proxy.snippets)]
    return [f"# {name}\n{each.text}\n# end of {name}" for name, each in sources if each.context == context]


def gzip_types(compression: Compression) -> list[str]:
    """Return the types for Nginx, which always compresses text/html, and warns of duplicate types.

    If there is no other, return an unused type: without any, those of nginx.conf would apply.
    """
    return [each for each in dict.fromkeys(compression.types) if each != "text/html"] or ["text/x-none"]


def nginx_quote(text: str) -> str:
    """Return a word between double quotes, as Nginx reads it. Nothing in the word ends the quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


FILTERS: Mapping[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        apache_headers,
        captures,
        gzip_types,
        nginx_headers,
        nginx_request_headers,
        nginx_return,
        nginx_target,
        path_prefix_regex,
        nginx_quote,
        snippets_of,
    )
}
