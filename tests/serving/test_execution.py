"""A batch through its version: what one request brings in stays with it."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.execution import start_batch
from serving.loaded import LoadedProgram
from serving.program import TorchProgram
from serving.tensor_batch import spoilt
from serving.tensor_frames import InferredReply, InferRequest
from serving.tensors import Tensor
from tests.builders import NOW_MS
from tests.models import COLUMNS, UNGUARDED, a_ranker
from tests.serving.rankers import Workbench
from tests.serving.workbench import MATCH, POISON, SumOfFeatures, a_loaded_model, a_request


def a_listwise_program() -> LoadedProgram:
    """Attention that one NaN spoils for every list of its batch."""
    package = a_ranker(UNGUARDED)
    manifest = package.manifest
    program = TorchProgram(package, "cpu")
    return LoadedProgram(
        model="lists", version=1, digest="", program=program, inputs=manifest.inputs, outputs=manifest.outputs
    )


def a_list(number: int, features: NDArray[np.float32]) -> InferRequest:
    index = np.zeros(len(features), dtype=np.int64)
    inputs = [Tensor.of("features", "FP32", features), Tensor.of("query_index", "INT64", index)]
    return InferRequest(number, 0, inputs, 1, 60_000_000)


def scores_of(loaded: LoadedProgram, *requests: InferRequest) -> list[NDArray[np.float32]]:
    replies = start_batch(loaded, requests, [0.0] * len(requests), NOW_MS).finish()
    assert [reply.number for reply in replies] == [request.number for request in requests]
    scores = []
    for reply in replies:
        assert isinstance(reply, InferredReply)
        [(_, tensor)] = reply.outputs
        scores.append(tensor.array())
    return scores


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_infinities_in_one_requests_tensors_do_not_reach_anothers_outputs(value: float) -> None:
    loaded = a_listwise_program()
    good = np.random.default_rng(4).standard_normal((5, COLUMNS), dtype=np.float32)
    bad = good.copy()
    bad[2, 0] = value
    [alone] = scores_of(loaded, a_list(1, good))

    counted = loaded.statistics.success.count
    before, spoilt_itself, after = scores_of(loaded, a_list(1, good), a_list(2, bad), a_list(3, good))

    assert not np.isfinite(spoilt_itself).all()
    assert loaded.statistics.success.count - counted == 3
    np.testing.assert_allclose(before, alone, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after, alone, rtol=1e-5, atol=1e-5)


def test_who_brings_infinities_gets_them_and_each_is_counted_once() -> None:
    loaded = a_listwise_program()
    bad = np.full((3, COLUMNS), np.inf, dtype=np.float32)

    for scores in scores_of(loaded, a_list(1, bad), a_list(2, bad)):
        assert not np.isfinite(scores).any()
    assert (loaded.statistics.success.count, sorted(loaded.statistics.batches)) == (2, [1])


def test_only_a_listwise_model_in_company_can_have_spoilt_anything() -> None:
    listwise = a_listwise_program()
    pointwise = LoadedProgram(model="m", version=1, digest="", program=listwise.program)
    bf16 = Tensor("scores", "BF16", (2,), np.array([0x3F80, 0x7F80], dtype="<u2").tobytes())
    sound = Tensor("scores", "BF16", (2,), np.array([0x3F80, 0xBF80], dtype="<u2").tobytes())
    names = Tensor.of("names", "BYTES", np.array([b"x"], dtype=object))

    assert spoilt(listwise, [[bf16], [sound], [names]]) == [True, False, False]
    assert spoilt(listwise, [[bf16]]) == [False]
    assert spoilt(pointwise, [[bf16], [sound]]) == [False, False]


def test_what_the_answers_took_is_counted_for_both_forms_of_ranking() -> None:
    bench = Workbench("mlp")
    on_device = replace(bench.loaded, ranker=bench.ranker)
    requests = [a_request(["item-1", "item-2"], number=1), a_request(["item-3"], number=2)]

    for loaded in (bench.loaded, on_device):
        start_batch(loaded, requests, [5.0, 7.0], NOW_MS).finish()

        counted = loaded.statistics
        assert (counted.success.count, counted.answer.count, counted.batches[2].answer.count) == (2, 2, 1)
        assert counted.answer.ns == 2 * counted.batches[2].answer.ns > 0
        assert counted.success.ns == sum(
            spent.ns for spent in (counted.queue, counted.gather, counted.device, counted.answer)
        )


def test_a_ranking_that_fails_is_counted_as_failed() -> None:
    loaded = a_loaded_model(SumOfFeatures())
    good = a_request(["item-1"], number=1)
    poison = a_request(["item-2"], in_candidates={MATCH: [POISON]}, number=2)

    start_batch(loaded, [good, poison], [0.0, 0.0], NOW_MS).finish()

    assert (loaded.statistics.success.count, loaded.statistics.failed.count) == (1, 1)
