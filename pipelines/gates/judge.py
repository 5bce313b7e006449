"""The judge of online gates: each minute, for every rollout whose step has a gate, from archive to evidence.

It runs where the archive is, in the Celery worker, and is nobody's conscience: what it finds is kept as evidence and
the rollout engine, in another process, decides. A judge that is away for hours comes to the same evidence when it is
back. Evidence is of a moment on a grid (`GateJudge.moment`), so that two judges, or one that was killed and started
again, make the same record, which is kept once.
"""

import logging
from collections.abc import Callable, Sequence
from math import nan

from pipelines import metrics
from pipelines.errors import PipelineError
from pipelines.gates.data import GateData, GateSample
from pipelines.gates.evidence import GateInputs, gate_evidence, inputs_in, inputs_of, judged_conflict, verdict_in
from pipelines.settings import GateSettings
from registry.contracts.errors import ContractError
from registry.contracts.gates import GateTerms
from registry.contracts.rollouts import Evidence, Rollout
from registry.errors import RolloutConflict
from registry.rollouts import RolloutControl

log = logging.getLogger(__name__)

Alarms = Callable[[str, int, int, int], Sequence[str]]
"""Open alarms of a model's version on the time from, to (ms since the epoch), in words."""

MOST_BETWEEN_MS = 60_000
LOOKED_AT = 20  # newest evidence of the kind, among which ours is


def no_alarms(_model: str, _version: int, _since_ms: int, _until_ms: int) -> Sequence[str]:
    """Nobody watches for drift."""
    return ()


class GateJudge:
    """data: of the archive. alarms: handed over by who watches for drift."""

    def __init__(
        self,
        control: RolloutControl,
        data: GateData,
        alarms: Alarms = no_alarms,
        settings: GateSettings | None = None,
    ) -> None:
        self._control, self._data, self._alarms = control, data, alarms
        self._settings = settings or GateSettings()
        self._shown: set[tuple[str, str, str]] = set()  # labels of gauges

    def turn(self, now_ms: int) -> list[Evidence]:
        """One look at every gate; the evidence that is new and was kept.

        Raises StoreUnavailable if the tables do not answer. One gate that cannot be judged stops no other.
        """
        kept: list[Evidence] = []
        scopes: set[str] = set()
        gates: set[tuple[str, str, str]] = set()
        for rollout in self._control.rollouts(open_only=True):
            if not rollout.active or rollout.current_step.gate is None:
                continue
            gates.add(_labels(rollout))
            try:
                inputs = self._inputs(rollout, now_ms)
                scopes.add(inputs.scope.digest)
                found = self._judged(rollout, inputs)
            except (PipelineError, ContractError, RolloutConflict, OSError, ValueError) as error:
                metrics.GATE_FAILURES.inc()
                log.warning("the gate of rollout %s is not judged: %s", rollout.id, error)
                continue
            if found is not None:
                kept.append(found)
        for over in self._shown - gates:
            for gauge in metrics.GATE_GAUGES:
                gauge.labels(*over).set(nan)
        self._shown = gates
        self._data.forget(frozenset(scopes))
        metrics.GATE_TURN.set(now_ms / 1000)
        return kept

    def look(self, rollout: Rollout, now_ms: int) -> Evidence | None:
        """What the gate of the rollout's step says now, kept or not; None before any list has its clicks.

        Raises StoreUnavailable, PipelineError, OSError.
        """
        inputs = self._inputs(rollout, now_ms)
        return None if _too_early(inputs) else gate_evidence(inputs, self._data.read(inputs.scope, inputs.as_of_ms))

    def moment(self, terms: GateTerms, now_ms: int) -> int:
        """The moment that is judged at now_ms: what was answered and clicked by then is in the archive."""
        grid_ms = _grid_ms(terms)
        return (now_ms - round(self._settings.settle_s * 1000)) // grid_ms * grid_ms

    def _inputs(self, rollout: Rollout, now_ms: int) -> GateInputs:
        terms = rollout.current_step.gate
        assert terms is not None
        plans = [
            change.plan
            for change in self._control.history(rollout.model)
            if change.plan.revision >= rollout.plan_revision
        ]
        if not plans:
            raise RolloutConflict(f"revision {rollout.plan_revision} of {rollout.model!r} is not in its history")
        as_of_ms = self.moment(terms, now_ms)
        versions = dict.fromkeys((rollout.champion, rollout.challenger))
        alarms = [
            alarm
            for version in versions
            for alarm in self._alarms(rollout.model, version, rollout.entered_ms, as_of_ms)
        ]
        offline = self._control.evidence(
            rollout.model, challenger_digest=rollout.challenger_digest, kind="offline_gate", newest=LOOKED_AT
        )
        return inputs_of(rollout, plans, as_of_ms, alarms, judged_conflict(offline, rollout))

    def _judged(self, rollout: Rollout, inputs: GateInputs) -> Evidence | None:
        """Kept, if it says something new."""
        if _too_early(inputs):
            return None
        before = self._before(rollout)
        if before is not None and before.made_ms >= inputs.as_of_ms:
            return None
        sample = self._data.read(inputs.scope, inputs.as_of_ms)
        found = gate_evidence(inputs, sample)
        _show(rollout, found, sample)
        if before is not None and not _is_news(found, before, inputs.terms):
            return None
        self._control.add_evidence(found)
        if before is None or before.verdict != found.verdict:
            log.info("gate of rollout %s, step %s: %s: %s", rollout.id, inputs.step, found.verdict, found.why)
        return found

    def _before(self, rollout: Rollout) -> Evidence | None:
        """The step's newest evidence that a gate made."""
        known = self._control.evidence(
            rollout.model,
            since_ms=rollout.entered_ms,
            challenger_digest=rollout.challenger_digest,
            kind=rollout.current_step.gate_evidence,
            newest=LOOKED_AT,
        )
        mine = [one for one in known if (made_of := inputs_in(one)) and made_of.rollout == rollout.id]
        return mine[-1] if mine else None


def replay(evidence: Evidence, data: GateData) -> Evidence:
    """The evidence as the archive gives it today; byte for byte the same unless the archive, or this code, changed.

    Raises ValueError if no gate made it.
    """
    inputs = inputs_in(evidence)
    if inputs is None:
        raise ValueError(f"evidence {evidence.id[:12]} of kind {evidence.kind!r} was not made by an online gate")
    return gate_evidence(inputs, data.read(inputs.scope, inputs.as_of_ms))


def what_differs(before: Evidence, now: Evidence) -> str:
    """In words, between evidence and its replay; empty if nothing."""
    if before.encode() == now.encode():
        return ""
    was, found = verdict_in(before), verdict_in(now)
    if was is None or found is None:
        return "it has no verdict of an online gate in it"
    if was.data != found.data:
        return (
            f"the archive has changed: the lists were {was.data[:12]} ({was.lists} lists), now they are"
            f" {found.data[:12]} ({found.lists} lists); it says {now.verdict} instead of {before.verdict}"
        )
    if was.plan != found.plan:
        return f"the plan was {was.plan[:12]}, now it is {found.plan[:12]}: another version of Sluice made it"
    return f"the same lists and plan, but {now.verdict} instead of {before.verdict}: another version of Sluice made it"


def _too_early(inputs: GateInputs) -> bool:
    return inputs.as_of_ms < inputs.scope.since_ms + inputs.scope.clicks_within_ms


def _grid_ms(terms: GateTerms) -> int:
    """A minute, or a tenth of shorter looks."""
    return max(100, min(MOST_BETWEEN_MS, round(terms.look_s * 100)))


def _is_news(found: Evidence, before: Evidence, terms: GateTerms) -> bool:
    """Another verdict or look at once; other data after a while, for a fortnight is to be some hundred records."""
    now, then = verdict_in(found), verdict_in(before)
    if now is None or then is None or (found.verdict, found.body["closed"]) != (before.verdict, before.body["closed"]):
        return True
    rested_ms = max(_grid_ms(terms), round(terms.look_s * 1000) // 24)
    return now.data != then.data and found.made_ms - before.made_ms >= rested_ms


def _labels(rollout: Rollout) -> tuple[str, str, str]:
    return rollout.model, rollout.layer, rollout.current_step.gate_evidence


def _show(rollout: Rollout, found: Evidence, sample: GateSample) -> None:
    verdict = verdict_in(found)
    assert verdict is not None
    where = _labels(rollout)
    for gauge, value in (
        (metrics.GATE_ESTIMATE, verdict.estimate),
        (metrics.GATE_LOW, verdict.low),
        (metrics.GATE_HIGH, verdict.high),
        (metrics.GATE_ANYTIME_HIGH, verdict.anytime_high),
        (metrics.GATE_Z, verdict.z),
        (metrics.GATE_BOUNDARY, verdict.boundary),
    ):
        gauge.labels(*where).set(nan if value is None else value)
    metrics.GATE_LOOK.labels(*where).set(min(sample.closed, verdict.looks))
    metrics.GATE_LISTS.labels(*where).set(verdict.lists)
    metrics.GATE_VERDICT.labels(*where).set(metrics.GATE_VERDICTS.index(found.verdict))
