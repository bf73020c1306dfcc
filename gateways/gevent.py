"""gevent's own WSGIServer: green threads, for applications that mostly wait for others."""

from gateways.kind import GUARD, Gateway

# gevent and what it needs.
GEVENT_PACKAGES = ("gevent==26.9.0", "greenlet==3.5.6", "zope.event==6.2", "zope.interface==8.7")
GATEWAY = Gateway(
    name="gevent",
    title="gevent",
    packages=GEVENT_PACKAGES,
    protocol="http",
    config="gateway/gevent.ini",
    command="{place}/gateway/gateway_gevent.py {place}/gateway/gevent.ini {runtime}/http.sock",
    scripts=("gateway_gevent", "gateway_http", *GUARD, "prefork"),
    model="processes with greenlets; the standard library waits without holding up others",
    process_master="ours",
    limit="500 for the request alone, where it waits; else 5 s later as with uWSGI",
    ready="every worker has the application",
    stop="SIGTERM: workers accept no more and finish what is in flight",
    statistics="busy and idle workers, requests at a time",
    unused={
        "worker_class": "it has one kind of worker",
        "threads": "requests run in greenlets; their number is greenlets",
        "lazy_apps": "it always imports after fork",
        "max_requests": "its workers are not replaced",
        "reload_on_rss_mib": "its workers are not replaced",
    },
    runs_greenlets=True,
    order=2,
)
