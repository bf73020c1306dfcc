"""What is asked for: each kind of work, by how many clients, and of whom; every cell has its reason."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.serve.contestants import CONTESTANTS, PRODUCTS

ALL = tuple(each.name for each in CONTESTANTS)
RUNNING = tuple(name for name in ALL if name != "nginx" and not name.endswith("-direct"))
# Of each kind of contestant the one that people would compare.
RIVALS = ("default", "gunicorn", "gunicorn-sync", "gunicorn-2n1", "beanstalk", "granian", "talk")
FEWER = ("default", "gunicorn", "gunicorn-2n1", "beanstalk", "granian")
UPLOAD_BYTES = 100 * 1024
# Shares of what the default serves at most, at which latencies are measured.
LOADS = (0.1, 0.3, 0.5, 0.7, 0.9)


def load_name(share: float) -> str:
    """Return the name of the work with a share of the most requests/s."""
    return f"load-{share * 100:.0f}"


@dataclass(frozen=True)
class Work:
    """One kind of request. of: who is measured. upload: bytes of a POST. reason: why it is measured.

    load: share of the most requests/s that "hello" had in this round, which clients do not exceed; 0: without pause.
    warm: each process loads what it needs at its first request.
    """

    name: str
    title: str
    path: str
    of: tuple[str, ...]
    reason: str
    clients: int = 64
    fresh: bool = False
    upload: int = 0
    tls: bool = False
    warm: bool = False
    load: float = 0

    @property
    def is_crowd(self) -> bool:
        """Return whether there are so many clients that some may get no answer, so that each is watched."""
        return self.clients >= 1000


WORKS = (
    Work("hello", "hello (Flask)", "/flask", ALL, "the cost of gateway and balancer, on which most comparisons rest"),
    Work("fresh", "hello, a connection each", "/flask", (*RIVALS, "gevent", "tornado", "nginx"),
         "clients that come once", fresh=True),
    Work("wait", "20 ms of waiting", "/wait", RUNNING, "a database or a service: how many requests wait at a time"),
    Work("cpu", "2 ms of CPU", "/cpu", (*FEWER, "threads-4"), "how evenly CPUs are used", clients=16),
    Work("large", "1 MiB response", "/large", FEWER, "bodies of responses", clients=16),
    Work("upload", "POST of 100 KiB", "/upload", FEWER, "bodies of requests", clients=16,
         upload=UPLOAD_BYTES),
    Work("static", "static file of 9 KiB", "/static/style.css", ("default", "gunicorn-2n1", "granian"),
         "the balancer sends it with the product, the application elsewhere"),
    Work("bare", "hello (bare WSGI)", "/", FEWER, "the gateway without a framework"),
    Work("django", "hello (Django)", "/django", FEWER, "the other framework of the examples", warm=True),
    Work("few", "hello, 16 clients", "/flask", ("default", "granian", "beanstalk"), "a small load", clients=16),
    Work("many", "hello, 2,000 clients", "/flask", (*FEWER[2:], *(each.name for each in PRODUCTS)),
         "every client must get an answer", clients=2000),
    Work("many-fresh", "hello, 2,000 clients, a connection each", "/flask", ("default", "granian"),
         "the same for queues of new connections", clients=2000, fresh=True),
    Work("tls", "hello, HTTPS", "/flask", ("default",), "the cost of encryption", tls=True),
    Work("tls-fresh", "hello, HTTPS, a connection each", "/flask", ("default",), "the cost of a handshake", fresh=True,
         tls=True),
    *(
        Work(load_name(share), f"hello at {share:.0%} of the most", "/flask", ("default",),
             "latency below saturation", load=share)
        for share in LOADS
    ),
)  # fmt: skip
BY_NAME = {each.name: each for each in WORKS}
