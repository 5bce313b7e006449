"""The offline gate's data: what the log says of a challenger, where it says nothing, and evidence that replays."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from pipelines.archive.files import Archive
from pipelines.feedback.bias_evidence import BiasRules
from pipelines.feedback.cleaning import CleaningRules
from pipelines.feedback.collection import Collected, CollectionRules, collect
from pipelines.gates.log_evaluation import ScoredVersion, counterfactual_report, held_out_set, offline_evidence
from pipelines.gates.offline import OfflinePlan
from pipelines.training.splits import ClickSplits, TrainingRules, training_splits
from registry.contracts.features import FeatureView
from registry.contracts.manifest import ATTRACTION_NDCG, JUDGED_NDCG, ModelPackage
from registry.store import StoredVersion
from tests.builders import NOW_MS, a_manifest, a_profile, a_view, exported_program
from tests.pipelines.archived_log import HOUR_MS, MINUTE_MS, features_of, write_log
from tests.pipelines.click_log import ClickLog, click_log
from tests.pipelines.judged_data import VIEW as JUDGED_VIEW
from tests.pipelines.judged_data import splits as judged_splits
from tests.pipelines.test_counterfactual import true_lift

WITHIN_MS = 10 * MINUTE_MS
VIEW = a_view()
CHAMPION = (0.0, 1.0, 0.0)  # goes by what the log was served by
RULES = CollectionRules(cleaning=CleaningRules(clicks_within_ms=WITHIN_MS), bias=BiasRules(groups=10, most_error=1.0))
BIASED = TrainingRules(allow_biased=True)
PLAN = OfflinePlan(metric=ATTRACTION_NDCG, resamples=500)


class Linear(torch.nn.Module):
    def __init__(self, weights: tuple[float, ...]) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(weights))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.weights


@cache
def a_ranker(weights: tuple[float, ...], view: FeatureView = VIEW, **changes: Any) -> ModelPackage:
    """A version that scores by a weighted sum of its columns."""
    program = exported_program(Linear(weights), {"features": torch.zeros(4, len(weights))})
    return ModelPackage.of(program, a_manifest(view, **({"metric": ATTRACTION_NDCG} | changes)), a_profile(view))


def a_version(number: int, weights: tuple[float, ...], **changes: Any) -> ScoredVersion:
    package = a_ranker(weights, **changes)
    return ScoredVersion(
        StoredVersion("codesearch", number, package.digest, package.manifest, NOW_MS),
        package,
    )


def week_of(
    log: ClickLog, folder: Path, rules: CollectionRules = RULES, weeks: int = 1, served: bool = True
) -> list[Collected]:
    archive = Archive(folder / "archive")
    write_log(archive, log, lasting_ms=weeks * 2 * HOUR_MS, served=served)
    found = []
    for number in range(weeks):
        since_ms = NOW_MS + number * 2 * HOUR_MS
        until_ms = since_ms + 2 * HOUR_MS
        found.append(
            collect(archive, "codesearch", since_ms, until_ms, until_ms + WITHIN_MS, folder / "judgements", rules)
        )
    return found


def order_of(log: ClickLog, weights: tuple[float, ...]) -> np.ndarray:
    """How a ranker of these weights orders all candidates of each query."""
    return np.argsort(-(features_of(log, served=True) @ np.array(weights)), axis=1, kind="stable")


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClickLog, Collected]:
    """As the log of 5 % exploration in `test_counterfactual`, but shorter and more explored."""
    log = click_log(12_000, seed=21, queries=60, noise=1.2, share=0.3)
    return log, week_of(log, tmp_path_factory.mktemp("explored"))[0]


@pytest.mark.parametrize("pull", [0.4, -0.25])
def test_the_lift_read_from_the_archive_is_within_a_point_and_a_half_of_the_truth(
    explored: tuple[ClickLog, Collected], pull: float
) -> None:
    log, window = explored
    weights = (pull, 1.0, 0.0)
    truth = true_lift(log, order_of(log, weights))

    report = counterfactual_report(window, VIEW, a_ranker(CHAMPION), a_ranker(weights))

    assert abs(truth) > 0.02
    assert window.record.bias.method == "swaps"
    assert report.refused == ""
    assert report.doubly_robust is not None
    assert abs(report.doubly_robust.lift - truth) < 0.015
    assert report.doubly_robust.low < truth < report.doubly_robust.high
    assert not report.examination_known
    assert report.support > 0.9


def test_a_challenger_that_would_show_what_the_log_has_not_seen_is_not_spoken_of(tmp_path: Path) -> None:
    log = click_log(3000, seed=22, queries=1500, noise=3.0, share=0.2)  # each query twice, ten of its twenty known
    (window,) = week_of(log, tmp_path)

    near, far = (
        counterfactual_report(window, VIEW, a_ranker(CHAMPION), a_ranker(weights))
        for weights in (CHAMPION, (1.0, 0.0, 0.0))
    )

    assert near.refused == ""
    assert near.support > 0.9
    assert 0.3 < far.support < 0.9
    assert "limit 90%: explore more traffic" in far.refused


def test_where_nothing_was_explored_and_not_all_was_shown_nothing_tells(tmp_path: Path) -> None:
    log = click_log(1500, seed=23, queries=50, noise=1.2, share=0.0)
    rules = msgspec.structs.replace(RULES, bias=BiasRules(most_error=10.0))
    (window,) = week_of(log, tmp_path, rules, served=False)

    report = counterfactual_report(window, VIEW, a_ranker((1.0, 0.0, 0.0)), a_ranker((1.0, 0.1, 0.0)))

    assert window.record.bias.method == "regression_em"
    assert "nothing tells which of them the challenger would show" in report.refused
    assert report.estimates == ()


def test_where_every_candidate_was_shown_all_is_supported(tmp_path: Path) -> None:
    log = click_log(3000, seed=24, queries=50, candidates=10, reach=10, noise=1.2, share=0.2)
    (window,) = week_of(log, tmp_path)

    report = counterfactual_report(window, VIEW, a_ranker(CHAMPION), a_ranker((0.5, 1.0, 0.0)))

    assert (report.support, report.refused) == (1.0, "")
    assert report.doubly_robust is not None
    assert report.doubly_robust.lift > 0


def test_without_examination_the_log_is_silent(tmp_path: Path) -> None:
    log = click_log(300, seed=25, queries=50)
    (window,) = week_of(log, tmp_path, CollectionRules(RULES.source, RULES.cleaning, BiasRules(most_error=1e-6)))

    report = counterfactual_report(window, VIEW, a_ranker(CHAMPION), a_ranker(CHAMPION))

    assert report.refused.startswith("position bias is not known: no estimator is sure enough")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClickSplits, Collected]:
    """Two windows of a log, explored enough for the gate."""
    log = click_log(6000, seed=26, queries=150, noise=1.5, share=0.2)
    windows = week_of(log, tmp_path_factory.mktemp("log"), weeks=2)
    return training_splits(windows, VIEW, rules=BIASED), windows[-1]


@pytest.mark.parametrize(
    ("weights", "verdict"), [((1.0, 1.0, 0.0), "passed"), ((-1.0, 1.0, 0.0), "failed"), (CHAMPION, "passed")]
)
def test_a_better_challenger_passes_a_worse_one_fails_on_the_newest_window(
    held_out: tuple[ClickSplits, Collected], weights: tuple[float, ...], verdict: str
) -> None:
    splits, window = held_out

    evidence = offline_evidence(splits, a_version(1, CHAMPION), a_version(2, weights), NOW_MS, PLAN, window)

    assert (evidence.kind, evidence.verdict) == ("offline_gate", verdict)
    assert (evidence.since_ms, evidence.until_ms) == (window.record.since_ms, window.record.until_ms)
    assert evidence.body["definition"] == ATTRACTION_NDCG.digest
    assert evidence.body["from"]["windows"][-1] == window.record.digest
    assert evidence.body["simulated"] is False


def test_evidence_replays_from_the_plan_it_carries(held_out: tuple[ClickSplits, Collected]) -> None:
    splits, window = held_out
    versions = a_version(1, CHAMPION), a_version(2, (0.5, 1.0, 0.0))
    evidence = offline_evidence(splits, *versions, NOW_MS, PLAN, window)

    plan = msgspec.convert(evidence.body["plan"], OfflinePlan)
    again = offline_evidence(splits, *versions, NOW_MS, plan, Collected.open(window.folder))

    assert again.id == evidence.id


def test_of_a_version_without_a_number_only_the_number_is_missing(held_out: tuple[ClickSplits, Collected]) -> None:
    splits, _ = held_out
    registered, challenger = a_version(1, CHAMPION), a_version(2, (0.5, 1.0, 0.0))

    before = offline_evidence(splits, registered, ScoredVersion.unregistered(challenger.package, NOW_MS), NOW_MS, PLAN)
    after = offline_evidence(splits, registered, challenger, NOW_MS, PLAN)

    assert before.challenger == 0
    assert msgspec.structs.replace(before, challenger=2).id == after.id


def test_a_champion_trained_on_judgements_is_not_compared_with_a_version_of_clicks(
    held_out: tuple[ClickSplits, Collected],
) -> None:
    splits, _ = held_out
    judged = a_version(1, CHAMPION, metric=JUDGED_NDCG)

    evidence = offline_evidence(splits, judged, a_version(2, (0.5, 1.0, 0.0)), NOW_MS)

    assert evidence.verdict == "errored"
    assert "made under different metrics" in evidence.why
    assert "attraction_ndcg@10" in evidence.why


def test_a_version_of_another_view_is_an_error_not_a_failure(held_out: tuple[ClickSplits, Collected]) -> None:
    splits, window = held_out
    other = a_version(2, (0.5, 1.0, 0.0), view=a_view("another"))

    evidence = offline_evidence(splits, a_version(1, CHAMPION), other, NOW_MS, held_out=window)

    assert evidence.verdict == "errored"
    assert "has feature view" in evidence.why


def test_a_window_whose_data_are_bad_decides_nothing(held_out: tuple[ClickSplits, Collected]) -> None:
    splits, window = held_out
    bad = msgspec.structs.replace(splits.report, held_out_faults=("900 of 1000 rankings dropped, limit 20%",))

    evidence = offline_evidence(
        replace(splits, report=bad), a_version(1, CHAMPION), a_version(2, (1.0, 1.0, 0.0)), NOW_MS, PLAN, window
    )

    assert (evidence.verdict, evidence.why) == ("errored", "900 of 1000 rankings dropped, limit 20%")


def test_judged_splits_are_held_against_judged_ndcg_without_a_log() -> None:
    splits = judged_splits()
    versions = (
        a_version(number, weights, view=JUDGED_VIEW, metric=JUDGED_NDCG)
        for number, weights in ((1, (0.0, 1.0, 0.0)), (2, (1.0, 0.0, 0.0)))
    )

    evidence = offline_evidence(splits, *versions, made_ms=NOW_MS, plan=OfflinePlan(least_queries=10, resamples=500))

    assert evidence.verdict == "passed"
    assert evidence.body["clicks"] == {"verdict": "inconclusive", "why": "no log was given", "report": None}


def test_the_held_out_set_has_the_scores_of_the_exported_programs(held_out: tuple[ClickSplits, Collected]) -> None:
    splits, _ = held_out

    judged = held_out_set(splits.test, a_ranker(CHAMPION), a_ranker((2.0, 0.0, 0.0)), 1, 2)

    np.testing.assert_allclose(judged.champion_scores, splits.test.features[:, 1])
    np.testing.assert_allclose(judged.challenger_scores, 2 * splits.test.features[:, 0], rtol=1e-6)
    assert (judged.since_ms, judged.until_ms) == (1, 2)
