"""The rollout engine: each turn looks at every open rollout and does at most one thing to each.

A turn is idempotent and several engines may run: what one decided, the other's compare-and-set finds
changed. What is decided is shown on the plan board at once; whatever a killed process (an engine or
somebody's command) decided and did not show, the next turn of any engine shows.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from pipelines import metrics
from pipelines.rollouts.canary import Advance, Hold, Outcome, decide
from pipelines.rollouts.guardrails import sample_of
from registry.board import BOARD_KEY, PlanBoard
from registry.contracts.counters import CounterSnapshot
from registry.contracts.errors import ContractError
from registry.contracts.rollouts import DAY_S, Evidence, Rollout, Verdict
from registry.contracts.traffic import TrafficPlan
from registry.counters import CounterBoard
from registry.decisions import Decision
from registry.errors import RegistryError, RolloutConflict, StaleRevision, StoreUnavailable
from registry.rollout_moves import advance, end_holdback, roll_back
from registry.rollouts import RolloutControl

log = logging.getLogger(__name__)

WHO = "rollout engine"
KEPT_COUNTERS_MS = int(DAY_S * 1000)  # of processes that are gone, beyond any running step
FORGET_EVERY_MS = 60_000
AA_PATHS = ("interleaving", "online_gate", "guardrails")
NEWEST = 50  # evidence of a kind that is looked at: what is newer may be of another plan


class RolloutEngine:
    """Advances and rolls back. decided: told the model of every new plan, to move what follows the board
    (aliases); it must not block."""

    def __init__(
        self, control: RolloutControl, board: PlanBoard, counters: CounterBoard, decided: Callable[[str], None]
    ) -> None:
        self._control, self._board, self._counters, self._decided = control, board, counters, decided
        self._shown: set[str] = set()
        self._said: set[str] = set()
        self._forgot_ms = 0

    def turn(self, now_ms: int) -> int:
        """One look at everything; how many rollouts it changed.

        Raises StoreUnavailable if the tables do not answer. One rollout that cannot be moved stops no other.
        """
        self._show_what_is_behind()
        rollouts = self._control.rollouts(open_only=True)
        snapshots = self._snapshots() if any(rollout.active for rollout in rollouts) else {}
        changed = 0
        for rollout in rollouts:
            try:
                changed += self._move(rollout, snapshots, now_ms)
            except StaleRevision as error:
                log.info("somebody else moved rollout %s first: %s", rollout.id, error)
            except (RegistryError, ContractError) as error:
                metrics.ROLLOUT_FAILURES.inc()
                self._say(f"{rollout.id}: {error}", f"rollout {rollout.id} stays where it is: {error}")
        self._forget_counters(rollouts, now_ms)
        self._measure(rollouts)
        metrics.ROLLOUT_TURN.set(now_ms / 1000)
        return changed

    def look(self, rollout: Rollout, now_ms: int) -> Outcome:
        """What a turn would do with an active rollout now, and why. Raises StoreUnavailable."""
        return self._outcome(rollout, self._counters.read(), now_ms)

    def _outcome(self, rollout: Rollout, snapshots: Mapping[str, CounterSnapshot], now_ms: int) -> Outcome:
        return decide(rollout, self._evidence(rollout, now_ms), sample_of(rollout, snapshots), now_ms)

    def _evidence(self, rollout: Rollout, now_ms: int) -> list[Evidence]:
        """All that can decide the step: what failed since the rollout began, and the newest that it asks for."""
        digest = rollout.challenger_digest
        found = self._control.evidence(
            rollout.model, since_ms=rollout.started_ms, challenger_digest=digest, verdict="failed"
        )
        for need in rollout.current_step.needs:
            found += self._control.evidence(
                rollout.model,
                since_ms=now_ms - int(need.max_age_s * 1000),
                challenger_digest=digest,
                kind=need.kind,
                newest=NEWEST,
            )
        return list({one.id: one for one in found}.values())

    def _move(self, rollout: Rollout, snapshots: Mapping[str, CounterSnapshot], now_ms: int) -> bool:
        decision = self._decision(rollout, snapshots, now_ms)
        if decision is None:
            return False
        decided = self._control.decide(decision)
        for move in decision.moves:
            metrics.ROLLOUT_CHANGES.labels(rollout.model, move.what).inc()
        for evidence in decision.evidence:
            metrics.ROLLOUT_VERDICTS.labels(evidence.kind, evidence.verdict).inc()
        if rollout.spec.aa:
            for kind, verdict in aa_results(rollout, decision.evidence):
                metrics.AA_RESULTS.labels(rollout.model, kind, verdict).inc()
        log.info("rollout %s: %s: %s", rollout.id, decision.moves[0].what, decision.why)
        if decided is not None:
            self._publish(decided)
        return True

    def _decision(self, rollout: Rollout, snapshots: Mapping[str, CounterSnapshot], now_ms: int) -> Decision | None:
        # the plan before the evidence: what is decided on it fails if it changes meanwhile
        plan = self._control.plan(rollout.model)
        if plan is None:
            raise RolloutConflict(f"model {rollout.model!r} has no traffic plan")
        if not rollout.active:
            if rollout.holdback_until_ms is None or now_ms < rollout.holdback_until_ms:
                return None
            return end_holdback(rollout, plan, who=WHO, why="the holdback's time is over", now_ms=now_ms)
        outcome = self._outcome(rollout, snapshots, now_ms)
        if isinstance(outcome, Hold):
            return None
        move = advance if isinstance(outcome, Advance) else roll_back
        return move(rollout, plan, outcome.evidence, who=WHO, why=outcome.why, now_ms=now_ms)

    def _publish(self, plan: TrafficPlan) -> None:
        try:
            self._board.publish(plan)
        except StoreUnavailable as error:
            log.warning(
                "revision %d of %r is decided, the board shows it when it is back: %s", plan.revision, plan.model, error
            )
        self._decided(plan.model)

    def _show_what_is_behind(self) -> None:
        try:
            shown = self._board.read()
        except StoreUnavailable as error:
            self._say("board", f"could not look whether the board is behind: {error}")
            return
        self._said.discard("board")
        for model, revision in self._control.revisions().items():
            there = shown[model].revision if model in shown else 0
            if there > revision:
                self._say(
                    f"board of {model}",
                    f"the board shows revision {there} of {model!r}, the tables have {revision}: if they were restored "
                    f"from a copy, delete field {model!r} of the hash {BOARD_KEY!r} in Redis",
                )
            if there < revision and (plan := self._control.plan(model)):
                log.info("the board is behind: showing revision %d of %r", plan.revision, model)
                self._publish(plan)

    def _snapshots(self) -> Mapping[str, CounterSnapshot]:
        try:
            found = self._counters.read()
        except StoreUnavailable as error:
            self._say("counters", f"no counters, so that rollouts with traffic hold: {error}")
            return {}
        self._said.discard("counters")
        return found

    def _forget_counters(self, rollouts: list[Rollout], now_ms: int) -> None:
        if 0 <= now_ms - self._forgot_ms < FORGET_EVERY_MS:
            return
        self._forgot_ms = now_ms
        needed_ms = min((rollout.entered_ms for rollout in rollouts if rollout.active), default=now_ms)
        try:
            self._counters.forget(min(needed_ms, now_ms) - KEPT_COUNTERS_MS)
        except StoreUnavailable as error:
            log.warning("old counters stay: %s", error)

    def _say(self, what: str, words: str) -> None:
        """A warning, once until it is over: turns are a second apart."""
        if what not in self._said:
            log.warning("%s", words)
        self._said.add(what)

    def _measure(self, rollouts: list[Rollout]) -> None:
        """Gauges of open rollouts as the turn found them, and for the last time of those that have ended."""
        now = {rollout.id: rollout for rollout in rollouts}
        ended = [self._control.rollout(rollout_id) for rollout_id in self._shown if rollout_id not in now]
        for rollout in [*ended, *rollouts]:
            where = (rollout.model, rollout.layer)
            metrics.ROLLOUT_STEP.labels(*where).set(rollout.step if rollout.active else -1)
            metrics.ROLLOUT_WEIGHT.labels(*where).set(rollout.current_step.weight / 1000 if rollout.active else 0.0)
            metrics.ROLLOUT_STATE.labels(*where).set(metrics.ROLLOUT_STATES.index(rollout.state))
            since_ms = rollout.entered_ms if rollout.active else rollout.changed_ms
            metrics.ROLLOUT_STEP_SINCE.labels(*where).set(since_ms / 1000)
        self._shown = set(now)


def aa_results(rollout: Rollout, evidence: Sequence[Evidence]) -> list[tuple[str, Verdict]]:
    """What an A/A counts when it leaves a step: kind and verdict of all it stands on, or that nothing was decided.

    `passed` is an equal that would have been promoted, `failed` one that was rolled back.
    """
    stands_on: list[tuple[str, Verdict]] = [(one.kind, one.verdict) for one in evidence if one.kind in AA_PATHS]
    decided = any(kind == rollout.current_step.gate_evidence for kind, _ in stands_on)
    return stands_on if decided else [*stands_on, (rollout.current_step.gate_evidence, "inconclusive")]
