"""Every metric that the rooms declare, with the names and labels that Prometheus sees."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

import deploy.control.metrics
import deploy.machine.metrics
import deploy.telemetry.metrics
import drift.metrics
import pipelines.metrics
import serving.metrics

MODULES = (
    ("serving", serving.metrics),
    ("drift", drift.metrics),
    ("pipelines", pipelines.metrics),
    ("deploy", deploy.control.metrics),
    ("deploy", deploy.telemetry.metrics),
)


@dataclass(frozen=True)
class Declared:
    """One metric. name: as queries have it, without a histogram's suffixes. mode: of a gauge's processes."""

    room: str
    name: str
    kind: str
    words: str
    labels: frozenset[str]
    mode: str = ""

    def series(self) -> Iterator[tuple[str, frozenset[str]]]:
        """The names that a query may use, each with its labels."""
        if self.kind == "histogram":
            yield f"{self.name}_bucket", self.labels | {"le"}
            yield f"{self.name}_sum", self.labels
            yield f"{self.name}_count", self.labels
        else:
            yield self.name, self.labels


def declared() -> list[Declared]:
    """All of them; no process need run."""
    found = [
        _declared(room, metric)
        for room, module in MODULES
        for metric in vars(module).values()
        if isinstance(metric, Counter | Gauge | Histogram)
    ]
    for family in deploy.machine.metrics.ProcessCollector(lambda: None).describe():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append(Declared("deploy", name, family.type, family.documentation, frozenset({"process"})))
    return found


def series() -> dict[str, frozenset[str]]:
    """Labels by the names that a query may use."""
    return {name: labels for metric in declared() for name, labels in metric.series()}


def _declared(room: str, metric: Counter | Gauge | Histogram) -> Declared:
    [family] = metric.describe()
    name = f"{family.name}_total" if family.type == "counter" else family.name
    mode = getattr(metric, "_multiprocess_mode", "")
    return Declared(room, name, family.type, family.documentation, frozenset(metric._labelnames), mode)
