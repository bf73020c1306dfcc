"""Write metrics in the text format of Prometheus (prometheus.io/docs/instrumenting/exposition_formats).

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metric_families import BUCKETS_S, BY_NAME, FAMILIES

_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def escape(value: str) -> str:
    """Return the value of a label as it stands between its quotes. What is no UTF-8 becomes a question mark."""
    return value.encode(errors="replace").decode().translate(_ESCAPED)


def series(name: str, labels: Mapping[str, str]) -> str:
    """Return the name of a series with its labels."""
    inside = ",".join(f'{key}="{escape(value)}"' for key, value in labels.items())
    return f"{name}{{{inside}}}" if inside else name


class Metrics:
    """The values of the metrics at one moment. A later value of the same series takes the place of the earlier one."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, str]] = {}

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add the value of a gauge or counter, without its prefix wsgi_fleet_. Raises ValueError for unknown labels."""
        family = BY_NAME[f"wsgi_fleet_{name}"]
        if tuple(labels) != family.labels:
            raise ValueError(f"{family.name} has the labels {family.labels} and not {tuple(labels)}")
        self._lines.setdefault(family.name, {})[series(family.name, labels)] = format_value(value)

    def add_state(self, name: str, state: str, states: Sequence[str], **labels: str) -> None:
        """Add a gauge for each of the states: 1 for the present one, else 0."""
        for each in states:
            self.add(name, each == state, **labels, state=each)

    def add_histogram(self, name: str, histogram: Histogram, **labels: str) -> None:
        """Add the series of a histogram, whose buckets are BUCKETS_S."""
        family = BY_NAME[f"wsgi_fleet_{name}"]
        lines = self._lines.setdefault(family.name, {})
        total = 0
        for bound, count in zip((*map(format_value, BUCKETS_S), "+Inf"), histogram.counts, strict=True):
            total += count
            lines[series(f"{family.name}_bucket", {**labels, "le": bound})] = str(total)
        lines[series(f"{family.name}_sum", labels)] = format_value(histogram.sum)
        lines[series(f"{family.name}_count", labels)] = str(total)

    def text(self) -> str:
        """Return all of it, each family with its help and type before its series."""
        found: list[str] = []
        for family in FAMILIES:
            if lines := self._lines.get(family.name):
                found += [f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}"]
                found += [f"{key} {value}" for key, value in lines.items()]
        return "".join(f"{line}\n" for line in found)


class Histogram:
    """Counts of durations. counts: for each of BUCKETS_S those above the bound before it; the last: all above."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[next((place for place, bound in enumerate(BUCKETS_S) if seconds <= bound), len(BUCKETS_S))] += 1
        self.sum += seconds


def format_value(value: float) -> str:
    """Return a number as Prometheus reads it: whole numbers without a point."""
    return str(int(value)) if value == int(value) else repr(round(value, 6))
