"""Gates planned from live traffic and from what the year has spent; what cannot finish is refused with the numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipelines.archive.files import Archive
from pipelines.feedback.cleaning import CleaningRules
from pipelines.feedback.clicks import ClickModel
from pipelines.gates.cleaned_lists import cleaned_lists
from pipelines.gates.data import GateData
from pipelines.gates.gate_lists import InterleavedLists
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.online import judge
from pipelines.gates.planner import alpha_a_decision
from pipelines.gates.planning import GatePlanner, PlannedGates, budget_of
from pipelines.gates.scope import GateScope
from pipelines.ndcg import mean_ndcg
from pipelines.settings import GateSettings
from registry.contracts.gates import GateTerms
from registry.contracts.manifest import CLICK_NDCG
from registry.contracts.rollouts import Need, Rollout, RolloutSpec, Step, aa_spec, default_spec
from serving.interleaving import team_draft
from tests.builders import NOW_MS, a_plan, a_tested_plan
from tests.pipelines.gate_traffic import MODEL, Traffic
from tests.pipelines.rollout_bench import Surroundings

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TERMS = GateTerms(looks=3, look_s=60.0, clicks_within_s=1.0, simulated=True, effect=0.2)
DRAFTED = Step("interleaving", "interleaving", 500, needs=(Need("interleaving"),), gate=TERMS)
IN_AB = Step("ab-50", "ab", 500, needs=(Need("online_gate"),), gate=TERMS)


def some_traffic(folder: Path, lists: int = 1500) -> Traffic:
    """A minute of the champion's, until a moment ago."""
    traffic = Traffic(Archive(folder / "archive"), {1: 1.0, 2: 1.0})
    traffic.run(a_plan(), lists, NOW_MS - 62_000, NOW_MS - 2_000)
    return traffic


def planned(archive: Archive, *steps: Step, rollouts: Any = (), now_ms: int = NOW_MS, **changes: Any) -> PlannedGates:
    spec = RolloutSpec(steps, **changes)
    return GatePlanner(archive).plan(MODEL, spec, a_plan(), "rollout", rollouts, now_ms)


def test_a_plan_that_can_finish_says_what_it_needs_and_has_its_alpha_and_metric_in_it(tmp_path: Path) -> None:
    found = planned(some_traffic(tmp_path).archive, DRAFTED, IN_AB)

    assert found.refusal() == ""
    for step in found.spec.steps:
        assert step.gate is not None and step.gate.size is not None and step.gate.rollback_at is not None
        assert step.gate.alpha == pytest.approx(alpha_a_decision(0.5, 26))
        assert step.gate.metric == CLICK_NDCG.digest
        assert step.gate.size.needed_lists <= step.gate.size.available_lists
        assert step.gate.size.power >= 0.8
    drafted, in_ab = (step.gate.size for step in found.spec.steps if step.gate and step.gate.size)
    assert drafted.available_lists == pytest.approx(3 * 1500 * 0.5, rel=0.05)
    assert in_ab.available_lists == pytest.approx(3 * 1500, rel=0.05)
    assert drafted.needed_lists < in_ab.needed_lists


def test_a_plan_that_cannot_finish_is_refused_with_the_numbers_unless_it_is_meant(tmp_path: Path) -> None:
    small = replace(IN_AB, gate=replace(TERMS, effect=0.004))
    found = planned(some_traffic(tmp_path).archive, small)
    told = found.refusal()

    assert "step 'ab-50'" in told and "units a day" in told and "underpowered=true" in told
    size = found.gates[0].terms.size
    assert size is not None
    assert f"needs {size.needed_lists} lists" in told and size.power < 0.8
    assert found.refusal(underpowered=True) == ""
    marked = found.as_it_is.steps[0].gate
    assert marked is not None and marked.underpowered


def test_without_traffic_nothing_is_planned_and_nothing_starts_silently(tmp_path: Path) -> None:
    found = GatePlanner(Archive(tmp_path)).plan(MODEL, default_spec(interleaving=True), a_plan(), "rollout", (), NOW_MS)

    assert [gate.step for gate in found.gates] == ["interleaving", "ab-10"]
    assert "let it answer some queries first" in found.refusal()


def test_interleaving_is_planned_with_the_variance_that_drafts_really_have(tmp_path: Path) -> None:
    """Fair coins over the champion's own lists foretell an A/A of drafts to within its own uncertainty."""
    found = planned(some_traffic(tmp_path, 6000).archive, DRAFTED)
    drafts = Traffic(Archive(tmp_path / "drafts"), {1: 1.0, 2: 1.0}, seed=5)
    drafts.run(a_tested_plan(weight=999, kind="interleaving"), 6000, NOW_MS, NOW_MS + 60_000)
    lists = cleaned_lists(
        drafts.archive,
        MODEL,
        NOW_MS,
        NOW_MS + 60_000,
        CleaningRules(clicks_within_ms=1000, arms=("interleaved",)),
        True,
        NOW_MS + 90_000,
    )
    clicks, teams = lists.shown.clicks.astype(int), lists.teams.astype(int)
    ours, theirs = (
        np.bincount(lists.shown.list_of, weights=clicks * side, minlength=len(lists.shown)).astype(int)
        for side in (teams, 1 - teams)
    )
    seen = InterleavedLists(
        np.ones(len(ours), dtype=np.int64), lists.units, ours, theirs, closed=1, metric=CLICK_NDCG.digest
    )
    verdict = judge(GatePlan(kind="interleaving", metric=CLICK_NDCG.digest, looks=1), seen)
    terms = found.gates[0].terms
    assert terms.size is not None and terms.rollback_at is not None
    foretold = terms.rollback_at * 10 / terms.size.available_lists  # rollback is soonest at a tenth

    assert verdict.lines[0].information / verdict.lists == pytest.approx(foretold, rel=0.15)


def test_an_ab_is_planned_with_the_variance_that_its_arms_really_have(tmp_path: Path) -> None:
    """Halves of the champion's units foretell what a split of one to three tells, to within its own uncertainty."""
    step = replace(IN_AB, weight=250)
    before = Traffic(Archive(tmp_path / "archive"), {1: 1.0, 2: 1.0}, units=1500)
    before.run(a_plan(), 8000, NOW_MS - 62_000, NOW_MS - 2_000)
    found = planned(before.archive, step)
    later = Traffic(Archive(tmp_path / "later"), {1: 1.0, 2: 1.0}, units=1500, seed=6)
    later.run(a_tested_plan(weight=250), 8000, NOW_MS, NOW_MS + 60_000)
    scope = GateScope(
        model=MODEL, kind="ab", experiment="test", since_ms=NOW_MS, plan_revision=1, look_ms=60_000,
        clicks_within_ms=1000, before_ms=NOW_MS, simulated=True,
    )  # fmt: skip
    seen = GateData(later.archive, tmp_path / "gates").read(scope, NOW_MS + 61_000).seen
    verdict = judge(GatePlan(kind="ab", metric=CLICK_NDCG.digest, looks=1, weights=(3, 1)), seen)
    terms = found.gates[0].terms
    assert terms.size is not None and terms.rollback_at is not None
    foretold = terms.rollback_at * 10 / terms.size.available_lists

    # a variance of 375 units has a standard error of 7 %, and the quotient's champion adds a little
    assert verdict.lines[0].information / verdict.lists == pytest.approx(foretold, rel=0.25)


def test_a_lift_moves_the_credit_of_drafts_by_about_that_share_of_their_clicks() -> None:
    """What the planner takes for granted, in the click model: expected clicks, so that orders alone are by chance."""
    rng, lists, shown, model = np.random.default_rng(4), 12_000, 10, ClickModel()
    labels = rng.choice(5, size=(200, 20), p=[0.5, 0.2, 0.15, 0.1, 0.05])[rng.integers(200, size=lists)].astype(float)
    orders = [np.argsort(-(labels + rng.normal(0, noise, labels.shape)), axis=1)[:, :shown] for noise in (1.5, 1.0)]
    attraction, examined = model.attraction(labels), model.examination(shown)
    ndcg, clicks = [], []
    for order in orders:
        chance = examined * np.take_along_axis(attraction, order, axis=1)
        clicked = rng.random(chance.shape) < chance
        places = np.tile(-np.arange(shown), lists)
        ndcg.append(mean_ndcg(clicked.ravel(), places, np.arange(lists + 1) * shown, CLICK_NDCG).mean)
        clicks.append(float(chance.sum(axis=1).mean()))
    score = 0.0
    for row in range(lists):
        draft = team_draft(orders[0][row].tolist(), orders[1][row].tolist(), int(rng.integers(32)))
        sign = 2 * np.frombuffer(draft.teams, dtype=np.uint8).astype(float) - 1
        score += float((examined * attraction[row, draft.order] * sign).sum()) / lists

    # a lift of 11 % with a standard error of 1.1 points, a score of 10 % with one of 0.4
    assert score / clicks[0] / (ndcg[1] / ndcg[0] - 1) == pytest.approx(0.9, abs=0.35)


def a_decision(started_ms: int, alpha: float = 0.026, step: int = 0, **spec: Any) -> Rollout:
    """A rollout that was in that step when it ended."""
    gated = replace(IN_AB, gate=replace(TERMS, alpha=alpha))
    plain = Step("ramp", "ab", 500)
    rollout = Surroundings().start(steps=(plain, gated), **spec)
    return replace(rollout, step=step, started_ms=started_ms, state="rolled_back")


def test_the_year_counts_decisions_that_reached_a_gate_in_365_days_and_no_aa() -> None:
    reached = [a_decision(NOW_MS - days * DAY_MS, step=1) for days in (1, 14, 364, 366)]
    not_reached, aa = a_decision(NOW_MS - DAY_MS, step=0), a_decision(NOW_MS - DAY_MS, step=1)
    aa = replace(aa, spec=replace(aa.spec, aa=True))

    found = budget_of([*reached, not_reached, aa], GateSettings(), NOW_MS)

    assert found.decisions == 3
    assert found.spent == pytest.approx(1 - 0.974**3)
    assert found.frees_ms == NOW_MS - 364 * DAY_MS + 365 * DAY_MS


def test_a_years_planned_decisions_fit_and_one_more_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    each = alpha_a_decision(0.5, 26)
    archive = some_traffic(tmp_path, 200).archive
    terms = replace(TERMS, effect=2.0)
    past = [a_decision(NOW_MS - (1 + number) * 7 * DAY_MS, alpha=each, step=1) for number in range(26)]

    assert planned(archive, replace(IN_AB, gate=terms), rollouts=past[:25]).refusal() == ""
    told = planned(archive, replace(IN_AB, gate=terms), rollouts=past)
    assert "the year's alpha is spent" in told.refusal() and "over_budget=true" in told.refusal()
    assert told.refusal(over_budget=True) == ""
    assert planned(archive, replace(IN_AB, gate=terms), rollouts=past, aa=True).refusal() == ""


def test_an_aa_of_the_default_is_planned_like_any_other(tmp_path: Path) -> None:
    found = GatePlanner(Archive(tmp_path)).plan(MODEL, aa_spec(), a_plan(), "aa", (), NOW_MS)

    assert [gate.kind for gate in found.gates] == ["interleaving", "ab"]
