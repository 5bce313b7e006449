"""Whatever bytes arrive: a query, a refusal, or the end of a connection; never a crash, never INTERNAL."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from serving.errors import QueryRefused
from serving.gateway.grpc.frames import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, frame
from serving.gateway.grpc.inference import decode
from serving.gateway.grpc.messages import prefixed
from serving.gateway.grpc.methods import HEALTH, INFERENCE, RANKING
from serving.gateway.grpc.tensors import read_infer
from serving.gateway.protos import open_inference_pb2, ranking_pb2
from serving.gateway.protos.open_inference_pb2 import ModelInferRequest
from serving.tensors import check_tensor
from tests.serving.grpc_gateway import a_gateway, a_worker
from tests.serving.http2_wire import CHAT, Wire, wired
from tests.serving.test_grpc_codec import SETTINGS, by_layout, plain
from tests.serving.workbench import PATIENCE_S

GOOD_INFER = service_pb2.ModelInferRequest(
    model_name="tensors",
    id="seven",
    inputs=[
        {"name": "left", "datatype": "FP32", "shape": [1, 3]},
        {"name": "right", "datatype": "FP32", "shape": [1, 3], "parameters": {"a": {"int64_param": 7}}},
    ],
    outputs=[{"name": "sum", "parameters": {"classification": {"int64_param": 2}}}],
    raw_input_contents=[np.ones(3, np.float32).tobytes()] * 2,
    parameters={"priority": {"uint64_param": 3}, "unit": {"string_param": "u"}},
).SerializeToString()
GOOD_TYPED = service_pb2.ModelInferRequest(
    model_name="tensors",
    inputs=[
        {"name": name, "datatype": "FP32", "shape": [1, 3], "contents": {"fp32_contents": [1.0, 2.0, 3.0]}}
        for name in ("left", "right")
    ],
).SerializeToString()
GOOD_PLAIN = service_pb2.ModelInferRequest(
    model_name="tensors",
    inputs=[{"name": name, "datatype": "FP32", "shape": [1, 3]} for name in ("left", "right")],
    raw_input_contents=[bytes(12)] * 2,
).SerializeToString()
GOOD_RANK = ranking_pb2.RankRequest(
    model="codesearch",
    candidates=["item-1", "item-2"],
    top_k=1,
    unit="u",
    query={"id": "q", "features": {"query_words": 2.0}},
    features={"match": {"values": [1.0, 2.0]}},
    deadline_ms=1000,
).SerializeToString()
GOOD_FEEDBACK = ranking_pb2.FeedbackRequest(
    events=[{"event_id": "e", "type": ranking_pb2.EVENT_TYPE_CLICK, "ranking_id": "0" * 32, "item": "item-1"}]
).SerializeToString()
GOOD_NAMES = open_inference_pb2.ModelMetadataRequest(name="tensors", version="1").SerializeToString()
GOOD = [GOOD_PLAIN, GOOD_INFER, GOOD_TYPED, GOOD_RANK, GOOD_FEEDBACK, GOOD_NAMES]
UNARY = [
    *(
        f"/{INFERENCE}/{method.name}"
        for method in open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
        if not method.client_streaming
    ),
    f"/{INFERENCE}/TraceSetting",
    f"/{RANKING}/Rank",
    f"/{RANKING}/Feedback",
    f"/{HEALTH}/Check",
]
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED, grpc.StatusCode.DATA_LOSS}


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A good message with bytes changed, put in, taken out or cut off."""
    message = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(message) - 1)))
        how = draw(st.sampled_from(["change", "insert", "remove", "cut", "repeat"]))
        if how == "change" and message:
            message[at] = draw(st.integers(0, 255))
        elif how == "insert":
            message[at:at] = draw(st.binary(max_size=6))
        elif how == "remove":
            del message[at : at + draw(st.integers(1, 8))]
        elif how == "cut":
            del message[at:]
        else:
            message[at:at] = message[at : at + draw(st.integers(1, 40))]
    return bytes(message)


anything = st.binary(max_size=200) | mutated(GOOD)


@settings(max_examples=400)
@given(anything)
def test_a_message_is_a_query_whose_tensors_are_right_or_it_is_refused(message: bytes) -> None:
    short = by_layout_or_refused(message)
    try:
        parsed = read_infer(decode(ModelInferRequest, message), SETTINGS)
    except QueryRefused:
        assert short is None, "the shorter way took what the longer refuses"
        return
    for tensor in parsed.query.inputs:
        check_tensor(tensor)
    if short is not None:
        assert plain(short) == plain(parsed.query)


def by_layout_or_refused(message: bytes):  # type: ignore[no-untyped-def]
    try:
        return by_layout(message)
    except UnicodeDecodeError:  # of an id: the longer way refuses it
        return None


@contextmanager
def a_port() -> Iterator[str]:
    """The address of a gateway on a thread of its own."""
    ready, over = threading.Event(), threading.Event()
    address: list[str] = []

    async def run() -> None:
        with a_worker() as worker:
            async with a_gateway(worker) as gateway:
                address.append(gateway.address)
                ready.set()
                await asyncio.to_thread(over.wait)

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield address[0]
    finally:
        over.set()
        thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    with a_port() as address, grpc.insecure_channel(address) as channel:
        yield channel


@settings(max_examples=400)
@given(message=anything, path=st.sampled_from(UNARY))
def test_every_method_answers_anything_with_a_status_that_means_something(
    channel: grpc.Channel, message: bytes, path: str
) -> None:
    try:
        channel.unary_unary(path)(message, timeout=PATIENCE_S)
    except grpc.RpcError as error:
        assert error.code() not in NEVER, f"{path}: {error.details()}"
        assert error.details()


@given(messages=st.lists(anything, min_size=1, max_size=5))
def test_a_stream_answers_each_of_anything(channel: grpc.Channel, messages: list[bytes]) -> None:
    answers = channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")(iter(messages), timeout=PATIENCE_S)

    told = [service_pb2.ModelStreamInferResponse.FromString(answer) for answer in answers]

    assert len(told) == len(messages)
    assert all(one.error_message or one.infer_response.model_name for one in told)


def test_the_gateway_still_answers(channel: grpc.Channel) -> None:
    answer = channel.unary_unary(f"/{INFERENCE}/ModelInfer")(GOOD_INFER, timeout=PATIENCE_S)

    assert service_pb2.ModelInferResponse.FromString(answer).id == "seven"


# below gRPC


def a_conversation(wire: Wire) -> bytes:
    """All that a client of a few calls says."""
    return b"".join(
        (
            PREFACE,
            frame(4, 0, 0, b""),
            wire.call(1),
            frame(HEADERS, END_HEADERS, 3, wire.head(CHAT)),
            frame(DATA, 0, 3, prefixed(b"one") + prefixed(b"two")[:3]),
            frame(8, 0, 0, b"\0\0\1\0"),
            wire.call(5, b"x" * 300),
            frame(DATA, END_STREAM, 3, prefixed(b"two")[3:]),
            frame(3, 0, 5, bytes(4)),
        )
    )


@settings(max_examples=400)
@given(data=st.data())
def test_any_bytes_on_a_connection_are_answered_or_end_it(data: st.DataObject) -> None:
    async def scenario(wire: Wire) -> None:
        said = data.draw(mutated([a_conversation(wire)]) | st.binary(max_size=100).map(lambda junk: PREFACE + junk))
        await wire.say(said)
        wire.connection.connection_lost(None)
        await wire.listen()
        assert repr(wire.connection) == "<Connection [0 calls]>"

    wired(scenario)
