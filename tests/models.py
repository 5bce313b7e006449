"""Real rankers of the kinds that people serve, exported as they are, for tests and benches.

Each is a torch module of its own kind: an MLP, deep & cross, attention over the list. Weights are
seeded and scaled so that scores spread over about one.
"""

import io
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from registry.artefacts import strip_sample_inputs
from registry.contracts.features import Column, FeatureView
from registry.contracts.manifest import ModelManifest, ModelPackage, TensorSpec
from registry.contracts.profile import ReferenceProfile, describe, no_profile
from tests.builders import a_manifest

COLUMNS = 24


class Mlp(nn.Module):
    """Pointwise. widths: of the hidden layers."""

    def __init__(self, columns: int, widths: tuple[int, ...] = (64, 32)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(columns, width), nn.ReLU()]
            columns = width
        self.layers = nn.Sequential(*layers, nn.Linear(columns, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(features).squeeze(-1)
        return scores


class DeepAndCross(nn.Module):
    """Pointwise; explicit feature crosses beside an MLP, with the standardisation inside.

    Source: Wang et al., "DCN V2", WWW 2021, the parallel form.
    """

    def __init__(self, columns: int, crosses: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1, 1, columns))
        self.crosses = nn.ModuleList(nn.Linear(columns, columns) for _ in range(crosses))
        self.deep = nn.Sequential(nn.Linear(columns, 64), nn.ReLU(inplace=True), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(columns + 32, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        first = torch.nan_to_num(features) - self.mean
        crossed = first
        for cross in self.crosses:
            crossed = first * cross(crossed) + crossed
        scores: torch.Tensor = self.head(torch.cat([crossed, self.deep(first)], dim=1)).squeeze(-1)
        return scores


class ListAttention(nn.Module):
    """Listwise: a row attends to the rows of its own list, told by query_index, and to no others.

    Lists are ragged: all rows of a batch are one sequence under a block-diagonal mask. Values of
    other lists are multiplied by an exact zero, so a list with NaN or infinity would spoil the
    batch: what is not finite is cut off before.
    """

    def __init__(self, columns: int, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Linear(columns, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        self.scale = width**-0.5

    def forward(self, features: torch.Tensor, query_index: torch.Tensor) -> torch.Tensor:
        rows = torch.relu(self.enter(torch.nan_to_num(features, posinf=0.0, neginf=0.0).clamp(-1e4, 1e4)))
        attention = self.query(rows) @ self.key(rows).T * self.scale
        elsewhere = query_index.unsqueeze(1) != query_index.unsqueeze(0)
        weights = torch.softmax(attention.masked_fill(elsewhere, float("-inf")), dim=1)
        scores: torch.Tensor = self.head(rows + weights @ self.value(rows)).squeeze(-1)
        return scores


class UnguardedAttention(ListAttention):
    """As ListAttention, without the guard: one NaN spoils every list of the batch."""

    def forward(self, features: torch.Tensor, query_index: torch.Tensor) -> torch.Tensor:
        rows = torch.relu(self.enter(features))
        attention = self.query(rows) @ self.key(rows).T * self.scale
        elsewhere = query_index.unsqueeze(1) != query_index.unsqueeze(0)
        weights = torch.softmax(attention.masked_fill(elsewhere, float("-inf")), dim=1)
        scores: torch.Tensor = self.head(rows + weights @ self.value(rows)).squeeze(-1)
        return scores


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "mlp": Mlp,
    "deep_and_cross": DeepAndCross,
    "list_attention": ListAttention,
}
UNGUARDED = "unguarded_attention"
LTR = "ltr"
_MORE: dict[str, Callable[[int], nn.Module]] = {
    UNGUARDED: UnguardedAttention,
    LTR: lambda columns: Mlp(columns, (512, 256, 128)),  # the peers' model, see shared/BENCHMARKS.md
}


def model_view(columns: int = COLUMNS, stored: int | None = None) -> FeatureView:
    """Columns stored per item, but for those past `stored`, which come with each candidate."""
    stored = columns if stored is None else stored
    sources = ["row" if i < stored else "candidate" for i in range(columns)]
    return FeatureView("models", "item", tuple(Column(f"f{i}", sources[i]) for i in range(columns)))  # type: ignore[arg-type]


@cache
def a_ranker(kind: str, columns: int = COLUMNS, stored: int | None = None, seed: int = 7) -> ModelPackage:
    """A version of this kind over `model_view`, scores spread by about one over its profile's rows."""
    torch.manual_seed(seed)
    module = (KINDS | _MORE)[kind](columns).eval()
    listwise = isinstance(module, ListAttention)
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((2000, columns), dtype=np.float32))
    index = torch.arange(2000) // 100
    with torch.inference_mode():
        spread = float((module(rows, index) if listwise else module(rows)).std())
    with torch.no_grad():
        head = module.layers[-1] if isinstance(module, Mlp) else module.head[-1] if listwise else module.head  # type: ignore
        head.weight /= spread
        head.bias /= spread
    view = model_view(columns, stored)
    inputs = {"features": torch.zeros(4, columns)} | (
        {"query_index": torch.zeros(4, dtype=torch.int64)} if listwise else {}
    )
    specs = [TensorSpec("features", "FP32", (-1, columns))]
    specs += [TensorSpec("query_index", "INT64", (-1,))] if listwise else []
    program = exported(module, tuple(inputs.values()), {name: {0: torch.export.Dim("rows", min=1)} for name in inputs})
    manifest = a_manifest(view, model=kind, inputs=tuple(specs))
    return ModelPackage.of(program, manifest, _profile(view, rows.numpy()))


def tensor_package(
    program: bytes, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], **changes: Any
) -> ModelPackage:
    """A version that takes tensors and ranks nothing."""
    manifest: ModelManifest = a_manifest(model="tensors", inputs=inputs, outputs=outputs, **changes)
    viewless = msgspec.structs.replace(manifest, view={}, fingerprint="")
    return ModelPackage.of(program, viewless, no_profile())


def exported(module: nn.Module, inputs: tuple[Any, ...], dynamic_shapes: Any) -> bytes:
    """A program as our exporter writes it."""
    archive = io.BytesIO()
    torch.export.save(torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic_shapes), archive)
    return strip_sample_inputs(archive.getvalue())


def _profile(view: FeatureView, rows: np.ndarray[Any, np.dtype[np.float32]]) -> ReferenceProfile:
    nothing = describe("", np.zeros(1))
    return ReferenceProfile(
        fingerprint=view.fingerprint,
        population=f"{len(rows)} seeded normal rows",
        lists=len(rows) // 100,
        features=tuple(describe(column.name, rows[:, i]) for i, column in enumerate(view.columns)),
        scores=describe("scores", np.random.default_rng(0).standard_normal(1000)),
        margin=nothing,
        entropy=nothing,
    )
