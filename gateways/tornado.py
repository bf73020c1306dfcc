"""Tornado's HTTP server with a WSGIContainer: callbacks in front, a pool of threads for the application."""

from gateways.kind import GUARD, Gateway

GATEWAY = Gateway(
    name="tornado",
    title="Tornado",
    packages=("tornado==6.6.1",),
    protocol="http",
    config="gateway/tornado.ini",
    command="{place}/gateway/gateway_tornado.py {place}/gateway/tornado.ini {runtime}/http.sock",
    scripts=("gateway_tornado", "gateway_http", "gateway_environment", *GUARD, "prefork"),
    model="processes with one event loop for connections and threads for the application; bodies are held in memory",
    process_master="ours",
    limit="504 for the request; its worker ends, with all its requests",
    ready="every worker has the application",
    stop="SIGTERM: workers accept no more and finish what is in flight",
    statistics="busy and idle workers, requests at a time",
    unused={
        "worker_class": "it has one kind of worker",
        "greenlets": "requests run in threads; their number is threads",
        "max_requests": "its workers are not replaced",
        "reload_on_rss_mib": "its workers are not replaced",
    },
    no_streaming="Tornado sends nothing of a WSGI application's response before it is whole",
    no_websockets="Tornado's WSGI has no way to them",
    order=3,
)
