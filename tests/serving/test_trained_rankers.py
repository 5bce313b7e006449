"""Rankers that our training makes, behind the worker's loading code: what it asks of a model, they keep."""

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipelines.settings import TrainSettings
from pipelines.training.export import export_package, offline_scores
from pipelines.training.train import TrainedRanker, fresh_ranker
from registry.artefacts import verify
from registry.contracts.manifest import Lineage, ModelPackage
from serving.device.opening import open_program
from serving.program import TorchProgram, warm_up
from tests.pipelines.judged_data import splits

TOLERANCE = {"fp32": 1e-5, "bf16": 2.0**-5}
KINDS = {
    "mlp": TrainSettings(hidden=(16, 8)),
    "attention": TrainSettings(ranker="attention", hidden=(16,), heads=2, blocks=2, quantiles=9),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
Lists = list[NDArray[np.float32]]


@cache
def package_of(kind: str) -> ModelPackage:
    torch.manual_seed(3)
    data = splits()
    model = fresh_ranker(data.train, KINDS[kind]).eval()
    return export_package(
        TrainedRanker(model, KINDS[kind], ()), data, "made-up", Lineage("made-up", data.train.digest), created_ms=0
    )


@cache
def program_of(kind: str, precision: str = "fp32") -> TorchProgram:
    """As a worker opens it."""
    return open_program(package_of(kind), "cpu", precision)


def some_lists(seed: int) -> Lists:
    """Rows as in the data, with values missing."""
    rng = np.random.default_rng(seed)
    lists = []
    for size in (1, 12, 60, 3, 100):
        rows = rng.normal(size=(size, 3)).astype(np.float32)
        rows[:, 0] = 130 + 30 * rows[:, 0]
        rows[::5, 1] = np.nan
        lists.append(rows)
    return lists


@EVERY_KIND
@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_list_scores_in_a_batch_as_it_does_alone(kind: str, precision: str) -> None:
    program = program_of(kind, precision)
    lists = some_lists(0)
    index = np.repeat(np.arange(len(lists)), [len(rows) for rows in lists])

    together = program.score(np.concatenate(lists), index)
    alone = np.concatenate([program.score(rows, np.zeros(len(rows), np.int64)) for rows in lists])

    np.testing.assert_allclose(together, alone, atol=TOLERANCE[precision], rtol=TOLERANCE[precision])


@EVERY_KIND
@pytest.mark.parametrize("value", [-1e30, 1e30, np.nan, np.inf, -np.inf])
def test_what_another_list_holds_changes_no_bit(kind: str, value: float) -> None:
    program = program_of(kind)
    lists = some_lists(1)
    index = np.repeat(np.arange(len(lists)), [len(rows) for rows in lists])
    moved = index == 2
    before = np.concatenate(lists)
    after = np.where(moved[:, np.newaxis], np.float32(value), before)

    scored = [program.score(rows, index)[~moved] for rows in (before, after)]

    assert scored[0].tobytes() == scored[1].tobytes()


@EVERY_KIND
def test_the_worker_scores_as_the_offline_figures_were_made(kind: str) -> None:
    data = splits().test
    program = program_of(kind)
    index = np.repeat(np.arange(len(data)), np.diff(data.offsets))

    np.testing.assert_allclose(
        program.score(data.features, index), offline_scores(package_of(kind), data), atol=1e-5, rtol=1e-5
    )


@EVERY_KIND
def test_a_version_is_verified_and_warms_up(kind: str) -> None:
    package = package_of(kind)
    manifest = verify(package, package.digest)

    warm_up(program_of(kind), columns=3)

    assert [spec.name for spec in manifest.inputs] == ["features", "query_index"][: 1 + (kind == "attention")]


def test_attention_looks_at_the_list_and_not_at_its_order() -> None:
    program = program_of("attention")
    rows = some_lists(2)[2]
    index = np.zeros(len(rows), np.int64)
    order = np.random.default_rng(0).permutation(len(rows))
    scores = program.score(rows, index)

    np.testing.assert_allclose(program.score(rows[order], index), scores[order], atol=1e-5)
    fewer = program.score(rows[:30], index[:30])
    assert np.abs(fewer - scores[:30]).max() > 1e-3
