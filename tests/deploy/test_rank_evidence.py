"""Rank-diffs become evidence of the very versions that were compared, once, and can be shown."""

import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from deploy.commands.rank_diff import show
from deploy.verdicts.rank_evidence import DAY_MS, RankEvidence, newest_diff
from drift.mirrors.rank_diff import RankDiff, as_evidence, compare, together
from drift.mirrors.rank_summary import Gauge, RankSummary
from drift.settings import RankLimits
from registry.contracts.rollouts import Rollout, RolloutSpec, Step
from registry.contracts.traffic import Experiment
from registry.decisions import Decision, Move
from registry.errors import UnknownRollout
from registry.promotion import with_experiment
from registry.rollouts import RolloutControl
from registry.traffic_control import MemoryControl, SqlControl
from tests.builders import NOW_MS, a_plan, a_tested_plan
from tests.drift.mirrored import mirrors

LIMITS = RankLimits(min_lists=50)


def a_diff(end_ms: int = NOW_MS + 60_000, noise: float = 0.4, version: int = 2, revision: int = 1) -> RankDiff:
    """Of 300 lists."""
    summary = RankSummary.of(mirrors(5, 300, noise, error_share=0.1, version=version), Gauge(50, 10, 0.9))
    window = compare(summary, LIMITS, end_ms - 60_000, end_ms)
    verdict, reasons = together(window, window)
    return RankDiff(
        model="codesearch",
        experiment="test",
        champion=1,
        version=version,
        plan_revision=revision,
        verdict=verdict,
        reasons=reasons,
        window=window,
        step=window,
        limits=LIMITS,
        depth=50,
        rbo_p=0.9,
        examples=summary.examples,
    )


@pytest.fixture(params=["memory", "sqlite"])
def control(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RolloutControl]:
    if request.param == "memory":
        yield MemoryControl()
    else:
        with closing(SqlControl(f"sqlite:///{tmp_path / 'control.db'}")) as control:
            yield control


def start(control: RolloutControl, version: int = 2, at_ms: int = NOW_MS) -> Rollout:
    """A rollout in its mirror step, at revision 1 of the plan."""
    plan = a_tested_plan(version=version, weight=0)
    experiment = plan.experiments[0]
    step = Step("mirror", "mirror", mirror_share=100)
    rollout = Rollout(
        id="codesearch-1",
        model="codesearch",
        revision=1,
        state="running",
        spec=RolloutSpec((step,)),
        step=0,
        champion=1,
        champion_digest=plan.champion_digest,
        challenger=version,
        challenger_digest=experiment.digest,
        experiment="test",
        layer="rollout",
        first=0,
        plan_revision=1,
        started_revision=1,
        started_ms=at_ms,
        entered_ms=at_ms,
        changed_ms=at_ms,
    )
    control.decide(Decision("me", "try it", at_ms, plan=plan, moves=(Move(rollout, "started"),)))
    return rollout


def test_a_rank_diff_is_kept_as_evidence_of_the_rollouts_own_versions(control: RolloutControl) -> None:
    rollout = start(control)
    diff = a_diff()

    RankEvidence(lambda: control).keep(diff)

    (kept,) = control.evidence("codesearch")
    assert kept.is_of(rollout)
    assert (kept.kind, kept.verdict, kept.plan_revision, kept.experiment) == ("rank_diff", diff.verdict, 1, "test")
    assert (kept.since_ms, kept.until_ms) == (diff.step.start_ms, diff.window.end_ms)
    assert msgspec.convert(kept.body, RankDiff) == diff


def test_a_window_that_is_told_twice_is_kept_once(control: RolloutControl) -> None:
    start(control)
    evidence = RankEvidence(lambda: control)

    for diff in (a_diff(), a_diff(), a_diff(NOW_MS + 120_000)):
        evidence.keep(diff)
    RankEvidence(lambda: control).keep(a_diff())

    assert [one.made_ms - NOW_MS for one in control.evidence("codesearch")] == [60_000, 120_000]


@pytest.mark.parametrize("unknown", [{"revision": 7}, {"version": 9}])
def test_what_no_plan_knows_of_is_evidence_of_nothing(control: RolloutControl, unknown: dict[str, int]) -> None:
    start(control)

    RankEvidence(lambda: control).keep(a_diff(**unknown))

    assert control.evidence("codesearch") == []


def test_a_shadow_that_no_rollout_is_about_is_no_evidence(control: RolloutControl) -> None:
    held = Experiment("test", 2, f"{2:064x}", 10, kind="holdback", mirror_share=10)
    plan = with_experiment(a_plan(champion=1), held, layer="holdback", salt="s")
    told: dict[str, Any] = {"who": "test", "why": "a holdback", "now_ms": NOW_MS}
    plan = control.change(plan, expected_revision=0, evidence={}, **told)

    RankEvidence(lambda: control).keep(a_diff(revision=plan.revision))

    assert control.evidence("codesearch") == []


def test_digests_are_those_of_the_revision_that_was_mirrored(control: RolloutControl) -> None:
    first = a_tested_plan(weight=0, digest="d" * 64)
    control.change(first, expected_revision=0, who="me", why="", evidence={}, now_ms=NOW_MS)
    control.change(a_plan(champion=3), expected_revision=1, who="me", why="", evidence={}, now_ms=NOW_MS)

    RankEvidence(lambda: control).keep(a_diff())

    assert [one.challenger_digest for one in control.evidence("codesearch")] == ["d" * 64]


@pytest.mark.parametrize("age_ms", [60_000, DAY_MS // 2, 20 * DAY_MS, 400 * DAY_MS])
def test_the_newest_is_found_however_old_it_is(control: RolloutControl, age_ms: int) -> None:
    start(control)
    evidence = RankEvidence(lambda: control)
    diffs = [a_diff(NOW_MS + offset_ms) for offset_ms in (0, 60_000)]
    for diff in diffs:
        evidence.keep(diff)

    now_ms = NOW_MS + 60_000 + age_ms
    assert newest_diff(control, "codesearch", None, now_ms) == diffs[1]
    assert newest_diff(control, "codesearch", "codesearch-1", now_ms) == diffs[1]
    assert newest_diff(control, "other", None, now_ms) is None
    with pytest.raises(UnknownRollout):
        newest_diff(control, "codesearch", "codesearch-9", now_ms)


def test_a_rollout_shows_its_own_versions_and_nothing_that_somebody_else_calls_a_rank_diff(
    control: RolloutControl,
) -> None:
    start(control)
    ours = a_diff()
    RankEvidence(lambda: control).keep(ours)
    other = a_diff(NOW_MS + 120_000, version=3)
    control.add_evidence(as_evidence(other, f"{1:064x}", f"{3:064x}"))
    against_another = msgspec.structs.replace(a_diff(NOW_MS + 100_000), champion=9)
    control.add_evidence(as_evidence(against_another, f"{9:064x}", f"{2:064x}"))
    foreign = msgspec.structs.replace(as_evidence(ours, f"{1:064x}", f"{2:064x}"), made_ms=NOW_MS + 180_000, body={})
    control.add_evidence(foreign)

    assert newest_diff(control, "codesearch", None, NOW_MS + 200_000) == other
    assert newest_diff(control, "codesearch", "codesearch-1", NOW_MS + 200_000) == ours


def test_the_shown_table_has_verdict_limits_measures_and_both_lists() -> None:
    diff = a_diff()
    shown = io.StringIO()

    show(Console(file=shown, width=160), diff, examples=2)

    text = shown.getvalue()
    assert "codesearch@2 in the shadow of @1, test, revision 1: failed" in text
    assert f"{diff.window.failed} without a list, {diff.window.failed} x 504" in text
    assert "at most 0.01" in text and "rank_biased_overlap" in text and "latency of the step: p50" in text
    first, second, third = diff.examples[:3]
    assert first.ranking_id in text and second.ranking_id in text and third.ranking_id not in text
    assert all(item in text for item in (*first.items, *first.mirror_items))
