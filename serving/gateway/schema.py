"""The bodies of our own HTTP routes, and their rules.

Every refusal names the field and the rule. What passes here is safe for everything behind it.
"""

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry.contracts.errors import InvalidName
from registry.contracts.events import SCHEMA, Click, Exposure
from registry.contracts.ids import MAX_ID_CHARS, IssuedRanking, RankingIds, check_id, hashes_of, join_ids
from registry.contracts.traces import Trace
from serving.errors import QueryRefused
from serving.priority import check_priority
from serving.ranking import Ranking, RankQuery
from serving.settings import GatewaySettings

MAX_RANKING_AGE_MS = 30 * 24 * 3600 * 1000
MAX_SET_BACK_MS = 24 * 3600 * 1000  # a ranking id is ours or none: one of the future says that our clock was set back
CLOCK_SKEW_MS = 60_000
MAX_POSITION = 65535
VERSION_HEADER = "x-sluice-version"
RANKING_HEADER = b"x-sluice-ranking-id"  # for the log of a proxy, which does not read bodies
CONTROL_BYTES = bytes([*range(0x20), 0x7F])


class QueryBody(msgspec.Struct, forbid_unknown_fields=True):
    """id: of the query, for the evidence. features: `query` columns by name."""

    id: str = ""
    features: dict[str, float] = {}


class RankBody(msgspec.Struct, forbid_unknown_fields=True):
    """candidates: distinct item ids. features: one value per candidate, by column name.

    unit: user or session whose arm is sticky. top_k: how many to return. deadline_ms: from
    arrival to answer. priority: 1 is the most urgent, a larger number less; 0, the default, is level 4.
    """

    candidates: list[str]
    top_k: int = 10
    unit: str = ""
    query: QueryBody = msgspec.field(default_factory=QueryBody)
    features: dict[str, list[float]] = {}
    deadline_ms: int | None = None
    priority: int = 0


class FeedbackEventBody(msgspec.Struct, forbid_unknown_fields=True):
    """event_id: unique; sending it again changes nothing. position: 1 is the first.

    time_ms: when it happened, by the client's clock; now if absent. simulated: true for a click
    model's clicks; they are kept apart from people's.
    """

    event_id: str
    type: Literal["click", "exposure"]
    ranking_id: str
    item: str
    position: int | None = None
    time_ms: int | None = None
    simulated: bool = False


class FeedbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """A batch; accepted or refused as a whole."""

    events: list[FeedbackEventBody]


class PrefetchBody(msgspec.Struct, forbid_unknown_fields=True):
    """items: ids that are about to be candidates for the model; one that is named twice counts once."""

    model: str
    items: list[str]


class RankedItem(msgspec.Struct):
    """position: 1 is the best."""

    id: str
    score: float
    position: int


class RankAnswer(msgspec.Struct):
    """experiment: whose unit it is, empty in the champion's arm. degraded: what the answer had to do
    without; empty if nothing. stages_ms: by stage."""

    ranking_id: str
    model: str
    version: int
    arm: str
    experiment: str
    plan_revision: int
    items: list[RankedItem]
    degraded: list[str]
    stages_ms: dict[str, float]


_rank_decoder = msgspec.json.Decoder(RankBody)
_prefetch_decoder = msgspec.json.Decoder(PrefetchBody)
_feedback_decoder = msgspec.json.Decoder(FeedbackBody)
_encoder = msgspec.json.Encoder()


def read_rank(model: str, body: bytes | memoryview, settings: GatewaySettings, trace: Trace) -> RankQuery:
    """The query in a body. Raises QueryRefused."""
    return rank_query(model, _decode(_rank_decoder, body), settings, trace)


def rank_query(model: str, parsed: RankBody, settings: GatewaySettings, trace: Trace) -> RankQuery:
    """The query, however it came. Raises QueryRefused."""
    count = len(parsed.candidates)
    if not 1 <= count <= settings.max_candidates:
        raise QueryRefused(f"candidates: {count} ids, expected 1 to {settings.max_candidates}")
    blob, hashes = _read_ids("candidates", parsed.candidates)
    if parsed.top_k < 1:
        raise QueryRefused(f"top_k={parsed.top_k}: expected at least 1")
    deadline_ms = settings.default_deadline_ms if parsed.deadline_ms is None else parsed.deadline_ms
    if not 1 <= deadline_ms <= settings.max_deadline_ms:
        raise QueryRefused(f"deadline_ms={deadline_ms}: expected 1 to {settings.max_deadline_ms}")
    for field, value in (("unit", parsed.unit), ("query.id", parsed.query.id)):
        if value and not (value.isprintable() and len(value) <= MAX_ID_CHARS):  # a short look first
            _check(field, value)
    if parsed.query.features:
        _finite("query.features", np.array(list(parsed.query.features.values())), list(parsed.query.features))
    return RankQuery(
        model=model,
        item_ids=parsed.candidates,
        ids_blob=blob,
        hashes=hashes,
        top_k=min(parsed.top_k, count),
        deadline_ms=deadline_ms,
        unit=parsed.unit,
        query_id=parsed.query.id,
        query_features=parsed.query.features,
        candidate_features={name: _column(name, values, count) for name, values in parsed.features.items()},
        trace=trace,
        priority=check_priority("priority", parsed.priority) if parsed.priority else 0,
    )


def asked_version(value: bytes | None, settings: GatewaySettings) -> int:
    """The version in the header `x-sluice-version`, by which testers choose; 0 without it. Raises QueryRefused."""
    if value is None:
        return 0
    if not settings.version_header:
        raise QueryRefused(f"{VERSION_HEADER}: not taken here, start the platform with SLUICE_VERSION_HEADER=1")
    if not (value.isdigit() and len(value) <= 9 and int(value)):
        raise QueryRefused(f"{VERSION_HEADER}={value.decode(errors='replace')[:32]}: expected a version's number")
    return int(value)


def read_prefetch(body: bytes | memoryview, settings: GatewaySettings) -> tuple[str, NDArray[np.uint64], bytes]:
    """The model, and hashes and text of the distinct items, as frames carry them. Raises QueryRefused."""
    parsed: PrefetchBody = _decode(_prefetch_decoder, body)
    if not 1 <= len(parsed.items) <= settings.max_candidates:
        raise QueryRefused(f"items: {len(parsed.items)} ids, expected 1 to {settings.max_candidates}")
    items = list(dict.fromkeys(parsed.items))
    blob, hashes = _read_ids("items", items)
    return parsed.model, hashes, blob


def write_ranking(ranking: Ranking) -> bytes:
    """The answer's JSON."""
    return _encoder.encode(
        RankAnswer(
            ranking_id=ranking.ranking_id,
            model=ranking.model,
            version=ranking.version,
            arm=ranking.arm,
            experiment=ranking.experiment,
            plan_revision=ranking.plan_revision,
            items=[
                RankedItem(item, score, position)
                for position, (item, score) in enumerate(zip(ranking.items, ranking.scores.tolist(), strict=True), 1)
            ],
            degraded=list(ranking.degraded),
            stages_ms=ranking.stages_ms,
        )
    )


def read_feedback(
    body: bytes | memoryview, settings: GatewaySettings, ids: RankingIds, models: dict[int, str], now_ms: int
) -> list[Click | Exposure]:
    """The events in a body. models: name by tag, of the models served here.

    Raises QueryRefused, naming the first event that breaks a rule; nothing of the batch is kept.
    """
    return feedback_events(_decode(_feedback_decoder, body), settings, ids, models, now_ms)


def feedback_events(
    parsed: FeedbackBody, settings: GatewaySettings, ids: RankingIds, models: dict[int, str], now_ms: int
) -> list[Click | Exposure]:
    """The events, however they came. See `read_feedback`."""
    if not 1 <= len(parsed.events) <= settings.max_feedback_events:
        raise QueryRefused(f"events: {len(parsed.events)}, expected 1 to {settings.max_feedback_events}")
    return [_feedback_event(f"events[{i}]", event, ids, models, now_ms) for i, event in enumerate(parsed.events)]


def _feedback_event(
    field: str, event: FeedbackEventBody, ids: RankingIds, models: dict[int, str], now_ms: int
) -> Click | Exposure:
    _check(f"{field}.event_id", event.event_id)
    _check(f"{field}.item", event.item)
    try:
        issued: IssuedRanking = ids.recognise(event.ranking_id)
    except InvalidName as error:
        raise QueryRefused(f"{field}.{error}") from error
    if not now_ms - MAX_RANKING_AGE_MS <= issued.issued_ms <= now_ms + MAX_SET_BACK_MS:
        raise QueryRefused(f"{field}.ranking_id: its ranking is older than 30 days, or not from the past")
    if issued.model_tag not in models:
        raise QueryRefused(f"{field}.ranking_id: its model is not served here")
    if event.position is not None and not 1 <= event.position <= MAX_POSITION:
        raise QueryRefused(f"{field}.position={event.position}: expected 1 to {MAX_POSITION}")
    latest_ms = max(now_ms, issued.issued_ms)  # nothing happens to a ranking before it is there
    happened_ms = latest_ms if event.time_ms is None else event.time_ms
    if not 0 <= happened_ms <= latest_ms + CLOCK_SKEW_MS:
        raise QueryRefused(f"{field}.time_ms={happened_ms}: expected ms since the epoch, not in the future")
    kind = Click if event.type == "click" else Exposure
    return kind(
        SCHEMA,
        event.event_id,
        event.ranking_id,
        models[issued.model_tag],
        event.item,
        event.position,
        happened_ms,
        latest_ms,
        event.simulated,
    )


def _decode(decoder: "msgspec.json.Decoder[Any]", body: bytes | memoryview) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        rule, _, path = str(error).partition(" - at `")
        field = path.rstrip("`").removeprefix("$").lstrip(".") or "body"
        raise QueryRefused(f"{field}: {rule[:1].lower()}{rule[1:]}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise QueryRefused(f"body: not JSON ({error})") from error


def _read_ids(field: str, ids: list[str]) -> tuple[bytes, NDArray[np.uint64]]:
    """The ids joined by NUL and their hashes, if each keeps the rules of `check_id` and none stands twice.

    Looks at all of them together first: a loop over a thousand ids would cost more than ranking them. In C, if it can;
    what that does not take is read, or refused, here.
    """
    if (joined := join_ids(ids)) is not None:
        return joined
    try:
        blob = "\x00".join(ids).encode()
    except UnicodeEncodeError:
        blob = b"\x00" * len(ids)  # the loop says which
    # in UTF-8 these bytes are control characters and nothing else; the separators are the only ones allowed
    controls = len(blob) - len(blob.translate(None, CONTROL_BYTES))
    if controls != len(ids) - 1 or "" in ids or max(map(len, ids)) > MAX_ID_CHARS:
        for i, item in enumerate(ids):
            _check(f"{field}[{i}]", item)
    hashes = hashes_of(blob, len(ids))
    in_order = np.sort(hashes)
    if np.equal(in_order[1:], in_order[:-1]).any() and len(set(ids)) < len(ids):
        seen: set[str] = set()
        repeated = next(item for item in ids if item in seen or seen.add(item))  # type: ignore[func-returns-value]
        raise QueryRefused(f"{field}: {repeated!r} stands there twice, expected distinct ids")
    return blob, hashes


def _check(field: str, value: str) -> None:
    try:
        check_id(field, value)
    except InvalidName as error:
        raise QueryRefused(str(error)) from error


def _column(name: str, values: list[float], count: int) -> NDArray[np.float32]:
    if len(values) != count:
        raise QueryRefused(f"features.{name}: {len(values)} values for {count} candidates")
    return _finite(f"features.{name}", np.array(values, dtype=np.float64))


def _finite(field: str, values: NDArray[np.float64], names: list[str] | None = None) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if not np.isfinite(narrow).all():
        place = int(np.flatnonzero(~np.isfinite(narrow))[0])
        where = f"{field}.{names[place]}" if names else f"{field}[{place}]"
        raise QueryRefused(f"{where}={values[place]}: expected a finite number of float32's range")
    return narrow
