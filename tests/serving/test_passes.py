"""Passes: which rows a CPU takes together, and that it makes no difference but of time."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.manifest import TensorSpec
from serving.execution import start_batch
from serving.loaded import LoadedProgram
from serving.passes import SIZES, learn_pass, learn_score_pass, learn_tensor_pass, row_passes, sample_tensors
from serving.program import TorchProgram
from serving.scoring import score_batch
from serving.tensor_frames import InferredReply, InferRequest
from serving.tensors import Tensor
from tests.builders import NOW_MS, a_package
from tests.models import COLUMNS, KINDS, a_ranker
from tests.serving.workbench import LENGTHS, SumOfFeatures, a_loaded_model, a_request

COUNTS = st.lists(st.integers(1, 60), min_size=1, max_size=40)
SCATTER = 3e-6  # of one score in passes of different sizes, see `test_batched_equals_single`


class Machine:
    """A clock that a program of known cost moves."""

    def __init__(self, cost_s: Callable[[int], float]) -> None:
        self.now_s, self._cost_s, self.ran = 0.0, cost_s, 0

    def run(self, rows: int) -> None:
        self.ran += rows
        self.now_s += self._cost_s(rows)

    def clock(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("cost_s", "best"),
    [
        (lambda rows: 100e-6 + rows * (5e-6 if rows <= 512 else 6e-6), 512),  # out of the caches after 512
        (lambda rows: 10e-6 + rows * 5e-6 + rows**2 * 1e-8, 128),  # attention over all rows of a batch
        (lambda rows: rows * 5e-6, 128),  # all the same: whoever is first is answered first
        (lambda rows: 1e-3 + rows * 1e-7, 0),  # calls are what costs: the more together the better
    ],
)
def test_the_cheapest_row_says_how_many_go_together(cost_s: Callable[[int], float], best: int) -> None:
    machine = Machine(cost_s)

    assert learn_pass(machine.run, machine.clock) == best


def test_a_slow_model_is_not_measured_for_long() -> None:
    machine = Machine(lambda rows: rows * 1e-3)

    assert learn_pass(machine.run, machine.clock) == 0
    assert machine.ran == 4 * SIZES[0]


@given(COUNTS, st.integers(1, 100), st.booleans())
def test_every_row_is_in_one_pass_and_lists_stay_together_if_they_must(
    counts: list[int], most: int, listwise: bool
) -> None:
    passes = row_passes(counts, most, listwise)

    assert [row for one in passes for row in range(one.start, one.stop)] == list(range(sum(counts)))
    begins = {0, *np.cumsum(counts).tolist()}
    for one in passes:
        if listwise:
            assert {one.start, one.stop} <= begins
            assert one.stop - one.start <= most or one.stop - one.start in counts
        else:
            assert one.stop - one.start <= most


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_tensors_in_passes_gives_every_request_its_own_outputs(kind: str) -> None:
    package = a_ranker(kind)
    manifest, random = package.manifest, np.random.default_rng(3)
    sizes = [7, 30, 1, 50, 20, 20, 64]

    def scores(pass_rows: int) -> list[np.ndarray]:
        program = TorchProgram(package, "cpu")
        loaded = LoadedProgram(
            model=kind,
            version=1,
            digest="",
            program=program,
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            pass_rows=pass_rows,
        )
        requests = []
        for number, rows in enumerate(lists):
            tensors = {"features": Tensor.of("features", "FP32", rows)}
            tensors["query_index"] = Tensor.of("query_index", "INT64", np.zeros(len(rows), np.int64))
            requests.append(InferRequest(number, 0, [tensors[one.name] for one in manifest.inputs], 1, 60_000_000))
        replies = start_batch(loaded, requests, [0.0] * len(requests), NOW_MS).finish()
        assert [reply.number for reply in replies] == list(range(len(lists)))
        found = []
        for reply in replies:
            assert isinstance(reply, InferredReply)
            found.append(reply.outputs[0][1].array())
        return found

    lists = [random.standard_normal((rows, COLUMNS), dtype=np.float32) for rows in sizes]
    for together, apart in zip(scores(0), scores(50), strict=True):
        np.testing.assert_allclose(apart, together, rtol=SCATTER, atol=SCATTER)


def test_a_batch_of_rankings_in_passes_is_the_same_batch() -> None:
    names = list(LENGTHS)
    requests = [a_request(names[first : first + 30], number=first) for first in range(0, 300, 30)]
    whole, program = a_loaded_model(), SumOfFeatures()
    in_passes = a_loaded_model(program)
    in_passes.pass_rows = 70

    expected = score_batch(whole, requests, [0.0] * 10, NOW_MS)
    found = score_batch(in_passes, requests, [0.0] * 10, NOW_MS)

    assert program.batches == [2] * 5
    assert [one.scores.tolist() for one in found] == [one.scores.tolist() for one in expected]  # type: ignore[union-attr]
    assert [one.order.tolist() for one in found] == [one.order.tolist() for one in expected]  # type: ignore[union-attr]


def test_a_programs_inputs_are_made_up_only_if_they_say_what_a_row_is() -> None:
    rows = TensorSpec("features", "FP32", (-1, 3))
    made = sample_tensors([rows, TensorSpec("query_index", "INT64", (-1,)), TensorSpec("flag", "BOOL", (-1, 1))], 256)

    assert made is not None
    assert [tensor.shape for tensor in made] == [(256, 3), (256,), (256, 1)]
    assert made[1].array().tolist() == [row // 100 for row in range(256)]
    for unclear in (
        TensorSpec("text", "BYTES", (-1,)),
        TensorSpec("image", "FP32", (-1, -1)),
        TensorSpec("k", "INT64", ()),
    ):
        assert sample_tensors([rows, unclear], 256) is None


def test_real_programs_are_measured() -> None:
    package = a_package()

    assert learn_score_pass(TorchProgram(package, "cpu"), 3) in (0, *SIZES)
    assert learn_tensor_pass(TorchProgram(package, "cpu"), package.manifest) in (0, *SIZES)


def test_a_program_that_does_not_take_what_was_made_up_is_served_whole() -> None:
    class Picky(SumOfFeatures):
        def run(self, inputs: object, timeout_s: float | None = None) -> list[Tensor]:
            raise ValueError("not these")

    assert learn_tensor_pass(Picky(), a_package().manifest) == 0
