"""What a program takes and gives, found by running it."""

from typing import Any

import pytest
import torch

from registry.contracts.manifest import TensorSpec
from serving.device.flat import UnfitProgram
from serving.program_signature import read_signature
from tests.builders import a_program
from tests.models import exported

ROWS = torch.export.Dim("rows", min=1)


class Two(torch.nn.Module):
    """Tokens and prices in, a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(7, 4)

    def forward(self, tokens: torch.Tensor, prices: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"vectors": self.table(tokens) * prices[:, None, None], "cheap": prices < 1}


class Centred(torch.nn.Module):
    """A row's answer depends on the other rows."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, 0] - features[:, 0].mean()


class Fixed(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.sum(dim=1)


class Picky(torch.nn.Module):
    """Runs only where somebody said what the values mean."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(3, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.table(features + 3)


def test_a_ranker_takes_any_number_of_rows():
    found = read_signature(a_program())

    assert found.inputs == (TensorSpec("features", "FP32", (-1, 3)),)
    assert found.outputs == (TensorSpec("output_0", "FP32", (-1,)),)
    assert found.batchable


def test_a_listwise_ranker_is_batchable_because_its_lists_are_kept_apart():
    found = read_signature(a_program(listwise=True))

    assert [spec.name for spec in found.inputs] == ["features", "query_index"]
    assert found.batchable


def test_several_tensors_of_any_type_are_found_with_their_names():
    inputs: tuple[Any, ...] = (torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3))
    words = torch.export.Dim("words", min=1)
    program = exported(Two(), inputs, {"tokens": {0: ROWS, 1: words}, "prices": {0: ROWS}})

    found = read_signature(program)

    assert found.inputs == (TensorSpec("tokens", "INT64", (-1, -1)), TensorSpec("prices", "FP32", (-1,)))
    assert found.outputs == (TensorSpec("vectors", "FP32", (-1, -1, 4)), TensorSpec("cheap", "BOOL", (-1,)))
    assert found.batchable


def test_rows_that_depend_on_each_other_are_not_batched():
    found = read_signature(exported(Centred(), (torch.zeros(3, 2),), {"features": {0: ROWS}}))

    assert found.outputs == (TensorSpec("output_0", "FP32", (-1,)),)
    assert not found.batchable


def test_a_program_of_one_size_is_not_batched():
    found = read_signature(exported(Fixed(), (torch.zeros(3, 2),), None))

    assert (found.inputs[0].shape, found.outputs[0].shape, found.batchable) == ((3, 2), (3,), False)


def test_a_program_that_does_not_run_is_refused_with_its_shapes():
    program = exported(Picky(), (torch.full((3,), -3),), {"features": {0: ROWS}})

    with pytest.raises(UnfitProgram, match=r"the program does not run on inputs of shapes \[\[2\]\]: "):
        read_signature(program)
