"""`python -m tests.bench.gpu`: candidates ranked per second on a device, latency, and the floor beside them.

In one call, without a network: the ceilings of the machine (copy bandwidth, matrix rate, the way in),
then for each precision and number of candidates a saturated run and an open-loop run at half of that
rate. A batch takes the way that a worker's batches take (`serving.device.ranker`): lookup in the
resident rows, one copy in, gather, forward pass, ranking, one copy out, two batches under way. No
gateway and no sockets: those are `tests.bench.rank_by_id`'s.

The floor of a batch is the larger of its bytes over the measured bandwidth and its operations over
the measured matrix rate. Bytes: weights once; a resident row, a cell and a score for each candidate.
Operations: two for each weight and candidate.

Needs torch, numpy, msgspec, xxhash, prometheus-client; not redis. `--device cpu` runs it small.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from registry.contracts.ids import hash64
from serving.device.precision import HALVES
from serving.device.ranker import DeviceBatch, DeviceRanker
from serving.device.streams import Device, Lane, open_device
from serving.features.device import DeviceTier
from serving.features.host import HostTier
from serving.features.memory import MemoryTier
from serving.frames import RankedReply, ScoreRequest
from serving.program import TorchProgram
from serving.scoring import LoadedModel, score_batch
from tests.models import LTR, a_ranker

COLUMNS = 136
TOP_K = 10
NOW_MS = 1_767_225_600_000
TOLERANCE = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 1e-1, "fp16": 2e-2}
"""Most that the best score of a right answer differs from the CPU's in float32, scores spreading by about 1."""
VERSIONS = ("torch", "numpy", "msgspec")


@dataclass(frozen=True, slots=True)
class Ceilings:
    """bytes_s: of device memory, read plus written. in_bytes_s: from pinned memory to the device.
    operations_s: of a large matrix product, by precision."""

    bytes_s: float
    in_bytes_s: float
    operations_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """queries, rows: ranked. elapsed_s: of the run. busy_s: in which the compute stream worked.
    host_us: of each batch, before it was enqueued. latencies_ms: of each query, from when it was due.
    wrong: answers that are not the CPU's."""

    queries: int
    rows: int
    batches: int
    elapsed_s: float
    busy_s: float
    host_us: list[float]
    latencies_ms: list[float]
    wrong: int


class Bench:
    """One version in one precision, its rows resident, and queries for it."""

    def __init__(self, device: Device, precision: str, items: int, largest: int, seed: int) -> None:
        package = a_ranker(LTR, COLUMNS, seed=seed)
        view = package.manifest.feature_view()
        values = np.random.default_rng(seed).standard_normal((items, COLUMNS), dtype=np.float32)
        self.items = [f"item-{i:07d}" for i in range(items)]
        store = MemoryTier(view, dict(zip(self.items, values, strict=True)), NOW_MS)
        host_tier = HostTier(view.name, store, 2 * items, view.defaults)
        tier = DeviceTier(view.name, host_tier, 2 * items, COLUMNS, device)
        loaded = LoadedModel(
            model=LTR,
            version=1,
            digest="",
            program=TorchProgram(package, "cpu"),
            view=view,
            tier=host_tier,
            reference_std=1.0,
        )
        self.lane = Lane.of(device)
        self._loaded = loaded
        program = TorchProgram(package, str(device.torch_device), precision)
        graphs = device.torch_device.type != "cpu"  # there is nothing to save there, and padding costs
        self.ranker = DeviceRanker(loaded, program, tier, self.lane, largest, graphs)
        for start in range(0, items, largest):
            self.ranker.submit([request_for(self.items[start : start + largest], 0)], [0.0], NOW_MS).replies()

    def queries(self, candidates: int, count: int, seed: int) -> list[ScoreRequest]:
        """Distinct items each, popular ones more often (Zipf 1.0)."""
        rng = np.random.default_rng(seed)
        weights = 1 / np.arange(1, len(self.items) + 1)
        weights /= weights.sum()
        chosen = [rng.choice(len(self.items), candidates, replace=False, p=weights) for _ in range(count)]
        return [request_for([self.items[i] for i in places], number) for number, places in enumerate(chosen)]

    def best_scores(self, queries: Sequence[ScoreRequest]) -> list[float]:
        """The CPU's, in float32."""
        best = []
        for query in queries:
            [reply] = score_batch(self._loaded, [query], [0.0], NOW_MS)
            assert isinstance(reply, RankedReply)
            best.append(float(reply.scores[0]))
        return best


def request_for(items: Sequence[str], number: int) -> ScoreRequest:
    """A query by id; every column is stored."""
    return ScoreRequest(
        number=number,
        slot=0,
        top_k=TOP_K,
        deadline_us=60_000_000,
        hashes=np.array([hash64(item) for item in items], dtype=np.uint64),
        ids="\x00".join(items).encode(),
        query_columns=np.empty(0, dtype=np.uint16),
        query_values=np.empty(0, dtype=np.float32),
        candidate_columns=np.empty(0, dtype=np.uint16),
        candidate_values=np.empty((0, len(items)), dtype=np.float32),
    )


def run(
    bench: Bench,
    queries: Sequence[ScoreRequest],
    best: Sequence[float],
    tolerance: float,
    batch_rows: int,
    due_s: Sequence[float] | None,
    seconds: float,
) -> Run:
    """Takes what is due, up to batch_rows at once, submits it, then answers the batch before.

    due_s: when each query arrives, ascending, counted from the start; None: there is always a full batch.
    """
    a_batch = max(1, batch_rows // queries[0].candidates)
    took = Run(0, 0, 0, 0.0, 0.0, [], [], 0)
    busy_us, wrong, done, rows, batches = 0.0, 0, 0, 0, 0
    under_way: tuple[DeviceBatch, list[int]] | None = None
    arrived = taken = 0
    began_s = time.perf_counter()

    def finish() -> None:
        nonlocal busy_us, wrong, done, rows, batches
        assert under_way is not None
        batch, numbers = under_way
        replies = batch.replies()
        now_s = time.perf_counter() - began_s
        took.host_us.append(batch.features_us)
        batches += 1
        for number, reply in zip(numbers, replies, strict=True):
            right = isinstance(reply, RankedReply) and abs(reply.scores[0] - best[number % len(best)]) <= tolerance
            wrong += not right
            done += 1
            rows += queries[number % len(queries)].candidates
            if due_s is not None:
                took.latencies_ms.append((now_s - due_s[number]) * 1000)
        first = replies[0]
        busy_us += first.device_us if isinstance(first, RankedReply) else 0.0

    while True:
        now_s = time.perf_counter() - began_s
        if due_s is None:
            arrived = taken + a_batch if now_s < seconds else taken
        else:
            while arrived < len(due_s) and due_s[arrived] <= now_s:
                arrived += 1
        numbers = list(range(taken, min(arrived, taken + a_batch)))
        if numbers:
            taken += len(numbers)
            chosen = [queries[number % len(queries)] for number in numbers]
            started = (bench.ranker.submit(chosen, [0.0] * len(chosen), NOW_MS), numbers)
            if under_way is not None:
                finish()
            under_way = started
        elif under_way is not None:
            finish()
            under_way = None
        elif due_s is None or taken == len(due_s):
            break
    elapsed_s = time.perf_counter() - began_s
    return Run(done, rows, batches, elapsed_s, busy_us / 1e6, took.host_us, took.latencies_ms, wrong)


def timed_s(lane: Lane, work: Callable[[], Any], repeats: int = 10) -> float:
    """Median seconds of the work on the compute stream, after three for warming up."""
    spans = []
    for repeat in range(repeats + 3):
        before = lane.compute.record()
        lane.compute.run(work)
        after = lane.compute.record()
        after.wait()
        if repeat >= 3:
            spans.append(after.us_since(before) / 1e6)
    return float(np.median(spans))


def ceilings(lane: Lane, precisions: Sequence[str], large: bool) -> Ceilings:
    """What this machine reaches with torch's own copy and matrix product, on random data."""
    device = lane.device
    size = (1 << 30) if large else (1 << 26)
    source, sink = (device.empty((size // 4,), torch.float32) for _ in range(2))
    source.normal_()
    staged = device.pinned(size // 4)
    on_device = device.empty((size // 4,), torch.uint8)
    device.settle()
    bytes_s = 2 * size / timed_s(lane, lambda: sink.copy_(source))
    in_bytes_s = len(staged) / timed_s(lane, lambda: on_device.copy_(staged, non_blocking=True))
    side = 8192 if large else 1024
    operations_s = {}
    for precision in precisions:
        dtype = HALVES.get(precision, torch.float32)
        a, b = (torch.randn(side, side, device=device.torch_device).to(dtype) for _ in range(2))
        device.settle()
        before = torch.backends.cuda.matmul.fp32_precision
        if device.torch_device.type == "cuda":
            torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        operations_s[precision] = 2 * side**3 / timed_s(lane, lambda a=a, b=b: torch.matmul(a, b))
        torch.backends.cuda.matmul.fp32_precision = before
    return Ceilings(bytes_s, in_bytes_s, operations_s)


def floor_s(rows: int, weights: int, precision: str, reached: Ceilings) -> tuple[float, str]:
    """Least seconds of a batch of so many rows, and which of the two it is that takes them."""
    weight_bytes = weights * (2 if precision in HALVES else 4)
    by_bytes = (weight_bytes + rows * (4 * COLUMNS + 4 + 4)) / reached.bytes_s
    by_operations = 2 * weights * rows / reached.operations_s[precision]
    return max((by_bytes, "bytes"), (by_operations, "operations"))


def hardware(device: torch.device) -> str:
    """The device in words, and the host beside it."""
    told = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    host = f"{len(os.sched_getaffinity(0))} cores of {model}"
    if device.type == "cpu":
        return f"CPU ONLY, no GPU: {host}, torch on {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}; host: {host}"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--precisions", nargs="+", default=None)
    parser.add_argument("--items", type=int, default=None, help="rows in the store, all resident")
    parser.add_argument("--batch", type=int, default=None, help="candidates in one forward pass")
    parser.add_argument("--seconds", type=float, default=None, help="of each run")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=None, help="write the table there too")
    told = parser.parse_args()
    large = not told.device.startswith("cpu")
    if not large:
        torch.set_num_threads(1)
    items = told.items or (200_000 if large else 20_000)
    batch = told.batch or (16_384 if large else 4096)
    seconds = told.seconds or (4.0 if large else 2.0)
    precisions = told.precisions or (["fp32", "tf32", "bf16"] if large else ["fp32"])
    device = open_device(told.device)
    lines = [f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC. {hardware(device.torch_device)}."]

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    print(lines[0])
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    say(f"Python {platform.python_version()}, {versions}; seed {told.seed}.")
    reached = ceilings(Lane.of(device), precisions, large)
    rates = ", ".join(f"{precision} {rate / 1e12:.3g} TFLOP/s" for precision, rate in reached.operations_s.items())
    say(
        f"Ceilings measured here: device memory {reached.bytes_s / 1e9:.0f} GB/s read + written, "
        f"in {reached.in_bytes_s / 1e9:.1f} GB/s; matrix products {rates}."
    )
    say(
        f"MLP {COLUMNS} > 512 > 256 > 128 > 1, {items} items all resident, Zipf 1.0, top_k {TOP_K}, "
        f"at most {batch} candidates a pass, {seconds:g} s a run.\n"
    )
    say(
        "| precision | candidates | ranked/s | floor/s | of the floor | device us/pass | floor us/pass | by "
        "| host us/pass | device busy | offered q/s | p50 ms | p99 ms | busy at 50 % | graphs | wrong |"
    )
    say("|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---|---:|")
    for precision in precisions:
        bench = Bench(device, precision, items, batch, told.seed)
        weights = sum(a * b for a, b in ((COLUMNS, 512), (512, 256), (256, 128), (128, 1)))
        for candidates in told.candidates:
            queries = bench.queries(candidates, max(8, min(256, 200_000 // candidates)), told.seed)
            best = bench.best_scores(queries)
            limits = (queries, best, TOLERANCE[precision], batch)
            run(bench, *limits, None, min(1.0, seconds))
            full = run(bench, *limits, None, seconds)
            rate = 0.5 * full.queries / full.elapsed_s
            source = random.Random(told.seed)
            due_s, at_s = [], 0.0
            while at_s < seconds:
                at_s += source.expovariate(rate)
                due_s.append(at_s)
            half = run(bench, *limits, due_s, seconds)
            rows = full.rows / full.batches
            least_s, by = floor_s(round(rows), weights, precision, reached)
            ranked_s = full.rows / full.elapsed_s
            share = ranked_s * least_s / rows
            p50, p99 = np.percentile(half.latencies_ms, [50, 99])
            say(
                f"| {precision} | {candidates} | {ranked_s:,.0f} | {rows / least_s:,.0f} | {share:.2f} "
                f"| {full.busy_s / full.batches * 1e6:.0f} | {least_s * 1e6:.0f} | {by} "
                f"| {np.median(full.host_us):.0f} | {full.busy_s / full.elapsed_s:.0%} | {rate:,.0f} "
                f"| {p50:.2f} | {p99:.2f} | {half.busy_s / half.elapsed_s:.0%} "
                f"| {'yes' if bench.ranker.forward.buckets else 'no'} | {full.wrong + half.wrong} |"
            )
    if told.out is not None:
        told.out.write_text("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
