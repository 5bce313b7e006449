"""The classification extension: what is largest, in Triton's words."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from serving.classification import top_classes
from serving.errors import QueryRefused
from serving.tensors import Tensor


@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)), st.integers(1, 8))
def test_classes_are_the_largest_values_of_each_row_in_falling_order(values: NDArray[np.int32], classes: int) -> None:
    found = top_classes(Tensor.of("p", "INT32", values), classes, batchable=True).array()

    assert found.shape == (values.shape[0], min(classes, values.shape[1]))
    for row, texts in zip(values, found, strict=True):
        pairs = [tuple(map(int, text.split(b":"))) for text in texts]
        order = sorted(range(len(row)), key=lambda i: (-int(row[i]), i))[: len(pairs)]
        assert pairs == [(row[i], i) for i in order]


def test_floats_have_six_decimals() -> None:
    values = np.array([0.125, 7, -1e-9])

    for datatype, given_values in [("FP64", values), ("BF16", values.astype(ml_dtypes.bfloat16).view(np.uint16))]:
        found = top_classes(Tensor.of("p", datatype, given_values), 3, batchable=False).array().tolist()
        assert found == [b"7.000000:1", b"0.125000:0", b"-0.000000:2"]


@pytest.mark.parametrize(
    ("shape", "batchable", "listed"),
    [((6,), True, (2,)), ((6,), False, (2,)), ((2, 3), True, (2, 2)), ((2, 3), False, (2,)), ((2, 3, 1), True, (2, 2))],
)
def test_rows_are_apart_where_the_first_dimension_counts_them(
    shape: tuple[int, ...], batchable: bool, listed: tuple[int, ...]
) -> None:
    tensor = Tensor.of("p", "FP32", np.arange(6, dtype=np.float32).reshape(shape))

    assert top_classes(tensor, 2, batchable).shape == listed


def test_an_empty_list_has_no_classes() -> None:
    assert top_classes(Tensor.of("p", "FP32", np.zeros((0,), np.float32)), 3, batchable=False).shape == (0,)
    assert top_classes(Tensor.of("p", "FP32", np.zeros((2, 0), np.float32)), 3, batchable=True).shape == (2, 0)


def test_text_has_no_classes() -> None:
    with pytest.raises(QueryRefused, match="output 't': BYTES have no classes"):
        top_classes(Tensor.of("t", "BYTES", np.array([b"a"], dtype=object)), 1, batchable=False)
