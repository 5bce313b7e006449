"""Files that were ours before a crash, a full disk or somebody's editor: journals, snapshots, checkpoints, archives."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch

from deploy.features.ledger import LoadLedger, LoadMark
from drift.days.shift_watch import ShiftWatch, Watched
from drift.days.watch import KeptWatch, Place, Watches
from drift.days.watch import load as load_watches
from drift.errors import DriftError, UnreadableSketch
from drift.mirrors.monitor import MirrorMonitor
from drift.monitor import Monitor
from drift.settings import MonitorSettings, RankDiffSettings, RankLimits, Rule, ShiftSettings
from drift.sketches.heavy_hitters import HeavyHitters
from drift.sketches.quantiles import QuantileSketch
from drift.sketches.traffic import TrafficSketch
from drift.windows.hours import Hours
from drift.windows.reference import Reference
from drift.windows.reports import VerdictReports
from drift.windows.window import Window, WindowKey
from pipelines.archive.files import Archive
from pipelines.dataset import RankingDataset
from pipelines.errors import DataRefused
from pipelines.runs.steps import RESULT_FILE, find_done
from pipelines.training.checkpoint import Checkpoint
from pipelines.training.checkpoint import read as read_checkpoint
from registry.board import MemoryBoard
from registry.contracts.events import Event, encode_event, join_events
from registry.stream import MemoryStream, StreamEntry
from serving.errors import RankingError
from serving.journal import Journal
from serving.plans import PlanWatcher
from serving.regions import Regions
from tests.builders import NOW_MS, a_click, a_mirror, a_plan, a_ranking, a_run, a_view, an_exposure
from tests.drift.mirrored import mirrors
from tests.drift.traffic import PROFILE, rankings
from tests.fuzz.target import READ, Check, Opens, Target, pure, refusal
from tests.pipelines.judged_data import judged

RULES = {"window_s": 10.0, "lateness_s": 2.0, "save_every_s": 5.0, "entries_a_read": 64}
MONITOR = MonitorSettings(Rule(min_lists=2), **RULES)  # type: ignore[arg-type]
RANK_DIFF = RankDiffSettings(RankLimits(min_lists=2), **RULES)  # type: ignore[arg-type]


def _of_file(name: str, read: Callable[[Path], str]) -> Opens:
    """Opens a check of a parser that takes a file. read: the file with the input in it."""

    @contextmanager
    def opens(folder: Path) -> Iterator[Check]:
        path = folder / name

        def check(data: bytes) -> str:
            path.write_bytes(data)
            return read(path)

        yield check

    return opens


# serving


def _journal(path: Path) -> str:
    """Whatever the file holds, a journal opens, gives what it can, takes more, and has that when it opens again."""
    with Journal(path, 4096) as journal:
        there = journal.peek(10_000, 1 << 20)
        assert len(there) == journal.backlog
        assert 0 <= journal.backlog_bytes <= journal.capacity_bytes
        journal.release(len(there))
        assert journal.backlog == 0
        payload = b"x" * min(200, (journal.capacity_bytes - 16) // 8 * 8)
        journal.append(payload)
    with Journal(path, 4096) as journal:
        assert journal.peek(10, 1 << 20) == [payload]
    return READ


def _journal_seeds(folder: Path) -> list[bytes]:
    path = folder / "seed"
    seeds = []
    for rounds in (1, 9):
        with Journal(path, 2048) as journal:
            for number in range(rounds):
                journal.append(b"entry %d" % number * (number + 1))
                journal.append(b"another" * 20)
                if number % 2:
                    journal.release(3)
        seeds.append(path.read_bytes())
        path.unlink()
    return seeds


def _plans_copy(path: Path) -> str:
    watcher = PlanWatcher(MemoryBoard(), path, lambda plans: None)
    found = watcher._read_copy()
    assert all(plan.assign("u") for plan in found.values())
    return READ if found else "starts without"


def _regions_book(path: Path) -> str:
    """A damaged book is taken for empty, or as it is; what it names is refused or read."""
    regions = Regions(path, path.parent / "shm")
    try:
        known = regions.status()
        for region in known:
            try:
                regions.slice("input", region.name, 0, 8).read()
            except RankingError as error:
                refusal(error)
        regions.register("again", "/there", 0, 8)
        assert any(region.name == "again" for region in regions.status())
    finally:
        regions.close()
    return READ if known else "taken for empty"


@contextmanager
def _opened_regions(folder: Path) -> Iterator[Check]:
    (folder / "shm").mkdir()
    (folder / "shm" / "there").write_bytes(bytes(64))
    with _of_file("book", _regions_book)(folder) as check:
        yield check


def _books(folder: Path) -> list[bytes]:
    """With a region in it, and with none."""
    (folder / "shm").mkdir()
    (folder / "shm" / "there").write_bytes(bytes(64))
    regions = Regions(folder / "book", folder / "shm")
    regions.register("r", "/there", 0, 8)
    seeds = [(folder / "book").read_bytes()]
    regions.unregister()
    regions.close()
    return [*seeds, (folder / "book").read_bytes()]


# drift


def _entries(events: list[Event], an_entry: int = 8) -> list[bytes]:
    return [
        join_events([encode_event(one) for one in events[at : at + an_entry]]) for at in range(0, len(events), an_entry)
    ]


def _monitor(folder: Path, stream: MemoryStream) -> Monitor:
    reports = VerdictReports(folder / "reports")
    clock = lambda: NOW_MS / 1000 + 15.0  # noqa: E731
    return Monitor(
        stream.reader("monitor", "monitor-0"),
        lambda model, version: PROFILE,
        reports.write,
        MONITOR,
        folder / "snapshot",
        clock,
    )


def _mirror_monitor(folder: Path, stream: MemoryStream) -> MirrorMonitor:
    clock = lambda: NOW_MS / 1000 + 15.0  # noqa: E731
    reader = stream.reader("rank-diff", "monitor-0")
    return MirrorMonitor(
        reader, lambda model, version: (0.0, 1.0), lambda diff: None, RANK_DIFF, folder / "snapshot", clock
    )


def _steps(monitor: Monitor | MirrorMonitor) -> None:
    while monitor.step(0.0):
        pass
    monitor.save()


@contextmanager
def _snapshots(
    folder: Path, makes: Callable[[Path, MemoryStream], Monitor | MirrorMonitor], events: list[Event]
) -> Iterator[Check]:
    """Whatever the snapshot's file holds, the monitor starts, watches and saves."""

    def check(data: bytes) -> str:
        (folder / "snapshot").write_bytes(data)
        stream = MemoryStream()
        stream.append(_entries(events))
        monitor = makes(folder, stream)
        known = len(monitor._windows)
        _steps(monitor)
        return READ if known else "starts empty"

    yield check


def _snapshot_seed(makes: Callable[[Path, MemoryStream], Monitor | MirrorMonitor], events: list[Event]) -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        stream = MemoryStream()
        stream.append(_entries(events))
        monitor = makes(Path(name), stream)
        while monitor.step(0.0):
            pass
        monitor.save()
        return [(Path(name) / "snapshot").read_bytes()]


@contextmanager
def _poisoned(folder: Path, makes: Callable[[Path, MemoryStream], Monitor | MirrorMonitor]) -> Iterator[Check]:
    """An entry of the stream, among good ones: the monitor counts what it can and writes nowhere else."""
    inside = folder / "inside"
    good = _entries([*rankings(3, 4, start_ms=NOW_MS), *mirrors(3, 4)])

    def check(data: bytes) -> str:
        inside.mkdir(exist_ok=True)
        (inside / "snapshot").unlink(missing_ok=True)
        stream = MemoryStream()
        stream.append([*good, data, *good])
        monitor = makes(inside, stream)
        _steps(monitor)
        _steps(makes(inside, stream))
        assert [path.name for path in folder.iterdir()] == ["inside"], list(folder.iterdir())
        return READ

    yield check


def _event_payloads() -> list[bytes]:
    mixed: list[Event] = [a_ranking(), a_click(), an_exposure(), a_mirror()]
    return [*_entries(mixed), *_entries(rankings(5, 3, start_ms=NOW_MS)), *_entries(mirrors(5, 3))]


def _watches(path: Path) -> str:
    try:
        found = load_watches(path)
    except DriftError as error:
        return refusal(error)
    for kept in found.watches:
        try:
            ShiftWatch.restore(
                kept.state, Watched(kept.state.names, ("mean",) * len(kept.state.names)), ShiftSettings()
            )
        except ValueError as error:
            refusal(error)
    return READ


def _watch_seed() -> bytes:
    watch = ShiftWatch(Watched(("a", "b"), ("mean", "mean")), ShiftSettings())
    place = Place("codesearch", "champion", 0, "features")
    return msgspec.msgpack.encode(Watches((KeptWatch(place, "0" * 16, watch.state(), None),)))


# pipelines


@contextmanager
def _archived(folder: Path) -> Iterator[Check]:
    """A payload in the archive: what is no event is set aside, the rest is read back, each once, and compacted."""
    number = 0

    def check(data: bytes) -> str:
        nonlocal number
        number += 1
        archive = Archive(folder / f"archive-{number % 4}")
        entries = [StreamEntry(f"{number}-0", data), StreamEntry(f"{number}-1", _good)]
        report = archive.write(entries)
        assert report.rankings >= 1
        assert report.feedback >= 1
        found = archive.rankings("codesearch", 0, 2 * NOW_MS)
        assert "r-good" in found["ranking_id"].to_pylist()
        if not number % 25:
            for model, hour in archive.uncompacted(2 * NOW_MS):
                archive.compact(model, hour)
        if not number % 100:
            _empty(archive.folder)
        return READ if not report.rejected else f"{min(report.rejected, 2)} rejected"

    yield check


_good = join_events([encode_event(a_ranking("r-good")), encode_event(a_click("c-good", "r-good"))])


def _empty(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


@contextmanager
def _archive_files(folder: Path) -> Iterator[Check]:
    """A damaged file of the archive is refused with its name, or read."""
    archive = Archive(folder / "archive")
    archive.write([StreamEntry("1-0", _good)])
    [path] = (folder / "archive").glob("model=*/hour=*/kind=rankings/*.parquet")

    def check(data: bytes) -> str:
        path.write_bytes(data)
        try:
            archive.rankings("codesearch", 0, 2 * NOW_MS)
        except DataRefused as error:
            return refusal(error)
        return READ

    yield check


def _archive_file_seeds(folder: Path) -> list[bytes]:
    archive = Archive(folder / "seed")
    archive.write([StreamEntry("1-0", _good)])
    [path] = (folder / "seed").glob("model=*/hour=*/kind=rankings/*.parquet")
    return [path.read_bytes()]


def _dataset(path: Path) -> str:
    try:
        found = RankingDataset.load(path)
    except DataRefused as error:
        return refusal(error)
    assert found.offsets[-1] == len(found.labels) == len(found.features)
    return READ


def _dataset_seeds(folder: Path) -> list[bytes]:
    judged("some", 3, seed=3).save(folder / "seed.parquet")
    return [(folder / "seed.parquet").read_bytes()]


def _checkpoint(path: Path) -> str:
    """A checkpoint that cannot be read is one that is not there."""
    return READ if read_checkpoint(path, "inputs") else "starts afresh"


def _checkpoint_seeds() -> list[bytes]:
    return [Checkpoint("inputs", {"epoch": 3}, {"w": torch.ones(3), "m": torch.zeros(2, 2)}).encode()]


def _ledger(path: Path) -> str:
    ledger = LoadLedger(path.parent, Path(__file__), a_view(), "item")
    ledger._file = path
    return READ if ledger.read() else "starts anew"


def _step(path: Path) -> str:
    run = a_run()
    folder = path.parent / run.id / run.steps[0].name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).write_bytes(path.read_bytes())
    return READ if find_done(path.parent, run, run.steps[0]) else "done again"


def _made_in_a_folder(make: Callable[[Path], list[bytes]]) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        import tempfile

        with tempfile.TemporaryDirectory() as name:
            return make(Path(name))

    return seeds


def _drift_window(start_ms: int) -> Window:
    window = Window(WindowKey(start_ms, start_ms + 300_000, "codesearch", 1, "champion"), Reference.of(PROFILE))
    window.absorb(rankings(5, 12))
    return window


def _sketch_seeds(*fields: str) -> list[bytes]:
    sketch = TrafficSketch(len(PROFILE.features), ())
    sketch.absorb(rankings(5, 40))
    return [getattr(sketch.state(), field) for field in fields]


def _sketch(decode: Callable[[bytes], QuantileSketch] | Callable[[bytes], HeavyHitters]) -> Check:
    """What is read can be asked, added up and written again."""

    def check(data: bytes) -> str:
        try:
            found, again = decode(data), decode(data)
        except UnreadableSketch as error:
            return refusal(error)
        if isinstance(found, QuantileSketch) and isinstance(again, QuantileSketch):
            found.quantiles([0.5])
            found.update(np.zeros((3, found.quantities), np.float32))
            decode(found.merge(again).encode())
        elif isinstance(found, HeavyHitters) and isinstance(again, HeavyHitters):
            found.update(["another"])
            found.merge(again).encode()
        return READ

    return check


@contextmanager
def _hours(folder: Path) -> Iterator[Check]:
    """Whatever the file of an hour holds, a window of the next week is held beside it, and the hour goes on."""

    def check(data: bytes) -> str:
        home = folder / "codesearch" / "hours" / "champion"
        home.mkdir(parents=True, exist_ok=True)
        for file in home.iterdir():
            file.unlink()
        hours, start_ms = Hours(folder), NOW_MS // 3_600_000 * 3_600_000
        (home / f"{start_ms:014}-1.msgpack").write_bytes(data)
        found = hours.beside(_drift_window(start_ms + 7 * 86_400_000))
        hours.add(_drift_window(start_ms + 300_000))
        return READ if found else "not known"

    yield check


def _hour_seeds(folder: Path) -> list[bytes]:
    Hours(folder).add(_drift_window(NOW_MS // 3_600_000 * 3_600_000))
    return [file.read_bytes() for file in folder.rglob("*.msgpack")]


def targets() -> list[Target]:
    """What is read from disks, and what comes from the stream to be written there."""
    few: list[Event] = list(rankings(3, 12, start_ms=NOW_MS, every_ms=1000))
    mirrored: list[Event] = list(mirrors(3, 12, every_ms=1000))
    return [
        Target("disk.journal", _of_file("journal", _journal), _made_in_a_folder(_journal_seeds), share=0.3),
        Target(
            "disk.plans_copy",
            _of_file("plans", _plans_copy),
            lambda: [msgspec.json.encode({"codesearch": a_plan()})],
            "json",
            0.1,
        ),
        Target("disk.regions_book", _opened_regions, _made_in_a_folder(_books), share=0.2),
        Target(
            "disk.drift_snapshot",
            partial(_snapshots, makes=_monitor, events=few),
            lambda: _snapshot_seed(_monitor, few),
            "msgpack",
            0.05,
        ),
        Target(
            "disk.mirror_snapshot",
            partial(_snapshots, makes=_mirror_monitor, events=mirrored),
            lambda: _snapshot_seed(_mirror_monitor, mirrored),
            "msgpack",
            0.05,
        ),
        pure("disk.quantile_sketch", _sketch(QuantileSketch.decode), lambda: _sketch_seeds("rows", "lists"), share=0.3),
        pure("disk.heavy_hitters", _sketch(HeavyHitters.decode), lambda: _sketch_seeds("degraded"), "msgpack", 0.3),
        Target("disk.drift_hours", _hours, _made_in_a_folder(_hour_seeds), "msgpack", 0.1),
        Target("disk.watches", _of_file("watches", _watches), lambda: [_watch_seed()], "msgpack", 0.3),
        Target("disk.checkpoint", _of_file("checkpoint", _checkpoint), _checkpoint_seeds, "zip", 0.05),
        Target("disk.dataset", _of_file("data.parquet", _dataset), _made_in_a_folder(_dataset_seeds), share=0.1),
        Target("disk.archive_file", _archive_files, _made_in_a_folder(_archive_file_seeds), share=0.05),
        Target(
            "disk.load_mark",
            _of_file("mark.json", _ledger),
            lambda: [msgspec.json.encode(LoadMark(3, "item-3", NOW_MS))],
            "json",
            0.1,
        ),
        Target(
            "disk.run_step",
            _of_file("step.json", _step),
            lambda: [b'{"output": {"a": 1}, "outcome": "", "files": {}, "redone": 0}'],
            "json",
            0.1,
        ),
        Target("stream.archive", _archived, _event_payloads, "msgpack", 0.01),
        Target("stream.monitor", partial(_poisoned, makes=_monitor), _event_payloads, "msgpack", 0.05),
        Target("stream.mirror_monitor", partial(_poisoned, makes=_mirror_monitor), _event_payloads, "msgpack", 0.05),
    ]
