"""The algorithm of Kubernetes' horizontal pod autoscaler, autoscaling/v2: from what metrics say to a number of pods.

A plain function of what is known and the clock. Sources: Kubernetes documentation, Horizontal Pod Autoscaling, sections
Algorithm details, Configurable scaling behavior and Stabilization window; where words leave it open, the controller's
code (pkg/controller/podautoscaler/horizontal.go and replica_calculator.go, v1.35): how events are counted in a period,
rounding, and the order of stabilisation and policies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

Source = Literal["value", "average"]
"""value: one number of all pods, times the pods there are; average: a number of each pod, or of all over the pods."""


@dataclass(frozen=True, slots=True)
class MetricRule:
    """name: of the metric, `cpu` for the resource. source: see `Source`. target: what it should be. of_pods: whether it
    comes from the pods themselves, so that one which has just started has none yet."""

    name: str
    source: Source
    target: float
    of_pods: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """At most so many pods, or percent of those at the period's start, more or fewer in period_s."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: float


@dataclass(frozen=True, slots=True)
class Direction:
    """stabilisation_s: of the recommendations of that long, the one that changes least counts. select: which policy."""

    stabilisation_s: float
    policies: tuple[Policy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"


DEFAULT_UP = Direction(0.0, (Policy("Pods", 4, 15.0), Policy("Percent", 100, 15.0)))
DEFAULT_DOWN = Direction(300.0, (Policy("Percent", 100, 15.0),))


@dataclass(frozen=True, slots=True)
class AutoscalerRule:
    """least, most: pods. up, down: behaviour; the defaults are Kubernetes'. tolerance: ratio to the target from 1."""

    least: int
    most: int
    metrics: tuple[MetricRule, ...]
    up: Direction = DEFAULT_UP
    down: Direction = DEFAULT_DOWN
    tolerance: float = 0.1


@dataclass(frozen=True, slots=True)
class Reading:
    """value: of the metric: for `average` the sum over pods that told it, for `value` itself; None: not known.
    told: pods that told theirs, for metrics of pods."""

    value: float | None
    told: int = 0


def wanted(rule: MetricRule, reading: Reading, current: int, ready: int, tolerance: float = 0.1) -> int | None:
    """Pods that one metric asks for; None if it is not known.

    current: pods there are, ready: those of them that serve. Of pods that do not tell a metric of theirs, 0 is assumed
    when more are wanted and the target when fewer are; if that turns the direction, nothing changes.

    >>> wanted(MetricRule("cpu", "average", 100.0, of_pods=True), Reading(400.0, told=2), 2, 2)
    4
    >>> wanted(MetricRule("wait", "value", 100.0), Reading(50.0), 4, 4)
    2
    """
    if reading.value is None:
        return None
    if rule.of_pods:
        return _of_pods(rule, reading.value, reading.told, current, tolerance)
    ratio = reading.value / rule.target / (1 if rule.source == "value" else max(current, 1))
    if abs(ratio - 1) <= tolerance:
        return current
    return _ceil(ready * ratio) if rule.source == "value" else _ceil(reading.value / rule.target)


def _of_pods(rule: MetricRule, value: float, told: int, current: int, tolerance: float) -> int | None:
    if not told:
        return None
    ratio = value / told / rule.target
    missing = current - told
    if missing <= 0:
        return current if abs(ratio - 1) <= tolerance else _ceil(ratio * told)
    anew = (value if ratio > 1 else value + missing * rule.target) / current / rule.target
    if abs(anew - 1) <= tolerance or (ratio > 1) != (anew > 1):
        return current
    pods = _ceil(anew * current)
    return current if (pods > current) != (anew > 1) else pods


def _ceil(pods: float) -> int:
    return ceil(round(pods, 9))  # 3.0000000000000004 pods are 3


@dataclass
class Autoscaler:
    """What one autoscaler remembers: recommendations, and by how much it changed the pods when."""

    rule: AutoscalerRule
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def look(self, now_s: float, current: int, ready: int, readings: Sequence[Reading]) -> int:
        """The number of pods from now on. current: that are asked for; ready: that serve. One reading a metric.

        The largest of what metrics ask for counts. If one of them is not known, only more pods are believed.
        """
        rule = self.rule
        both = zip(rule.metrics, readings, strict=True)
        asked = [wanted(metric, reading, current, ready, rule.tolerance) for metric, reading in both]
        known = [pods for pods in asked if pods is not None]
        if not known or (len(known) < len(asked) and max(known) <= current):
            return current
        desired = self._stabilised(now_s, current, max(known))
        desired = self._limited(now_s, current, desired)
        if desired != current:
            self._changes.append((now_s, desired - current))
        return desired

    def _stabilised(self, now_s: float, current: int, desired: int) -> int:
        longest_s = max(self.rule.up.stabilisation_s, self.rule.down.stabilisation_s)
        self._recommended = [(at_s, pods) for at_s, pods in self._recommended if now_s - at_s < longest_s]
        ups = [pods for at_s, pods in self._recommended if now_s - at_s < self.rule.up.stabilisation_s]
        downs = [pods for at_s, pods in self._recommended if now_s - at_s < self.rule.down.stabilisation_s]
        self._recommended.append((now_s, desired))
        return min(max(current, min([desired, *ups])), max([desired, *downs]))

    def _limited(self, now_s: float, current: int, desired: int) -> int:
        rule = self.rule
        if desired > current:
            return min(desired, max(current, min(rule.most, self._up(now_s, current))))
        if desired < current:
            return max(desired, min(current, max(rule.least, self._down(now_s, current))))
        return min(max(desired, rule.least), rule.most)

    def _up(self, now_s: float, current: int) -> int:
        limits = []
        for policy in self.rule.up.policies:
            start = self._at_start(now_s, current, policy.period_s)
            limits.append(start + policy.value if policy.kind == "Pods" else _ceil(start * (1 + policy.value / 100)))
        select = self.rule.up.select
        return current if select == "Disabled" else max(limits) if select == "Max" else min(limits)

    def _down(self, now_s: float, current: int) -> int:
        limits = []
        for policy in self.rule.down.policies:
            start = self._at_start(now_s, current, policy.period_s)
            limits.append(
                start - policy.value if policy.kind == "Pods" else int(round(start * (1 - policy.value / 100), 9))
            )
        select = self.rule.down.select  # Max: the largest change, that is the fewest pods
        return current if select == "Disabled" else min(limits) if select == "Max" else max(limits)

    def _at_start(self, now_s: float, current: int, period_s: float) -> int:
        """Pods there would be without the changes of the period."""
        return current - sum(change for at_s, change in self._changes if at_s > now_s - period_s)
