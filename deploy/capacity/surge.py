"""A sales day: queries, gateways, replicas' batches, and the autoscaler that is shipped, with the lags of its metrics.

The autoscaler looks each 15 s, 5,760 times a day. Between two looks queries are simulated one by one
(`replicas_queue`) where anything moves: above `CALM` of what the open replicas can do, or while more wait than one
batch.
Else the queue is in equilibrium, which a batch server reaches within some batches, milliseconds: latencies are drawn
from an equilibrium simulated beforehand by the same code at the same rate per replica.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deploy.capacity.autoscaler import DEFAULT_DOWN, DEFAULT_UP, Autoscaler, AutoscalerRule, MetricRule, Reading
from deploy.capacity.queueing import BatchServer
from deploy.capacity.replicas_queue import ReplicasQueue, Served, quantile_ms
from deploy.capacity.sales_day import DAY_S, SalesDay
from deploy.errors import SluiceError

SYNC_S = 15.0
CALM = 0.75
_EQUILIBRIUM_S = 3.0
_GRID = np.array([0.005, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])


@dataclass(frozen=True, slots=True)
class PodTimes:
    """start_s: from being wanted to taking queries: scheduled, image (there already) started, model loaded and warmed
    up (4 s measured, `tests.bench.cold_start`), found ready by a probe, seen by gateways. node_s: until a node is
    there where none is free; nodes: that are kept, one pod each; None: always enough."""

    start_s: float = 20.0
    node_s: float = 0.0
    nodes: int | None = None


@dataclass(frozen=True, slots=True)
class Surge:
    """What is simulated.

    server: a replica. day: its traffic. gateways: that balance, each by what it knows. hop_ms: at the 99th percentile,
    gateway and way, added to each latency. deadline_s, p99_ms: of a query; what 99 of 100 must keep. metric_age_s:
    from a
    moment to the autoscaler's knowing of it: scrape interval and adapter. rate_s: over how long rates and quantiles are
    taken; utilisation_s: the same of utilisation. tick_s: of the queue.
    """

    rule: AutoscalerRule
    server: BatchServer
    day: SalesDay
    gateways: int = 16
    hop_ms: float = 5.0
    deadline_s: float = 0.2
    p99_ms: float = 120.0
    pods: PodTimes = PodTimes()
    metric_age_s: float = 15.0
    rate_s: float = 60.0
    utilisation_s: float = 30.0
    tick_s: float = 0.002


@dataclass(frozen=True, slots=True)
class Minute:
    """at_s: its beginning. rate_s: queries a second; pods, ready: at its end. lost: share refused or too late."""

    at_s: float
    rate_s: float
    pods: int
    ready: int
    p99_ms: float
    lost: float
    busy: float
    one_by_one: bool


@dataclass(frozen=True, slots=True)
class SurgeDay:
    """p50_ms, p99_ms: of all answers of the day. worst_minute_ms: the largest p99 of a minute; over: minutes above the
    bar. lost: share of queries refused or answered too late; worst_lost: of a minute. pod_hours: paid for."""

    surge: Surge
    seed: int
    minutes: tuple[Minute, ...]
    queries: int
    one_by_one: int
    p50_ms: float
    p99_ms: float
    lost: float
    pod_hours: float

    @property
    def worst_minute_ms(self) -> float:
        """The largest p99 of a minute."""
        return max(minute.p99_ms for minute in self.minutes)

    @property
    def over(self) -> int:
        """Minutes whose p99 was above the bar, or that lost more than one of a thousand."""
        return sum(minute.p99_ms > self.surge.p99_ms or minute.lost > 1e-3 for minute in self.minutes)

    @property
    def worst_lost(self) -> float:
        """The largest share lost in a minute."""
        return max(minute.lost for minute in self.minutes)

    @property
    def holds(self) -> bool:
        """p99 of the day within the bar, and at most one of a thousand lost."""
        return self.p99_ms <= self.surge.p99_ms and self.lost <= 1e-3

    @property
    def most_pods(self) -> int:
        """At any minute."""
        return max(minute.pods for minute in self.minutes)

    @property
    def least_pods(self) -> int:
        """At any minute."""
        return min(minute.pods for minute in self.minutes)


@dataclass
class _Pods:
    """When each is ready, oldest first; the newest go first."""

    times: PodTimes
    ready_s: list[float] = field(default_factory=list)

    def scale(self, now_s: float, wanted: int) -> None:
        while len(self.ready_s) > wanted:
            self.ready_s.pop()
        while len(self.ready_s) < wanted:
            new_node = self.times.nodes is not None and len(self.ready_s) >= self.times.nodes
            self.ready_s.append(now_s + self.times.start_s + (self.times.node_s if new_node else 0.0))

    def ready(self, now_s: float) -> int:
        return sum(at_s <= now_s for at_s in self.ready_s)

    def opened(self, now_s: float, most: int) -> NDArray[np.bool_]:
        found = np.zeros(most, bool)
        found[: len(self.ready_s)] = np.array(self.ready_s) <= now_s
        return found


@dataclass(frozen=True, slots=True)
class _Period:
    """Between two looks. pods: ready; told: of those, how many tell metrics."""

    served: Served
    ready: int


class Equilibrium:
    """Queues at rest, simulated once at some rates of one replica."""

    def __init__(self, surge: Surge, seed: int, replicas: int = 8) -> None:
        self.rates = _GRID * surge.server.capacity_s
        self._found = []
        for number, rate_s in enumerate(self.rates):
            rng = np.random.default_rng([seed, number])
            queue = ReplicasQueue(surge.server, replicas, surge.gateways, surge.deadline_s, surge.tick_s, rng)
            opened = np.ones(replicas, bool)
            ticks = round(_EQUILIBRIUM_S / surge.tick_s)
            queue.run(0.0, np.full(ticks // 10, rate_s * replicas), opened)
            self._found.append(queue.run(ticks // 10 * surge.tick_s, np.full(ticks, rate_s * replicas), opened))
        self._replicas = replicas

    def served(self, seconds: float, queries: int, replicas: int, rng: np.random.Generator) -> Served:
        """So many queries in so long, drawn between the two rates beside theirs."""
        rate_s = queries / seconds / replicas
        above = int(np.clip(np.searchsorted(self.rates, rate_s), 1, len(self.rates) - 1))
        low, high = self._found[above - 1], self._found[above]
        share = float(np.clip((rate_s - self.rates[above - 1]) / (self.rates[above] - self.rates[above - 1]), 0, 1))

        def mixed(of: Callable[[Served], NDArray[np.int64]]) -> NDArray[np.int64]:
            chances = (1 - share) * of(low) / of(low).sum() + share * of(high) / of(high).sum()
            return rng.multinomial(queries, chances / chances.sum())

        def rate(of: Callable[[Served], float]) -> float:
            return ((1 - share) * of(low) + share * of(high)) / _EQUILIBRIUM_S / self._replicas * seconds * replicas

        return Served(
            seconds=seconds,
            arrived=queries,
            refused=0,
            late=0,
            busy_s=rate(lambda one: one.busy_s),
            batches=round(rate(lambda one: one.batches)),
            latencies=mixed(lambda one: one.latencies),
            waits=mixed(lambda one: one.waits),
        )


def simulate(
    surge: Surge,
    seed: int,
    from_s: float = 0.0,
    to_s: float = DAY_S,
    equilibrium: Equilibrium | None = None,
    on_minute: Callable[[Minute], None] = lambda minute: None,
) -> SurgeDay:
    """A day, or the part of it between two moments, which begins with as many pods as the autoscaler wants at rest.

    equilibrium: made of the same server, to share it among days.
    """
    rule = surge.rule
    rng = np.random.default_rng(seed)
    calm_state = equilibrium or Equilibrium(surge, seed)
    scaler = Autoscaler(rule)
    pods = _Pods(surge.pods)
    pods.scale(-1e9, _at_rest(surge, calm_state, from_s, rng))
    queue = _queue(surge, rng)
    past: list[_Period] = []
    minutes: list[Minute] = []
    whole: Served | None = None
    one_by_one, pod_s = 0, 0.0
    moving = False
    looks = round((to_s - from_s) / SYNC_S)
    minute: list[tuple[Served, bool]] = []
    for look in range(looks):
        now_s = from_s + look * SYNC_S
        if look:
            pods.scale(
                now_s, scaler.look(now_s, len(pods.ready_s), pods.ready(now_s), _readings(surge, past, pods, now_s))
            )
        middle = surge.day.rate_s(now_s + SYNC_S / 2)
        most_s = max(surge.day.rate_s(now_s), surge.day.rate_s(now_s + SYNC_S))
        ready = pods.ready(now_s)
        full = ready * surge.server.capacity_s
        calm = ready > 0 and most_s <= CALM * full and not moving
        if calm:
            served = calm_state.served(SYNC_S, int(rng.poisson(middle * SYNC_S)), ready, rng)
        else:
            served = _one_by_one(surge, queue, pods, now_s)
            one_by_one += served.arrived
            moving = queue.outstanding > ready * surge.server.most
            if not moving and most_s <= CALM * full:
                queue = _queue(surge, rng)
        past = [*past[-12:], _Period(served, ready)]
        pod_s += SYNC_S * len(pods.ready_s)
        whole = served if whole is None else whole + served
        minute.append((served, not calm))
        if len(minute) == round(60 / SYNC_S):
            minutes.append(_minute(surge, now_s + SYNC_S - 60, minute, len(pods.ready_s), ready))
            on_minute(minutes[-1])
            minute = []
    assert whole is not None
    return SurgeDay(
        surge=surge,
        seed=seed,
        minutes=tuple(minutes),
        queries=whole.arrived,
        one_by_one=one_by_one,
        p50_ms=quantile_ms(whole.latencies, 0.5) + surge.hop_ms,
        p99_ms=quantile_ms(whole.latencies, 0.99) + surge.hop_ms,
        lost=(whole.refused + whole.late) / max(whole.arrived, 1),
        pod_hours=pod_s / 3600,
    )


def variants(shipped: Surge) -> dict[str, Surge]:
    """The shipped settings and what else one might have chosen, by what differs."""
    rule = shipped.rule
    alone = tuple(metric for metric in rule.metrics if "utilisation" in metric.name or metric.name == "cpu")
    queries = tuple(metric for metric in rule.metrics if "queries" in metric.name)
    waits = tuple(metric for metric in rule.metrics if "wait" in metric.name)
    slow_up = replace(rule.up, stabilisation_s=300.0)
    found = {
        "as shipped": shipped,
        "Kubernetes' default behaviour": replace(shipped, rule=replace(rule, up=DEFAULT_UP, down=DEFAULT_DOWN)),
        "scale up only after 5 min (stabilisation)": replace(shipped, rule=replace(rule, up=slow_up)),
        "nodes come in 3 min, 8 kept": replace(shipped, pods=replace(shipped.pods, node_s=180.0, nodes=rule.least)),
    }
    for name, metrics in (("utilisation alone", alone), ("queries alone", queries), ("queue wait alone", waits)):
        if metrics and len(metrics) < len(rule.metrics):
            found[name] = replace(shipped, rule=replace(rule, metrics=metrics))
    return found


def _queue(surge: Surge, rng: np.random.Generator) -> ReplicasQueue:
    return ReplicasQueue(surge.server, surge.rule.most, surge.gateways, surge.deadline_s, surge.tick_s, rng)


def _one_by_one(surge: Surge, queue: ReplicasQueue, pods: _Pods, now_s: float) -> Served:
    """Until the next look, in stretches between which no pod becomes ready."""
    end_s = now_s + SYNC_S
    turns = sorted({now_s, *(at_s for at_s in pods.ready_s if now_s < at_s < end_s), end_s})
    whole: Served | None = None
    for begin_s, stop_s in pairwise(turns):
        ticks = round((stop_s - begin_s) / surge.tick_s)
        if not ticks:
            continue
        moments = begin_s + np.arange(ticks) * surge.tick_s
        at = np.linspace(begin_s, stop_s, 16)
        rates = np.interp(moments, at, [surge.day.rate_s(float(one)) for one in at])
        served = queue.run(begin_s, rates, pods.opened(begin_s, surge.rule.most))
        whole = served if whole is None else whole + served
    assert whole is not None
    return whole


def _readings(surge: Surge, past: list[_Period], pods: _Pods, now_s: float) -> list[Reading]:
    return [_reading(surge, metric, past, pods, now_s) for metric in surge.rule.metrics]


def _reading(surge: Surge, metric: MetricRule, past: list[_Period], pods: _Pods, now_s: float) -> Reading:
    """What the metrics' pipeline says now: of periods that ended at least `metric_age_s` ago."""
    age = round(surge.metric_age_s / SYNC_S)
    seen = past[: len(past) - age] if age else past
    window_s = surge.utilisation_s if _kind(metric) == "utilisation" else surge.rate_s
    seen = seen[-max(1, round(window_s / SYNC_S)) :]
    if not seen:
        return Reading(None)
    seconds = sum(period.served.seconds for period in seen)
    match _kind(metric):
        case "queries":
            return Reading(sum(period.served.arrived for period in seen) / seconds)
        case "wait":
            waits = np.sum([period.served.waits for period in seen], axis=0)
            return Reading(quantile_ms(waits, 0.95) / 1e3)
    told = min(seen[-1].ready, len(pods.ready_s))
    busy = sum(period.served.busy_s for period in seen) / sum(period.served.seconds * period.ready for period in seen)
    return Reading(min(1.0, busy) * told, told)


def _kind(metric: MetricRule) -> str:
    for kind in ("wait", "queries", "utilisation"):
        if kind in metric.name:
            return kind
    if metric.name == "cpu":
        return "utilisation"
    raise SluiceError(
        f"the autoscaler's metric {metric.name}: cannot be simulated", "metrics of queue wait, queries or utilisation"
    )


def _at_rest(surge: Surge, calm_state: Equilibrium, at_s: float, rng: np.random.Generator) -> int:
    """Pods at which the autoscaler would leave things, had the rate always been this one."""
    rate_s = surge.day.rate_s(at_s)
    for ready in range(surge.rule.least, surge.rule.most):
        if rate_s > CALM * ready * surge.server.capacity_s:
            continue
        served = calm_state.served(SYNC_S, int(rate_s * SYNC_S), ready, rng)
        pods = _Pods(surge.pods, [-1e9] * ready)
        past = [_Period(served, ready)] * 8
        if Autoscaler(surge.rule).look(0.0, ready, ready, _readings(surge, past, pods, 0.0)) <= ready:
            return ready
    return surge.rule.most


def _minute(surge: Surge, at_s: float, periods: list[tuple[Served, bool]], pods: int, ready: int) -> Minute:
    whole = periods[0][0]
    for served, _ in periods[1:]:
        whole = whole + served
    return Minute(
        at_s=at_s,
        rate_s=whole.arrived / whole.seconds,
        pods=pods,
        ready=ready,
        p99_ms=quantile_ms(whole.latencies, 0.99) + surge.hop_ms,
        lost=(whole.refused + whole.late) / max(whole.arrived, 1),
        busy=whole.busy_s / whole.seconds / max(ready, 1),
        one_by_one=any(moved for _, moved in periods),
    )
