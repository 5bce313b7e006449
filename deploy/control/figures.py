"""What the console draws: handlers of its routes. Nothing is changed by any of them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, get_args

import msgspec
import numpy as np

from deploy.control.asks import Ask, Reply, number
from deploy.control.desk import Desk, no_plan
from deploy.control.errors import ControlRefused, NotNow, NotThere
from deploy.control.meter import all_arms, latency_ms, slots, stage_ms
from pipelines.gates.evidence import inputs_in, verdict_in
from registry.contracts.counters import STAGE_BUCKETS, STAGES
from registry.contracts.drift import Family, ShiftKind
from registry.contracts.gates import GateTerms
from registry.contracts.rollouts import Evidence, Rollout, RolloutChange
from registry.contracts.traffic import Experiment, TrafficPlan
from registry.errors import RegistryError
from registry.store import StoredVersion
from registry.traffic_control import TrafficChange
from serving.gateway.control.drift import DriftDay, DriftDaysAnswer, DriftRow
from serving.gateway.control.evidence import GateLooks, LookPoint, LooksAnswer
from serving.gateway.control.keys import MeAnswer
from serving.gateway.control.traffic import (
    ArmTraffic,
    LiveAnswer,
    ModelLine,
    Place,
    StageTraffic,
    TrafficAnswer,
    VersionLine,
    VersionsAnswer,
)

if TYPE_CHECKING:
    from deploy.control.meter import ArmKey, Slot
    from drift.days.reports import DayReport

MINUTES, MOST_MINUTES = 15, 60
POINTS = 60
NEWEST_VERSIONS = 30
NEWEST_LOOKS, POINTS_OF_GATE = 600, 150
LIVE, MOST_LIVE = 50, 200
DAYS, MOST_DAYS = 28, 90
ROWS, MOST_ROWS = 40, 2000
_ARM = re.compile(r"champion|challenger-\d{1,9}")


def me(desk: Desk, ask: Ask) -> Reply:
    """Whose key it is, and what it is good for."""
    key = ask.caller.key
    models = [model for model in sorted(desk.control.revisions()) if key.covers(model)]
    lines = []
    for model in models:
        if (plan := desk.control.plan(model)) is not None:
            active = {one.challenger for one in desk.control.rollouts(model, open_only=True) if one.active}
            lines.append(ModelLine(model, plan.revision, plan.champion, tuple(sorted(active))))
    return ask.reply(MeAnswer(ask.caller.who, key.role, tuple(lines)))


def versions(desk: Desk, ask: Ask) -> Reply:
    """Of the plan, its history and the registry; without the registry, what the tables know."""
    plan = _plan(desk, ask.model)
    turns, digests = _turns(desk.control.history(ask.model))
    active = [one for one in desk.control.rollouts(ask.model, open_only=True) if one.active]
    stored: dict[int, StoredVersion] = {}
    why = ""
    try:
        stored = {one.version: one for one in desk.store().versions(ask.model)}
    except RegistryError as error:
        why = str(error)
    digests |= {one.challenger: one.challenger_digest for one in active}
    digests |= {version: one.digest for version, one in stored.items()} | plan.versions()
    lines = [
        _version(version, digest, plan, active, turns.get(version), stored.get(version))
        for version, digest in digests.items()
    ]
    order = {place: rank for rank, place in enumerate(get_args(Place))}
    lines.sort(key=lambda line: (min(order[line.place], order["former"]), -line.version))
    return ask.reply(VersionsAnswer(ask.model, plan.revision, tuple(lines[:NEWEST_VERSIONS]), why))


def traffic(desk: Desk, ask: Ask) -> Reply:
    """The last minutes of all gateways, as the meter has them."""
    plan = _plan(desk, ask.model)
    minutes = min(number(ask, "minutes", MINUTES), MOST_MINUTES)
    sample_ms = round(desk.sources.meter.sample_s * 1000)
    step_ms = max(sample_ms, minutes * 60_000 // POINTS // sample_ms * sample_ms)
    count = minutes * 60_000 // step_ms
    until_ms = ask.now_ms // sample_ms * sample_ms
    since_ms = until_ms - count * step_ms
    found = slots(desk.sources.meter.samples(since_ms), ask.model, until_ms, step_ms, count)
    arms = tuple(_arm_traffic(found, key, plan) for key in all_arms(found))
    stages = tuple(_stage_traffic(found, place, stage) for place, stage in enumerate(STAGES))
    return ask.reply(
        TrafficAnswer(
            ask.model,
            plan.revision,
            since_ms,
            until_ms,
            step_ms / 1000,
            sum(slot.seconds for slot in found),
            tuple(slot.until_ms for slot in found),
            arms,
            sum(int(slot.stages[-1].sum()) for slot in found if slot.stages is not None),
            stages,
        )
    )


def looks(desk: Desk, ask: Ask) -> Reply:
    """What every gate of the rollout said, as evidence kept it."""
    rollout, plan = desk.control.rollout(ask.id), _plan(desk, ask.model)
    if rollout.model != ask.model:
        raise NotThere(f"rollout {ask.id!r} is of model {rollout.model!r}, not {ask.model!r}")
    history = desk.control.rollout_history(rollout.id)
    steps = [(place, step) for place, step in enumerate(rollout.spec.steps) if step.gate is not None]
    measured: list[Evidence] = []
    for kind in dict.fromkeys(step.gate_evidence for _, step in steps):
        measured += desk.control.evidence(
            ask.model,
            since_ms=rollout.started_ms,
            challenger_digest=rollout.challenger_digest,
            kind=kind,
            newest=NEWEST_LOOKS,
        )
    gates = tuple(_gate(rollout, place, step.kind, step.gate, history, measured) for place, step in steps if step.gate)
    return ask.reply(LooksAnswer(ask.model, plan.revision, rollout.id, gates))


def drift_days(desk: Desk, ask: Ask) -> Reply:
    """Closed days of an arm, quantity by quantity."""
    plan = _plan(desk, ask.model)
    arm, family = ask.query.get("arm", "champion"), _family(ask.query.get("family", "features"))
    if not _ARM.fullmatch(arm):
        raise ControlRefused(f"arm={arm[:32]!r}: expected champion, or a challenger's like challenger-2")
    newest, limit = min(number(ask, "days", DAYS), MOST_DAYS), min(number(ask, "limit", ROWS), MOST_ROWS)
    try:
        found = desk.sources.days.read(ask.model, arm, family, newest) if desk.sources.days else []
        arms = desk.sources.days.arms(ask.model) if desk.sources.days else []
    except (OSError, msgspec.MsgspecError) as error:
        raise NotNow(f"closed days of {ask.model!r} cannot be read: {error}") from error
    days = tuple(
        DriftDay(one.since_ms, one.until_ms, one.version, one.verdict, one.why, one.lists)
        for one in (report.record for report in found)
    )
    rows = _drift_rows(found, desk.sources.floors)
    alarms = found[-1].record.alarms if found else ()
    return ask.reply(
        DriftDaysAnswer(
            *(ask.model, plan.revision, arm, family, tuple(arms), days, tuple(rows[:limit]), len(rows), alarms)
        )
    )


def live(desk: Desk, ask: Ask) -> Reply:
    """The newest of those that gateways have shown."""
    plan = _plan(desk, ask.model)
    limit = min(number(ask, "limit", LIVE), MOST_LIVE)
    return ask.reply(LiveAnswer(ask.model, plan.revision, ask.now_ms, desk.sources.glimpses.newest(ask.model, limit)))


def _plan(desk: Desk, model: str) -> TrafficPlan:
    if (plan := desk.control.plan(model)) is None:
        raise no_plan(model)
    return plan


def _turns(history: Sequence[TrafficChange]) -> tuple[dict[int, int], dict[int, str]]:
    """Of every version that was champion: when its last turn began, ms since the epoch, and its digest."""
    began: dict[int, int] = {}
    digests: dict[int, str] = {}
    before = None
    for change in history:
        if change.plan.champion != before:
            before = change.plan.champion
            began[before], digests[before] = change.at_ms, change.plan.champion_digest
    return began, digests


def _version(
    version: int,
    digest: str,
    plan: TrafficPlan,
    active: Sequence[Rollout],
    promoted_ms: int | None,
    stored: StoredVersion | None,
) -> VersionLine:
    mine = [one for one in plan.experiments if one.version == version]
    place = _place(version, plan, mine, active, promoted_ms, stored)
    share = sum(one.weight for one in mine)
    if place == "champion":
        share = 1000 - sum(one.weight for one in plan.experiments if one.version != version)
    return VersionLine(
        version,
        place,
        max(0, share),
        sum(one.mirror_share for one in mine),
        ", ".join(one.name for one in mine),
        digest,
        promoted_ms,
        stored.created_ms if stored else None,
        stored.manifest.lineage.parent if stored else None,
        dict(stored.manifest.metrics) if stored else None,
    )


def _place(
    version: int,
    plan: TrafficPlan,
    mine: Sequence[Experiment],
    active: Sequence[Rollout],
    promoted_ms: int | None,
    stored: StoredVersion | None,
) -> Place:
    if version == plan.champion:
        return "champion"
    if mine:
        first = max(mine, key=lambda one: (one.weight, one.mirror_share))
        if first.kind == "holdback":
            return "holdback"
        if first.weight:
            return "interleaved" if first.kind == "interleaving" else "challenger"
        return "mirror" if first.mirror_share else "challenger"
    if any(one.challenger == version for one in active):
        return "challenger"
    if stored is not None and not stored.servable:
        return "archived"
    return "registered" if promoted_ms is None else "former"


def _arm_traffic(found: "Sequence[Slot]", key: "ArmKey", plan: TrafficPlan) -> ArmTraffic:
    experiment, arm = key
    came = [slot.arms[key] for slot in found if key in slot.arms]
    whole = came[0]
    for one in came[1:]:
        whole = whole + one
    planned = plan.experiment(experiment)
    version = plan.champion if arm == "champion" else planned.version if planned else None
    answered: list[float | None] = []
    failures: list[float | None] = []
    for slot in found:
        one_arm = slot.arms.get(key)
        answered.append(None if not slot.seconds else (one_arm.answered if one_arm else 0) / slot.seconds)
        failures.append(None if not slot.seconds else (one_arm.failed if one_arm else 0) / slot.seconds)

    def quantiles(share: float) -> tuple[float | None, ...]:
        return tuple(latency_ms(slot.arms[key].latency, share) if key in slot.arms else None for slot in found)

    return ArmTraffic(
        experiment=experiment,
        arm=arm,
        version=version,
        answered=whole.answered,
        refused=whole.refused,
        failed=whole.failed,
        degraded=whole.degraded,
        away=whole.away,
        p50_ms=latency_ms(whole.latency, 0.5),
        p95_ms=latency_ms(whole.latency, 0.95),
        p99_ms=latency_ms(whole.latency, 0.99),
        per_s=tuple(answered),
        failures_per_s=tuple(failures),
        p50_ms_of=quantiles(0.5),
        p99_ms_of=quantiles(0.99),
    )


def _stage_traffic(found: "Sequence[Slot]", place: int, stage: str) -> StageTraffic:
    by_step = [None if slot.stages is None else slot.stages[place] for slot in found]
    known = [counts for counts in by_step if counts is not None]
    whole = np.add.reduce(known) if known else np.zeros(STAGE_BUCKETS, dtype=np.int64)

    def quantiles(share: float) -> tuple[float | None, ...]:
        return tuple(None if counts is None else stage_ms(counts, share) for counts in by_step)

    return StageTraffic(
        stage=stage,
        p50_ms=stage_ms(whole, 0.5),
        p95_ms=stage_ms(whole, 0.95),
        p99_ms=stage_ms(whole, 0.99),
        p50_ms_of=quantiles(0.5),
        p99_ms_of=quantiles(0.99),
    )


def _gate(
    rollout: Rollout,
    place: int,
    kind: str,
    terms: GateTerms,
    history: Sequence[RolloutChange],
    measured: Iterable[Evidence],
) -> GateLooks:
    step = rollout.spec.steps[place]
    began_ms = next((one.rollout.entered_ms for one in history if one.rollout.step == place), None)
    closes = () if began_ms is None else range(1, terms.looks + 1)
    looks_ms = tuple((began_ms or 0) + round((look * terms.look_s + terms.clicks_within_s) * 1000) for look in closes)
    points = sorted(
        (
            point
            for one in measured
            if one.kind == step.gate_evidence and (point := _point(one, rollout, step.name)) is not None
        ),
        key=lambda point: (point.at_ms, point.evidence),
    )
    fails_under = min(terms.margin, 0.0) if terms.rollback_margin is None else terms.rollback_margin
    shown = tuple(_thinned(points, POINTS_OF_GATE))
    return GateLooks(step.name, kind, terms, terms.margin, fails_under, began_ms, looks_ms, shown)


def _point(one: Evidence, rollout: Rollout, step: str) -> LookPoint | None:
    """None of evidence that is another's."""
    inputs, found = inputs_in(one), verdict_in(one)
    if inputs is None or found is None or (inputs.rollout, inputs.step) != (rollout.id, step):
        return None
    return LookPoint(
        *(one.made_ms, one.id, one.verdict, one.why),
        *(found.look, int(one.body.get("closed", found.look)), found.lists),
        *(found.champion_units, found.challenger_units),
        *(found.estimate, found.low, found.high, found.anytime_low, found.anytime_high, found.z, found.boundary),
    )


def _thinned(points: Sequence[LookPoint], most: int) -> list[LookPoint]:
    """So many at most, evenly, with every first of a look or of a verdict, and the last."""
    every = -(-len(points) // most) if points else 1
    kept = []
    for place, point in enumerate(points):
        before = points[place - 1] if place else None
        news = before is None or (before.closed, before.verdict) != (point.closed, point.verdict)
        if news or place % every == 0 or place == len(points) - 1:
            kept.append(point)
    return kept


def _drift_rows(found: "Sequence[DayReport]", floors: Mapping[ShiftKind, float]) -> list[DriftRow]:
    shifts: dict[tuple[str, ShiftKind], list[float | None]] = {}
    cusums: dict[tuple[str, ShiftKind], list[float | None]] = {}
    for place, report in enumerate(found):
        for one in report.quantities:
            key = (one.quantity, one.kind)
            shifts.setdefault(key, [None] * len(found))[place] = one.shift
            cusums.setdefault(key, [None] * len(found))[place] = one.cusum
    rows = [
        DriftRow(*key, floors[key[1]], tuple(of_days), tuple(cusums[key]))
        for key, of_days in shifts.items()
        if any(shift is not None for shift in of_days)
    ]

    def weight(row: DriftRow) -> tuple[float, str, str]:
        return -max(abs(shift) for shift in row.shifts if shift is not None) / row.floor, row.quantity, row.kind

    return sorted(rows, key=weight)


def _family(told: str) -> Family:
    if told not in get_args(Family):
        raise ControlRefused(f"family={told[:32]!r}: expected {' or '.join(get_args(Family))}")
    return "features" if told == "features" else "confidence"
