"""A data plane of our own for benches: the real supervisor and processes, on one core."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import wiring
from deploy.capacity.measuring import mlp_program
from deploy.client import GatewayClient
from deploy.machine import lifecycle
from deploy.machine.state import PlatformState
from deploy.settings import PlatformSettings
from registry.artefacts import write
from registry.board import RedisBoard
from registry.contracts.features import Column, FeatureView
from registry.contracts.manifest import JUDGED_NDCG, Lineage, ModelManifest, ModelPackage, TensorSpec
from registry.contracts.profile import ReferenceProfile, describe, no_profile
from registry.contracts.traffic import TrafficPlan
from serving.features.materialiser import write_rows

COLUMNS = 136
READY_WITHIN_S = 60.0


def ltr_program(seed: int, null: bool = False) -> bytes:
    """The peers' model: an MLP 136 > 512 > 256 > 128 > 1 with random weights, exported.

    null: no forward pass, the first column is the score; what serving costs when an accelerator
    does the arithmetic.
    """
    return mlp_program(COLUMNS, seed, null)


def ltr_package(model: str, seed: int, null: bool = False) -> ModelPackage:
    """`ltr_program` as a ranker over stored columns."""
    view = FeatureView(model, "item", tuple(Column(f"f{i}") for i in range(COLUMNS)))
    flat = np.zeros(1)
    profile = ReferenceProfile(
        fingerprint=view.fingerprint,
        population="none: a benchmark",
        lists=0,
        features=tuple(describe(column.name, flat) for column in view.columns),
        scores=describe("scores", flat),
        margin=describe("margin", flat),
        entropy=describe("entropy", flat),
    )
    return ModelPackage.of(ltr_program(seed, null), _manifest(model, seed, view), profile)


def tensors_package(model: str, seed: int, null: bool = False) -> ModelPackage:
    """`ltr_program` as a model that takes tensors only."""
    return ModelPackage.of(ltr_program(seed, null), _manifest(model, seed, None), no_profile())


def _manifest(model: str, seed: int, view: FeatureView | None) -> ModelManifest:
    return ModelManifest(
        model=model,
        inputs=(TensorSpec("features", "FP32", (-1, COLUMNS)),),
        outputs=(TensorSpec("scores", "FP32", (-1,)),),
        view=view.to_json() if view else {},
        fingerprint=view.fingerprint if view else "",
        metric=JUDGED_NDCG,
        metrics={},
        lineage=Lineage(dataset="random weights", dataset_digest="", seed=seed),
        created_ms=time.time_ns() // 1_000_000,
    )


@contextlib.contextmanager
def data_plane(
    packages: Sequence[ModelPackage],
    core: int,
    items: Sequence[str] = (),
    values: NDArray[np.float32] | None = None,
    **told: Any,
) -> Iterator[tuple[PlatformSettings, PlatformState]]:
    """Redis, archiver, worker and gateway on one core, serving the packages, rankers over these rows.

    told: platform settings beside the usual ones.
    """
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as home:
        settings = PlatformSettings(
            home=Path(home),
            gateway_port=0,
            grpc_port=0,
            with_mlflow=False,
            with_celery=False,
            **{"with_monitor": False} | told,
        )
        everywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})
        try:
            supervisor = lifecycle.launch(settings, attached=True)
        finally:
            os.sched_setaffinity(0, everywhere)
        try:
            lifecycle.wait_until_ready(settings, supervisor, READY_WITHIN_S, lambda _: None)
            settings, state = lifecycle.running(settings)
            _publish(settings, packages, items, values)
            yield settings, state
        finally:
            supervisor.terminate()
            supervisor.wait()


def platform_pids(state: PlatformState) -> list[int]:
    """Every process of the platform, the supervisor too."""
    return [state.supervisor_pid, *(process.pid for process in state.processes if process.pid)]


def _publish(
    settings: PlatformSettings,
    packages: Sequence[ModelPackage],
    items: Sequence[str],
    values: NDArray[np.float32] | None,
) -> None:
    client = wiring.redis_client(settings)
    for package in packages:
        manifest = package.manifest
        if manifest.ranks and values is not None:
            write_rows(client, manifest.feature_view(), items, values, time.time_ns() // 1_000_000, lambda _: None)
        write(package, settings.versions_folder / manifest.model / "1")
        plan = TrafficPlan(manifest.model, revision=1, champion=1, champion_digest=package.digest)
        RedisBoard(client).publish(plan)
    until_s = time.monotonic() + READY_WITHIN_S
    with GatewayClient.of(settings) as gateway:
        models = {package.manifest.model for package in packages}
        while not ((seen := gateway.get("/v1/status"))["ready"] and models <= seen["plans"].keys()):
            if time.monotonic() > until_s:
                raise TimeoutError(f"the model was not ready after {READY_WITHIN_S} s: see {settings.log_file}")
            time.sleep(0.05)
