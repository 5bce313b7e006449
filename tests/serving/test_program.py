"""Any exported program behind tensors: every datatype, scalars, dictionaries, text, and clear refusals."""

import io
import logging
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from registry.contracts.manifest import ModelPackage, TensorSpec
from serving.device.flat import UnfitProgram
from serving.device.tensors import TORCH_DTYPES, UnfitResult
from serving.errors import QueryRefused
from serving.program import TorchProgram
from serving.tensors import DATATYPES, DTYPES, Tensor, join_bytes
from tests.models import KINDS, a_ranker, exported, tensor_package

ROWS = torch.export.Dim("rows", min=0)


class Module(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self._function(*inputs)


class Text(nn.Module):
    """Text in capitals, reversed padding and all: BYTES in, BYTES and its length out."""

    def forward(self, text: torch.Tensor, text_lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        lower = (text >= 97) & (text <= 122)
        capitals = torch.where(lower, text - 32, text)
        return {"length": text_lengths, "capitals": capitals, "capitals_lengths": text_lengths}


@cache
def text_program() -> TorchProgram:
    longest = torch.export.Dim("longest", min=1)
    program = exported(
        Text(),
        (torch.zeros(3, 5, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        {"text": {0: ROWS, 1: longest}, "text_lengths": {0: ROWS}},
    )
    outputs = (TensorSpec("capitals", "BYTES", (-1,)), TensorSpec("length", "INT64", (-1,)))
    return TorchProgram(tensor_package(program, (TensorSpec("text", "BYTES", (-1,)),), outputs), "cpu")


def program_over(
    module: nn.Module,
    inputs: dict[str, tuple[str, tuple[int, ...]]],
    outputs: dict[str, tuple[str, tuple[int, ...]]],
) -> TorchProgram:
    """By name: datatype and manifest shape; -1 in dimension 0 is `rows`."""
    sample = tuple(
        torch.zeros([4 if size < 0 else size for size in shape], dtype=TORCH_DTYPES[datatype])
        for datatype, shape in inputs.values()
    )
    dynamic = tuple({0: ROWS} if shape and shape[0] < 0 else {} for _, shape in inputs.values())
    return TorchProgram(
        tensor_package(
            exported(module, sample, (dynamic,)),
            tuple(TensorSpec(name, *spec) for name, spec in inputs.items()),
            tuple(TensorSpec(name, *spec) for name, spec in outputs.items()),
        ),
        "cpu",
    )


def some_values(datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Any bits but those of a NaN, whose payload need not survive."""
    dtype = DTYPES[datatype]
    random = np.random.default_rng(7)
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return random.random(shape) < 0.5
    if datatype == "BF16":
        return (random.standard_normal(shape).astype("<f4").view("<u4") >> 16).astype("<u2")
    information = np.iinfo(dtype)
    return random.integers(information.min, information.max, shape, dtype=dtype, endpoint=True)


@cache
def echo(datatype: str) -> TorchProgram:
    return program_over(
        Module(lambda x: (x.clone(), torch.cat([x, x]))),
        {"x": (datatype, (-1, 3))},
        {"same": (datatype, (-1, 3)), "twice": (datatype, (-1, 3))},
    )


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BYTES"])
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_every_datatype_comes_back_bit_for_bit(datatype: str, rows: int) -> None:
    values = some_values(datatype, (rows, 3))

    same, twice = echo(datatype).run([Tensor.of("x", datatype, values)])

    assert (same.name, same.datatype, same.shape) == ("same", datatype, (rows, 3))
    assert bytes(same.data) == values.tobytes()
    assert twice.shape == (2 * rows, 3)
    assert bytes(twice.data) == values.tobytes() * 2


@given(
    texts=st.lists(st.binary(max_size=12), max_size=6),
)
def test_text_goes_through_a_program_and_comes_back(texts: list[bytes]) -> None:
    capitals, length = text_program().run([Tensor("text", "BYTES", (len(texts),), join_bytes(texts))])

    assert capitals.array().tolist() == [text.upper() for text in texts]
    assert length.array().tolist() == [len(text) for text in texts]


def test_text_of_several_dimensions_keeps_its_shape() -> None:
    longest = torch.export.Dim("longest", min=1)
    program = TorchProgram(
        tensor_package(
            exported(
                Module(lambda text, lengths: (text.clone(), lengths.clone())),
                (torch.zeros(2, 2, 5, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.int64)),
                (({0: ROWS, 2: longest}, {0: ROWS}),),
            ),
            (TensorSpec("text", "BYTES", (-1, 2)),),
            (TensorSpec("same", "BYTES", (-1, 2)),),
        ),
        "cpu",
    )
    data = join_bytes([b"a", b"", b"ccc", b"dd"])

    [same] = program.run([Tensor("text", "BYTES", (2, 2), data)])

    assert (same.shape, bytes(same.data)) == ((2, 2), data)


def test_a_program_that_lies_about_the_length_of_text_is_named() -> None:
    program = TorchProgram(
        tensor_package(
            exported(
                Module(lambda text, lengths: (text.clone(), lengths + 9)),
                (torch.zeros(3, 5, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
                (({0: ROWS}, {0: ROWS}),),
            ),
            (TensorSpec("text", "BYTES", (-1,)),),
            (TensorSpec("out", "BYTES", (-1,)),),
        ),
        "cpu",
    )

    with pytest.raises(UnfitResult, match="output 'out': a length is not within 0 to 5"):
        program.run([Tensor("text", "BYTES", (1,), join_bytes([b"abcde"]))])


def test_a_scalar_goes_in_and_comes_out() -> None:
    program = program_over(
        Module(lambda x, factor: (x * factor, x.sum())),
        {"x": ("FP32", (-1,)), "factor": ("FP32", ())},
        {"scaled": ("FP32", (-1,)), "total": ("FP32", ())},
    )

    scaled, total = program.run(
        [
            Tensor.of("x", "FP32", np.array([1, 2], np.float32)),
            Tensor.of("factor", "FP32", np.array(3, np.float32)),
        ]
    )

    assert scaled.array().tolist() == [3.0, 6.0]
    assert (total.shape, float(total.array())) == ((), 3.0)


def test_inputs_and_outputs_are_matched_by_name_where_names_agree() -> None:
    class Named(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"less": left - right, "more": left + right}

    program = exported(Named(), (torch.zeros(2), torch.zeros(2)), {"left": {0: ROWS}, "right": {0: ROWS}})
    specs = {name: TensorSpec(name, "FP32", (-1,)) for name in ("left", "right", "less", "more")}
    package = tensor_package(program, (specs["right"], specs["left"]), (specs["more"], specs["less"]))

    more, less = TorchProgram(package, "cpu").run(
        [Tensor.of("right", "FP32", np.float32([1])), Tensor.of("left", "FP32", np.float32([5]))]
    )

    assert (more.name, float(more.array()[0])) == ("more", 6.0)
    assert (less.name, float(less.array()[0])) == ("less", 4.0)


def test_an_output_out_of_order_is_put_in_order() -> None:
    program = program_over(Module(lambda x: x.T), {"x": ("INT32", (-1, 3))}, {"y": ("INT32", (3, -1))})
    values = np.arange(6, dtype=np.int32).reshape(2, 3)

    [turned] = program.run([Tensor.of("x", "INT32", values)])

    np.testing.assert_array_equal(turned.array(), values.T)


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_data_may_start_anywhere_in_a_body(offset: int) -> None:
    values = np.arange(6, dtype="<f8").reshape(2, 3)
    body = bytes(offset) + values.tobytes()

    same, _ = echo("FP64").run([Tensor("x", "FP64", (2, 3), memoryview(body)[offset:])])

    np.testing.assert_array_equal(same.array(), values)


def test_an_input_is_not_copied_and_not_written_to() -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.view(-1), x.mul_(2)

    program = TorchProgram(
        tensor_package(
            exported(InPlace(), (torch.zeros(4),), {"x": {0: ROWS}}),
            (TensorSpec("x", "FP32", (-1,)),),
            (TensorSpec("before", "FP32", (-1,)), TensorSpec("after", "FP32", (-1,))),
        ),
        "cpu",
    )
    data = np.array([1, 2, 3], dtype=np.float32).tobytes()

    _, after = program.run([Tensor("x", "FP32", (3,), data)])

    assert after.array().tolist() == [2.0, 4.0, 6.0]
    assert np.frombuffer(data, np.float32).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ([(2, 4), (2,)], "input 'features': shape [2, 4], expected 3 in dimension 1"),
        ([(2,), (2,)], "input 'features': shape [2], expected 2 dimensions"),
        (
            [(2, 3), (1,)],
            "input 'weights': shape [1], expected 2 in dimension 0, as many as input 'features' has",
        ),
    ],
)
def test_shapes_that_the_program_cannot_take_are_refused_by_name(shapes: list[tuple[int, ...]], told: str) -> None:
    program = program_over(
        Module(lambda features, weights: features.sum(dim=1) * weights),
        {"features": ("FP32", (-1, 3)), "weights": ("FP32", (-1,))},
        {"y": ("FP32", (-1,))},
    )
    given = zip(("features", "weights"), shapes, strict=True)

    with pytest.raises(QueryRefused) as refused:
        program.run([Tensor.of(name, "FP32", np.zeros(shape, np.float32)) for name, shape in given])

    assert str(refused.value) == told


def test_a_limit_of_the_exporter_is_a_limit_of_the_model() -> None:
    few = torch.export.Dim("few", min=4, max=6)
    program = TorchProgram(
        tensor_package(
            exported(Module(lambda x: x + 1), (torch.zeros(5),), (({0: few},),)),
            (TensorSpec("x", "FP32", (-1,)),),
            (TensorSpec("y", "FP32", (-1,)),),
        ),
        "cpu",
    )

    with pytest.raises(QueryRefused, match=r"input 'x': shape \[7\], expected 4 to 6 in dimension 0"):
        program.run([Tensor.of("x", "FP32", np.zeros(7, np.float32))])


def test_a_program_that_remembers_is_not_served() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.add_(1)
            return x + self.seen

    package = tensor_package(
        exported(Counter(), (torch.zeros(2),), {"x": {0: ROWS}}),
        (TensorSpec("x", "FP32", (-1,)),),
        (TensorSpec("y", "FP32", (-1,)),),
    )

    with pytest.raises(UnfitProgram, match="writes to its buffer 'seen'"):
        TorchProgram(package, "cpu")


@pytest.mark.parametrize(
    ("inputs", "outputs", "told"),
    [
        ({"x": "FP32", "z": "FP32"}, {"y": "FP32"}, "the program has 1 inputs, its manifest 2 (x, z"),
        ({"x": "FP32"}, {}, "the program has 1 outputs, its manifest 0"),
        ({"x": "INT64"}, {"y": "FP32"}, "input 'x': the program takes torch.float32, its manifest says torch.int64"),
        ({"x": "FP32"}, {"y": "FP64"}, "output 'y': the program gives torch.float32, its manifest says torch.float64"),
        ({"x": "BYTES"}, {"y": "FP32"}, "the program has 1 inputs, its manifest 2 (x, x_lengths"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_at_load(
    inputs: dict[str, str], outputs: dict[str, str], told: str
) -> None:
    package = tensor_package(
        exported(Module(lambda x: x + 1), (torch.zeros(2),), (({0: ROWS},),)),
        tuple(TensorSpec(name, datatype, (-1,)) for name, datatype in inputs.items()),
        tuple(TensorSpec(name, datatype, (-1,)) for name, datatype in outputs.items()),
    )

    with pytest.raises(UnfitProgram) as refused:
        TorchProgram(package, "cpu")

    assert told in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flat_program_computes_what_the_exported_module_computes(kind: str) -> None:

    package: ModelPackage = a_ranker(kind)
    module = torch.export.load(io.BytesIO(package.program)).module()
    rows = torch.randn(33, 24, generator=torch.Generator().manual_seed(3))
    index = torch.arange(33) // 10

    scores = TorchProgram(package, "cpu").score(rows.numpy(), index.numpy())

    with torch.inference_mode():
        expected = module(rows, index) if kind == "list_attention" else module(rows)
    assert scores.tobytes() == expected.numpy().tobytes()


def test_compiling_that_fails_is_told_and_the_version_is_served_as_exported(caplog: pytest.LogCaptureFixture) -> None:
    plain = TorchProgram(a_ranker("mlp"), "cpu", "bf16")
    rows, index = np.random.default_rng(1).standard_normal((9, 24), dtype=np.float32), np.zeros(9, dtype=np.int64)

    with caplog.at_level(logging.WARNING):
        program = TorchProgram(a_ranker("mlp"), "cpu", "bf16", compile="aoti")

    assert caplog.messages == [
        "mlp: compile=aoti failed, it is served as exported: aoti compiles float32 alone, not bf16: ask for compile"
    ]
    assert program.score(rows, index).tobytes() == plain.score(rows, index).tobytes()


@pytest.mark.slow
def test_a_program_compiled_ahead_of_time_scores_alike(caplog: pytest.LogCaptureFixture) -> None:
    plain = TorchProgram(a_ranker("mlp"), "cpu")
    rows, index = np.random.default_rng(1).standard_normal((9, 24), dtype=np.float32), np.zeros(9, dtype=np.int64)

    with caplog.at_level(logging.WARNING):
        program = TorchProgram(a_ranker("mlp"), "cpu", compile="aoti")

    # a machine without a compiler serves it as exported, and says so; torch traces its own work, too
    told = [record.getMessage() for record in caplog.records if record.name.startswith("serving")]
    assert [message.partition(" failed")[0] for message in told] == (
        [] if shutil.which("g++") else ["mlp: compile=aoti"]
    )
    np.testing.assert_allclose(program.score(rows, index), plain.score(rows, index), rtol=1e-5, atol=1e-5)
