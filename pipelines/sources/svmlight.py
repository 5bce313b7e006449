"""LETOR/SVMLight text into arrays: `label qid:ID 1:0.5 7:0.25 # comment`, one candidate a line.

Blocks of lines are turned into numbers by numpy at once; only a block that breaks a rule is read
again, line by line, to say which line it was. Memory: the result and one block.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataRefused

BLOCK_BYTES = 8 * 2**20
MAX_COLUMNS = 100_000
MAX_QID = 2**53 - 1
"""Beyond it a float64, which numbers pass through here, does not tell every whole number from its neighbour."""

_COMMENT = re.compile(rb"#[^\n]*")
_LINE = re.compile(rb"\s*(\S+)(\s+qid:(\d+))?((\s+\d+:\S+)*)\s*")
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MANY_CELLS, _SPARSE = 1 << 26, 500


@dataclass(frozen=True, slots=True)
class JudgedLines:
    """features: float32 (lines, columns), columns up to the highest index seen, 0 where a line
    names no value and where it names one that float32 does not hold (Istella's 1.79e308, nan);
    labels: float32 (lines,); qids: int64 (lines,), None if the file has none."""

    features: NDArray[np.float32]
    labels: NDArray[np.float32]
    qids: NDArray[np.int64] | None


def read_svmlight(path: Path, block_bytes: int = BLOCK_BYTES) -> JudgedLines:
    """All candidates of a file; blank and comment lines are passed over.

    Raises DataRefused naming file, line and rule.
    """
    blocks: list[JudgedLines] = []
    line = 1
    with path.open("rb") as file:
        for text in _whole_lines(file, block_bytes):
            bare = _COMMENT.sub(b"", text)
            try:
                block = _parse(bare)
            except _TooSparse as error:
                raise DataRefused(f"{path}, lines from {line} on: {error}") from error
            if block is None:
                raise DataRefused(f"{path}:{_first_refused(bare, line)}")
            blocks.append(block)
            line += text.count(b"\n")
    filled = [block for block in blocks if len(block.labels)]
    if not filled:
        raise DataRefused(f"{path}: no candidates: expected lines of `label qid:ID 1:value ...`")
    if len({block.qids is None for block in filled}) > 1:
        raise DataRefused(f"{path}: some lines have a qid and some have none: expected all or none")
    try:
        return _joined(filled)
    except _TooSparse as error:
        raise DataRefused(f"{path}: {error}") from error


def _whole_lines(file: BinaryIO, block_bytes: int) -> Iterator[bytes]:
    """Blocks that end at a line's end."""
    while block := file.read(block_bytes):
        yield block + file.readline()


def _parse(text: bytes) -> JudgedLines | None:
    """The candidates of some lines without comments, or None if a rule is broken."""
    tokens, pairs = _tokens_and_pairs(text)
    numbers = _numbers(text.replace(b"qid:", b"-1 ").replace(b":", b" "))
    if numbers is None or len(numbers) != tokens.sum() or (tokens != 1 + 2 * pairs).any():
        return None
    label_at = np.cumsum(tokens) - tokens
    labels = numbers[label_at]
    indices, values = np.delete(numbers, label_at).reshape(-1, 2).T
    line_of = np.repeat(np.arange(len(tokens)), pairs)
    is_qid = indices == -1
    lines_with_qid, qids = line_of[is_qid], values[is_qid]
    indices, values, line_of = indices[~is_qid], values[~is_qid], line_of[~is_qid]
    if len(qids) and not np.array_equal(lines_with_qid, np.arange(len(tokens))):
        return None
    if not ((labels >= 0) & (labels <= _FLOAT32_MAX)).all():
        return None
    if not _are_whole(qids, 0, MAX_QID) or not _are_whole(indices, 1, MAX_COLUMNS):
        return None
    columns = int(indices.max(initial=0))
    _check_density(len(tokens), columns, len(values))
    features = np.zeros((len(tokens), columns), dtype=np.float32)
    known = np.abs(values) <= _FLOAT32_MAX
    features[line_of[known], indices[known].astype(np.int64) - 1] = values[known]
    return JudgedLines(features, labels.astype(np.float32), qids.astype(np.int64) if len(qids) else None)


class _TooSparse(Exception):
    """A few large indices would make a matrix of almost nothing but zeros."""


def _check_density(lines: int, columns: int, values: int) -> None:
    """Raises _TooSparse: the matrix is made for what the indices claim, a hundred thousand times what was written."""
    if lines * columns > max(_MANY_CELLS, _SPARSE * values):
        raise _TooSparse(
            f"{lines} lines name {values} values and feature {columns}: as a matrix that is {lines * columns} numbers, "
            f"more than {_SPARSE} for each of them: number the features without gaps"
        )


def _are_whole(numbers: NDArray[np.float64], least: int, most: int) -> bool:
    return bool(((numbers >= least) & (numbers < most + 1)).all() and (numbers % 1 == 0).all())


def _tokens_and_pairs(text: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of every line that is not blank: how many tokens, a colon beginning one, and how many colons."""
    chars = np.frombuffer(text + b"\n", dtype=np.uint8)
    colon, blank = chars == ord(":"), chars <= ord(" ")
    begins = colon | (~blank & np.concatenate([[True], blank[:-1]]))
    line_starts = np.concatenate([[0], np.flatnonzero(chars == ord("\n"))[:-1] + 1])
    tokens = np.add.reduceat(begins, line_starts, dtype=np.int64)
    pairs = np.add.reduceat(colon, line_starts, dtype=np.int64)
    return tokens[tokens > 0], pairs[tokens > 0]


def _numbers(text: bytes) -> NDArray[np.float64] | None:
    """All numbers of a text, or None if something else stands between them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how numpy says "not a number" before 2.4
        try:
            return np.fromstring(text, dtype=np.float64, sep=" ")
        except (ValueError, DeprecationWarning):
            return None


def _first_refused(text: bytes, line: int) -> str:
    """`line: rule`, for the first line of a block that breaks one by itself."""
    with_qid: bool | None = None
    for number, raw in enumerate(text.split(b"\n"), start=line):
        if not raw.strip():
            continue
        match = _LINE.fullmatch(raw)
        if match is None:
            return f"{number}: expected `label qid:ID 1:value 2:value ...`, found {_shown(raw.strip())!r}"
        label, _, qid, pairs, _ = match.groups()
        if not _is_number(label) or not 0 <= float(label) <= _FLOAT32_MAX:
            return f"{number}: label {_shown(label)!r}: expected a number >= 0 of float32's range"
        if qid is not None and float(qid) > MAX_QID:
            return f"{number}: qid {_shown(qid)}: expected at most {MAX_QID}"
        for index, value in (pair.split(b":", 1) for pair in pairs.split()):
            if not 1 <= float(index) <= MAX_COLUMNS:
                return f"{number}: feature index {_shown(index)}: expected 1 to {MAX_COLUMNS}"
            if not _is_number(value):
                return f"{number}: feature {_shown(index)} is {_shown(value)!r}: expected a number"
        if with_qid is not None and with_qid != (qid is not None):
            return f"{number}: some lines have a qid and some have none: expected all or none"
        with_qid = qid is not None
    return f"{line}: a number in the lines from here on cannot be read"


def _shown(raw: bytes) -> str:
    return raw[:60].decode("utf-8", "replace")


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _joined(blocks: list[JudgedLines]) -> JudgedLines:
    """One result of many, giving each block back as soon as it is copied. Raises _TooSparse."""
    width = max(block.features.shape[1] for block in blocks)
    lines = sum(len(block.labels) for block in blocks)
    if lines * width > _MANY_CELLS:
        _check_density(lines, width, sum(int(np.count_nonzero(block.features)) for block in blocks))
    labels = np.concatenate([block.labels for block in blocks])
    qids = [block.qids for block in blocks if block.qids is not None]
    features = np.zeros((len(labels), width), dtype=np.float32)
    start = 0
    for block in _handed_over(blocks):
        rows, columns = block.features.shape
        features[start : start + rows, :columns] = block.features
        start += rows
    return JudgedLines(features, labels, np.concatenate(qids) if qids else None)


def _handed_over(blocks: list[JudgedLines]) -> Iterator[JudgedLines]:
    blocks.reverse()
    while blocks:
        yield blocks.pop()
