"""Values of every datatype for the tests of the Open Inference Protocol, and tritonclient's words for them."""

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from serving.tensors import DATATYPES, DTYPES, Tensor

NUMPY: dict[str, np.dtype[Any]] = {**DTYPES, "BF16": np.dtype(ml_dtypes.bfloat16), "BYTES": np.dtype(object)}


def as_tensor(name: str, datatype: str, values: NDArray[Any]) -> Tensor:
    """The values as ours; BF16 of ml_dtypes."""
    return Tensor.of(name, datatype, values.view(np.uint16) if datatype == "BF16" else values)


def as_input(name: str, datatype: str, values: NDArray[Any], binary: bool = True) -> InferInput:
    """The values as tritonclient's; its BF16 has no JSON."""
    given = InferInput(name, list(values.shape), datatype)
    return given.set_data_from_numpy(values, binary_data=binary)


def request_body(inputs: list[InferInput], **changes: Any) -> tuple[bytes, int | None]:
    """What tritonclient would send, and its Inference-Header-Content-Length."""
    return InferenceServerClient.generate_request_body(inputs, **changes)


def response_of(body: bytes, header_length: int | None) -> InferResult:
    """What tritonclient reads in an answer."""
    return InferenceServerClient.parse_response_body(body, header_length=header_length)


def an_output(name: str, **changes: Any) -> InferRequestedOutput:
    """An output as tritonclient asks for it."""
    return InferRequestedOutput(name, **changes)


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Same shape and values, NaN equal to itself, text from JSON equal to its UTF-8."""
    if left.dtype == object:
        return left.shape == right.shape and all(map(_same_text, left.flat, right.flat))
    if left.dtype == ml_dtypes.bfloat16:
        left, right = left.astype(np.float32), right.astype(np.float32)
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


def _same_text(left: str | bytes, right: bytes) -> bool:
    return (left.encode() if isinstance(left, str) else left) == right


def values_of(datatype: str, text: bool = False) -> st.SearchStrategy[NDArray[Any]]:
    """Arrays of up to three dimensions, empty ones too. text: BYTES that JSON can carry."""
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)
    if datatype == "BYTES":
        elements = st.text(max_size=8).map(str.encode) if text else st.binary(max_size=8)
        return shapes.flatmap(lambda shape: _objects(shape, elements))
    if datatype == "BF16":
        return hnp.arrays(np.uint16, shapes).map(lambda bits: bits.view(ml_dtypes.bfloat16))
    return hnp.arrays(NUMPY[datatype], shapes)


def _objects(shape: tuple[int, ...], elements: st.SearchStrategy[bytes]) -> st.SearchStrategy[NDArray[Any]]:
    count = int(np.prod(shape))

    def filled(items: list[bytes]) -> NDArray[Any]:
        values = np.empty(count, dtype=object)
        values[:] = items
        return values.reshape(shape)

    return st.lists(elements, min_size=count, max_size=count).map(filled)


def typed_values(text: bool = False) -> st.SearchStrategy[tuple[str, NDArray[Any]]]:
    """A datatype and values of it."""
    return st.sampled_from(DATATYPES).flatmap(
        lambda datatype: st.tuples(st.just(datatype), values_of(datatype, text=text))
    )
