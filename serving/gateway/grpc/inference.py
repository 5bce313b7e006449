"""ModelInfer and ModelStreamInfer: one request, or a stream of them, answered in their order."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from serving import metrics
from serving.errors import QueryRefused, RankingError, UnknownModel
from serving.gateway.grpc.calls import Call, Conversation, Done
from serving.gateway.grpc.layouts import REMEMBERED_BYTES, layout_of, pieces_of, response_of
from serving.gateway.grpc.tensors import read_infer, write_infer
from serving.gateway.protos.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from serving.identity.doorkeeper import Doorkeeper
from serving.infer import InferAnswer, InferService, rows_of
from serving.regions import Regions
from serving.settings import GatewaySettings
from serving.tracing.doors import GRPC_INFER

IN_FLIGHT_OF_STREAM = 64
"""Requests of one stream at once: enough for full batches, and a bound on what waits for the slowest."""

Request = TypeVar("Request", bound=Message)


def decode(kind: type[Request], message: bytes | memoryview) -> Request:
    """The request in a message. Raises QueryRefused if it is none."""
    try:
        return kind.FromString(message)  # type: ignore[arg-type]  # takes any buffer
    except DecodeError as error:
        raise QueryRefused(f"body: not a {kind.DESCRIPTOR.name} ({error})") from error


class Inference:
    """regions: None where shared memory is off. doorkeeper: None where queries are open to everybody."""

    def __init__(
        self,
        service: InferService,
        settings: GatewaySettings,
        regions: Regions | None = None,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        self._service, self._settings, self._regions, self._doorkeeper = service, settings, regions, doorkeeper

    async def infer(self, call: Call, message: bytes | memoryview) -> bytes:
        """One answer. Raises RankingError."""
        return (await self._answer(call, decode(ModelInferRequest, message))).SerializeToString()

    def begin(self, call: Call, message: bytes | memoryview, done: Done) -> Callable[[], None] | None:
        """See `Method`. For requests of a layout that is known, with raw tensors both ways."""
        pieces = pieces_of(message)
        if pieces is None:
            return None
        rest, id, raw = pieces
        layout = layout_of(rest) if len(rest) <= REMEMBERED_BYTES else None
        if layout is None:
            return None
        settings = self._settings
        try:
            deadline_ms = call.deadline_ms(None, settings.default_deadline_ms, settings.max_deadline_ms)
            query = layout.query(id.decode(), raw, deadline_ms)
        except (UnicodeDecodeError, RankingError):
            return None
        if query is None:
            return None
        visit = None
        if self._doorkeeper is not None:
            try:
                visit = self._doorkeeper.enter(call.fields, query.model)
            except RankingError:
                return None

        def answered(result: InferAnswer | RankingError) -> None:
            try:
                done(result if isinstance(result, RankingError) else response_of(result))
            except Exception as error:  # whatever it is, it must not end the connection to the worker
                done(error)

        if visit is None:
            return self._service.begin(query, answered)
        return visit.begin(rows_of(query), lambda: self._service.begin(query, answered))

    async def stream(self, call: Call, conversation: Conversation) -> None:
        """Answers every request; one that cannot be answered has an error message in its place."""
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(IN_FLIGHT_OF_STREAM)

        async def send() -> None:
            while (answer := await answers.get()) is not None:
                await conversation.send(await answer)

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            while (message := await conversation.receive()) is not None:
                await answers.put(group.create_task(self._streamed(call, message)))
            await answers.put(None)

    async def _streamed(self, call: Call, message: bytes | memoryview) -> bytes:
        """The answer, or why there is none, as one message of a stream."""
        answered = ModelStreamInferResponse()
        try:
            request = decode(ModelInferRequest, message)
            answered.infer_response.id = request.id
            answered.infer_response.CopyFrom(await self._answer(call, request))
            # for clients that count: a model here gives one response to a request, so it is the last
            answered.infer_response.parameters["triton_final_response"].bool_param = True
        except RankingError as error:
            answered.error_message = str(error)
        return answered.SerializeToString()

    async def _answer(self, call: Call, request: ModelInferRequest) -> ModelInferResponse:
        settings, visit = self._settings, None
        if self._doorkeeper is not None:
            visit = await self._doorkeeper.welcome(call.fields, request.model_name)
            visit.check()
        try:
            parsed = read_infer(request, settings, self._regions)
        except QueryRefused as error:
            metrics.ANSWERS.labels(self._known(request.model_name), "", error.status).inc()
            raise
        query = parsed.query
        query.trace, query.door = call.trace, GRPC_INFER
        if call.deadline_s is not None:
            asked_ms = query.deadline_ms if request.parameters and "timeout" in request.parameters else None
            query.deadline_ms = call.deadline_ms(asked_ms, settings.default_deadline_ms, settings.max_deadline_ms)
        if visit is not None:
            await visit.admitted(rows_of(query))
        answer = await self._service.infer(query)
        if any(wish.classes for wish in parsed.wishes):
            return write_infer(parsed, answer, self._service.describe(answer.model, answer.version).batchable)
        return write_infer(parsed, answer)

    def _known(self, model: str) -> str:
        """The model as a label: whatever clients think up is none."""
        try:
            self._service.ready(model)
        except UnknownModel:
            return ""
        return model
