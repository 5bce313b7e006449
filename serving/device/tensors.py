"""The Open Inference Protocol's tensors as torch's, and back, without a copy where there is a choice.

torch has no strings. A BYTES tensor of shape S is two arguments of a program, in this order:
`name`, uint8 of shape S + (longest,), each element padded with zeros; and `name_lengths`, int64 of
shape S. longest is at least 1. A BYTES output is two results likewise.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from registry.contracts.manifest import TensorSpec
from serving.tensors import Tensor, join_bytes, split_bytes

TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "FP32": torch.float32,
    "FP64": torch.float64,
    "BF16": torch.bfloat16,
}

with warnings.catch_warnings():
    # torch warns once a process that a tensor over `bytes` could be written to; programs that write
    # to their inputs were made functional (`flat.load_flat`), so let it be now
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)
    _read_only = np.zeros(1)
    _read_only.flags.writeable = False
    torch.from_numpy(_read_only)


class UnfitResult(ValueError):
    """A program's result is not what its manifest says."""


def parts_of(specs: Sequence[TensorSpec]) -> list[tuple[str, torch.dtype]]:
    """The program's arguments or results for these tensors, by name: two for BYTES.

    >>> parts_of([TensorSpec("text", "BYTES", (-1,)), TensorSpec("price", "FP32", (-1,))])
    [('text', torch.uint8), ('text_lengths', torch.int64), ('price', torch.float32)]
    """
    parts: list[tuple[str, torch.dtype]] = []
    for spec in specs:
        if spec.datatype == "BYTES":
            parts += [(spec.name, torch.uint8), (f"{spec.name}_lengths", torch.int64)]
        else:
            parts.append((spec.name, TORCH_DTYPES[spec.datatype]))
    return parts


def to_torch(tensor: Tensor) -> list[torch.Tensor]:
    """The tensor on the host, sharing memory with its data; two for BYTES.

    Raises QueryRefused if BYTES data does not hold its elements.
    """
    if tensor.datatype == "BYTES":
        return _padded(tensor)
    dtype = TORCH_DTYPES[tensor.datatype]
    if not tensor.elements:
        return [torch.empty(tensor.shape, dtype=dtype)]
    flat = torch.frombuffer(tensor.data, dtype=dtype)
    if flat.data_ptr() % flat.element_size():  # a body's binary section may start anywhere
        flat = flat.clone()
    return [flat.reshape(tensor.shape)]


def from_torch(spec: TensorSpec, results: Sequence[Any]) -> Tensor:
    """A tensor of the manifest from the program's result, or from two for BYTES; numbers are scalars.

    A result of another dtype is converted: precision may have lowered it.
    Raises UnfitResult if a BYTES result does not add up.
    """
    if spec.datatype == "BYTES":
        return _joined(spec, *(result.cpu().numpy() for result in results))
    [result] = results
    dtype = TORCH_DTYPES[spec.datatype]
    on_host = result.to("cpu", dtype) if isinstance(result, torch.Tensor) else torch.tensor(result, dtype=dtype)
    if dtype is torch.bfloat16:  # numpy has none: bit patterns, as `serving.tensors` has them
        on_host = on_host.contiguous().view(torch.uint16)
    return Tensor.of(spec.name, spec.datatype, on_host.numpy())


def _padded(tensor: Tensor) -> list[torch.Tensor]:
    elements = split_bytes(tensor.name, tensor.data, tensor.elements)
    lengths = np.fromiter(map(len, elements), np.int64, len(elements))
    longest = int(lengths.max(initial=1))
    padded = np.zeros((len(elements), longest), np.uint8)
    padded[np.arange(longest) < lengths[:, None]] = np.frombuffer(b"".join(elements), np.uint8)
    return [
        torch.from_numpy(padded.reshape(*tensor.shape, longest)),
        torch.from_numpy(lengths.reshape(tensor.shape)),
    ]


def _joined(spec: TensorSpec, padded: Any, lengths: Any) -> Tensor:
    shape = lengths.shape
    if padded.dtype != np.uint8 or padded.shape[:-1] != shape:
        raise UnfitResult(
            f"output {spec.name!r}: the program gave {padded.dtype} of shape {list(padded.shape)} for lengths of "
            f"shape {list(shape)}, expected uint8 of that shape and the longest element"
        )
    if lengths.size and not 0 <= int(lengths.min()) <= int(lengths.max()) <= padded.shape[-1]:
        raise UnfitResult(f"output {spec.name!r}: a length is not within 0 to {padded.shape[-1]}")
    rows = padded.reshape(-1, padded.shape[-1])
    elements = [row[:length].tobytes() for row, length in zip(rows, lengths.reshape(-1).tolist(), strict=True)]
    return Tensor(spec.name, spec.datatype, shape, join_bytes(elements))
