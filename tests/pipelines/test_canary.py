"""The next step: no data holds, bad news rolls back, stale news counts for nothing."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from pipelines.rollouts.canary import Advance, Hold, Outcome, RollBack, decide
from pipelines.rollouts.guardrails import ArmSample, Sample
from registry.contracts.counters import LATENCY_BUCKETS
from registry.contracts.rollouts import Evidence, Need, Rollout, RolloutSpec, Step, default_spec
from registry.rollout_moves import start
from tests.builders import NOW_MS, a_plan, a_spec, a_stored, some_evidence

S_MS = 1000


def a_rollout(step: int = 0, spec: RolloutSpec | None = None, **changes: Any) -> Rollout:
    """In the step, since NOW_MS, begun an hour before at revision 2; the step's plan is revision 2 + step."""
    words: dict[str, Any] = {"who": "ann", "why": "new", "now_ms": NOW_MS - 3600 * S_MS}
    rollout = start(a_plan(), a_stored(), spec or a_spec(), **words).moves[0].rollout
    return replace(rollout, **({"step": step, "entered_ms": NOW_MS, "plan_revision": 2 + step} | changes))


def arm(answered: int, failed: int = 0) -> ArmSample:
    return ArmSample(answered, failed, 0, (0,) * 20 + (answered,) + (0,) * (LATENCY_BUCKETS - 21))


def decided(
    rollout: Rollout, evidence: Sequence[Evidence] = (), after_s: float = 0.0, sample: Sample | None = None
) -> Outcome:
    now_ms = NOW_MS + int(after_s * S_MS)
    return decide(rollout, evidence, sample or Sample(newest_ms=now_ms), now_ms)


def sound(after_s: float, answers: int = 1000) -> Sample:
    return Sample(arm(9 * answers), arm(answers), NOW_MS + int(after_s * S_MS))


GATE, MIRROR, AB_10, RAMP_50 = range(4)


def test_no_evidence_holds_every_step() -> None:
    assert decided(a_rollout(GATE)) == Hold("no evidence of offline_gate")
    assert decided(a_rollout(MIRROR), after_s=10) == Hold("no evidence of rank_diff")
    for step in (AB_10, RAMP_50):
        held = decided(a_rollout(step), after_s=60)
        assert isinstance(held, Hold)
        assert held.why == "guardrails inconclusive: the challenger has 0 of 100 answers"


def test_no_gateway_holds_a_step_with_answers() -> None:
    held = decided(a_rollout(AB_10), after_s=60, sample=Sample(arm(9000), arm(1000), None))

    assert held.why == "guardrails inconclusive: no gateway has reported any answers"


def test_a_passed_gate_advances_on_its_evidence() -> None:
    rollout = a_rollout(GATE)
    gate = some_evidence(rollout, "offline_gate", plan_revision=None, made_ms=NOW_MS - S_MS)

    assert decided(rollout, [gate]) == Advance("step 'offline-gate' passed", (gate,))


def test_a_step_takes_its_time() -> None:
    rollout = a_rollout(MIRROR)
    diff = some_evidence(rollout, "rank_diff")

    assert decided(rollout, [diff], after_s=9).why == "1 s of the step's 10 s are left"
    assert isinstance(decided(rollout, [diff], after_s=10), Advance)


def test_a_sound_step_with_answers_advances_and_keeps_what_its_guardrails_said() -> None:
    advanced = decided(a_rollout(AB_10), after_s=60, sample=sound(60))

    assert isinstance(advanced, Advance)
    [evidence] = advanced.evidence
    assert (evidence.kind, evidence.verdict, evidence.plan_revision) == ("guardrails", "passed", 4)
    assert (evidence.since_ms, evidence.until_ms) == (NOW_MS, NOW_MS + 60 * S_MS)
    assert evidence.body["report"]["challenger_queries"] == 1000
    assert Evidence.decode(evidence.encode()) == evidence


@pytest.mark.parametrize("verdict", ["inconclusive", "errored"])
@pytest.mark.parametrize(("step", "kind"), [(GATE, "offline_gate"), (MIRROR, "rank_diff")])
def test_what_is_no_verdict_holds(step: int, kind: str, verdict: Any) -> None:
    rollout = a_rollout(step)
    held = decided(rollout, [some_evidence(rollout, kind, verdict, why="too few")], after_s=60)

    assert held == Hold(f"{kind} {verdict}: too few")


@pytest.mark.parametrize("step", [GATE, MIRROR, AB_10, RAMP_50])
@pytest.mark.parametrize("kind", ["offline_gate", "rank_diff", "drift", "confidence"])
@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_failed_verdict_rolls_back_whoever_asked_for_it(step: int, kind: str, state: Any) -> None:
    rollout = a_rollout(step, state=state)
    failed = some_evidence(rollout, kind, "failed", why="worse")
    rolled_back = decided(rollout, [some_evidence(rollout, kind), failed], sample=sound(0))

    assert isinstance(rolled_back, RollBack)
    assert (rolled_back.why, rolled_back.evidence) == (f"{kind} failed: worse", (failed,))


def test_bad_news_of_an_earlier_step_still_rolls_back() -> None:
    rollout = a_rollout(AB_10)
    late = some_evidence(rollout, "rank_diff", "failed", plan_revision=3, made_ms=NOW_MS - 1)

    assert isinstance(decided(rollout, [late]), RollBack)


def test_bad_news_of_an_earlier_rollout_or_of_other_versions_does_not() -> None:
    rollout = a_rollout(AB_10)
    stale = [
        some_evidence(rollout, "rank_diff", "failed", made_ms=rollout.started_ms - 1),
        some_evidence(rollout, "rank_diff", "failed", plan_revision=1),
        some_evidence(rollout, "rank_diff", "failed", challenger_digest=f"{8:064x}"),
        some_evidence(rollout, "rank_diff", "failed", champion_digest=f"{8:064x}"),
        some_evidence(rollout, "rank_diff", "failed", model="other"),
    ]

    assert isinstance(decided(rollout, stale, after_s=60, sample=sound(60)), Advance)


def test_an_offline_gate_that_failed_before_rolls_back_unless_a_newer_one_passed() -> None:
    rollout = a_rollout(GATE)
    failed = some_evidence(rollout, "offline_gate", "failed", made_ms=rollout.started_ms - 10, plan_revision=None)
    passed = some_evidence(rollout, "offline_gate", made_ms=rollout.started_ms - 9, plan_revision=None)

    assert isinstance(decided(rollout, [failed]), RollBack)
    assert isinstance(decided(rollout, [failed, passed]), Advance)


@pytest.mark.parametrize(
    "stale",
    [
        {"made_ms": NOW_MS - 1},  # before the step
        {"plan_revision": 2},  # under the plan of another step
        {"plan_revision": None},  # of no traffic at all
        {"challenger_digest": f"{8:064x}"},
        {"champion_digest": f"{8:064x}"},
        {"model": "other"},
    ],
)
def test_stale_evidence_passes_nothing(stale: dict[str, Any]) -> None:
    rollout = a_rollout(MIRROR)

    assert isinstance(decided(rollout, [some_evidence(rollout, "rank_diff", **stale)], after_s=20), Hold)
    assert isinstance(decided(rollout, [some_evidence(rollout, "rank_diff")], after_s=20), Advance)


def test_evidence_ages() -> None:
    rollout = a_rollout(MIRROR)
    diff = some_evidence(rollout, "rank_diff")

    assert isinstance(decided(rollout, [diff], after_s=3600), Advance)
    assert decided(rollout, [diff], after_s=3601) == Hold("no fresh evidence of rank_diff")


def test_the_newest_evidence_counts_and_of_the_same_instant_the_worst() -> None:
    rollout = a_rollout(MIRROR)
    passed, later = some_evidence(rollout, "rank_diff"), some_evidence(rollout, "rank_diff", made_ms=NOW_MS + 1)
    doubtful = some_evidence(rollout, "rank_diff", "inconclusive", made_ms=NOW_MS + 1)

    assert isinstance(decided(rollout, [passed, doubtful], after_s=20), Hold)
    assert isinstance(decided(rollout, [doubtful, later], after_s=20), Hold)
    assert isinstance(decided(rollout, [replace(doubtful, made_ms=NOW_MS), later], after_s=20), Advance)


def test_evidence_since_the_rollout_began_counts_where_a_step_says_so() -> None:
    spec = RolloutSpec(
        (Step("mirror", "mirror", mirror_share=1), Step("ab", "ab", 10, needs=(Need("drift", "rollout"),)))
    )
    rollout = a_rollout(1, spec)
    drift = some_evidence(rollout, "drift", made_ms=NOW_MS - 1, plan_revision=2)

    assert isinstance(decided(rollout, [drift], sample=sound(0)), Advance)
    assert isinstance(decided(rollout, [replace(drift, plan_revision=1)], sample=sound(0)), Hold)


def test_broken_guardrails_roll_back_at_once_also_while_paused() -> None:
    for state in ("running", "paused"):
        harmed = Sample(arm(900), arm(50, failed=50), NOW_MS)
        rolled_back = decided(a_rollout(AB_10, state=state), sample=harmed)
        assert isinstance(rolled_back, RollBack)
        assert rolled_back.why.startswith("guardrails failed: failed: 50.00% of the challenger's")
        assert [one.verdict for one in rolled_back.evidence] == ["failed"]


def test_who_is_paused_does_not_advance() -> None:
    held = decided(a_rollout(AB_10, state="paused"), after_s=60, sample=sound(60))

    assert held.why == "paused; it would advance"


def test_a_step_that_is_not_passed_in_time_is_rolled_back_but_not_while_paused() -> None:
    spec = RolloutSpec((Step("mirror", "mirror", mirror_share=1, max_s=60.0, needs=(Need("rank_diff"),)),))

    assert isinstance(decided(a_rollout(0, spec), after_s=59), Hold)
    late = decided(a_rollout(0, spec), after_s=60)
    assert late == RollBack("step 'mirror' was not passed within 60 s: no evidence of rank_diff", ())
    assert isinstance(decided(a_rollout(0, spec, state="paused"), after_s=60), Hold)


def test_the_default_steps_are_the_design_s() -> None:
    steps = default_spec(interleaving=True).steps

    assert [(step.name, step.weight) for step in steps] == [
        ("offline-gate", 0),
        ("mirror", 0),
        ("interleaving", 100),
        ("ab-10", 100),
        ("ramp-25", 250),
        ("ramp-50", 500),
    ]
    assert [[need.kind for need in step.needs] for step in steps] == [
        *(["offline_gate"], ["rank_diff"], ["interleaving"], ["online_gate"]),
        *([], []),
    ]
    assert [step.name for step in default_spec().steps].count("interleaving") == 0
    assert RolloutSpec.decode(b'{"steps": [{"name": "a", "kind": "ab", "weight": 5}]}').steps[0].weight == 5
