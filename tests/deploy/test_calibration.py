"""From an archived log to the drift board: what collected windows say of the scores that were served."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from deploy.commands.drift import calibration_line
from deploy.verdicts.calibration import Calibrations
from drift.calibration import CalibrationRule
from pipelines.archive.files import Archive
from pipelines.feedback.bias_evidence import BiasRules
from pipelines.feedback.cleaning import CleaningRules
from pipelines.feedback.collection import Collected, CollectionRules, collect
from pipelines.feedback.scored_clicks import scored_rows, windows_before
from registry.contracts.drift import CalibrationRecord
from registry.drift_board import MemoryDriftBoard
from tests.builders import NOW_MS
from tests.pipelines.archived_log import HOUR_MS, MINUTE_MS, write_log
from tests.pipelines.click_log import ClickLog, click_log

SPAN_MS = 2 * HOUR_MS
WITHIN_MS = 10 * MINUTE_MS
RULES = CollectionRules(
    cleaning=CleaningRules(clicks_within_ms=WITHIN_MS, rankings_per_minute=10_000, clicks_per_minute=10_000),
    bias=BiasRules(least_clicks=500, most_error=0.5, groups=10),
)
RULE = CalibrationRule(least_clicks=300)
LISTS = 4500


def scores_of(log: ClickLog, good: float = 1.0) -> NDArray[np.float32]:
    """What attracts, on a scale of the ranker's own, with a little noise; with less of `good` there is more noise."""
    rng = np.random.default_rng(5)
    noise = rng.normal(size=log.labels.shape)
    return (np.exp(good * log.labels) + 0.1 * noise + (1 - good) * 4 * noise).astype(np.float32)


def window(archive: Archive, number: int, version: int = 1, good: float = 1.0) -> Collected:
    """The next window of two hours, with its lists; explored so much that position bias can be told."""
    since_ms = NOW_MS + number * SPAN_MS
    log = click_log(LISTS, seed=40 + number, queries=100, share=0.4, reach=10)
    scores, name = scores_of(log, good), f"w{number}-"
    write_log(archive, log, scores=scores, since_ms=since_ms, lasting_ms=SPAN_MS, name=name, version=version)
    until_ms = since_ms + SPAN_MS
    return collect(
        archive, "codesearch", since_ms, until_ms, until_ms + WITHIN_MS, archive.folder.parent / "judgements", RULES
    )


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def test_scores_are_those_of_the_archive_beside_the_clicks_that_were_collected(archive: Archive) -> None:
    found = window(archive, 0)
    rankings = archive.rankings("codesearch", NOW_MS, NOW_MS + SPAN_MS, ["ranking_id", "scores"])
    scores = dict(zip(rankings["ranking_id"].to_pylist(), rankings["scores"].to_pylist(), strict=True))
    lists = [row for table in found.tables(("ranking_id", "clicks")) for row in table.to_pylist()]

    rows = scored_rows(archive, found, 1, NOW_MS, NOW_MS + SPAN_MS)

    assert rows.lists == len(lists) == found.record.lists
    assert rows.scores.tolist() == [score for row in lists for score in scores[row["ranking_id"]]]
    assert rows.clicks.tolist() == [click for row in lists for click in row["clicks"]]
    assert rows.positions[:11].tolist() == [*range(1, 11), 1]
    assert len(scored_rows(archive, found, 2, NOW_MS, NOW_MS + SPAN_MS)) == 0


def test_of_a_large_window_whole_units_are_taken_the_same_each_time(archive: Archive) -> None:
    found = window(archive, 0)

    some, again = (scored_rows(archive, found, 1, NOW_MS, NOW_MS + SPAN_MS, most_rows=20_000) for _ in range(2))
    every = scored_rows(archive, found, 1, NOW_MS, NOW_MS + SPAN_MS)

    assert 0.6 * 20_000 < len(some) < 1.4 * 20_000
    assert some.scores.tolist() == again.scores.tolist()
    assert len(np.unique(some.units % np.uint64(10))) == 10
    taken = np.isin(every.units, some.units)
    assert every.scores[taken].tolist() == some.scores.tolist()


def test_the_same_traffic_is_as_scores_said_and_is_shown(archive: Archive) -> None:
    board = MemoryDriftBoard()
    calibrations = Calibrations(archive, lambda: board, RULE)
    first, second = window(archive, 0), window(archive, 1)

    calibrations.keep(second)

    record = board.calibrations()["codesearch"]
    assert (record.model, record.version, record.simulated, record.lists) == ("codesearch", 1, False, LISTS)
    assert (record.fitted_since_ms, record.fitted_until_ms) == (first.record.since_ms, first.record.until_ms)
    assert record.verdict != "failed"
    assert record.ratio == pytest.approx(1.0, abs=3.5 * record.ratio_error)
    labels = {"model": "codesearch", "simulated": "false"}
    assert REGISTRY.get_sample_value("drift_calibration_clicks_ratio", labels) == record.ratio
    assert [folder.name for folder in windows_before(second)] == [first.folder.name]


def test_scores_that_tell_less_than_those_the_mapping_is_of_are_found(archive: Archive) -> None:
    window(archive, 0)

    record = Calibrations(archive, MemoryDriftBoard, RULE).record(window(archive, 1, good=0.2))

    assert record is not None
    assert record.verdict == "failed"
    assert record.error > 2 * record.by_chance


def test_a_version_that_is_new_is_held_against_the_first_half_of_its_window(archive: Archive) -> None:
    window(archive, 0, version=1)

    record = Calibrations(archive, MemoryDriftBoard, RULE).record(window(archive, 1, version=2))

    assert record is not None
    begins_ms = NOW_MS + SPAN_MS
    assert (record.fitted_since_ms, record.fitted_until_ms) == (begins_ms, begins_ms + SPAN_MS // 2)
    assert (record.since_ms, record.until_ms, record.version) == (begins_ms + SPAN_MS // 2, begins_ms + SPAN_MS, 2)
    assert record.lists == LISTS // 2
    assert record.verdict != "failed"


def test_without_known_position_bias_nothing_is_said(archive: Archive) -> None:
    board = MemoryDriftBoard()
    write_log(archive, click_log(300, seed=4, queries=20), lasting_ms=SPAN_MS)
    until_ms = NOW_MS + SPAN_MS
    found = collect(
        archive, "codesearch", NOW_MS, until_ms, until_ms + WITHIN_MS, archive.folder.parent / "judgements", RULES
    )

    Calibrations(archive, lambda: board, RULE).keep(found)

    record = board.calibrations()["codesearch"]
    assert (record.verdict, record.bins) == ("inconclusive", ())
    assert "position bias is not known" in record.why


def test_it_is_told_in_one_line_with_its_verdict_and_what_is_not_known(archive: Archive) -> None:
    window(archive, 0)
    record = Calibrations(archive, MemoryDriftBoard, RULE).record(window(archive, 1, good=0.2))
    assert record is not None

    line = calibration_line(record)

    assert line.startswith("codesearch@1 calibration: [bold red]failed[/]")
    assert f"{record.ratio:.2f} +- {record.ratio_error:.2f} clicks for each that scores said" in line
    assert "clicks were expected of an examined item" in line
    assert CalibrationRecord.decode(record.encode()) == record
