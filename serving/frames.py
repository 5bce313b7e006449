"""The wire between gateway and worker: length-prefixed frames, little-endian, arrays as they lie.

    u32 length of what follows | u8 kind | body

`SCORE` (gateway to worker) asks for one query, `RANKED` and `FAILED` answer it by its number,
`STATE` (worker to gateway, on connect and on every change) tells which versions are loaded.
`INFER` and `INFERRED` do the same for tensors (`tensor_frames`), `ARENA` (gateway to worker, first
on a local connection) brings the memory in which they lie, `CANCEL` takes a request back, and
`STATISTICS` (worker to gateway) tells what was done. `PREFETCH` (gateway to worker) names rows that
are about to be ranked; nothing answers it. Item ids travel twice: as 64-bit hashes,
which is what tiers look up, and as text, which only a miss needs.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry.contracts.errors import UNDECODABLE
from registry.contracts.manifest import TensorSpec
from serving.features.tier import NOTHING_FETCHED, Fetched

MAX_FRAME_BYTES = 256 << 20
Scalar = TypeVar("Scalar", bound=np.generic)

_PREFIX = struct.Struct("<IB")
_U64: np.dtype[np.uint64] = np.dtype("<u8")
_U32: np.dtype[np.uint32] = np.dtype("<u4")
_U16: np.dtype[np.uint16] = np.dtype("<u2")
_F32: np.dtype[np.float32] = np.dtype("<f4")
# number, slot, top_k, candidates, deadline_us, ids_bytes, query columns, candidate columns, priority
_SCORE = struct.Struct("<IHHIIIHHB")
# number, shown, columns, missing rows, stale rows, tier away (0 or 1), rows fetched and in how many us,
# queue_us, features_us, device_us, score mean, score std, margin, entropy, row_age_s
_RANKED = struct.Struct("<IHHIIBIffffddddf")  # a float32 cannot hold the spread of the largest float32 scores
_FAILED = struct.Struct("<IH")


class Kind(IntEnum):
    """What a frame is."""

    SCORE = 1
    RANKED = 2
    FAILED = 3
    STATE = 4
    ARENA = 5
    INFER = 6
    INFERRED = 7
    CANCEL = 8
    STATISTICS = 9
    PREFETCH = 10


class BrokenFrame(Exception):
    """The peer does not speak this protocol: close the connection."""


class LoadedVersion(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """slot: the worker's short name for the version, used in SCORE and INFER frames.
    columns and sources: of its feature view, in order; empty if it takes tensors only.
    inputs, outputs, batchable, platform: what it is for those who send tensors."""

    slot: int
    model: str
    version: int
    digest: str
    fingerprint: str
    columns: tuple[str, ...]
    sources: tuple[str, ...]
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batchable: bool = True
    platform: str = "pytorch_export"

    @property
    def ranks(self) -> bool:
        """Whether it has a feature view."""
        return bool(self.columns)

    @cached_property
    def place(self) -> dict[str, int]:
        """Where a column stands in the matrix, by name."""
        return {column: i for i, column in enumerate(self.columns)}

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """The outputs' names, in the manifest's order."""
        return tuple(output.name for output in self.outputs)

    @cached_property
    def sent(self) -> tuple[str, ...]:
        """The columns that come with a query, not from a store."""
        return tuple(c for c, source in zip(self.columns, self.sources, strict=True) if source != "row")


class FailedVersion(msgspec.Struct, frozen=True, array_like=True):
    """A version that plans name and the worker does not hold, and why."""

    model: str
    version: int
    reason: str


class WorkerState(msgspec.Struct, frozen=True, array_like=True):
    """ready: every champion that the plans name is loaded and warm. versions: for queries to come;
    a worker that drains names none."""

    replica: str
    pid: int
    ready: bool
    versions: tuple[LoadedVersion, ...]
    failures: tuple[FailedVersion, ...] = ()


@dataclass(slots=True)
class ScoreRequest:
    """One query for a worker.

    hashes: uint64 (candidates,); ids: the item ids, UTF-8, joined by NUL.
    query_columns, query_values: matrix positions and values, the same for all candidates.
    candidate_columns, candidate_values: positions, and float32 (those columns, candidates).
    priority: see `priority`.
    """

    number: int
    slot: int
    top_k: int
    deadline_us: int
    hashes: NDArray[np.uint64]
    ids: bytes
    query_columns: NDArray[np.uint16]
    query_values: NDArray[np.float32]
    candidate_columns: NDArray[np.uint16]
    candidate_values: NDArray[np.float32]
    priority: int = 0

    @property
    def candidates(self) -> int:
        return len(self.hashes)

    def encode(self) -> bytes:
        """The frame's bytes."""
        head = _SCORE.pack(
            self.number,
            self.slot,
            self.top_k,
            len(self.hashes),
            self.deadline_us,
            len(self.ids),
            len(self.query_columns),
            len(self.candidate_columns),
            self.priority,
        )
        return frame(
            Kind.SCORE,
            head,
            self.hashes.tobytes(),
            self.query_columns.tobytes(),
            self.query_values.tobytes(),
            self.candidate_columns.tobytes(),
            self.candidate_values.tobytes(),
            self.ids,
        )

    @staticmethod
    def decode(body: bytes) -> "ScoreRequest":
        """Raises BrokenFrame if the counts do not add up to the body's length, or there is not one id
        a candidate: ids that are out of step would shift the rows of every query in the batch."""
        if len(body) < _SCORE.size:
            raise BrokenFrame("a SCORE frame is shorter than its head")
        number, slot, top_k, candidates, deadline_us, ids_bytes, in_query, in_candidates, priority = _SCORE.unpack_from(
            body
        )
        parts = _Parts(body, _SCORE.size)
        hashes = parts.take(_U64, candidates)
        query_columns = parts.take(_U16, in_query)
        query_values = parts.take(_F32, in_query)
        candidate_columns = parts.take(_U16, in_candidates)
        candidate_values = parts.take(_F32, in_candidates * candidates)
        ids = parts.rest(ids_bytes)
        if not candidates or ids.count(b"\x00") != candidates - 1:
            raise BrokenFrame(f"a SCORE frame has {candidates} candidates and another number of ids")
        return ScoreRequest(
            number=number,
            slot=slot,
            top_k=top_k,
            deadline_us=deadline_us,
            hashes=hashes,
            ids=ids,
            query_columns=query_columns,
            query_values=query_values,
            candidate_columns=candidate_columns,
            candidate_values=candidate_values.reshape(in_candidates, candidates),
            priority=priority,
        )


@dataclass(slots=True)
class RankedReply:
    """One answer from a worker.

    order: uint32 (shown,), places in the candidate list, best first; scores: float32 (shown,).
    features: float32 (shown, columns), as the model saw them; kept as bytes on the gateway.
    missing_rows, stale_rows: candidates without a stored row, or with one past its freshness.
    tier_away: rows are missing because their store did not answer. row_age_s: how long ago the candidates' stored
    rows were written, on average; nan if there is none. fetched: what its batch asked a store for, whose time is
    within features_us.
    """

    number: int
    order: NDArray[np.uint32]
    scores: NDArray[np.float32]
    features: bytes
    missing_rows: int
    stale_rows: int
    tier_away: bool
    queue_us: float
    features_us: float
    device_us: float
    score_mean: float
    score_std: float
    margin: float
    entropy: float
    row_age_s: float
    fetched: Fetched = NOTHING_FETCHED

    def encode(self) -> bytes:
        """The frame's bytes."""
        shown = len(self.order)
        head = _RANKED.pack(
            self.number,
            shown,
            len(self.features) // (4 * shown) if shown else 0,
            self.missing_rows,
            self.stale_rows,
            self.tier_away,
            *self.fetched,
            self.queue_us,
            self.features_us,
            self.device_us,
            self.score_mean,
            self.score_std,
            self.margin,
            self.entropy,
            self.row_age_s,
        )
        return frame(Kind.RANKED, head, self.order.tobytes(), self.scores.tobytes(), self.features)

    @staticmethod
    def decode(body: bytes) -> "RankedReply":
        """Raises BrokenFrame if the counts do not add up to the body's length."""
        if len(body) < _RANKED.size:
            raise BrokenFrame("a RANKED frame is shorter than its head")
        number, shown, columns, missing, stale, away, asked, asked_us, *told = _RANKED.unpack_from(body)
        parts = _Parts(body, _RANKED.size)
        order = parts.take(_U32, shown)
        scores = parts.take(_F32, shown)
        features = parts.rest(4 * shown * columns)
        fetched = Fetched(asked, asked_us) if asked else NOTHING_FETCHED
        return RankedReply(number, order, scores, features, missing, stale, bool(away), *told, fetched)  # type: ignore[call-arg]


REMOTE_AWAY = 502
"""The server that runs the version is away: 503 to the client, and no reason to send the query again."""


@dataclass(frozen=True, slots=True)
class FailedReply:
    """The worker could not score the query. status: as in `serving.errors`, or REMOTE_AWAY."""

    number: int
    status: int
    message: str

    def encode(self) -> bytes:
        """The frame's bytes."""
        return frame(Kind.FAILED, _FAILED.pack(self.number, self.status), self.message.encode())

    @staticmethod
    def decode(body: bytes) -> "FailedReply":
        """Raises BrokenFrame if the body is too short."""
        if len(body) < _FAILED.size:
            raise BrokenFrame("a FAILED frame is shorter than its head")
        number, status = _FAILED.unpack_from(body)
        return FailedReply(number, status, body[_FAILED.size :].decode(errors="replace"))


_CAPACITY = struct.Struct("<Q")
_NUMBER = struct.Struct("<I")


def encode_arena(capacity_bytes: int) -> bytes:
    """The frame that goes with an arena's descriptor."""
    return frame(Kind.ARENA, _CAPACITY.pack(capacity_bytes))


def decode_arena(body: bytes) -> int:
    """The arena's capacity in bytes. Raises BrokenFrame."""
    if len(body) != _CAPACITY.size:
        raise BrokenFrame("an ARENA frame is not eight bytes long")
    capacity: int = _CAPACITY.unpack(body)[0]
    return capacity


def encode_cancel(number: int) -> bytes:
    """The frame that takes a request back: its caller left."""
    return frame(Kind.CANCEL, _NUMBER.pack(number))


def decode_cancel(body: bytes) -> int:
    """The request's number. Raises BrokenFrame."""
    if len(body) != _NUMBER.size:
        raise BrokenFrame("a CANCEL frame is not four bytes long")
    number: int = _NUMBER.unpack(body)[0]
    return number


_PREFETCH = struct.Struct("<HII")  # slot, items, ids_bytes


@dataclass(frozen=True, slots=True)
class PrefetchRequest:
    """Rows to fetch for a slot's version. hashes and ids: as in `ScoreRequest`."""

    slot: int
    hashes: NDArray[np.uint64]
    ids: bytes

    def encode(self) -> bytes:
        """The frame's bytes."""
        head = _PREFETCH.pack(self.slot, len(self.hashes), len(self.ids))
        return frame(Kind.PREFETCH, head, self.hashes.tobytes(), self.ids)

    @staticmethod
    def decode(body: bytes) -> "PrefetchRequest":
        """Raises BrokenFrame if the counts do not add up, or there is not one id an item."""
        if len(body) < _PREFETCH.size:
            raise BrokenFrame("a PREFETCH frame is shorter than its head")
        slot, items, ids_bytes = _PREFETCH.unpack_from(body)
        parts = _Parts(body, _PREFETCH.size)
        hashes, ids = parts.take(_U64, items), parts.rest(ids_bytes)
        if not items or ids.count(b"\x00") != items - 1:
            raise BrokenFrame(f"a PREFETCH frame has {items} items and another number of ids")
        return PrefetchRequest(slot, hashes, ids)


def encode_state(state: WorkerState) -> bytes:
    """The frame's bytes."""
    return frame(Kind.STATE, msgspec.msgpack.encode(state))


def decode_state(body: bytes) -> WorkerState:
    """Raises BrokenFrame if it is none."""
    try:
        return msgspec.msgpack.decode(body, type=WorkerState)
    except UNDECODABLE as error:
        raise BrokenFrame(f"not a worker's state: {error}") from error


class FrameBuffer:
    """Cuts a byte stream into frames. Pieces of a partial one are kept apart until it is whole: a tensor of 64 MB comes
    in thousands of them, and joining them to each other again and again would take most of a minute."""

    __slots__ = ("_held", "_pieces", "_wanted")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held = 0  # bytes of them
        self._wanted = 0  # bytes before there is something to look at

    def feed(self, received: bytes) -> Iterator[tuple[Kind, bytes]]:
        """The frames that are complete now. Raises BrokenFrame on an impossible length or kind."""
        if self._pieces:
            self._pieces.append(received)
            self._held += len(received)
            if self._held < self._wanted:
                return
            received = b"".join(self._pieces)
            self._pieces.clear()
        start, end, wanted = 0, len(received), _PREFIX.size
        try:
            while end - start >= _PREFIX.size:
                length, kind = _PREFIX.unpack_from(received, start)
                if not 1 <= length <= MAX_FRAME_BYTES or kind not in _KINDS:
                    raise BrokenFrame(f"a frame of kind {kind} and length {length}")
                stop = start + 4 + length
                if stop > end:
                    wanted = 4 + length
                    break
                body = received[start + _PREFIX.size : stop]
                start = stop
                yield _KINDS[kind], body
        finally:
            if start < end:
                self._pieces.append(received[start:])
            self._held, self._wanted = end - start, wanted


_KINDS = {int(kind): kind for kind in Kind}


class _Parts:
    """Takes arrays off a body, in order, and sees to it that nothing is short or left over."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: bytes, at: int) -> None:
        self._body, self._at = body, at

    def take(self, dtype: "np.dtype[Scalar]", count: int) -> NDArray[Scalar]:
        if len(self._body) - self._at < count * dtype.itemsize:
            raise BrokenFrame("a frame is shorter than its counts say")
        taken = np.frombuffer(self._body, dtype, count, self._at)
        self._at += count * dtype.itemsize
        return taken

    def rest(self, size: int) -> bytes:
        if len(self._body) - self._at != size:
            raise BrokenFrame("a frame's length differs from what its counts say")
        return self._body[self._at :]


def frame(kind: Kind, *parts: bytes | memoryview) -> bytes:
    """The bytes of one frame."""
    return b"".join((_PREFIX.pack(1 + sum(map(len, parts)), kind), *parts))
