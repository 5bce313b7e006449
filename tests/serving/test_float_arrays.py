"""FP32 arrays read in C, against Python's own reader of JSON: the same numbers, or nothing at all."""

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.errors import QueryRefused
from serving.gateway import float_arrays, infer_head
from serving.gateway.float_arrays import take_floats, without_floats
from serving.gateway.infer_head import RequestHead, read_head
from tests.missing_tools import lacks

FILLER = [0.5] * 2000  # makes a head a large one
DIGITS = st.text("0123456789", min_size=1, max_size=24)


@pytest.fixture(autouse=True)
def _built() -> None:
    if take_floats is None:
        lacks("a C compiler and Python's headers, when Sluice was installed: deploy/scripts/compiler")


def taken(text: bytes, room: int = 64, start: int = 0) -> tuple[list[float], int] | None:
    """The numbers and where the array ends."""
    assert take_floats is not None
    out = np.full(room, np.nan, np.float32)
    found = take_floats(text, start, out)
    return found if found is None else (out[: found[0]].tolist(), found[1])


def bits(value: float) -> bytes:
    return struct.pack("<f", value)


@st.composite
def numbers(draw: st.DrawFn) -> str:
    """As JSON may have them: of any length, near the middle between two float32, huge and tiny."""
    kind = draw(st.sampled_from(["digits", "double", "middle"]))
    if kind == "double":
        return repr(draw(st.floats(allow_nan=False, allow_infinity=False)))
    if kind == "middle":
        single = np.float32(draw(st.floats(2.0**-100, 2.0**100, width=32)))
        middle = (float(single) + float(np.nextafter(single, np.float32(np.inf)))) / 2
        near = middle + draw(st.integers(-3, 3)) * math.ulp(middle)
        return f"{draw(st.sampled_from(['', '-']))}{near:.{draw(st.integers(8, 24))}g}"
    whole = draw(DIGITS).lstrip("0") or "0"
    fraction = draw(st.one_of(st.just(""), DIGITS.map(lambda digits: f".{digits}")))
    exponent = draw(st.one_of(st.just(""), st.integers(-60, 45).map(lambda by: f"e{by}"), st.just("E+07")))
    return draw(st.sampled_from(["", "-"])) + whole + fraction + exponent


@given(numbers())
@example("18446744073709551616")  # 2^64: 0, if 64 bits overflow
@example("0.99999997019767761")  # rounds to another float32 if it is not rounded to a double first
@example("3.4028235677973366e38")  # the middle between the largest float32 and what would follow
def test_a_number_has_the_bits_that_pythons_double_of_it_has_as_float32(number: str) -> None:
    double = json.loads(number)
    with np.errstate(over="ignore"):
        expected = float(np.float32(double))
    found = taken(b"[%b]" % number.encode())

    if math.isinf(expected):
        assert found is None
    else:
        assert found is not None
        assert found[1] == len(number) + 2
        assert bits(found[0][0]) == bits(expected)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.data())
def test_arrays_are_read_with_any_space_and_nesting(values: list[float], data: st.DataObject) -> None:
    space = st.text(" \t\r\n", max_size=3)
    text = ",".join(f"{data.draw(space)}{value!r}{data.draw(space)}" for value in values)
    nested = data.draw(st.integers(1, 32))
    array = f"{'[' * nested}{text}{']' * nested}".encode()

    assert taken(b"before" + array + b", [7]", len(values), start=6) == (values, 6 + len(array))
    assert taken(array, len(values) - 1) is None


NOT_PLAIN = [
    "[1,2 [1,2, [1,2,] [,1] [1,,2] [[1,2] [] [[],[1]] 7",
    "[01] [-] [+1] [.5] [1.] [1.e5] [1e] [1e+] [0x10] [1_0] [--1] [1e39] [-1e39] [1e999999999999]",
    '[NaN] [Infinity] [-Infinity] [inf] [true] [null] ["1"]',
]


@pytest.mark.parametrize(
    "text",
    [
        *[word.encode() for words in NOT_PLAIN for word in words.split()],
        *(b"", b"[1 2]", b"[- 1]", b"[1\x00]", b"[1,\x00]", b"[\x0b1]", b"[\xc2\xa01]", b"[" * 33 + b"1" + b"]" * 33),
    ],
)
def test_what_is_not_plainly_an_array_of_numbers_is_left_to_others(text: bytes) -> None:
    found = taken(text)
    assert found is None or (text == b"[1][" and found == ([1.0], 3))


@given(st.binary(max_size=40).map(lambda tail: b"[" + tail))
def test_whatever_is_taken_is_what_python_reads(text: bytes) -> None:
    found = taken(text)
    if found is not None:
        assert np.ravel(json.loads(text[: found[1]])).astype(np.float32).tolist() == found[0]


@pytest.mark.parametrize("start", [-1, 3, 4, 1 << 40])
def test_a_start_outside_the_text_is_no_array(start: int) -> None:
    assert taken(b"[1]", start=start) is None


def an_input(data: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2], "datatype": "FP32", **fields, "data": data}


def both(head: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[bool, Any, Any]:
    """Whether the head's arrays were read apart; what is read with and without that."""

    def told(text: bytes) -> Any:
        try:
            return plain(read_head(text, 1 << 20))
        except QueryRefused as refused:
            return str(refused)

    text = json.dumps(head, ensure_ascii=False).encode()
    parts = infer_head._by_parts(text)
    with_it = told(text)
    with monkeypatch.context() as without:
        without.setattr(float_arrays, "take_floats", None)
        return parts is not None, with_it, told(text)


def plain(head: RequestHead) -> Any:
    """The head with its arrays as lists."""
    for given_input in head.inputs:
        if isinstance(given_input.data, np.ndarray):
            with np.errstate(over="ignore"):
                given_input.data = given_input.data.astype(np.float32).tolist()
    return head


@pytest.mark.parametrize(
    ("apart", "inputs", "fields"),
    [
        (True, [an_input(FILLER)], {}),
        (True, [an_input(FILLER), an_input([[1, 2], [3.5, -0.0]], name="y")], {"id": "7", "parameters": {"unit": "u"}}),
        (True, [an_input(FILLER, name='a "data": [1]')], {"id": '"data"'}),
        (False, [an_input(FILLER), an_input([1, 2], name="y", datatype="INT64")], {}),
        (False, [an_input(FILLER, datatype="FP64")], {}),
        (False, [an_input(FILLER, parameters={"data": [1.5]})], {}),
        (False, [an_input(0), an_input(FILLER, name="y", parameters={"data": [1.5]})], {}),
        (False, [an_input(FILLER)], {"id": "ü"}),
        (False, [an_input([*FILLER, float("nan")])], {}),
        (False, [an_input([*FILLER, 1e39])], {}),
        (False, [an_input([*FILLER, "one"])], {}),
        (False, [an_input(FILLER, shape="two")], {}),
        (True, [an_input(FILLER), an_input(5, name="y")], {}),
        (False, [an_input(FILLER)], {"parameters": {"data": FILLER}}),
    ],
)
def test_a_head_says_the_same_whether_its_arrays_are_read_apart_or_not(
    apart: bool, inputs: list[dict[str, Any]], fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    was_apart, with_it, without_it = both({"inputs": inputs, **fields}, monkeypatch)

    assert was_apart is apart
    assert with_it == without_it


def test_an_array_beyond_the_room_that_is_kept_is_read_by_the_other_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_arrays, "_room", np.empty(len(FILLER) - 1, np.float32))
    text = json.dumps({"inputs": [an_input(FILLER)]}).encode()

    assert without_floats(text) is None
    assert plain(read_head(text, 1 << 20)).inputs[0].data == FILLER


def test_more_arrays_than_a_request_may_have_inputs_are_left_to_the_other_reader() -> None:
    inputs = [an_input([1.0, 2.0], name=f"x{place}") for place in range(65)]

    assert without_floats(json.dumps({"inputs": inputs[:64]}).encode()) is not None
    assert without_floats(json.dumps({"inputs": inputs}).encode()) is None


def test_the_room_is_not_what_a_request_keeps() -> None:
    first, second = (read_head(json.dumps({"inputs": [an_input([v] * 2000)]}).encode(), 1 << 20) for v in (1.0, 2.0))

    assert (first.inputs[0].data == 1.0).all()
    assert (second.inputs[0].data == 2.0).all()
