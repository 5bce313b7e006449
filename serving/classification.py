"""The classification extension: the largest values of an output, as "value:index" text.

Source: Open Inference Protocol v2, classification extension, in Triton's format.
"""

import math

import numpy as np

from serving.errors import QueryRefused
from serving.tensors import Tensor


def top_classes(tensor: Tensor, classes: int, batchable: bool) -> Tensor:
    """The `classes` largest values of each row, largest first; of equal ones the earlier first.

    batchable: dimension 0 counts rows, so that a tensor of two dimensions or more has its classes in
    the others; any other tensor is one list of classes. Returns BYTES of shape (rows, classes) or
    (classes,), with fewer classes where the list has fewer.
    Raises QueryRefused if the output holds no numbers.

    >>> top_classes(Tensor.of("p", "FP32", np.array([0.5, 2.0, 1.0])), 2, False).array().tolist()
    [b'2.000000:1', b'1.000000:2']
    """
    if tensor.datatype == "BYTES":
        raise QueryRefused(f"output {tensor.name!r}: BYTES have no classes, leave classification out")
    rows = tensor.shape[0] if batchable and len(tensor.shape) > 1 else 1
    listed = math.prod(tensor.shape[1:]) if batchable and len(tensor.shape) > 1 else tensor.elements
    values = tensor.array().reshape(rows, listed)
    if tensor.datatype == "BF16":
        values = (values.astype("<u4") << 16).view("<f4")
    kept = min(classes, listed)
    whole = values.dtype.kind != "f"
    texts = np.empty((rows, kept), dtype=object)
    for row, line in zip(values, texts, strict=True):
        # reversed twice: a stable sort from the end keeps the earlier of equal values first
        order = listed - 1 - np.argsort(row[::-1], kind="stable")[::-1][:kept]
        line[:] = [f"{int(row[at])}:{at}".encode() if whole else f"{row[at]:f}:{at}".encode() for at in order]
    shape = (rows, kept) if batchable and len(tensor.shape) > 1 else (kept,)
    return Tensor.of(tensor.name, "BYTES", texts.reshape(shape))
