"""What happened: a ranking was answered, also by a version that mirrors it; an item was seen, clicked.

Events are msgpack arrays with a tag first and the schema version second; fields are only ever
added at the end, with a default, so that older readers and writers go on understanding each
other. A stream entry carries many events as one msgpack array: one entry a batch costs the
writer a twentieth of one entry an event.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry.contracts.errors import UNDECODABLE, ContractError, CorruptRecord, UnknownSchema

SCHEMA = 1
_EMPTY = msgspec.Raw(msgspec.msgpack.encode(""))


ModelText = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z")]
ArmText = Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,32}\Z")]
"""What readers name folders and files by is checked where it is decoded: a stream may hold what no gateway wrote."""


class RankingEvent(msgspec.Struct, frozen=True, array_like=True, tag="ranking"):
    """One answered query: every shown item is an exposure at position index + 1.

    answered_ms: ms since the epoch. candidates: how many were ranked, of which `items` were shown.
    scores, propensities: float32 little-endian, one per shown item; a propensity is the
    probability with which this item came to stand at this position (1 if nothing was left to chance).
    In an interleaved list the score and features of an item are those of the version that drafted it;
    `version` is the champion's, and so is everything said over all candidates.
    features: float32, (shown, columns), what the model saw of them; fingerprint: of which view.
    score_mean, score_std, margin, entropy: over all candidates, see `profile.confidences`.
    degraded: what the answer had to do without, empty if nothing.
    experiment: whose arm this was, empty in the champion's; outside, the one that had the unit and could
    not serve it (`degraded` says so), else empty. teams: of an interleaved list, one byte per
    shown item: 0 drafted by the champion, 1 by `team_version`, the experiment's. explored: the coin
    fell for a swap. row_age_s: how long ago the candidates' stored rows were written, on average; None if none
    of them had one.
    """

    schema: int
    ranking_id: str
    answered_ms: int
    model: ModelText
    version: int
    arm: ArmText
    plan_revision: int
    unit: str
    query_id: str
    candidates: int
    items: tuple[str, ...]
    scores: bytes
    propensities: bytes
    fingerprint: str
    features: bytes
    score_mean: float
    score_std: float
    margin: float
    entropy: float
    degraded: tuple[str, ...] = ()
    latency_ms: float = 0.0
    trace_id: str = ""
    experiment: str = ""
    teams: bytes = b""
    team_version: int = 0
    explored: bool = False
    row_age_s: float | None = None

    @property
    def event_id(self) -> str:
        """A ranking is logged once: its id is its event id."""
        return self.ranking_id

    @property
    def shown(self) -> int:
        """How many items the answer showed."""
        return len(self.items)

    def score_array(self) -> NDArray[np.float32]:
        """Shape (shown,), best first."""
        return np.frombuffer(self.scores, dtype="<f4")

    def propensity_array(self) -> NDArray[np.float32]:
        """Shape (shown,)."""
        return np.frombuffer(self.propensities, dtype="<f4")

    def feature_matrix(self) -> NDArray[np.float32]:
        """Shape (shown, columns); zero columns if features were not logged."""
        flat = np.frombuffer(self.features, dtype="<f4")
        return flat.reshape(len(self.items), -1) if self.items else flat.reshape(0, 0)


class Ranked(Protocol):
    """What `RankingEvent` and `WatchedRanking` both say of an answered query; see there."""

    @property
    def ranking_id(self) -> str: ...
    @property
    def answered_ms(self) -> int: ...
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def arm(self) -> str: ...
    @property
    def candidates(self) -> int: ...
    @property
    def shown(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def features(self) -> bytes | memoryview: ...
    @property
    def score_mean(self) -> float: ...
    @property
    def score_std(self) -> float: ...
    @property
    def margin(self) -> float: ...
    @property
    def entropy(self) -> float: ...
    @property
    def degraded(self) -> tuple[str, ...]: ...
    @property
    def row_age_s(self) -> float | None: ...


class WatchedRanking(msgspec.Struct, frozen=True, array_like=True, tag="ranking", gc=False):
    """A RankingEvent as somebody reads it who adds up its numbers: the same bytes, of which what names unit, query
    and items is not taken apart, and arrays are views into the payload. A fifth of the time.

    Fields as there, in its order.
    """

    schema: int
    ranking_id: str
    answered_ms: int
    model: ModelText
    version: int
    arm: ArmText
    plan_revision: int
    unit: msgspec.Raw
    query_id: msgspec.Raw
    candidates: int
    items: msgspec.Raw
    scores: memoryview
    propensities: msgspec.Raw
    fingerprint: str
    features: memoryview
    score_mean: float
    score_std: float
    margin: float
    entropy: float
    degraded: tuple[str, ...] = ()
    latency_ms: float = 0.0
    trace_id: msgspec.Raw = _EMPTY
    experiment: msgspec.Raw = _EMPTY
    teams: msgspec.Raw = _EMPTY
    team_version: int = 0
    explored: bool = False
    row_age_s: float | None = None

    @property
    def shown(self) -> int:
        """How many items the answer showed."""
        return len(self.scores) // 4


class Exposure(msgspec.Struct, frozen=True, array_like=True, tag="exposure"):
    """The client says that this item was really seen (it may have been below the fold)."""

    schema: int
    event_id: str
    ranking_id: str
    model: ModelText
    item: str
    position: int | None
    seen_ms: int
    received_ms: int
    simulated: bool = False


class Click(msgspec.Struct, frozen=True, array_like=True, tag="click"):
    """A user chose this item.

    clicked_ms: by the client's clock; received_ms: by the gateway's, but never before the ranking was
    answered, whose gateway's clock may have been ahead. simulated: from a click model instead of a
    person; never mixed with real ones in a figure that is shown.
    """

    schema: int
    event_id: str
    ranking_id: str
    model: ModelText
    item: str
    position: int | None
    clicked_ms: int
    received_ms: int
    simulated: bool = False


class MirrorEvent(msgspec.Struct, frozen=True, array_like=True, tag="mirror"):
    """A query that the champion had answered was also ranked by an experiment's version, unseen by users.

    ranking_id: the answer's; event_id: of this mirroring, as one answer can be mirrored to several
    experiments. mirrored_ms: ms since the epoch, when the mirror's list (or its failure) was there.
    champion, version: who made which list. candidates: how many each ranked.
    items, scores: what the answer showed, as in its RankingEvent; mirror_items, mirror_scores: as many
    as the version would have shown. scores: float32 little-endian, one per item of their list, best first.
    latency_ms, mirror_latency_ms: from permit to answer, and from when it was mirrored to its list.
    error: empty, or why there is no mirrored list (then both of its fields are empty): the error's
    status and what it says.
    """

    schema: int
    event_id: str
    ranking_id: str
    model: ModelText
    mirrored_ms: int
    plan_revision: int
    experiment: str
    champion: int
    version: int
    candidates: int
    items: tuple[str, ...]
    scores: bytes
    mirror_items: tuple[str, ...] = ()
    mirror_scores: bytes = b""
    latency_ms: float = 0.0
    mirror_latency_ms: float = 0.0
    error: str = ""

    def score_array(self) -> NDArray[np.float32]:
        """Of `items`, shape (shown,), best first."""
        return np.frombuffer(self.scores, dtype="<f4")

    def mirror_score_array(self) -> NDArray[np.float32]:
        """Of `mirror_items`, shape (mirrored,), best first."""
        return np.frombuffer(self.mirror_scores, dtype="<f4")


Event = RankingEvent | Exposure | Click | MirrorEvent

_MIRROR_TAG = msgspec.msgpack.encode("mirror")


class _OtherExposure(msgspec.Struct, array_like=True, tag="exposure"):
    schema: int


class _OtherClick(msgspec.Struct, array_like=True, tag="click"):
    schema: int


class _OtherMirror(msgspec.Struct, array_like=True, tag="mirror"):
    schema: int


_Watched = WatchedRanking | _OtherExposure | _OtherClick | _OtherMirror

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Event])
_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_one_decoder = msgspec.msgpack.Decoder(Event)
_watched_decoder = msgspec.msgpack.Decoder(list[_Watched])
_one_watched_decoder = msgspec.msgpack.Decoder(_Watched)
_head_decoder = msgspec.msgpack.Decoder(list)


def encode_event(event: Event) -> bytes:
    """One event's bytes."""
    return _encoder.encode(event)


def join_events(encoded: Sequence[bytes]) -> bytes:
    """Events that are encoded already, as the payload of one stream entry."""
    return b"\xdd" + len(encoded).to_bytes(4, "big") + b"".join(encoded)


def split_events(payload: bytes) -> list[bytes]:
    """The encoded events of a payload. Raises CorruptRecord if it is none."""
    try:
        return [bytes(raw) for raw in _raw_decoder.decode(payload)]
    except UNDECODABLE as error:
        raise CorruptRecord(f"not a payload of events: {error}") from error


def decode_event(encoded: bytes) -> Event:
    """Raises CorruptRecord, or UnknownSchema if a newer version wrote it."""
    try:
        event: Event = _one_decoder.decode(encoded)
    except UNDECODABLE as error:
        raise _why_undecodable(encoded, error) from error
    if not 1 <= event.schema <= SCHEMA:
        raise UnknownSchema(f"event schema {event.schema}: this code reads 1 to {SCHEMA}")
    return event


def decode_events(payload: bytes) -> list[Event]:
    """All events of a payload. Raises as `decode_event`; one bad event spoils the payload,
    so readers that must go on use `split_events` and count what they leave out."""
    try:
        events = _decoder.decode(payload)
    except UNDECODABLE as error:
        raise CorruptRecord(f"not a payload of events: {error}") from error
    for event in events:
        if not 1 <= event.schema <= SCHEMA:
            raise UnknownSchema(f"event schema {event.schema}: this code reads 1 to {SCHEMA}")
    return events


def watched_rankings(payload: bytes) -> list[WatchedRanking]:
    """The rankings of a payload, for readers of their numbers. Raises as `decode_events`, and for other events' sake
    only if they are none. What it gives keeps the payload in memory."""
    try:
        events = _watched_decoder.decode(payload)
    except UNDECODABLE as error:
        raise CorruptRecord(f"not a payload of events: {error}") from error
    for event in events:
        if not 1 <= event.schema <= SCHEMA:
            raise UnknownSchema(f"event schema {event.schema}: this code reads 1 to {SCHEMA}")
    return [event for event in events if isinstance(event, WatchedRanking)]


def watched_ranking(encoded: bytes) -> WatchedRanking | None:
    """One event, None if it is another than a ranking. Raises as `decode_event`."""
    try:
        event = _one_watched_decoder.decode(encoded)
    except UNDECODABLE as error:
        raise _why_undecodable(encoded, error) from error
    if not 1 <= event.schema <= SCHEMA:
        raise UnknownSchema(f"event schema {event.schema}: this code reads 1 to {SCHEMA}")
    return event if isinstance(event, WatchedRanking) else None


def split_mirrors(payload: bytes) -> list[bytes]:
    """The encoded mirror events of a payload, for readers that want nothing else: payloads without
    any are not taken apart. Raises as `split_events`."""
    if _MIRROR_TAG not in payload:
        return []
    return [encoded for encoded in split_events(payload) if _is_mirror(encoded)]


def _is_mirror(encoded: bytes) -> bool:
    header_bytes = {0xDC: 3, 0xDD: 5}.get(encoded[0], 1)  # of the array; the tag follows
    return encoded.startswith(_MIRROR_TAG, header_bytes)


def _why_undecodable(encoded: bytes, error: Exception) -> ContractError:
    try:
        head = _head_decoder.decode(encoded)
    except UNDECODABLE:
        return CorruptRecord(f"not an event: {error}")
    if len(head) > 1 and isinstance(head[1], int) and head[1] > SCHEMA:
        return UnknownSchema(f"event schema {head[1]}: this code reads 1 to {SCHEMA}")
    return CorruptRecord(f"not an event: {error}")
