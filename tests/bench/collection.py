"""What collecting a window costs: rankings a second and peak memory, by the length of the window.

    python -m tests.bench.collection [--rankings-an-hour 20000] [--columns 64] [--hours 2 8]

The archive is made of random features and clicks of the position-based model, 10 items a ranking, 5 % explored, and
thrown away. Each window is collected in a process of its own; memory is that process's peak (`ru_maxrss`).
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.archive.batch import HOUR_MS, hour_of
from pipelines.archive.files import Archive
from pipelines.archive.tables import FEEDBACK, RANKINGS, packed
from pipelines.feedback.collection import CollectionRules, collect
from pipelines.training.splits import TrainingRules, training_splits
from registry.contracts.features import Column, FeatureView
from tests.bench.load import hardware
from tests.builders import NOW_MS
from tests.pipelines.click_log import click_log

SHOWN, WITHIN_MS = 10, HOUR_MS


def view_of(columns: int) -> FeatureView:
    """So many columns, the first two sent with the query."""
    return FeatureView("bench", "item", tuple(Column(f"c{i}", "query" if i < 2 else "row") for i in range(columns)))


def write_hour(folder: Path, hour: int, rankings: int, columns: int) -> None:
    """One hour's rankings and their clicks, as a compacted archive has them."""
    rng = np.random.default_rng(hour)
    log = click_log(rankings, seed=hour, queries=2000, candidates=30, share=0.05)
    start_ms = NOW_MS + hour * HOUR_MS
    times = start_ms + np.sort(rng.integers(0, HOUR_MS, rankings))
    names = pa.array([f"{start_ms:x}{i:038x}" for i in range(rankings)])
    bounds = pa.array(np.arange(0, rankings * SHOWN + 1, SHOWN, dtype=np.int32))
    rows = rankings * SHOWN

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(bounds, values)

    wide = pa.array(np.arange(0, rows * columns + 1, SHOWN * columns, dtype=np.int32))
    items = pa.array([f"q{q}-{i}" for q, shown in zip(log.query_of, log.shown, strict=True) for i in shown])
    given = {
        "ranking_id": names,
        "answered_ms": pa.array(times),
        "version": pa.array(np.ones(rankings, np.int64)),
        "arm": pa.array(["champion"] * rankings),
        "unit": pa.array([f"user-{i}" for i in rng.integers(0, 200_000, rankings)]),
        "query_id": pa.array([f"q{q}" for q in log.query_of]),
        "candidates": pa.array(np.full(rankings, 100)),
        "items": lists(items),
        "scores": lists(pa.array(np.zeros(rows, np.float32))),
        "propensities": lists(pa.array(log.propensities.ravel().astype(np.float32))),
        "fingerprint": pa.array([view_of(columns).fingerprint] * rankings),
        "features": pa.ListArray.from_arrays(wide, pa.array(_features(log.query_of, columns, rng))),
        "explored": pa.array(log.explored),
    }
    table = pa.table([given.get(f.name, pa.nulls(rankings, f.type)) for f in RANKINGS], schema=RANKINGS)
    where = np.flatnonzero(log.clicks.ravel())
    received = times[where // SHOWN] + rng.integers(1000, HOUR_MS // 2, len(where))
    order = np.argsort(received)
    clicks = {
        "event_id": pa.array([f"{hour}-{i}" for i in where[order]]),
        "event": pa.array(["click"] * len(where)),
        "ranking_id": names.take(pa.array(where[order] // SHOWN)),
        "item": items.take(pa.array(where[order])),
        "position": pa.array(where[order] % SHOWN + 1),
        "received_ms": pa.array(received[order]),
        "simulated": pa.array(np.zeros(len(where), bool)),
    }
    heard = pa.table([clicks.get(f.name, pa.nulls(len(where), f.type)) for f in FEEDBACK], schema=FEEDBACK)
    for kind, written in (("rankings", packed(table)), ("feedback", heard)):
        place = folder / "model=codesearch" / f"hour={hour_of(start_ms)}" / f"kind={kind}"
        place.mkdir(parents=True)
        pq.write_table(written, place / "merged.parquet", compression="zstd")


def _features(query_of: np.ndarray, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Shape (lists * shown * columns,); the same in the first two columns for all items of a query."""
    found = rng.normal(size=(len(query_of), SHOWN, columns)).astype(np.float32)
    found[:, :, :2] = query_of[:, None, None]
    return found.ravel()


def collect_hours(folder: Path, hours: int, columns: int) -> None:
    """In this process: prints what collecting took, and a training set of 200,000 lists at most made of it."""
    started_s, cpu_s, until_ms = time.perf_counter(), time.process_time(), NOW_MS + hours * HOUR_MS
    window = collect(
        Archive(folder / "archive"),
        "codesearch",
        NOW_MS,
        until_ms,
        until_ms + WITHIN_MS,
        folder / f"hours-{hours}",
        CollectionRules(),
    )
    found = window.record
    spent_s, used_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {hours} | {found.lists} | {found.quality.clicks} | {found.bias.method} | {spent_s:.1f} | "
        f"{found.lists / spent_s:.0f} | {used_s / found.lists * 1e6:.0f} | {peak_mb:.0f} |",
        end=" ",
    )
    started_s = time.perf_counter()
    report = training_splits([window], view_of(columns), rules=TrainingRules(allow_biased=True)).report
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{report.before.lists + report.test.lists} | {time.perf_counter() - started_s:.1f} | {peak_mb:.0f} |")


def main() -> None:
    """Makes the archive, then collects each window in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rankings-an-hour", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--hours", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--collect", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.collect:
        collect_hours(given.collect, given.hours[0], given.columns)
        return
    print(f"{hardware()}, pyarrow {pa.__version__}, seed: the hour")
    print(f"{given.rankings_an_hour} rankings an hour, {SHOWN} shown, {given.columns} columns")
    print("| hours | lists | clicks | bias by | s | lists/s | CPU us a list | peak MB | lists to train | s | peak MB |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for hour in range(max(given.hours)):
            write_hour(folder / "archive", hour, given.rankings_an_hour, given.columns)
        for hours in given.hours:
            words = ["--collect", name, "--hours", str(hours), "--columns", str(given.columns)]
            subprocess.run([sys.executable, "-m", "tests.bench.collection", *words], check=True)


if __name__ == "__main__":
    main()
