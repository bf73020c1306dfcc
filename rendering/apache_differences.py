"""Describe what Apache does otherwise than Nginx; docs/balancer.md contains the table."""

from __future__ import annotations

from settings.apache import UNSUPPORTED

# What is done otherwise: what it is about, with Nginx, with Apache.
DIFFERENCES_FROM_NGINX = (
    (
        "a GET that an upstream server accepted without a response",
        "sent to another server; 502 if it ended its own worker",
        "500, 502 or 504; not sent again, because it may have run",
    ),
    (
        "a server that does not take connections (within 2 s)",
        "another is asked, and where none does it is 503 with `Retry-After`",
        "the same; an application's own 503 without `Retry-After` gets one, too",
    ),
    (
        "a server that dies while it takes a body (uwsgi protocol)",
        "502",
        "another is asked and gets the rest of the body alone: the application finds it too short",
    ),
    ("a server that takes too long, where the gateway speaks HTTP", "504", "502"),
    (
        "the server with the fewest requests",
        "counted exactly",
        (
            "counted without locks: after a load the count may be off by a few, so that a server gets less than its "
            "share while there is little to do (seen after 8,000 requests of 16 clients, Apache 2.4.71). Each reload "
            "begins anew, and the rotation of the logs makes one a day"
        ),
    ),
    (
        "`sticky_sessions`: the server of a new client",
        "any, by the hash of its cookie; another one where that server is away",
        "the one that has fewest; another one, and another cookie, where that server is away",
    ),
    (
        "request bodies",
        "taken whole first, so that a slow client costs the application nothing, and the length of each is known",
        (
            "passed on as they come. One of unknown length (chunked) is taken whole first, on paths of `streaming` "
            "too. A client of HTTP/2 that still sends sees the stream end in the place of a 413"
        ),
    ),
    (
        "a body with a length and chunks",
        "400",
        (
            "the chunks count, the length is not looked at, and the connection ends (RFC 9112, 6.3). Of other "
            "encodings than `chunked`, and with HTTP/1.0, 400 or 411"
        ),
    ),
    (
        "clients that send or read slowly",
        "cost the application nothing: Nginx takes the request whole, and the response from it",
        (
            "each holds a thread of the application, so a few stop a server; with `fleet.local_proxy` "
            "they do not, for the Nginx of each server takes requests and responses whole"
        ),
    ),
    (
        "a request header that is too large",
        "400 or 414: more than 42 KiB together, or 14 KiB a line",
        (
            "400 or 414: more than 100 lines, 16 KiB a line, 8 KiB of a URL. Where all of it does not fit into 64 KiB "
            "with uWSGI, 500 for that request alone; no server is asked"
        ),
    ),
    (
        "requests at a time",
        "2,048 for each server; more are rejected with 503",
        "1,024 in all: each takes a thread of Apache, one with a chunked body a second one while it is answered",
    ),
    ("headers of a response", "32 KiB together", "32 KiB a line; 8 KiB with uWSGI"),
    ("header names with `_`", "left out", "left out for uWSGI; for others those that look like the balancer's own"),
    ("control characters in a header", "passed on", "400"),
    ("`redirects` to a path", "`Location` is a path", "`Location` is a URL with the host that was asked for"),
    ("`rewrites` of a path with `%3F` in it", "rewritten", "403"),
    ("a reload", "new workers are there at once", "connections may wait for a second until they are"),
    ("a security update of it", "no connection is cut", "Debian restarts it, and what is in flight is cut"),
    ("the access log", "names every server that was asked", "names the last one; its time is the whole request's"),
    ("`snippets`", "Nginx's language", "Apache's, for the whole server, each `<VirtualHost>`, each `<Location>`"),
)


def markdown_table() -> str:
    """Return a Markdown table of both proxies; docs/balancer.md contains it."""
    rows = [("", "`nginx`", "`apache`"), ("---", "---", "---"), *DIFFERENCES_FROM_NGINX]
    rows += [(f"`balancer.{name}`", "yes", f"refused: {why}") for name, why in UNSUPPORTED.items()]
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |", 1) for cells in rows)
