"""Precisions below float32: kept where the ranking stays, given up loudly where it does not."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from registry.contracts.manifest import ModelPackage, TensorSpec
from serving.device.accuracy import LIST_ROWS, Tolerance, agreement, sample_rows
from serving.device.flat import load_flat
from serving.device.opening import accuracy_of, open_program
from serving.device.precision import in_float64
from serving.program import TorchProgram
from tests.builders import a_manifest, a_profile
from tests.models import COLUMNS, KINDS, Mlp, a_ranker, exported, model_view, tensor_package

ROWS = torch.export.Dim("rows", min=1)


class Cancelling(nn.Module):
    """Scores that are a small difference of large products: 16 bits leave nothing of them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 64, bias=False), nn.Linear(3, 64, bias=False)
        with torch.no_grad():
            self.down.weight.copy_(self.up.weight)
            self.down.weight[0] += 1e-4

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        shifted = features + 1000.0
        return (self.up(shifted) - self.down(shifted)).sum(dim=1)


def cancelling() -> ModelPackage:
    torch.manual_seed(1)
    return ModelPackage.of(exported(Cancelling(), (torch.zeros(4, 3),), ({0: ROWS},)), a_manifest(), a_profile())


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What serving logged: torch's exporter logs too."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("serving")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_sound_model_is_served_in_sixteen_bits(kind: str, precision: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        program = open_program(a_ranker(kind), "cpu", precision)

    assert program.precision == precision
    assert f"{kind} in {precision} against float64: error " in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bits_are_not_float32_and_float32_is_near_float64(kind: str) -> None:
    package = a_ranker(kind)

    errors = {p: accuracy_of(TorchProgram(package, "cpu", p), package).max_error_std for p in ("fp32", "fp16", "bf16")}

    assert errors["fp32"] < 1e-5 < 1e-4 < errors["fp16"] < errors["bf16"]


def test_a_model_that_sixteen_bits_would_reorder_is_served_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        program = open_program(cancelling(), "cpu", "bf16")

    assert program.precision == "fp32"
    [message] = told(caplog)
    assert message.startswith("codesearch is served in fp32 instead of bf16: error ")
    rows, index = np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32), np.zeros(5, dtype=np.int64)
    assert program.score(rows, index).tobytes() == TorchProgram(cancelling(), "cpu").score(rows, index).tobytes()


def test_preprocessing_keeps_float32_where_products_do_not() -> None:
    class Standardised(nn.Module):
        """Timestamps: in bfloat16 all of them would be the same number."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.layers = Mlp(3)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.layers((features - 1.7e6) / 10.0) * 10
            return scores

    package = ModelPackage.of(exported(Standardised(), (torch.zeros(4, 3),), ({0: ROWS},)), a_manifest(), a_profile())
    rows = np.random.default_rng(0).normal(1.7e6, 10.0, (200, 3)).astype(np.float32)
    index = np.zeros(200, dtype=np.int64)

    half = TorchProgram(package, "cpu", "bf16").score(rows, index)

    found = agreement(half, TorchProgram(package, "cpu").score(rows, index))
    assert found.max_error_std < 0.05
    assert found.kendall_tau > 0.98


def test_a_graph_that_names_float32_is_computed_in_float64_too() -> None:
    class Named(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features.to(torch.float32).sum(dim=1) + torch.zeros(features.shape[0], dtype=torch.float32)

    flat = load_flat(exported(Named(), (torch.zeros(4, 3),), ({0: ROWS},)), torch.device("cpu"))

    [scores] = in_float64(flat)(torch.tensor([[1.0, 1e-12, 0.0]], dtype=torch.float64))

    assert scores.dtype is torch.float64
    assert float(scores[0]) == 1.0 + 1e-12


def test_a_model_without_a_view_is_served_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    package = tensor_package(
        exported(Mlp(3), (torch.zeros(4, 3),), ({0: ROWS},)),
        (TensorSpec("features", "FP32", (-1, 3)),),
        (TensorSpec("y", "FP32", (-1,)),),
    )

    with caplog.at_level(logging.WARNING):
        program = open_program(package, "cpu", "fp16")

    assert program.precision == "fp32"
    assert told(caplog) == [
        "tensors is served in fp32 instead of fp16: it has no feature view to draw sample rows from"
    ]


@given(seed=st.integers(0, 2**32 - 1))
def test_scores_agree_with_themselves_and_disagree_turned_round(seed: int) -> None:
    scores = np.random.default_rng(seed).standard_normal(300)

    same, turned = agreement(scores, scores), agreement(-scores, scores)

    assert (same.max_error_std, same.kendall_tau, same.top_overlap) == (0.0, 1.0, 1.0)
    assert (turned.kendall_tau, turned.top_overlap) == (-1.0, 0.0)


def test_two_candidates_that_change_places_cost_a_pair() -> None:
    scores = np.arange(100.0)
    swapped = scores.copy()
    swapped[[0, 1]] = swapped[[1, 0]]

    assert agreement(swapped, scores).kendall_tau == pytest.approx(1 - 2 / (100 * 99 / 2))


def test_scores_that_are_not_finite_agree_with_nothing() -> None:
    scores = np.arange(100.0)
    broken = np.where(scores == 50, np.nan, scores)

    assert not Tolerance().holds(agreement(broken, scores))


def test_sample_rows_lie_where_the_profile_saw_them() -> None:
    profile = a_profile(model_view(5))

    rows = sample_rows(profile, 5, seed=3)

    assert rows.shape == (20 * LIST_ROWS, 5)
    for i, feature in enumerate(profile.features):
        column = rows[:, i]
        assert feature.minimum - 1e-6 <= column.min() and column.max() <= feature.maximum + 1e-6
        assert column.mean() == pytest.approx(feature.mean, abs=0.2)
    assert sample_rows(profile, 5, seed=3).tobytes() == rows.tobytes()


def test_a_profile_that_was_never_fitted_gives_normal_rows() -> None:
    package = tensor_package(b"", (), ())

    rows = sample_rows(package.profile, COLUMNS, seed=3)

    assert rows.shape[1] == COLUMNS
    assert (rows.mean(), rows.std()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
