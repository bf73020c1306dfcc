"""uWSGI, the default: the fastest of the four."""

from gateways.kind import GUARD, Gateway

GATEWAY = Gateway(
    name="uwsgi",
    title="uWSGI",
    # Needs 2.0.27 for a stop that finishes requests. The wheel holds it as a Python module; nothing is compiled.
    packages=("pyuwsgi==2.0.30.post1",),
    protocol="uwsgi",
    config="uwsgi.ini",
    command="{place}/gateway/gateway_uwsgi.py --ini {place}/uwsgi.ini"
    " --http-socket {runtime}/http.sock --stats {runtime}/stats.sock",
    scripts=("gateway_uwsgi", "gateway_uwsgi_app", "gateway_environment", "gateway_http", *GUARD),
    proof_args="--processes 1",
    single_process_args="--processes 1 --socket 127.0.0.1:{port} --listen 1024",
    model="processes with threads",
    process_master="its own master",
    limit="504 for the request; its worker ends, with all its requests",
    ready="the application is imported; with `lazy_apps` at once",
    stop="a hook on SIGTERM finishes what is in flight",
    statistics="busy and idle workers and threads",
    unused={
        "worker_class": "it has one kind of worker",
        # Read in its source (core/uwsgi.c, gracefully_kill): loops of its own end at once, with what is in flight.
        "greenlets": "its gevent loop cuts requests when it stops; use kind gevent, or gunicorn with it",
    },
    no_websockets="the uwsgi protocol has no way to turn a connection into one",
    order=0,
)
