"""Stage costs of this machine: a platform of its own in a temporary folder, a model that does nothing, and clients.

CPU time of each process, from /proc; what a clock says is not asked, so other work on the machine disturbs little. The
forward pass is the exported MLP's of the benches (columns > 512 > 256 > 128 > 1), alone, on one thread.
"""

import contextlib
import io
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.capacity.stages import Cost, StageCosts
from deploy.client import GatewayClient
from deploy.errors import NotReady
from deploy.machine import lifecycle
from deploy.machine.state import PlatformState
from deploy.machine.status import event_lag
from deploy.settings import PlatformSettings
from serving.tally import FLUSH_EVERY_S

if TYPE_CHECKING:
    import redis

    from registry.contracts.features import FeatureView
    from registry.contracts.manifest import ModelPackage

MODEL = "capacity"
HIDDEN = (512, 256, 128)
ITEMS = 20_000
FEW, MANY = 100, 1000
SHOWN = 10, 50
CLIENTS = 16
READY_WITHIN_S = 90.0
_TICKS_S = os.sysconf("SC_CLK_TCK")

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Load:
    """What a load came to. cpu_s: by kind of process, `worker` of all workers together. batch: queries in a worker's
    batch, on average."""

    queries: int
    cpu_s: dict[str, float]
    received_bytes: int
    batch: float

    def us(self, kind: str) -> float:
        """Of CPU for a query."""
        return self.cpu_s.get(kind, 0.0) / self.queries * 1e6


def measure(columns: int, seconds: float, seed: int, told: Told) -> StageCosts:
    """The profile. seconds: of each of the four loads. told: what is being done. Raises as a platform that does not
    start."""
    told("forward pass")
    forward = _forward(columns, seed, min(2.0, seconds))
    view, package = _package(columns, seed, null=True)
    with small_platform(package, view, ITEMS, seed) as (settings, state, client):
        loads = {}
        for candidates, shown in ((FEW, SHOWN[0]), (MANY, SHOWN[0]), (FEW, SHOWN[1])):
            told(f"{candidates} candidates, {shown} shown")
            load(settings, state, client, candidates, shown, 0.3 * seconds, seed)  # warms up
            loads[candidates, shown] = load(settings, state, client, candidates, shown, seconds, seed + 1)
        told(f"{FEW} candidates, one at a time")
        alone = load(settings, state, client, FEW, SHOWN[0], seconds, seed + 2, clients=1)
        told("rows from Redis")
        row_us = _row_us(state, client, view, seed)
        told("changed rows")
        changed_us = _changed_us(state, client, view, seed)
        folder = settings.archive_folder
        few, many, long = (loads[key] for key in ((FEW, SHOWN[0]), (MANY, SHOWN[0]), (FEW, SHOWN[1])))
        told("archive")
        kept_bytes = _archive_bytes(folder)
    event = Cost.through(SHOWN[0], few.received_bytes / few.queries, SHOWN[1], long.received_bytes / long.queries)

    def line(kind: str, turn: float = 0.0) -> Cost:
        return Cost.through(FEW, few.us(kind) - turn / few.batch, MANY, many.us(kind) - turn / many.batch)

    gateway_turn, worker_batch = (_of_a_batch(kind, alone, few) for kind in ("gateway", "worker"))
    share = kept_bytes / sum(event.of(shown) * one.queries * 1.3 for (_, shown), one in loads.items())
    return StageCosts(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        machine=f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        columns=columns,
        gateway=line("gateway", gateway_turn),
        gateway_turn=gateway_turn,
        worker=line("worker", worker_batch),
        worker_batch=worker_batch,
        forward=forward,
        archiver=line("archiver"),
        redis=line("redis"),
        monitor=Cost.through(SHOWN[0], few.us("monitor"), SHOWN[1], long.us("monitor")),
        redis_row=row_us,
        invalidation=changed_us,
        event=event,
        archive=Cost(event.fixed * share, event.per_candidate * share),
    )


def _of_a_batch(kind: str, alone: Load, together: Load) -> float:
    """Microseconds of each batch beside those of each query, of two loads of equal queries: one query in a batch, and
    several. A gateway gets the answers of a batch in one turn."""
    saved = 1 / alone.batch - 1 / together.batch
    fixed = max(0.0, (alone.us(kind) - together.us(kind)) / saved) if saved > 0.1 else 0.0
    return min(fixed, together.us(kind) * together.batch)


@contextlib.contextmanager
def small_platform(
    package: "ModelPackage", view: "FeatureView", items: int, seed: int, **told: int
) -> "Iterator[tuple[PlatformSettings, PlatformState, redis.Redis]]":
    """Redis, archiver, monitor, workers and gateways, which serve the package over random rows. told: settings, such as
    `workers`."""
    from deploy import wiring
    from registry.artefacts import write
    from registry.board import RedisBoard
    from registry.contracts.traffic import TrafficPlan
    from serving.features.materialiser import write_rows

    values = np.random.default_rng(seed).standard_normal((items, len(view.columns)), dtype=np.float32)
    with tempfile.TemporaryDirectory(prefix="sluice-capacity-") as home:
        settings = PlatformSettings(
            home=Path(home),
            gateway_port=0,
            grpc_port=0,
            with_mlflow=False,
            with_celery=False,
            with_controller=False,
            workers=told.get("workers", 1),
            gateways=told.get("gateways", 1),
        )
        supervisor = lifecycle.launch(settings, attached=True)
        try:
            lifecycle.wait_until_ready(settings, supervisor, READY_WITHIN_S, lambda _: None)
            settings, state = lifecycle.running(settings)
            client = wiring.redis_client(settings)
            write_rows(client, view, _names(items), values, time.time_ns() // 1_000_000, lambda _: None)
            write(package, settings.versions_folder / MODEL / "1")
            RedisBoard(client).publish(TrafficPlan(MODEL, revision=1, champion=1, champion_digest=package.digest))
            _wait_until_served(settings)
            yield settings, state, client
        finally:
            supervisor.terminate()
            supervisor.wait()


def load(
    settings: PlatformSettings,
    state: PlatformState,
    client: "redis.Redis",
    candidates: int,
    shown: int,
    seconds: float,
    seed: int,
    clients: int = CLIENTS,
) -> Load:
    """A closed loop of clients for so long; every answer is looked at. Raises as `GatewayClient.post`, and NotReady if
    one is not whole."""
    scored = _batches(settings)
    before, received = _cpu_by_kind(state), _received_bytes(client)
    until_s = time.monotonic() + seconds

    def ask(number: int) -> int:
        rng = np.random.default_rng([seed, number])
        weights = 1 / np.arange(1, ITEMS + 1)
        weights /= weights.sum()
        lists = [rng.choice(ITEMS, candidates, replace=False, p=weights) for _ in range(20)]
        done = 0
        with GatewayClient.of(settings) as gateway:
            while time.monotonic() < until_s:
                body = {
                    "unit": f"u{number}-{done}",
                    "query": {"id": f"q{number}-{done}"},
                    "candidates": [f"item-{place:07d}" for place in lists[done % len(lists)].tolist()],
                    "top_k": shown,
                    "deadline_ms": 30_000,
                }
                answer = gateway.post(f"/v1/models/{MODEL}/rank", body)
                if len(answer["items"]) != shown or answer["degraded"]:
                    raise NotReady(f"an answer was degraded: {answer['degraded']}", "sluice capacity --measure, again")
                done += 1
        return done

    with ThreadPoolExecutor(clients) as pool:
        queries = sum(pool.map(ask, range(clients)))
    wait_until_read(client)
    after = _cpu_by_kind(state)
    used = {kind: after[kind] - before[kind] for kind in after}
    batches = _batches(settings) - scored
    return Load(max(queries, 1), used, _received_bytes(client) - received, max(1.0, queries / max(batches, 1)))


def mlp(columns: int, seed: int) -> "tuple[FeatureView, ModelPackage]":
    """The benches' model over so many stored columns."""
    return _package(columns, seed, null=False)


def mlp_program(columns: int, seed: int, null: bool) -> bytes:
    """An MLP columns > 512 > 256 > 128 > 1 with random weights, exported.

    null: no forward pass, the first column is the score; what serving costs when an accelerator does the arithmetic.
    """
    import torch

    from registry.artefacts import strip_sample_inputs

    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for wide, narrow in itertools.pairwise((columns, *HIDDEN)):
        layers += [torch.nn.Linear(wide, narrow), torch.nn.ReLU()]

    class Ranker(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], 1))

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = features if null else self.layers(features)
            return scores[:, 0].clone()

    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(Ranker().eval(), (torch.zeros(4, columns),), dynamic_shapes={"features": {0: rows}})
    torch.export.save(program, archive := io.BytesIO())
    return strip_sample_inputs(archive.getvalue())


def _package(columns: int, seed: int, null: bool) -> "tuple[FeatureView, ModelPackage]":
    from registry.contracts.features import Column, FeatureView
    from registry.contracts.manifest import JUDGED_NDCG, Lineage, ModelManifest, ModelPackage, TensorSpec
    from registry.contracts.profile import ReferenceProfile, describe

    view = FeatureView(MODEL, "item", tuple(Column(f"f{place}") for place in range(columns)))
    flat = np.zeros(1)
    profile = ReferenceProfile(
        fingerprint=view.fingerprint,
        population="none: costs are measured",
        lists=0,
        features=tuple(describe(column.name, flat) for column in view.columns),
        scores=describe("scores", flat),
        margin=describe("margin", flat),
        entropy=describe("entropy", flat),
    )
    manifest = ModelManifest(
        model=MODEL,
        inputs=(TensorSpec("features", "FP32", (-1, columns)),),
        outputs=(TensorSpec("scores", "FP32", (-1,)),),
        view=view.to_json(),
        fingerprint=view.fingerprint,
        metric=JUDGED_NDCG,
        metrics={},
        lineage=Lineage(dataset="random weights", dataset_digest="", seed=seed),
        created_ms=time.time_ns() // 1_000_000,
    )
    return view, ModelPackage.of(mlp_program(columns, seed, null), manifest, profile)


def _forward(columns: int, seed: int, seconds: float) -> Cost:
    """Median CPU microseconds of the thread: fixed, and by row."""
    import torch

    from serving.program import TorchProgram, warm_up

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        program = TorchProgram(_package(columns, seed, null=False)[1], "cpu")
        warm_up(program, columns)
        found = {}
        for rows in (FEW, MANY):
            matrix = np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)
            index = np.zeros(rows, dtype=np.int64)
            took: list[float] = []
            until_s = time.perf_counter() + seconds
            while len(took) < 5 or time.perf_counter() < until_s:
                began_s = time.thread_time()
                program.score(matrix, index)
                took.append(time.thread_time() - began_s)
            found[rows] = statistics.median(took) * 1e6
        return Cost.through(FEW, found[FEW], MANY, found[MANY])
    finally:
        torch.set_num_threads(threads)


def _row_us(state: PlatformState, client: "redis.Redis", view: "FeatureView", seed: int) -> float:
    """Redis' CPU for a row that is asked for, 100 at a time."""
    from registry.contracts.features import row_key

    rng = np.random.default_rng(seed)
    before, asked = _cpu_by_kind(state)["redis"], 0
    while asked < 100_000:
        keys = [row_key(view, f"item-{place:07d}") for place in rng.integers(0, ITEMS, FEW).tolist()]
        asked += sum(row is not None for row in client.mget(keys))
    return (_cpu_by_kind(state)["redis"] - before) / asked * 1e6


def _changed_us(state: PlatformState, client: "redis.Redis", view: "FeatureView", seed: int) -> float:
    """A worker's CPU for a row that somebody changed, less what it uses at rest."""
    from serving.features.materialiser import write_rows

    rested_s, began_s = _cpu_by_kind(state)["worker"], time.monotonic()
    until_s = began_s + 2.0
    while time.monotonic() < until_s:
        client.ping()
    rest = (_cpu_by_kind(state)["worker"] - rested_s) / (time.monotonic() - began_s)
    before_s, began_s, rounds = _cpu_by_kind(state)["worker"], time.monotonic(), 3
    values = np.random.default_rng(seed).standard_normal((ITEMS, len(view.columns)), dtype=np.float32)
    for _ in range(rounds):
        write_rows(client, view, _names(ITEMS), values, time.time_ns() // 1_000_000, lambda _: None)
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        client.ping()  # what is still on its way
    used_s = _cpu_by_kind(state)["worker"] - before_s - rest * (time.monotonic() - began_s)
    return max(0.0, used_s / (rounds * ITEMS) * 1e6)


def _cpu_by_kind(state: PlatformState) -> dict[str, float]:
    """Seconds of CPU so far; replicas of one kind together."""
    found: dict[str, float] = {}
    for process in state.processes:
        if process.pid:
            kind = process.name.rstrip("0123456789").rstrip("-")
            fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            found[kind] = found.get(kind, 0.0) + (int(fields[11]) + int(fields[12])) / _TICKS_S
    return found


def _received_bytes(client: "redis.Redis") -> int:
    return int(client.info("stats")["total_net_input_bytes"])


def wait_until_read(client: "redis.Redis") -> None:
    """Until archiver and monitor have nothing left of the stream: they are behind while the core is full, and their
    CPU belongs to the load. Raises TimeoutError."""
    until_s = time.monotonic() + READY_WITHIN_S
    while any(one["pending"] or one["lag_s"] for one in event_lag(client, time.time_ns() // 1_000_000).values()):
        if time.monotonic() > until_s:
            raise TimeoutError(f"events were not read within {READY_WITHIN_S:g} s: see the archiver's log")
        time.sleep(0.05)


def _batches(settings: PlatformSettings) -> int:
    """Of the model so far, once the worker has told of all: it does so a few times a second while that is news."""
    seen = -1
    with GatewayClient.of(settings) as gateway:
        while True:
            told = gateway.get(f"/v2/models/{MODEL}/stats")["model_stats"]
            now = sum(int(version["execution_count"]) for version in told)
            if now == seen:
                return now
            seen = now
            time.sleep(2 * FLUSH_EVERY_S)


def _archive_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.parquet"))


def _wait_until_served(settings: PlatformSettings) -> None:
    until_s = time.monotonic() + READY_WITHIN_S
    with GatewayClient.of(settings) as gateway:
        while not ((seen := gateway.get("/v1/status"))["ready"] and MODEL in seen["plans"]):
            if time.monotonic() > until_s:
                raise NotReady(f"the model was not served after {READY_WITHIN_S:g} s", f"see {settings.log_file}")
            time.sleep(0.05)


def _names(items: int) -> Sequence[str]:
    return [f"item-{place:07d}" for place in range(items)]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
