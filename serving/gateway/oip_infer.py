"""The hot route of the Open Inference Protocol: body and headers in, use case, body and headers out."""

import asyncio
import random
from collections.abc import Callable

from registry.contracts.traces import Trace
from serving import metrics
from serving.compression import WORTH_A_THREAD_BYTES, compressed, unpacked_aside, wanted_encoding
from serving.errors import DeadlineExceeded, QueryRefused, RankingError, UnknownModel
from serving.flow.deadlines import DEADLINE_HEADER, within
from serving.gateway.http import Answer, Headers, answer_of, told_already, trace_of
from serving.gateway.oip_request import ParsedInfer, read_binary, read_infer
from serving.gateway.oip_response import write_infer
from serving.identity.doorkeeper import Doorkeeper
from serving.infer import InferAnswer, InferService, rows_of
from serving.regions import Regions
from serving.settings import GatewaySettings

_BINARY, _JSON = b"application/octet-stream", b"application/json"
_DEADLINE = DEADLINE_HEADER.encode()
_HEADER_LENGTH = b"inference-header-content-length"


class OipInfer:
    """`POST /v2/models/{model}[/versions/{version}]/infer`, as `HotRoutes` mounts it.

    regions: None where shared memory is off. doorkeeper: None where queries are open to everybody. traces: begins
    those of requests that bring none; None: no traces.
    """

    def __init__(
        self,
        service: InferService,
        settings: GatewaySettings,
        regions: Regions | None = None,
        doorkeeper: Doorkeeper | None = None,
        traces: random.Random | None = None,
    ) -> None:
        self._service, self._settings, self._regions, self._doorkeeper = service, settings, regions, doorkeeper
        self._traces = traces

    async def __call__(
        self, model: str, version: str, body: bytes | memoryview, headers: Headers, trace: Trace
    ) -> Answer:
        """The answer. version: empty leaves it to the traffic plan. Raises RankingError."""
        visit = None
        if self._doorkeeper is not None:
            visit = await self._doorkeeper.welcome(headers, model)
            visit.check()
        try:
            if (encoding := headers.get(b"content-encoding")) is not None:
                body = await unpacked_aside(bytes(body), encoding, self._settings.max_infer_bytes)
            number = version_of(version) if version else None
            length = header_length_of(headers[_HEADER_LENGTH]) if _HEADER_LENGTH in headers else None
            parsed = read_infer(model, number, body, length, self._settings, self._regions)
            parsed.query.deadline_ms = within(headers.get(_DEADLINE), parsed.query.deadline_ms)
        except (QueryRefused, DeadlineExceeded) as error:
            metrics.ANSWERS.labels(self._known(model), "", error.status).inc()
            if isinstance(error, DeadlineExceeded):
                metrics.DEADLINES.labels("gateway").inc()
            raise
        parsed.query.trace = trace
        if visit is not None:
            await visit.admitted(rows_of(parsed.query))
        answer = await self._service.infer(parsed.query)
        written = self._written(parsed, answer)
        if (accepted := headers.get(b"accept-encoding")) is not None and (wanted := wanted_encoding(accepted)):
            if len(written.body) < WORTH_A_THREAD_BYTES:
                written.body = compressed(written.body, wanted)
            else:
                written.body = await asyncio.to_thread(compressed, written.body, wanted)
            written.hints = (*written.hints, (b"Content-Encoding", wanted))
        return written

    def begin(
        self, model: str, body: bytes | memoryview, headers: Headers, answered: Callable[[Answer], None]
    ) -> Callable[[], None] | None:
        """See `http.Begin`. For requests that are not compressed: binary both ways in a layout that is
        known, or all JSON."""
        if b"content-encoding" in headers or b"accept-encoding" in headers:
            return None
        visit = None
        if self._doorkeeper is not None:
            try:
                visit = self._doorkeeper.enter(headers, model)
            except RankingError:
                return None
        if (refused := self._service.refused_now(model)) is not None:
            answered(answer_of(refused))
            return told_already
        parsed = self._read(model, body, headers.get(_HEADER_LENGTH))
        if parsed is None:
            return None
        try:
            parsed.query.deadline_ms = within(headers.get(_DEADLINE), parsed.query.deadline_ms)
        except (QueryRefused, DeadlineExceeded):
            return None  # said on the long way
        if self._traces is not None:
            parsed.query.trace = trace_of(headers, self._traces)

        def done(result: InferAnswer | RankingError) -> None:
            try:
                answered(answer_of(result) if isinstance(result, RankingError) else self._written(parsed, result))
            except QueryRefused as refused:
                answered(answer_of(refused))

        if visit is None:
            return self._service.begin(parsed.query, done)
        query = parsed.query
        return visit.begin(rows_of(query), lambda: self._service.begin(query, done))

    def _read(self, model: str, body: bytes | memoryview, header_length: bytes | None) -> ParsedInfer | None:
        """The request, None if it must go the long way, where it is read once more."""
        if header_length is not None:
            return read_binary(model, body, int(header_length), self._settings) if header_length.isdigit() else None
        if not self._service.may_begin(model):  # before numbers are parsed for nothing
            return None
        try:
            return read_infer(model, None, body, None, self._settings, self._regions)
        except QueryRefused:
            return None

    def _written(self, parsed: ParsedInfer, answer: InferAnswer) -> Answer:
        """Raises QueryRefused if an output cannot be given as it was asked for."""
        written, json_bytes = write_infer(parsed, answer, parsed.classes and self._batchable(answer))
        if json_bytes is None:
            return Answer(200, written, (), _JSON)
        return Answer(200, written, ((b"Inference-Header-Content-Length", b"%d" % json_bytes),), _BINARY)

    def _batchable(self, answer: InferAnswer) -> bool:
        return self._service.describe(answer.model, answer.version).batchable

    def _known(self, model: str) -> str:
        """The model as a label: whatever clients think up is none."""
        try:
            self._service.ready(model)
        except UnknownModel:
            return ""
        return model


def version_of(version: str) -> int:
    """The number in a path. Raises QueryRefused if it is none."""
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        raise QueryRefused(f"version={version[:32]!r}: expected a number")
    return int(version)


def header_length_of(value: bytes) -> int:
    """The number in Inference-Header-Content-Length. Raises QueryRefused if it is none."""
    if not (value.isdigit() and len(value) < 16):
        raise QueryRefused(f"Inference-Header-Content-Length={value[:32]!r}: expected the bytes of JSON in the body")
    return int(value)
