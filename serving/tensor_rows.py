"""Rows of tensors: one tensor into parts along dimension 0, and parts into one again."""

from collections.abc import Sequence

import numpy as np

from serving.tensors import DTYPES, Tensor, join_bytes, split_bytes


def slice_rows(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of a checked tensor of at least one dimension; shares its data where it can."""
    shape = (stop - start, *tensor.shape[1:])
    if tensor.datatype == "BYTES":
        elements = split_bytes(tensor.name, tensor.data, tensor.elements)
        a_row = len(elements) // tensor.shape[0] if tensor.shape[0] else 0
        return Tensor(tensor.name, tensor.datatype, shape, join_bytes(elements[start * a_row : stop * a_row]))
    stride = DTYPES[tensor.datatype].itemsize * int(np.prod(tensor.shape[1:], dtype=np.int64))
    return Tensor(tensor.name, tensor.datatype, shape, memoryview(tensor.data)[start * stride : stop * stride])


def joined_rows(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts, which differ in nothing but how many there are."""
    first = parts[0]
    rows = sum(part.shape[0] for part in parts)
    data = b"".join(bytes(part.data) for part in parts)
    return Tensor(first.name, first.datatype, (rows, *first.shape[1:]), data)
