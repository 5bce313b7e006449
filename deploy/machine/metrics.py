"""What the supervisor knows of its processes, for Prometheus: from its state file, whoever answers /metrics.

The supervisor itself has no port. On machines of an orchestrator there is no such file and are no such series:
the orchestrator tells of restarts.
"""

import logging
from collections.abc import Callable, Iterable

import msgspec
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deploy.machine.state import PlatformState

log = logging.getLogger(__name__)


class ProcessCollector(Collector):
    """state: what the supervisor wrote last, None if it wrote nothing."""

    def __init__(self, state: Callable[[], PlatformState | None]) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        """The families without samples."""
        return _families()

    def collect(self) -> Iterable[Metric]:
        """One sample a process; none where there is no supervisor."""
        ready, restarts = families = _families()
        try:
            state = self._state()
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("no gauges of processes: %s", error)
            state = None
        for process in state.processes if state else ():
            ready.add_metric([process.name], float(process.ready))
            restarts.add_metric([process.name], process.restarts)
        return families


def _families() -> tuple[GaugeMetricFamily, CounterMetricFamily]:
    return (
        GaugeMetricFamily("deploy_process_ready", "Whether a process does its work: 1 or 0.", labels=["process"]),
        CounterMetricFamily(
            "deploy_process_restarts", "Starts of a process after it had ended by itself.", labels=["process"]
        ),
    )
