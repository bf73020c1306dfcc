"""Gunicorn: the one most Python programmers know. sync, gthread and gevent workers under one arbiter."""

from gateways.gevent import GEVENT_PACKAGES
from gateways.kind import GUARD, Gateway

GATEWAY = Gateway(
    name="gunicorn",
    title="Gunicorn",
    # packaging: what its gevent worker reads versions with. All workers at hand: which one is part of the release.
    packages=("gunicorn==27.0.1", "packaging==26.3", *GEVENT_PACKAGES),
    protocol="http",
    config="gateway/gunicorn.conf.py",
    command="{place}/gateway/gateway_gunicorn.py {place}/gateway/gunicorn.conf.py {runtime}/http.sock",
    scripts=("gateway_gunicorn", "gateway_http", "gateway_environment", *GUARD),
    model="processes with threads (`gthread`), without (`sync`, where `threads` is 1), or with greenlets (`gevent`)",
    process_master="its own arbiter",
    limit="as with uWSGI; of `gevent` 500 for the request alone",
    ready="every worker has the application",
    stop="SIGTERM: workers accept no more and finish what is in flight",
    statistics="busy and idle workers, requests at a time",
    unused={
        "reload_on_rss_mib": "it does not look at memory; max_requests replaces workers",
    },
    variants={"sync": {"threads": 1}, "gthread": {}, "gevent": {"worker_class": "gevent"}},
    order=1,
)
