"""A data plane of our own for benches: the real supervisor and processes, on one core, one model."""

import contextlib
import io
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy import lifecycle, wiring
from deploy.client import GatewayClient
from deploy.settings import PlatformSettings
from deploy.state import PlatformState
from registry.artefacts import strip_sample_inputs, write
from registry.board import RedisBoard
from registry.contracts.features import Column, FeatureView
from registry.contracts.manifest import JUDGED_NDCG, Lineage, ModelManifest, ModelPackage, TensorSpec
from registry.contracts.profile import ReferenceProfile, describe
from registry.contracts.traffic import TrafficPlan
from serving.features.materialiser import write_rows

COLUMNS = 136
HIDDEN = (512, 256, 128)
READY_WITHIN_S = 60.0


def ltr_package(model: str, seed: int, null: bool = False) -> ModelPackage:
    """The peers' model: an MLP 136 > 512 > 256 > 128 > 1 over stored columns, with random weights.

    null: no forward pass, the first column is the score; what serving costs when an accelerator
    does the arithmetic.
    """
    import torch

    torch.manual_seed(seed)
    widths = (COLUMNS, *HIDDEN)
    layers: list[torch.nn.Module] = []
    for wide, narrow in itertools.pairwise(widths):
        layers += [torch.nn.Linear(wide, narrow), torch.nn.ReLU()]

    class Ranker(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], 1))

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = features if null else self.layers(features)
            return scores[:, 0].clone()

    rows = torch.export.Dim("rows", min=1)
    exported = torch.export.export(Ranker().eval(), (torch.zeros(4, COLUMNS),), dynamic_shapes={"features": {0: rows}})
    archive = io.BytesIO()
    torch.export.save(exported, archive)
    view = FeatureView(model, "item", tuple(Column(f"f{i}") for i in range(COLUMNS)))
    flat = np.zeros(1)
    manifest = ModelManifest(
        model=model,
        inputs=(TensorSpec("features", "FP32", (-1, COLUMNS)),),
        outputs=(TensorSpec("scores", "FP32", (-1,)),),
        view=view.to_json(),
        fingerprint=view.fingerprint,
        metric=JUDGED_NDCG,
        metrics={},
        lineage=Lineage(dataset="random weights", dataset_digest="", seed=seed),
        created_ms=time.time_ns() // 1_000_000,
    )
    profile = ReferenceProfile(
        fingerprint=view.fingerprint,
        population="none: a benchmark",
        lists=0,
        features=tuple(describe(column.name, flat) for column in view.columns),
        scores=describe("scores", flat),
        margin=describe("margin", flat),
        entropy=describe("entropy", flat),
    )
    return ModelPackage.of(strip_sample_inputs(archive.getvalue()), manifest, profile)


@contextlib.contextmanager
def data_plane(
    package: ModelPackage, items: Sequence[str], values: NDArray[np.float32], core: int
) -> Iterator[tuple[PlatformSettings, PlatformState]]:
    """Redis, archiver, worker and gateway on one core, serving the package over these rows."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as home:
        settings = PlatformSettings(
            home=Path(home), gateway_port=0, with_mlflow=False, with_celery=False, with_monitor=False
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
            _publish(settings, package, items, values)
            yield settings, state
        finally:
            supervisor.terminate()
            supervisor.wait()


def _publish(
    settings: PlatformSettings, package: ModelPackage, items: Sequence[str], values: NDArray[np.float32]
) -> None:
    model = package.manifest.model
    client = wiring.redis_client(settings)
    write_rows(client, package.manifest.feature_view(), items, values, time.time_ns() // 1_000_000, lambda _: None)
    write(package, settings.versions_folder / model / "1")
    RedisBoard(client).publish(TrafficPlan(model, revision=1, champion=1, champion_digest=package.digest))
    until_s = time.monotonic() + READY_WITHIN_S
    with GatewayClient(settings.gateway_url) as gateway:
        while not gateway.get("/v1/status")["ready"]:
            if time.monotonic() > until_s:
                raise TimeoutError(f"the model was not ready after {READY_WITHIN_S} s: see {settings.log_file}")
            time.sleep(0.05)
