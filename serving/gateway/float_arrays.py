"""A head's FP32 arrays, read apart from the rest of it.

Most of a large JSON request is `data`. In C its numbers go from text to float32 in one step (`_float_arrays.c`), and
what is left of the head is small. The C part is left out where no compiler was at hand when Sluice was installed: then,
and for every head that is not plainly right, the reader of whole documents does it.
"""

import re
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _built() -> Callable[[bytes, int, Any], tuple[int, int] | None] | None:
    """The C part, None where it was not built."""
    try:
        from serving.gateway._float_arrays import take_floats
    except ImportError:
        return None
    return take_floats


take_floats = _built()

_DATA = re.compile(rb'"data"[ \t\n\r]*:[ \t\n\r]*(?=\[)')
_FP32 = b'"FP32"'
_MOST_NUMBERS = 1 << 20  # of one array: the room that is kept for them
_MOST_ARRAYS = 64  # as many as a request may have inputs
_PLACE = secrets.randbits(60)  # stands where an array was; no client knows it

_room = np.empty(_MOST_NUMBERS if take_floats else 0, np.float32)  # of memory that nobody wrote to, nothing is used


def without_floats(text: bytes) -> tuple[bytes, dict[int, NDArray[np.float32]]] | None:
    """The head with a number in place of each array of `data`, and those arrays, flat, by their number.

    An unescaped `"data":` is a key wherever it stands, even one that is nobody's input: whether all of the arrays were
    inputs' and FP32 is to be seen in what the rest says. None if there is none, or one is not of numbers only that fit
    FP32.
    """
    if take_floats is None:
        return None
    rest: list[bytes] = []
    arrays: dict[int, NDArray[np.float32]] = {}
    at = 0
    while (key := _DATA.search(text, at)) is not None:
        begins = key.end()
        if len(arrays) == _MOST_ARRAYS or text.find(_FP32, at, begins) < 0:
            return None
        if (taken := take_floats(text, begins, _room)) is None:
            return None
        count, ends = taken
        place = _PLACE + len(arrays)
        arrays[place] = _room[:count].copy()
        rest += (text[at:begins], b"%d" % place)
        at = ends
    return (b"".join((*rest, text[at:])), arrays) if arrays else None
