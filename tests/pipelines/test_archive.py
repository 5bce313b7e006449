"""The archive: what was written is read once, whatever came twice, broke or was merged meanwhile."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.archive.batch import HOUR_MS
from pipelines.archive.files import Archive, WriteReport
from pipelines.archive.tables import MIRRORS, RANKINGS, rankings_table
from pipelines.errors import DataRefused
from registry.contracts.events import Event, encode_event, join_events
from registry.stream import StreamEntry
from tests.builders import NOW_MS, a_click, a_mirror, a_ranking, an_exposure

HOUR = "20260101T00"
UNTIL_MS = NOW_MS + HOUR_MS


def an_entry(number: int, *events: Event) -> StreamEntry:
    return StreamEntry(f"{NOW_MS}-{number}", join_events([encode_event(event) for event in events]))


def ranking_ids(archive: Archive, model: str = "codesearch") -> list[str]:
    return [row["ranking_id"] for row in archive.rankings(model, NOW_MS, UNTIL_MS, ["ranking_id"]).to_pylist()]


def small_files(archive: Archive) -> list[Path]:
    return [path for path in archive.folder.rglob("*.parquet") if path.name != "merged.parquet"]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def test_a_ranking_is_read_as_it_was_answered(archive: Archive) -> None:
    scores, features = np.array([2.5, -1.0], "<f4"), np.arange(6, dtype="<f4")
    event = a_ranking(
        "r1",
        ("a", "b"),
        scores=scores.tobytes(),
        features=features.tobytes(),
        degraded=("stale",),
        latency_ms=3.5,
        arm="interleaved",
        experiment="test",
        teams=b"\x01\x00",
        team_version=2,
        explored=True,
        row_age_s=61.5,
    )

    archive.write([an_entry(1, event)])

    (row,) = archive.rankings("codesearch", NOW_MS, UNTIL_MS).to_pylist()
    assert row["items"] == ["a", "b"]
    assert row["scores"] == scores.tolist()
    assert row["features"] == features.tolist()
    assert row["propensities"] == [1.0, 1.0]
    lists = ("items", "scores", "features", "propensities", "degraded", "teams")
    plain = [name for name in RANKINGS.names if name not in lists]
    assert {name: row[name] for name in plain} == {name: getattr(event, name) for name in plain}
    assert row["degraded"] == ["stale"]
    assert row["teams"] == [1, 0]


def test_a_mirrored_query_is_read_as_it_was_and_kept_apart(archive: Archive) -> None:
    given_ = [a_mirror("m1"), a_mirror("m2", mirror_items=(), mirror_scores=b"", error="504: too late")]

    written = archive.write([an_entry(1, a_ranking("r1"), *given_), an_entry(2, given_[0])])

    assert written == WriteReport(rankings=1, mirrors=2, duplicates=1)
    rows = archive.mirrors("codesearch", NOW_MS, UNTIL_MS).to_pylist()
    plain = [name for name in MIRRORS.names if not pa.types.is_list(MIRRORS.field(name).type)]
    assert [{name: row[name] for name in plain} for row in rows] == [
        {name: getattr(event, name) for name in plain} for event in given_
    ]
    assert [(row["items"], row["mirror_items"]) for row in rows] == [(["a", "b"], ["b", "a"]), (["a", "b"], [])]
    assert rows[0]["mirror_scores"] == [0.5, 0.25]
    assert archive.compact("codesearch", HOUR).rows == 3
    assert archive.mirrors("codesearch", NOW_MS, UNTIL_MS).to_pylist() == rows
    assert ranking_ids(archive) == ["r1"]


def test_what_does_not_fit_a_list_is_set_aside(archive: Archive) -> None:
    short = [a_mirror(mirror_scores=b""), a_ranking(teams=b"\x01")]

    assert archive.write([an_entry(1, *short)]) == WriteReport(rejected=2)


def test_a_file_from_before_there_were_experiments_is_still_read(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("r1"))])
    (written,) = small_files(archive)
    added = ["experiment", "teams", "team_version", "explored", "row_age_s"]
    pq.write_table(pq.read_table(written, partitioning=None).drop_columns(added), written)
    archive.write([an_entry(2, a_ranking("r2", answered_ms=NOW_MS + 1, experiment="test"))])

    for _ in range(2):  # also once they are in one file
        rows = archive.rankings("codesearch", NOW_MS, UNTIL_MS, ["ranking_id", *added]).to_pylist()
        assert [row["ranking_id"] for row in rows] == ["r1", "r2"]
        assert [rows[0][name] for name in added] == [None] * len(added)
        assert rows[1]["experiment"] == "test"
        archive.compact("codesearch", HOUR)


def test_feedback_is_read_as_it_was_received(archive: Archive) -> None:
    archive.write([an_entry(1, a_click("c1", position=1, simulated=True), an_exposure("x1"))])

    click, exposure = archive.feedback("codesearch", NOW_MS, UNTIL_MS).to_pylist()
    assert (click["event"], click["event_id"], click["position"], click["simulated"]) == ("click", "c1", 1, True)
    assert (exposure["event"], exposure["event_id"], exposure["position"]) == ("exposure", "x1", None)
    assert click["happened_ms"] == NOW_MS + 1000


def test_models_and_hours_lie_apart(archive: Archive) -> None:
    archive.write(
        [
            an_entry(
                1,
                a_ranking("r1"),
                a_ranking("r2", answered_ms=NOW_MS + HOUR_MS),
                a_ranking("r3", model="other"),
            )
        ]
    )

    assert ranking_ids(archive) == ["r1"]
    assert ranking_ids(archive, "other") == ["r3"]
    folders = {path.parent.relative_to(archive.folder).as_posix() for path in small_files(archive)}
    assert folders == {
        "model=codesearch/hour=20260101T00/kind=rankings",
        "model=codesearch/hour=20260101T01/kind=rankings",
        "model=other/hour=20260101T00/kind=rankings",
    }


def test_other_readers_understand_the_folders(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("r1"))])

    table = pq.read_table(archive.folder / "model=codesearch")

    assert table.select(["ranking_id", "hour", "kind"]).to_pylist() == [
        {"ranking_id": "r1", "hour": HOUR, "kind": "rankings"}
    ]


def test_a_window_begins_inclusive_and_ends_exclusive(archive: Archive) -> None:
    archive.write([an_entry(1, *(a_ranking(f"r{i}", answered_ms=NOW_MS + i) for i in range(4)))])

    found = archive.rankings("codesearch", NOW_MS + 1, NOW_MS + 3, ["ranking_id"])

    assert found.to_pylist() == [{"ranking_id": "r1"}, {"ranking_id": "r2"}]


def test_an_empty_window_or_an_unknown_model_has_no_rows(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("r1"))])

    assert len(archive.rankings("codesearch", UNTIL_MS, NOW_MS)) == 0
    assert archive.rankings("nobody", NOW_MS, UNTIL_MS).schema == RANKINGS


def test_a_batch_written_again_replaces_itself(archive: Archive) -> None:
    entries = [an_entry(1, a_ranking("r1")), an_entry(2, a_ranking("r2"))]

    archive.write(entries)
    archive.write(entries)

    assert len(small_files(archive)) == 1
    assert ranking_ids(archive) == ["r1", "r2"]


@given(
    batches=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=5),
    compact_after=st.integers(0, 5),
)
def test_events_are_read_once_however_often_and_in_whatever_batches_they_came(
    tmp_path_factory: pytest.TempPathFactory, batches: Sequence[Sequence[int]], compact_after: int
) -> None:
    archive = Archive(tmp_path_factory.mktemp("archive"))
    for count, batch in enumerate(batches):
        archive.write([an_entry(i, a_ranking(f"r{i}"), a_click(f"c{i}")) for i in batch])
        if count == compact_after:
            archive.compact("codesearch", HOUR)

    expected = sorted({i for batch in batches for i in batch})
    assert ranking_ids(archive) == [f"r{i}" for i in expected]
    feedback = archive.feedback("codesearch", NOW_MS, UNTIL_MS, ["event_id"])
    assert feedback["event_id"].to_pylist() == [f"c{i}" for i in expected]


def test_a_stream_that_begins_anew_does_not_replace_what_its_ids_named_before(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("before"))])
    archive.write([an_entry(1, a_ranking("after"))])

    assert sorted(ranking_ids(archive)) == ["after", "before"]


def test_duplicates_in_a_batch_are_counted(archive: Archive) -> None:
    report = archive.write([an_entry(1, a_ranking("r1"), a_click("c1")), an_entry(2, a_ranking("r1"), a_click("c1"))])

    assert report == WriteReport(rankings=1, feedback=1, duplicates=2, rejected=0)


def test_an_event_id_is_the_models_own(archive: Archive) -> None:
    report = archive.write([an_entry(1, a_click("1"), a_click("1", model="other"))])

    assert report == WriteReport(feedback=2)
    assert (
        len(archive.feedback("codesearch", NOW_MS, UNTIL_MS)) == len(archive.feedback("other", NOW_MS, UNTIL_MS)) == 1
    )


def test_a_click_sent_again_an_hour_later_counts_only_when_it_came_first(archive: Archive) -> None:
    again_ms = NOW_MS + HOUR_MS
    archive.write([an_entry(1, a_click("c1")), an_entry(2, a_click("c1", received_ms=again_ms))])
    archive.write([an_entry(3, a_click("c1", received_ms=again_ms + 1))])

    first = archive.feedback("codesearch", NOW_MS, UNTIL_MS)
    later = archive.feedback("codesearch", again_ms, again_ms + HOUR_MS)

    assert first["received_ms"].to_pylist() == [NOW_MS + 2000]
    assert len(later) == 0


BAD_EVENTS = {
    "another schema": a_ranking("bad", schema=99),
    "a model that names a folder": a_ranking("bad", model="../../tmp"),
    "a time past all calendars": a_ranking("bad", answered_ms=10**17),
    "a time before time": a_click("bad", received_ms=-1),
    "too few scores": a_ranking("bad", scores=b"\0\0\0\0"),
    "half a feature": a_ranking("bad", features=b"\0\0\0\0\0\0"),
    "features of no item": a_ranking("bad", items=(), scores=b"", propensities=b"", features=b"\0\0\0\0"),
    "a number past 64 bits": a_click("bad", clicked_ms=2**64 - 1),
}


@pytest.mark.parametrize("event", BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_an_event_that_does_not_fit_is_set_aside_and_blocks_nothing(archive: Archive, event: Event) -> None:
    report = archive.write([an_entry(1, event, a_ranking("good"))])

    assert report == WriteReport(rankings=1, rejected=1)
    assert ranking_ids(archive) == ["good"]
    (file,) = (archive.folder / "rejected").iterdir()
    line = json.loads(file.read_text())
    assert line["entry_id"] == f"{NOW_MS}-1"
    assert line["reason"]


def test_bytes_that_are_no_event_are_set_aside_once_with_what_they_were(archive: Archive) -> None:
    garbage = [StreamEntry("1-0", b"\xff garbage"), StreamEntry("2-0", join_events([b"\x01"]))]
    entries = [*garbage, an_entry(3, a_ranking())]

    first, second = archive.write(entries), archive.write(entries)

    assert first == second == WriteReport(rankings=1, rejected=2)
    (file,) = (archive.folder / "rejected").iterdir()
    rejected = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["entry_id"] for line in rejected] == ["1-0", "2-0"]
    assert rejected[0]["base64"] == "/yBnYXJiYWdl"


def test_nothing_written_is_nothing_kept(archive: Archive) -> None:
    assert archive.write([]) == WriteReport()
    assert not archive.folder.exists()


def test_a_closed_hour_becomes_one_file_a_kind(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("r1"), a_click("c1"))])
    archive.write([an_entry(1, a_ranking("r1")), an_entry(2, a_ranking("r2"))])

    report = archive.compact("codesearch", HOUR)

    assert (report.files, report.rows, report.duplicates) == (3, 3, 1)
    assert sorted(path.parent.name for path in archive.folder.rglob("*.parquet")) == ["kind=feedback", "kind=rankings"]
    assert ranking_ids(archive) == ["r1", "r2"]
    assert archive.compact("codesearch", HOUR).files == 0


def test_what_comes_after_compaction_is_merged_by_the_next(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("r1"))])
    archive.compact("codesearch", HOUR)
    archive.write([an_entry(1, a_ranking("r1")), an_entry(2, a_ranking("late"))])
    assert ranking_ids(archive) == ["late", "r1"]

    archive.compact("codesearch", HOUR)

    assert small_files(archive) == []
    assert ranking_ids(archive) == ["late", "r1"]


def test_parts_are_what_rankings_are_before_and_after_compaction(archive: Archive) -> None:
    for number, at_ms in enumerate((NOW_MS, NOW_MS + 5, UNTIL_MS - 1, UNTIL_MS)):
        features = np.arange(number, number + 2 * (1 + number % 2), dtype="<f4").tobytes()
        event = a_ranking(f"r{number}", ("a", "b")[: 1 + number % 2], answered_ms=at_ms, **_fitting(number, features))
        archive.write([an_entry(number, event)])
    columns = ["ranking_id", "features", "arm"]
    wanted = archive.rankings("codesearch", NOW_MS + 1, UNTIL_MS + 1, columns)

    for _ in range(2):
        parts = list(archive.ranking_parts("codesearch", NOW_MS + 1, UNTIL_MS + 1, columns))

        assert pa.concat_tables(parts).sort_by("ranking_id").to_pylist() == wanted.to_pylist()
        archive.compact("codesearch", HOUR)


def test_parts_of_files_that_are_merged_meanwhile_are_all_there(archive: Archive) -> None:
    """Twice at most, missed never."""
    for number in range(6):
        archive.write([an_entry(number, a_ranking(f"r{number}"))])
    parts = archive.ranking_parts("codesearch", NOW_MS, UNTIL_MS, ["ranking_id"])

    first = next(parts)
    archive.compact("codesearch", HOUR)
    seen = [row["ranking_id"] for part in (first, *parts) for row in part.to_pylist()]

    assert set(seen) == {f"r{number}" for number in range(6)}


def test_a_damaged_file_is_named_when_its_parts_are_read(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("r1"))])
    (path,) = small_files(archive)
    path.write_bytes(b"no parquet at all")

    with pytest.raises(DataRefused, match="damaged"):
        list(archive.ranking_parts("codesearch", NOW_MS, UNTIL_MS, ["ranking_id"]))


def _fitting(number: int, features: bytes) -> dict[str, bytes]:
    """Scores and propensities for as many items as the ranking with that number shows."""
    shown = np.ones(1 + number % 2, dtype="<f4").tobytes()
    return {"scores": shown, "propensities": shown, "features": features}


def test_only_hours_that_have_ended_wait_for_compaction(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("r1"), a_ranking("r2", answered_ms=UNTIL_MS))])

    assert archive.uncompacted(UNTIL_MS - 1) == []
    assert archive.uncompacted(UNTIL_MS) == [("codesearch", HOUR)]
    archive.compact("codesearch", HOUR)
    assert archive.uncompacted(UNTIL_MS) == []


KILLED_BEFORE_DELETING = """
import os, sys
from pathlib import Path
from pipelines.archive.files import Archive

archive = Archive(Path(sys.argv[1]))
sys.addaudithook(lambda event, _: os._exit(9) if event == "os.remove" else None)
archive.compact("codesearch", "20260101T00")
"""


def test_a_compaction_killed_after_merging_changes_nothing_for_readers(archive: Archive) -> None:
    for i in range(3):
        archive.write([an_entry(i, a_ranking(f"r{i}"))])

    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_DELETING, str(archive.folder)], check=False)

    assert killed.returncode == 9
    assert len(list(archive.folder.rglob("*.parquet"))) == 4
    assert ranking_ids(archive) == ["r0", "r1", "r2"]
    assert archive.compact("codesearch", HOUR).rows == 3
    assert ranking_ids(archive) == ["r0", "r1", "r2"]


def test_readers_see_every_row_once_while_hours_are_written_and_merged(archive: Archive) -> None:
    written = 0
    ended = threading.Event()
    surprises: list[tuple[int, list[str]]] = []

    def read() -> None:
        while not ended.is_set():
            least = written
            seen = ranking_ids(archive)
            if len(set(seen)) != len(seen) or len(seen) < least:
                surprises.append((least, seen))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(40):
        archive.write([an_entry(i, a_ranking(f"r{i:02}"))])
        written = i + 1
        if i % 4 == 3:
            archive.compact("codesearch", HOUR)
    ended.set()
    for reader in readers:
        reader.join()

    assert surprises == []
    assert len(ranking_ids(archive)) == 40


def test_two_compactions_at_once_lose_nothing(archive: Archive) -> None:
    for i in range(20):
        archive.write([an_entry(i, a_ranking(f"r{i:02}"))])

    compactions = [threading.Thread(target=archive.compact, args=("codesearch", HOUR)) for _ in range(4)]
    for compaction in compactions:
        compaction.start()
    for compaction in compactions:
        compaction.join()

    assert len(ranking_ids(archive)) == 20


def test_a_file_of_an_older_version_is_read_with_nulls_for_what_it_lacks(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("new"))])
    old: pa.Table = rankings_table([a_ranking("old")]).drop_columns(["trace_id"])
    pq.write_table(old, small_files(archive)[0].with_name("0-0-0-0-old.parquet"))

    traces = archive.rankings("codesearch", NOW_MS, UNTIL_MS, ["ranking_id", "trace_id"]).to_pylist()

    assert traces == [{"ranking_id": "new", "trace_id": ""}, {"ranking_id": "old", "trace_id": None}]


def test_a_damaged_file_is_named(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("r1"))])
    (file,) = small_files(archive)
    file.write_bytes(file.read_bytes()[:-20])

    with pytest.raises(DataRefused, match=file.name):
        ranking_ids(archive)


def test_a_fingerprint_is_the_same_until_a_file_of_its_hours_is_another(archive: Archive) -> None:
    archive.write([an_entry(1, a_ranking("r1"), a_click("c1"))])
    first = archive.fingerprint("codesearch", NOW_MS, UNTIL_MS)

    archive.write([an_entry(2, a_ranking("later", answered_ms=UNTIL_MS)), an_entry(3, a_mirror())])
    assert archive.fingerprint("codesearch", NOW_MS, UNTIL_MS) == first
    assert archive.fingerprint("other", NOW_MS, UNTIL_MS) != first
    archive.write([an_entry(4, a_click("c2", ranking_id="r1"))])
    second = archive.fingerprint("codesearch", NOW_MS, UNTIL_MS)
    archive.compact("codesearch", HOUR)
    assert len({first, second, archive.fingerprint("codesearch", NOW_MS, UNTIL_MS)}) == 3


def test_repeats_are_looked_for_as_far_back_as_asked(archive: Archive) -> None:
    again_ms = UNTIL_MS + 1000
    archive.write([an_entry(1, a_click("c1"))])
    archive.write([an_entry(2, a_click("c1", received_ms=again_ms))])

    assert len(archive.feedback("codesearch", UNTIL_MS, UNTIL_MS + HOUR_MS)) == 0
    assert len(archive.feedback("codesearch", UNTIL_MS, UNTIL_MS + HOUR_MS, repeats_ms=0)) == 1


def test_feedback_by_the_hour_is_the_feedback_each_event_once(archive: Archive) -> None:
    rng = np.random.default_rng(5)
    sent = [int(at) for at in rng.integers(-20, 30, 300)]
    clicks = [a_click(f"c{i % 150}", received_ms=NOW_MS + at * HOUR_MS // 4 + i) for i, at in enumerate(sent)]
    for number in range(0, 300, 50):
        archive.write([an_entry(number, *clicks[number : number + 50])])
    archive.compact("codesearch", HOUR)
    columns = ["event_id", "received_ms"]
    since_ms, until_ms = NOW_MS + 1000, NOW_MS + 5 * HOUR_MS + 1000

    hours = dict(archive.feedback_by_hour("codesearch", since_ms, until_ms, columns))

    whole = archive.feedback("codesearch", since_ms, until_ms, columns)
    assert len(whole) > 20
    assert pa.concat_tables(hours.values()).to_pylist() == whole.to_pylist()
    assert list(hours) == archive.hours("codesearch", since_ms, until_ms)
    for start_ms, events in hours.items():
        assert all(start_ms <= at_ms < start_ms + HOUR_MS for at_ms in events["received_ms"].to_pylist())
