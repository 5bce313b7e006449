"""Tensor requests that go through the program together, and their outputs apart again.

Only requests whose inputs agree in everything but dimension 0 share a batch (`batch_key`), and
only for versions that say that rows do not influence each other. An input named `query_index`
numbers the lists of listwise models: each request's lists get numbers of their own.
"""

from collections.abc import Hashable, Sequence
from itertools import accumulate

import numpy as np

from serving.loaded import LoadedProgram
from serving.passes import whole_passes
from serving.program import QUERY_INDEX
from serving.tensor_frames import InferRequest
from serving.tensors import DTYPES, Tensor, split_bytes


class BatchBroken(Exception):
    """The program's outputs do not fit its manifest; the message says how."""


def batch_key(loaded: LoadedProgram, request: InferRequest) -> Hashable:
    """Requests with equal keys may share a forward pass, if the version is batchable."""
    if not loaded.batchable:
        return (request.slot,)
    return (request.slot, *[tensor.shape[1:] for tensor in request.inputs])


def rows_of(loaded: LoadedProgram, request: InferRequest) -> int:
    """How much of a batch's room a request takes."""
    if loaded.batchable and request.inputs and request.inputs[0].shape:
        return max(1, request.inputs[0].shape[0])
    return 1


def run_batch(
    loaded: LoadedProgram, requests: Sequence[InferRequest], timeout_s: float | None = None
) -> list[list[Tensor]]:
    """Every request's outputs, all of the manifest's, in its order. timeout_s: see `Program.run`.

    Raises BatchBroken, and whatever the program raises.
    """
    if not loaded.pass_rows:
        return _run_together(loaded, requests, timeout_s)
    passes = whole_passes([rows_of(loaded, request) for request in requests], loaded.pass_rows)
    return [of_request for one in passes for of_request in _run_together(loaded, requests[one], timeout_s)]


def _run_together(
    loaded: LoadedProgram, requests: Sequence[InferRequest], timeout_s: float | None
) -> list[list[Tensor]]:
    if len(requests) == 1:
        outputs = loaded.program.run(requests[0].inputs, timeout_s)
        _check_count(loaded, outputs)
        return [outputs]
    counts = [request.inputs[0].shape[0] for request in requests]
    inputs = [_join([request.inputs[place] for request in requests]) for place in range(len(loaded.inputs))]
    outputs = loaded.program.run(inputs, timeout_s)
    _check_count(loaded, outputs)
    parts = [_split(output, counts) for output in outputs]
    return [list(of_request) for of_request in zip(*parts, strict=True)]


def spoilt(loaded: LoadedProgram, outputs: Sequence[Sequence[Tensor]]) -> list[bool]:
    """Whose outputs may hold what another request brought in: a listwise model can carry one list's
    infinities into others, so whoever has some is to be computed once more alone. For a batch of several."""
    if len(outputs) == 1 or not loaded.listwise:
        return [False] * len(outputs)
    return [not all(map(_is_finite, tensors)) for tensors in outputs]


def _is_finite(tensor: Tensor) -> bool:
    if tensor.datatype == "BF16":  # an exponent of ones
        return not ((np.frombuffer(tensor.data, "<u2") & 0x7F80) == 0x7F80).any()
    return not tensor.datatype.startswith("FP") or bool(np.isfinite(tensor.array()).all())


def _check_count(loaded: LoadedProgram, outputs: Sequence[Tensor]) -> None:
    if len(outputs) != len(loaded.outputs):
        raise BatchBroken(f"the program gave {len(outputs)} outputs, its manifest names {len(loaded.outputs)}")


def _join(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    rows = sum(tensor.shape[0] for tensor in tensors)
    if first.name == QUERY_INDEX:
        base, shifted = 0, []
        for tensor in tensors:
            numbers = tensor.array()
            shifted.append(numbers + base)
            base += int(numbers.max(initial=-1)) + 1
        return Tensor.of(first.name, first.datatype, np.concatenate(shifted))
    joined = np.concatenate([np.frombuffer(tensor.data, np.uint8) for tensor in tensors])
    return Tensor(first.name, first.datatype, (rows, *first.shape[1:]), joined.data)


def _split(tensor: Tensor, counts: Sequence[int]) -> list[Tensor]:
    name, datatype, trailing = tensor.name, tensor.datatype, tensor.shape[1:]
    if not tensor.shape or tensor.shape[0] != sum(counts):
        raise BatchBroken(f"output {name!r} has shape {list(tensor.shape)} for {sum(counts)} rows")
    if datatype == "BYTES":
        elements = split_bytes(name, tensor.data, tensor.elements)
        sizes = [4 + len(element) for element in elements]
        a_row = len(elements) // max(1, tensor.shape[0])
        row_bytes = [sum(sizes[i * a_row : (i + 1) * a_row]) for i in range(tensor.shape[0])]
        ends: Sequence[int] = [0, *accumulate(row_bytes)]
    else:
        stride = DTYPES[datatype].itemsize
        for size in trailing:
            stride *= size
        ends = range(0, (tensor.shape[0] + 1) * stride, stride) if stride else [0] * (tensor.shape[0] + 1)
    parts, start = [], 0
    for count in counts:
        stop = start + count
        parts.append(Tensor(name, datatype, (count, *trailing), tensor.data[ends[start] : ends[stop]]))
        start = stop
    return parts
