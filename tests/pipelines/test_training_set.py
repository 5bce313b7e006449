"""Training sets from collected windows: what a label is, who is held out, and what does not go together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from pipelines.archive.files import Archive
from pipelines.dataset import RankingDataset
from pipelines.errors import DataRefused
from pipelines.feedback.bias_evidence import BiasRules
from pipelines.feedback.cleaning import CleaningRules
from pipelines.feedback.collection import Collected, CollectionRules, collect
from pipelines.feedback.logged_lists import VARIANT
from pipelines.training.splits import TrainingRules, is_validation, replay_of, training_splits
from registry.contracts.events import Event
from registry.contracts.manifest import ATTRACTION_NDCG, CLICK_NDCG, JUDGED_NDCG
from tests.builders import NOW_MS, a_click, a_ranking, a_view
from tests.pipelines.archived_log import HOUR_MS, MINUTE_MS, features_of, write_events, write_log
from tests.pipelines.click_log import ClickLog, click_log

WITHIN_MS = 10 * MINUTE_MS
WEEK_MS = 3 * HOUR_MS  # of the tests
RULES = CollectionRules(cleaning=CleaningRules(clicks_within_ms=WITHIN_MS), bias=BiasRules(groups=10, most_error=1.0))
# of clicks that are too few to tell position bias from; used where that is not what is asked
BIASED = TrainingRules(allow_biased=True, validation_share=0.5)
VIEW = a_view()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def week(archive: Archive, number: int, rules: CollectionRules = RULES) -> Collected:
    since_ms = NOW_MS + number * WEEK_MS
    until_ms = since_ms + WEEK_MS
    folder = archive.folder.parent / "judgements"
    return collect(archive, "codesearch", since_ms, until_ms, until_ms + WITHIN_MS, folder, rules)


def weeks(archive: Archive, count: int = 3, lists: int = 500, queries: int = 60) -> tuple[list[Collected], ClickLog]:
    """Windows of one log of features that tell the label."""
    log = click_log(lists * count, seed=4, queries=queries, noise=1.2, share=0.0)
    write_log(archive, log, lasting_ms=count * WEEK_MS)
    return [week(archive, number) for number in range(count)], log


def by_hand(archive: Archive, *events: Event, count: int = 2) -> list[Collected]:
    write_events(archive, list(events))
    return [week(archive, number) for number in range(count)]


def asked(name: str, items: Sequence[str], query: str, number: int = 0, values: Any = None, **changes: Any) -> Event:
    """A ranking of window `number`, whose rows are `values`, shape (items, 3)."""
    rows = np.zeros((len(items), 3), "<f4") if values is None else np.asarray(values, "<f4")
    fields = {"answered_ms": NOW_MS + number * WEEK_MS + len(name), "unit": name, "features": rows.tobytes()}
    return a_ranking(name, tuple(items), query_id=query, **(fields | changes))


def labels_of(dataset: RankingDataset, query: str) -> dict[str, float]:
    judged = next(one for one in dataset.lists() if one.query_id == query)
    return dict(zip(judged.item_ids, judged.labels.tolist(), strict=True))


def queries_of(validation: bool, count: int, rules: TrainingRules = BIASED) -> list[str]:
    """Ids of queries that are for validation, or are not."""
    names = [f"q{i}" for i in range(200)]
    return [name for name, chosen in zip(names, is_validation(names, rules), strict=True) if chosen == validation][
        :count
    ]


def test_a_query_asked_again_is_one_list_of_clicks_over_examination(archive: Archive) -> None:
    (query, other), (held,) = queries_of(False, 2), queries_of(True, 1)

    splits = training_splits(
        by_hand(
            archive,
            asked("r1", ("a", "b"), query),
            asked("r22", ("b", "c"), query),
            asked("r333", ("a",), other),
            asked("r4444", ("a",), held),
            asked("r5", ("a",), "test", number=1),
            a_click("c1", "r1", "b"),
        ),
        VIEW,
        rules=BIASED,
    )

    assert splits.train.query_ids == (query, other)
    assert splits.validation.query_ids == (held,)
    assert labels_of(splits.train, query) == {"a": 0.0, "b": 0.5, "c": 0.0}
    assert (splits.report.before.lists, splits.report.before.queries, splits.report.before.clicked) == (4, 3, 1)


def test_a_click_of_a_list_asked_once_weighs_the_inverse_of_its_examination(archive: Archive) -> None:
    windows, _ = weeks(archive, count=2, queries=100_000)  # hardly a query twice

    splits = training_splits(windows, VIEW)

    weights = 1 / windows[0].record.bias.examined(10)
    found = np.unique(splits.train.labels)
    for label in found[found > 0]:
        assert np.isclose(np.minimum(weights, RULES.bias.most_weight), label, rtol=1e-5).any()


def test_labels_of_queries_asked_often_come_near_to_attraction(archive: Archive) -> None:
    log = click_log(6000, seed=8, queries=20, noise=1.2, share=0.3)
    write_log(archive, log, lasting_ms=2 * WEEK_MS)
    windows = [week(archive, number) for number in range(2)]

    train = training_splits(windows, VIEW).train

    wrong: list[float] = []
    for judged in train.lists():
        query, shown = int(judged.query_id[1:]), [int(item.split("-")[1]) for item in judged.item_ids]
        truth = log.model.attraction(log.labels[query, shown])
        wrong += np.abs(judged.labels - truth)[np.isin(shown, log.base[query][:3])].tolist()
    # 150 lists a query, so that what stood among the first three was looked at 50 times and more: 0.07 from chance
    assert np.mean(wrong) < 0.1


def test_features_are_those_logged_last(archive: Archive) -> None:
    (query,), (held,) = queries_of(False, 1), queries_of(True, 1)

    splits = training_splits(
        by_hand(
            archive,
            asked("r1", ("a", "b"), query, values=[[1, 2, 7], [3, 4, 7]]),
            asked("r22", ("b",), query, values=[[5, 6, 7]]),
            asked("r333", ("a",), held),
            asked("r4", ("a",), "test", number=1),
        ),
        VIEW,
        rules=BIASED,
    )

    assert splits.train.features.tolist() == [[1, 2, 7], [5, 6, 7]]


def test_a_query_asked_with_other_query_features_is_another_and_stays_in_the_same_split(archive: Archive) -> None:
    (query,), (held,) = queries_of(False, 1), queries_of(True, 1)

    splits = training_splits(
        by_hand(
            archive,
            asked("r1", ("a",), query, values=[[0, 0, 1]]),
            asked("r22", ("a",), query, values=[[0, 0, 2]]),
            asked("r333", ("a",), held, values=[[0, 0, 1]]),
            asked("r4444", ("a",), held, values=[[0, 0, 2]]),
            asked("r5", ("a",), "test", number=1),
        ),
        VIEW,
        rules=BIASED,
    )

    assert splits.train.query_ids == (query, f"{query}{VARIANT}2")
    assert splits.validation.query_ids == (held, f"{held}{VARIANT}2")


def test_test_is_the_newest_window_and_no_query_is_in_train_and_validation(archive: Archive) -> None:
    windows, _ = weeks(archive)

    splits = training_splits(windows[::-1], VIEW)

    newest = windows[-1].record
    assert splits.report.test.lists == newest.lists
    assert splits.report.before.lists == windows[0].record.lists + windows[1].record.lists
    assert (splits.report.held_out_since_ms, splits.report.held_out_until_ms) == (newest.since_ms, newest.until_ms)
    assert not {name.split(VARIANT)[0] for name in splits.train.query_ids} & {
        name.split(VARIANT)[0] for name in splits.validation.query_ids
    }
    assert 0.05 < len(splits.validation) / (len(splits.train) + len(splits.validation)) < 0.3
    assert splits.report.known_queries > 0.9 * len(splits.test)


def test_of_one_window_the_end_is_held_out(archive: Archive) -> None:
    windows, _ = weeks(archive, count=1)

    report = training_splits(windows, VIEW).report

    assert report.held_out_since_ms == NOW_MS + round(0.7 * WEEK_MS)
    assert report.test.lists == pytest.approx(0.3 * windows[0].record.lists, abs=2)
    assert report.before.lists + report.test.lists == windows[0].record.lists


def test_lists_of_another_view_or_without_features_are_left_out_and_counted(archive: Archive) -> None:
    (query,), (held,) = queries_of(False, 1), queries_of(True, 1)

    report = training_splits(
        by_hand(
            archive,
            asked("r1", ("a",), query),
            asked("r22", ("a",), held),
            asked("r333", ("a",), "q3", fingerprint="another"),
            asked("r4444", ("a",), "q4", features=b""),
            asked("r55555", ("a", "b"), "q5", values=[[1, np.inf, 0], [0, 0, 0]]),
            asked("r6", ("a",), "test", number=1),
        ),
        VIEW,
        rules=BIASED,
    ).report

    assert (report.before.lists, report.before.other_view, report.before.unusable) == (2, 1, 2)


def test_a_view_that_nobody_served_is_refused_with_the_counts(archive: Archive) -> None:
    windows, _ = weeks(archive, count=2)

    with pytest.raises(DataRefused, match="train under the view that was served"):
        training_splits(windows, a_view("another"))


@pytest.mark.parametrize("metric", [JUDGED_NDCG, CLICK_NDCG])
def test_attraction_is_not_declared_as_another_metric(archive: Archive, metric: Any) -> None:
    windows, _ = weeks(archive, count=1)

    with pytest.raises(DataRefused, match="expected attraction_ndcg with linear gain"):
        training_splits(windows, VIEW, metric)
    assert len({one.digest for one in (ATTRACTION_NDCG, JUDGED_NDCG, CLICK_NDCG)}) == 3


def test_clicks_that_could_not_be_freed_of_position_bias_are_refused(archive: Archive) -> None:
    windows = by_hand(archive, asked("r1", ("a", "b"), "q1"))

    with pytest.raises(DataRefused, match="could not be freed of position bias"):
        training_splits(windows, VIEW)


def test_windows_that_overlap_or_are_of_other_clicks_do_not_go_together(archive: Archive) -> None:
    windows, _ = weeks(archive, count=1)
    simulated = week(archive, 1, msgspec.structs.replace(RULES, source="simulated"))

    with pytest.raises(DataRefused, match="differ in simulated"):
        training_splits([windows[0], simulated], VIEW)
    with pytest.raises(DataRefused, match="overlap"):
        training_splits([windows[0], windows[0]], VIEW)


def test_what_is_wrong_with_the_data_is_in_the_report(archive: Archive) -> None:
    events = [asked(f"r{i}", ("a", "b"), f"q{i}", unit="robot" if i < 6 else f"u{i}") for i in range(12)]
    rules = msgspec.structs.replace(RULES, cleaning=CleaningRules(clicks_within_ms=WITHIN_MS, rankings_per_minute=5))
    write_events(archive, [*events, asked("t1", ("a",), "test", number=1)])
    windows = [week(archive, number, rules) for number in range(2)]

    report = training_splits(windows, VIEW, rules=BIASED).report

    assert report.faults == (f"{windows[0].folder.name}: 6 of 12 rankings dropped, limit 20%; most of them: bot",)
    assert report.held_out_faults == ()


def test_where_there_is_no_room_whole_queries_are_left_out(archive: Archive) -> None:
    windows, _ = weeks(archive, count=2)
    whole = training_splits(windows, VIEW)

    some = training_splits(windows, VIEW, rules=TrainingRules(most_rows=windows[0].record.rows))

    assert 0 < some.report.before.not_sampled < some.report.before.lists + some.report.before.not_sampled
    kept = set(some.train.query_ids)
    assert kept < set(whole.train.query_ids)
    for query in kept:
        assert labels_of(some.train, query) == labels_of(whole.train, query)


def list_by_list(windows: Sequence[Collected]) -> dict[str, dict[str, tuple[float, list[float]]]]:
    """Label and features by query and item, as the module says, one row after the other."""
    clicks: dict[tuple[str, str], float] = {}
    looks: dict[tuple[str, str], float] = {}
    found: dict[str, dict[str, tuple[float, list[float]]]] = {}
    for window in windows:
        for row in pa.concat_tables(window.tables()).to_pylist():
            for place, item in enumerate(row["items"]):
                key = (row["query"], item)
                clicks[key] = clicks.get(key, 0.0) + row["clicks"][place]
                looks[key] = looks.get(key, 0.0) + 1 / row["weights"][place]
                features = row["features"][3 * place : 3 * place + 3]
                found.setdefault(row["query"], {})[item] = (clicks[key] / looks[key], features)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_lists_of_any_length_and_repetition_come_together_as_one_by_one(archive: Archive, seed: int) -> None:
    rng = np.random.default_rng(seed)
    events: list[Event] = []
    for i in range(150):
        items = [f"i{item}" for item in rng.permutation(9)[: rng.integers(1, 8)]]
        values = np.column_stack([rng.normal(size=(len(items), 2)), np.ones(len(items))])
        at_ms = NOW_MS + int(rng.integers(0, 3 * WEEK_MS))
        query = f"q{rng.integers(0, 25)}"
        events.append(asked(f"r{i}", items, query, values=values, answered_ms=at_ms, propensities=ones(len(items))))
        events += [
            a_click(f"c{i}-{item}", f"r{i}", item, received_ms=at_ms + 1000) for item in items if rng.random() < 0.3
        ]
    write_events(archive, events)
    rules = msgspec.structs.replace(RULES, bias=BiasRules(groups=10, most_error=1e9, least_clicks=1))
    windows = [week(archive, number, rules) for number in range(3)]
    expected = list_by_list(windows[:2])

    splits = training_splits(windows, VIEW, rules=TrainingRules(allow_biased=True, validation_share=0.3))

    together = [judged for part in (splits.train, splits.validation) for judged in part.lists()]
    assert {judged.query_id for judged in together} == set(expected)
    for judged in together:
        assert list(judged.item_ids) == list(expected[judged.query_id])
        labels, features = zip(*expected[judged.query_id].values(), strict=True)
        np.testing.assert_allclose(judged.labels, labels, rtol=1e-5)
        np.testing.assert_allclose(judged.features, features, rtol=1e-6)
    assert {query.split(VARIANT)[0]: len(own) for query, own in list_by_list(windows[2:]).items()} == {
        judged.query_id.split(VARIANT)[0]: len(judged.item_ids) for judged in splits.test.lists()
    }


def ones(count: int) -> bytes:
    return np.ones(count, "<f4").tobytes()


def test_the_same_windows_give_the_same_splits(archive: Archive) -> None:
    windows, _ = weeks(archive)

    one, other = training_splits(windows, VIEW), training_splits(windows, VIEW)

    assert [part.digest for part in (one.train, one.validation, one.test)] == [
        part.digest for part in (other.train, other.validation, other.test)
    ]
    assert one.report.encode() == other.report.encode()


def test_replay_is_of_train_queries_only_and_of_as_many_as_asked_for(archive: Archive) -> None:
    windows, _ = weeks(archive)
    splits = training_splits(windows, VIEW)

    replay = replay_of(windows[:2], VIEW, lists=20)

    assert len(replay) == 20
    assert set(replay.query_ids) <= set(splits.train.query_ids)
    assert replay.digest == replay_of(windows[:2], VIEW, lists=20).digest
    assert len(replay_of(windows[:2], VIEW, lists=10_000)) == len(splits.train)


def test_the_features_of_a_list_are_those_that_were_logged(archive: Archive) -> None:
    windows, log = weeks(archive, count=2)
    features = features_of(log)

    for judged in training_splits(windows, VIEW).train.lists():
        shown = [int(item.split("-")[1]) for item in judged.item_ids]
        np.testing.assert_array_equal(judged.features, features[int(judged.query_id[1:]), shown])
