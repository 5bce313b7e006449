"""What an exported program takes and gives, found by reading it and by running it: for programs of others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from registry.contracts.manifest import TensorSpec
from serving.device.flat import Argument, FlatProgram, UnfitProgram, load_flat
from serving.device.tensors import TORCH_DTYPES

QUERY_INDEX = "query_index"
ROWS = 5  # of the run that looks whether a row's answer depends on the others
TOLERANCE = 1e-4
_DATATYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True, slots=True)
class ProgramSignature:
    """Names are the program's own; results without names are `output_0`, `output_1` and so on.

    batchable: as the manifest means it: every tensor's dimension 0 counts rows, and each row got the answer
    that it gets alone.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool


def read_signature(program: bytes) -> ProgramSignature:
    """The signature of a verified program; runs it a few times on made-up values.

    Raises UnfitProgram if it cannot be served or does not run.
    """
    flat = load_flat(program, torch.device("cpu"))
    symbols = sorted({size for argument in flat.arguments for size in argument.sizes if isinstance(size, str)})
    if odd := [symbol for symbol in symbols if not symbol.isidentifier()]:
        raise UnfitProgram(f"a dimension of its inputs is {odd[0]}: export it with dimensions that are free or fixed")
    least = {symbol: max(2, flat.bounds.get(symbol, (None, None))[0] or 2) for symbol in symbols}
    more = {symbol: size + 1 + place for place, (symbol, size) in enumerate(least.items())}
    small, large = _run(flat, _made_up(flat, least)), _run(flat, _made_up(flat, more))
    inputs = tuple(_input(argument) for argument in flat.arguments)
    names = flat.result_names or [f"output_{place}" for place in range(len(small))]
    outputs = tuple(_output(name, *both) for name, *both in zip(names, small, large, strict=True))
    return ProgramSignature(inputs, outputs, _is_batchable(flat, inputs, outputs))


def _made_up(flat: FlatProgram, sizes: Mapping[str, int]) -> list[torch.Tensor | int]:
    return [_value(argument, sizes) for argument in flat.arguments]


def _value(argument: Argument, sizes: Mapping[str, int]) -> torch.Tensor | int:
    if argument.is_number:
        return 2
    shape = [size if isinstance(size, int) else sizes[size] for size in argument.sizes]
    if argument.name == QUERY_INDEX:  # each row its own list
        return torch.arange(shape[0], dtype=argument.dtype)
    if argument.dtype is None or not argument.dtype.is_floating_point:
        return torch.zeros(shape, dtype=argument.dtype)  # the one index that any embedding has
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(values).to(argument.dtype)


def _run(flat: FlatProgram, arguments: Sequence[torch.Tensor | int]) -> list[torch.Tensor]:
    try:
        with torch.inference_mode():
            results = flat.bind()(*arguments)
            return [result if isinstance(result, torch.Tensor) else torch.tensor(result) for result in results]
    except Exception as error:  # whatever the graph's operators raise
        shapes = [list(one.shape) if isinstance(one, torch.Tensor) else one for one in arguments]
        reason = str(error).partition("\n")[0]
        raise UnfitProgram(f"the program does not run on inputs of shapes {shapes}: {reason}") from error


def _input(argument: Argument) -> TensorSpec:
    if argument.is_number or argument.dtype is None:
        return TensorSpec(argument.name, "INT64", (1,))
    if argument.dtype not in _DATATYPES:
        raise UnfitProgram(
            f"input {argument.name!r} is {argument.dtype}: expected one of {', '.join(_DATATYPES.values())}"
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in argument.sizes)
    return TensorSpec(argument.name, _DATATYPES[argument.dtype], shape)


def _output(name: str, small: torch.Tensor, large: torch.Tensor) -> TensorSpec:
    if small.dtype not in _DATATYPES:
        raise UnfitProgram(f"output {name!r} is {small.dtype}: expected one of {', '.join(_DATATYPES.values())}")
    shape = tuple(one if one == other else -1 for one, other in zip(small.shape, large.shape, strict=True))
    return TensorSpec(name, _DATATYPES[small.dtype], shape)


def _is_batchable(flat: FlatProgram, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    rows = {argument.sizes[0] if argument.sizes else None for argument in flat.arguments}
    if len(rows) != 1 or not all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs)):
        return False
    symbols = {size for argument in flat.arguments for size in argument.sizes if isinstance(size, str)}
    sizes = {symbol: max(ROWS, flat.bounds.get(symbol, (None, None))[0] or 0) for symbol in symbols}
    together = _made_up(flat, sizes)
    batched = _run(flat, together)
    for row in range(len(batched[0])):
        own = [value if isinstance(value, int) else value[row : row + 1] for value in together]
        try:
            alone = _run(flat, own)
        except UnfitProgram:
            return False
        if not all(_equal(one, many[row : row + 1]) for one, many in zip(alone, batched, strict=True)):
            return False
    return True


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not one.dtype.is_floating_point:
        return bool(torch.equal(one, other))
    return bool(torch.allclose(one.double(), other.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
