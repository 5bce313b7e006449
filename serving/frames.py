"""The wire between gateway and worker: length-prefixed frames of msgpack, arrays in it as they lie, little-endian.

    u32 length of what follows | u8 kind | body

`SCORE` (gateway to worker) asks for one query, `RANKED` and `FAILED` answer it by its number,
`STATE` (worker to gateway, on connect and on every change) tells which versions are loaded.
`INFER` and `INFERRED` do the same for tensors (`tensor_frames`), `ARENA` (gateway to worker, first
on a local connection) brings the memory in which they lie, `CANCEL` takes a request back, and
`STATISTICS` (worker to gateway) tells what was done. `PREFETCH` (gateway to worker) names rows that
are about to be ranked; nothing answers it. Item ids travel twice: as 64-bit hashes,
which is what tiers look up, and as text, which only a miss needs.

What a query is made of is a struct of msgspec, made and taken apart in C: a few microseconds a query, each way.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from functools import cached_property
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry.contracts.errors import UNDECODABLE
from registry.contracts.manifest import TensorSpec
from serving.features.tier import NOTHING_FETCHED, Fetched

WIRE = 2
"""Grows by one whenever frames change: a worker says it first of all."""
MAX_FRAME_BYTES = 256 << 20
U8 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 8) - 1)]
U16 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 16) - 1)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
Message = TypeVar("Message")
Scalar = TypeVar("Scalar", bound=np.generic)

_PREFIX = struct.Struct("<IB")
_U64: np.dtype[np.uint64] = np.dtype("<u8")
_U32: np.dtype[np.uint32] = np.dtype("<u4")
_U16: np.dtype[np.uint16] = np.dtype("<u2")
_F32: np.dtype[np.float32] = np.dtype("<f4")
NO_COLUMNS = np.empty(0, _U16)
NO_VALUES = np.empty(0, _F32)
_encoder = msgspec.msgpack.Encoder()


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


class _Score(msgspec.Struct, array_like=True, gc=False):
    """A ScoreRequest with its arrays as bytes."""

    number: U32
    slot: U16
    top_k: U16
    deadline_us: U32
    hashes: bytes
    ids: bytes
    query_columns: bytes
    query_values: bytes
    candidate_columns: bytes
    candidate_values: bytes
    priority: U8


class ScoreRequest(msgspec.Struct):
    """One query for a worker.

    hashes: uint64 (candidates,); ids: the item ids, UTF-8, joined by NUL.
    query_columns, query_values: matrix positions and values, the same for all candidates.
    candidate_columns, candidate_values: positions, and float32 (those columns, candidates); NO_COLUMNS and
    NO_VALUES if there are none.
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
        return message(
            Kind.SCORE,
            _Score(
                self.number,
                self.slot,
                self.top_k,
                self.deadline_us,
                self.hashes.tobytes(),
                self.ids,
                self.query_columns.tobytes(),
                self.query_values.tobytes(),
                self.candidate_columns.tobytes(),
                self.candidate_values.tobytes(),
                self.priority,
            ),
        )

    @staticmethod
    def decode(body: bytes) -> "ScoreRequest":
        """Raises BrokenFrame if the arrays do not fit each other, or there is not one id
        a candidate: ids that are out of step would shift the rows of every query in the batch."""
        told = decoded(_score_decoder, body)
        hashes = _array(told.hashes, _U64)
        candidates = len(hashes)
        if not candidates or told.ids.count(b"\x00") != candidates - 1:
            raise BrokenFrame(f"a SCORE frame has {candidates} candidates and another number of ids")
        query_columns = candidate_columns = NO_COLUMNS
        query_values: NDArray[np.float32] = NO_VALUES
        candidate_values: NDArray[np.float32] = NO_VALUES
        if told.query_columns or told.query_values:
            query_columns, query_values = _array(told.query_columns, _U16), _array(told.query_values, _F32)
            if len(query_columns) != len(query_values):
                raise BrokenFrame("a SCORE frame has another number of query columns than of their values")
        if told.candidate_columns or told.candidate_values:
            candidate_columns = _array(told.candidate_columns, _U16)
            values = _array(told.candidate_values, _F32)
            if len(values) != len(candidate_columns) * candidates:
                raise BrokenFrame("a SCORE frame has another number of candidates than of their values")
            candidate_values = values.reshape(len(candidate_columns), candidates)
        return ScoreRequest(
            told.number,
            told.slot,
            told.top_k,
            told.deadline_us,
            hashes,
            told.ids,
            query_columns,
            query_values,
            candidate_columns,
            candidate_values,
            told.priority,
        )


class _Ranked(msgspec.Struct, array_like=True, gc=False):
    """A RankedReply with its arrays as bytes."""

    number: U32
    order: bytes
    scores: bytes
    features: bytes
    missing_rows: U32
    stale_rows: U32
    tier_away: bool
    queue_us: float
    features_us: float
    device_us: float
    score_mean: float
    score_std: float
    margin: float
    entropy: float
    row_age_s: float
    rows_fetched: U32
    fetched_us: float


class RankedReply(msgspec.Struct):
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
        return message(
            Kind.RANKED,
            _Ranked(
                self.number,
                self.order.tobytes(),
                self.scores.tobytes(),
                self.features,
                self.missing_rows,
                self.stale_rows,
                self.tier_away,
                self.queue_us,
                self.features_us,
                self.device_us,
                self.score_mean,
                self.score_std,
                self.margin,
                self.entropy,
                self.row_age_s,
                *self.fetched,
            ),
        )

    @staticmethod
    def decode(body: bytes) -> "RankedReply":
        """Raises BrokenFrame if the arrays do not fit each other."""
        told = decoded(_ranked_decoder, body)
        order, scores, shown_bytes = _array(told.order, _U32), _array(told.scores, _F32), len(told.scores)
        if len(order) != len(scores) or (len(told.features) % shown_bytes if shown_bytes else told.features):
            raise BrokenFrame("a RANKED frame has another number of items than of scores, or of rows")
        return RankedReply(
            told.number,
            order,
            scores,
            told.features,
            told.missing_rows,
            told.stale_rows,
            told.tier_away,
            told.queue_us,
            told.features_us,
            told.device_us,
            told.score_mean,
            told.score_std,
            told.margin,
            told.entropy,
            told.row_age_s,
            Fetched(told.rows_fetched, told.fetched_us) if told.rows_fetched else NOTHING_FETCHED,
        )


REMOTE_AWAY = 502
"""The server that runs the version is away: 503 to the client, and no reason to send the query again."""


class FailedReply(msgspec.Struct, frozen=True, array_like=True):
    """The worker could not score the query. status: as in `serving.errors`, or REMOTE_AWAY."""

    number: U32
    status: U16
    message: str

    def encode(self) -> bytes:
        """The frame's bytes."""
        return message(Kind.FAILED, self)

    @staticmethod
    def decode(body: bytes) -> "FailedReply":
        """Raises BrokenFrame if it is none."""
        return decoded(_failed_decoder, body)


def encode_arena(capacity_bytes: int) -> bytes:
    """The frame that goes with an arena's descriptor."""
    return message(Kind.ARENA, capacity_bytes)


def decode_arena(body: bytes) -> int:
    """The arena's capacity in bytes. Raises BrokenFrame."""
    capacity: int = decoded(_capacity_decoder, body)
    return capacity


def encode_cancel(number: int) -> bytes:
    """The frame that takes a request back: its caller left."""
    return message(Kind.CANCEL, number)


def decode_cancel(body: bytes) -> int:
    """The request's number. Raises BrokenFrame."""
    number: int = decoded(_number_decoder, body)
    return number


class _Prefetch(msgspec.Struct, array_like=True, gc=False):
    """A PrefetchRequest with its array as bytes."""

    slot: U16
    hashes: bytes
    ids: bytes


class PrefetchRequest(msgspec.Struct, frozen=True):
    """Rows to fetch for a slot's version. hashes and ids: as in `ScoreRequest`."""

    slot: int
    hashes: NDArray[np.uint64]
    ids: bytes

    def encode(self) -> bytes:
        """The frame's bytes."""
        return message(Kind.PREFETCH, _Prefetch(self.slot, self.hashes.tobytes(), self.ids))

    @staticmethod
    def decode(body: bytes) -> "PrefetchRequest":
        """Raises BrokenFrame if there is not one id an item."""
        told = decoded(_prefetch_decoder, body)
        hashes = _array(told.hashes, _U64)
        if not len(hashes) or told.ids.count(b"\x00") != len(hashes) - 1:
            raise BrokenFrame(f"a PREFETCH frame has {len(hashes)} items and another number of ids")
        return PrefetchRequest(told.slot, hashes, told.ids)


class _State(msgspec.Struct, array_like=True):
    """A WorkerState, and which WIRE its worker speaks; to be read by gateways that speak another."""

    wire: int
    state: msgspec.Raw


def encode_state(state: WorkerState) -> bytes:
    """The frame's bytes."""
    return message(Kind.STATE, _State(WIRE, msgspec.Raw(_encoder.encode(state))))


def decode_state(body: bytes) -> WorkerState:
    """Raises BrokenFrame if it is none, or of a worker that speaks another WIRE."""
    told = decoded(_stated_decoder, body)
    if told.wire != WIRE:
        raise BrokenFrame(f"the worker speaks wire {told.wire}, this gateway {WIRE}: run one version of Sluice on both")
    return decoded(_state_decoder, told.state)


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


def message(kind: Kind, told: Any) -> bytes:
    """The bytes of a frame that says this."""
    body = _encoder.encode(told)
    return _PREFIX.pack(1 + len(body), kind) + body


def large_message(kind: Kind, told: Any) -> bytearray:
    """As `message`, with one copy less: sooner from some thousand bytes on."""
    framed = bytearray(_PREFIX.size)
    _encoder.encode_into(told, framed, _PREFIX.size)
    _PREFIX.pack_into(framed, 0, len(framed) - 4, kind)
    return framed


def decoded(decoder: "msgspec.msgpack.Decoder[Message]", body: bytes | memoryview) -> Message:
    """What a body says. Raises BrokenFrame."""
    try:
        return decoder.decode(body)
    except UNDECODABLE as error:
        raise BrokenFrame(f"not what its kind says: {error}") from error


def _array(raw: bytes, dtype: "np.dtype[Scalar]") -> NDArray[Scalar]:
    """Raises BrokenFrame if the bytes end inside of an element."""
    try:
        return np.frombuffer(raw, dtype)
    except ValueError as error:
        raise BrokenFrame(f"{len(raw)} bytes are no array of {dtype}") from error


_score_decoder = msgspec.msgpack.Decoder(_Score)
_ranked_decoder = msgspec.msgpack.Decoder(_Ranked)
_failed_decoder = msgspec.msgpack.Decoder(FailedReply)
_number_decoder = msgspec.msgpack.Decoder(U32)
_capacity_decoder = msgspec.msgpack.Decoder(Annotated[int, msgspec.Meta(ge=0)])
_prefetch_decoder = msgspec.msgpack.Decoder(_Prefetch)
_stated_decoder = msgspec.msgpack.Decoder(_State)
_state_decoder = msgspec.msgpack.Decoder(WorkerState)
