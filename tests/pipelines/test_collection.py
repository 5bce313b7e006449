"""Judgements of a window: the same in hours as in one piece, all or nothing on disk, bias told or refused."""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from pipelines.archive.files import Archive
from pipelines.errors import DataRefused
from pipelines.feedback.bias_evidence import BiasRules
from pipelines.feedback.cleaning import CleaningRules, QualityReport, clean
from pipelines.feedback.collection import Collected, CollectionRules, collect, sweep, window_folder
from pipelines.feedback.position_bias import debiased_labels
from registry.contracts.events import Event
from tests.builders import NOW_MS, a_click, a_ranking, an_exposure
from tests.pipelines.archived_log import HOUR_MS, MINUTE_MS, write_events, write_log
from tests.pipelines.click_log import ClickLog, click_log

WITHIN_MS = 10 * MINUTE_MS
UNTIL_MS = NOW_MS + 3 * HOUR_MS
CLEANING = CleaningRules(clicks_within_ms=WITHIN_MS, rankings_per_minute=30, clicks_per_minute=8)
QUICK = BiasRules(least_clicks=1, most_error=10.0, groups=10)
RULES = CollectionRules(cleaning=CLEANING, bias=QUICK)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def collected(archive: Archive, rules: CollectionRules = RULES, folder: str = "judgements") -> Collected:
    return collect(archive, "codesearch", NOW_MS, UNTIL_MS, UNTIL_MS + WITHIN_MS, archive.folder.parent / folder, rules)


def table_of(window: Collected) -> pa.Table:
    return pa.concat_tables(window.tables())


def messy_events(seed: int = 0) -> list[Event]:
    """Three hours of rankings and feedback with everything wrong that can be, at random."""
    rng = np.random.default_rng(seed)
    events: list[Event] = []
    for i in range(400):
        at_ms = NOW_MS - HOUR_MS + int(rng.integers(0, 5 * HOUR_MS))  # some before and after the window
        unit = "robot" if rng.random() < 0.1 else f"u{rng.integers(0, 40)}"
        items = tuple(f"i{item}" for item in rng.permutation(12)[: rng.integers(0, 7)])
        query = f"q{rng.integers(0, 9)}" if rng.random() < 0.9 else ""
        arm = str(rng.choice(["champion", "challenger", "interleaved", "outside"], p=[0.6, 0.2, 0.1, 0.1]))
        events.append(a_ranking(f"r{i}", items, answered_ms=at_ms, unit=unit, query_id=query, arm=arm))
        for j in range(12 if unit == "robot" else rng.integers(0, 5)):
            waited_ms = int(rng.choice([-2000, 1000, 50_000, WITHIN_MS, WITHIN_MS + 1, HOUR_MS, 2 * HOUR_MS]))
            name = f"r{i}" if rng.random() < 0.9 else f"nobody{i}"
            item = str(rng.choice([*items, "i99"]))
            position = int(rng.integers(1, 8)) if rng.random() < 0.2 else None
            kind: Any = a_click if unit == "robot" or rng.random() < 0.7 else an_exposure
            received_ms = at_ms + (30_000 if unit == "robot" else waited_ms)
            events += [kind(f"e{i}-{j}", name, item, position=position, received_ms=received_ms)] * rng.integers(1, 3)
    return events


def in_one_piece(archive: Archive) -> QualityReport:
    """What cleaning says of the window when given all of it at once."""
    rankings = archive.rankings("codesearch", NOW_MS, UNTIL_MS)
    feedback = archive.feedback("codesearch", NOW_MS, UNTIL_MS + WITHIN_MS)
    ours = set(rankings["ranking_id"].to_pylist())
    others = set(archive.rankings("codesearch", NOW_MS - 24 * HOUR_MS, NOW_MS)["ranking_id"].to_pylist())
    given = [
        name in ours or (name not in others and received_ms < UNTIL_MS)
        for name, received_ms in zip(
            feedback["ranking_id"].to_pylist(), feedback["received_ms"].to_pylist(), strict=True
        )
    ]
    return clean(rankings, feedback.filter(pa.array(given)), CLEANING, UNTIL_MS + WITHIN_MS).report


@pytest.mark.parametrize("seed", range(5))
def test_hour_by_hour_the_same_counts_as_in_one_piece(archive: Archive, seed: int) -> None:
    write_events(archive, messy_events(seed))

    report, whole = collected(archive).record.quality, in_one_piece(archive)

    assert whole.bots == 1
    assert min(whole.dropped_feedback[why] for why in ("bot", "late", "without_ranking", "before_ranking")) > 0
    assert msgspec.structs.replace(report, data="") == msgspec.structs.replace(whole, data="")


def test_hours_are_told_as_they_are_done_and_who_is_told_may_end_it(archive: Archive, tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def enough(done: int, hours: int) -> None:
        raise EnoughError

    write_events(archive, messy_events())
    told: list[tuple[int, int]] = []
    window = (archive, "codesearch", NOW_MS, UNTIL_MS, UNTIL_MS + WITHIN_MS, tmp_path / "judgements", RULES)

    with pytest.raises(EnoughError):
        collect(*window, enough)
    assert list((tmp_path / "judgements").rglob("*.parquet")) == []

    collect(*window, lambda done, hours: told.append((done, hours)))
    hours = len(archive.hours("codesearch", NOW_MS, UNTIL_MS))
    assert told == [(done, hours) for done in range(1, hours + 1)]
    assert hours >= 3


def test_each_list_is_kept_with_what_was_shown_logged_and_clicked(archive: Archive) -> None:
    features = np.arange(6, dtype="<f4")
    write_events(
        archive,
        [
            a_ranking("r1", ("a", "b"), features=features.tobytes(), candidates=40, explored=True),
            a_click("c1", "r1", "b"),
            a_ranking("r2", ("c",), query_id="", answered_ms=NOW_MS + HOUR_MS, version=3, arm="challenger"),
        ],
    )

    rows = table_of(collected(archive)).to_pylist()

    assert rows[0]["items"] == ["a", "b"]
    assert rows[0]["clicks"] == [False, True]
    assert rows[0]["features"] == features.tolist()
    assert (rows[0]["query"], rows[0]["unit"], rows[0]["explored"], rows[0]["candidates"]) == ("q1", "u1", True, 40)
    assert (rows[1]["query"], rows[1]["version"], rows[1]["arm"]) == ("r2", 3, "challenger")


def test_a_reader_gets_the_columns_it_asks_for(archive: Archive) -> None:
    write_events(archive, [a_ranking("r1", ("a", "b")), a_click("c1", "r1", "b")])

    (table,) = collected(archive).tables(["weights", "query"])

    assert table.to_pylist() == [{"weights": [1.0, 1.0], "query": "q1"}]


def a_log(archive: Archive, lists: int = 600, **given: Any) -> ClickLog:
    log = click_log(lists, seed=3, queries=40, noise=1.2, share=given.pop("share", 0.05))
    write_log(archive, log, **given)
    return log


def test_labels_are_clicks_by_inverse_examination_and_clipped(archive: Archive) -> None:
    a_log(archive)

    window = collected(archive)

    table = table_of(window)
    clicks = np.concatenate(table["clicks"].to_pylist())
    positions = np.tile(np.arange(1, 11), len(table))
    expected = debiased_labels(clicks, positions, window.record.bias.examined(10), QUICK.most_weight)
    np.testing.assert_allclose(np.concatenate(table["labels"].to_pylist()), expected.labels, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(table["weights"].to_pylist()), expected.weights, rtol=1e-6)
    assert window.record.labels.effective == pytest.approx(expected.effective, rel=1e-9)
    assert window.record.labels.clipped == pytest.approx(expected.clipped)
    assert table["ranking_id"].to_pylist() == [f"r{i}" for i in range(600)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_collected_again_elsewhere_and_from_a_compacted_archive_it_is_equal_to_the_byte(archive: Archive) -> None:
    write_events(archive, messy_events())
    first = collected(archive)
    for model, hour in archive.uncompacted(UNTIL_MS * 2):
        archive.compact(model, hour)

    again = collected(archive, folder="again")

    assert files(first.folder) == files(again.folder)
    assert first.record.digest == again.record.digest


def test_what_was_collected_stays_as_it_is_whatever_the_archive_gets_later(archive: Archive) -> None:
    a_log(archive)
    before = collected(archive)
    write_events(archive, [a_ranking("more", ("a",))])

    assert collected(archive).record == before.record


def test_other_rules_for_a_window_that_is_there_are_refused(archive: Archive) -> None:
    a_log(archive)
    collected(archive)

    with pytest.raises(DataRefused, match="collected by other rules"):
        collected(archive, CollectionRules(cleaning=CLEANING))


def test_a_changed_file_is_refused_and_named(archive: Archive) -> None:
    a_log(archive)
    window = collected(archive)
    (window.folder / "labels.parquet").write_bytes(b"PAR1")

    with pytest.raises(DataRefused, match=r"labels\.parquet: not what was collected"):
        Collected.open(window.folder)


def test_a_window_whose_clicks_can_still_come_is_refused(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="its clicks can come until 20260101T031000"):
        collect(archive, "codesearch", NOW_MS, UNTIL_MS, UNTIL_MS + WITHIN_MS - 1, tmp_path / "judgements", RULES)
    assert not (tmp_path / "judgements").exists()


def test_an_empty_window_is_collected_and_debiases_nothing(archive: Archive) -> None:
    window = collected(archive)

    assert (window.record.lists, window.record.quality.rankings) == (0, 0)
    assert window.record.bias.method == "none"
    assert list(window.tables()) == []


def test_people_and_click_models_are_kept_apart_and_a_list_without_feedback_is_peoples(archive: Archive) -> None:
    write_events(
        archive,
        [
            *[a_ranking(f"r{i}", ("a", "b"), answered_ms=NOW_MS + i, unit=f"u{i}") for i in range(3)],
            a_click("c0", "r0"),
            a_click("c1", "r1", simulated=True),
        ],
    )

    people, simulated = (
        collected(archive, msgspec.structs.replace(RULES, source=source), source) for source in ("people", "simulated")
    )

    assert table_of(people)["ranking_id"].to_pylist() == ["r0", "r2"]
    assert table_of(simulated)["ranking_id"].to_pylist() == ["r1"]
    assert (people.record.simulated, simulated.record.simulated) == (False, True)
    assert (people.record.other_source, simulated.record.other_source) == (1, 2)


def test_where_all_feedback_is_simulated_so_are_the_lists_without(archive: Archive) -> None:
    write_events(
        archive,
        [
            a_ranking("r0", unit="a"),
            a_ranking("r1", answered_ms=NOW_MS + HOUR_MS, unit="b"),
            a_click("c1", "r0", simulated=True),
        ],
    )

    assert collected(archive, msgspec.structs.replace(RULES, source="simulated")).record.lists == 2


def test_explored_swaps_are_taken_first_and_tell_the_examination(archive: Archive) -> None:
    log = a_log(archive, lists=8000, share=0.3)

    bias = collected(archive, CollectionRules(cleaning=CLEANING, bias=BiasRules(depth=5))).record.bias

    truth = log.model.examination(5)
    assert bias.method == "swaps"
    assert len(bias.without_each) == 20
    # four standard errors of each: a false alarm in some 3,000 seeds
    assert (np.abs(np.array(bias.examination[:5]) - truth) <= 4 * np.array(bias.errors[:5]) + 1e-9).all()
    assert (np.array(bias.errors[1:5]) < 0.3 * np.array(bias.examination[1:5])).all()


def test_swaps_behind_which_few_clicks_stand_are_not_taken_however_alike_they_look(archive: Archive) -> None:
    a_log(archive, lists=1000, share=0.05)

    bias = collected(archive, CollectionRules(cleaning=CLEANING, bias=BiasRules(most_error=0.5))).record.bias

    assert bias.method == "regression_em"
    assert re.fullmatch(
        r"position \d+: [0-3] clicks on items that chance moved there, expected 4", bias.rejected["swaps"]
    )


def test_without_exploration_several_rankers_tell_it(archive: Archive) -> None:
    one = click_log(4000, seed=5, queries=30, noise=1.0, share=0.0)
    other = click_log(4000, seed=5, queries=30, noise=1.0, share=0.0)
    shifted = np.roll(other.base, 1, axis=1)  # a second ranker of the same candidates
    shown = shifted[other.query_of][:, :10]
    rng = np.random.default_rng(6)
    chance = other.model.examination(10) * other.model.attraction(other.labels[other.query_of[:, None], shown])
    write_log(archive, one, name="a")
    write_log(archive, replace(other, shown=shown, clicks=rng.random(chance.shape) < chance), name="b", version=2)

    bias = collected(archive, CollectionRules(cleaning=CLEANING, bias=BiasRules(depth=5))).record.bias

    assert bias.method == "rankers"
    assert bias.rejected == {"swaps": "no list was explored"}
    assert (np.abs(np.array(bias.examination[:5]) - one.model.examination(5)) <= 4 * np.array(bias.errors[:5])).all()


def test_one_ranker_that_never_explored_leaves_the_features(archive: Archive) -> None:
    a_log(archive, lists=1500, share=0.0)

    bias = collected(archive, CollectionRules(cleaning=CLEANING, bias=BiasRules(depth=5))).record.bias

    assert bias.method == "regression_em"
    assert bias.rejected == {"swaps": "no list was explored", "rankers": "one version answered"}
    assert np.abs(np.array(bias.examination[:5]) - 1 / np.arange(1, 6)).max() < 0.15


def test_the_sample_of_queries_is_of_whole_ones_and_no_larger_than_it_may_be(archive: Archive) -> None:
    write_log(archive, click_log(2000, seed=3, queries=400, noise=1.2, share=0.0))

    few, all_of_them = (
        collected(
            archive,
            CollectionRules(cleaning=CLEANING, bias=BiasRules(depth=5, most_error=10.0, sampled_rows=rows)),
            folder=f"sampled-{rows}",
        ).record.bias
        for rows in (2000, 200_000)
    )

    assert (few.method, all_of_them.method) == ("regression_em", "regression_em")
    assert few.impressions == all_of_them.impressions == 20_000
    # a tenth of the items at most: errors of three times the size, themselves known to a third from five groups
    assert np.mean(few.errors[1:5]) > 1.5 * np.mean(all_of_them.errors[1:5])


def test_what_no_estimator_is_sure_of_is_not_debiased_and_says_why(archive: Archive) -> None:
    a_log(archive, lists=300, share=0.0)

    window = collected(archive, CollectionRules(cleaning=CLEANING, bias=BiasRules(most_error=0.001)))

    assert window.record.bias.method == "none"
    assert "explore more traffic" in window.record.bias.why
    assert set(window.record.bias.rejected) == {"swaps", "rankers", "regression_em"}
    table = table_of(window)
    assert np.concatenate(table["labels"].to_pylist()).tolist() == np.concatenate(table["clicks"].to_pylist()).tolist()


def test_few_clicks_say_nothing(archive: Archive) -> None:
    write_events(archive, [a_ranking("r1"), a_click("c1", "r1")])

    bias = collected(archive, CollectionRules(cleaning=CLEANING)).record.bias

    assert (bias.method, bias.why) == ("none", "1 clicks, expected 100 at least: collect a longer window")


def test_interleaved_lists_are_refused_as_judgements() -> None:
    with pytest.raises(ValueError, match="two versions' work"):
        CollectionRules(cleaning=CleaningRules(arms=("champion", "interleaved")))


COLLECTING = """
import os, sys
from pathlib import Path
from pipelines.archive.files import Archive
from pipelines.feedback.collection import collect
from tests.builders import NOW_MS
from tests.pipelines.test_collection import RULES, UNTIL_MS, WITHIN_MS
for _ in sys.stdin:
    child = os.fork()
    if not child:
        archive, folder = map(Path, sys.argv[1:])
        collect(Archive(archive), "codesearch", NOW_MS, UNTIL_MS, UNTIL_MS + WITHIN_MS, folder, RULES)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


def test_killed_at_any_point_nothing_or_everything_is_there(archive: Archive, tmp_path: Path) -> None:
    a_log(archive, lists=400)
    expected = files(collected(archive).folder)
    folder = tmp_path / "killed"
    place = window_folder(folder, "codesearch", NOW_MS, UNTIL_MS)
    killed = 0

    with subprocess.Popen(
        [sys.executable, "-c", COLLECTING, str(archive.folder), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        for wait_s in np.random.default_rng(1).uniform(0.0, 1.0, 12).tolist():
            parent.stdin.write(b"again\n")
            child = int(parent.stdout.readline())
            if not select.select([parent.stdout], [], [], wait_s)[0]:
                os.kill(child, signal.SIGKILL)
                killed += 1
            assert parent.stdout.readline() == b"ended\n"
            if place.exists():
                assert files(place) == expected
                shutil.rmtree(place)

    assert killed > 0
    again = collect(archive, "codesearch", NOW_MS, UNTIL_MS, UNTIL_MS + WITHIN_MS, folder, RULES)
    assert files(again.folder) == expected
    assert sweep(folder, "codesearch", older_than_s=3600, now_s=1e12) > 0
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_two_at_once_leave_one_window_that_is_whole(archive: Archive) -> None:
    a_log(archive, lists=200)
    found: list[Collected] = []
    threads = [threading.Thread(target=lambda: found.append(collected(archive))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({window.record.digest for window in found}) == 1
    assert [path.name for path in found[0].folder.parent.iterdir()] == [found[0].folder.name]
    assert Collected.open(found[0].folder).record == found[0].record
