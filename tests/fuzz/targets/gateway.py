"""What clients send: heads, bodies, tensors, HTTP/2 frames, header blocks, protobuf messages."""

import gzip
import json
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hpack import Encoder

from registry.contracts.ids import model_tag
from serving.compression import compressed, decompressed, wanted_encoding
from serving.errors import BodyTooLarge, QueryRefused
from serving.gateway.grpc.fields import FieldReader
from serving.gateway.grpc.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    ConnectionBroken,
    FrameReader,
    frame,
    read_settings,
    settings_frame,
    without_padding,
)
from serving.gateway.grpc.heads import understand
from serving.gateway.grpc.inference import decode
from serving.gateway.grpc.layouts import layout_of, pieces_of
from serving.gateway.grpc.messages import ENCODINGS, MessageBuffer, prefixed, unpacked
from serving.gateway.grpc.ranking import feedback_body, rank_body
from serving.gateway.grpc.tensors import read_infer as read_grpc_infer
from serving.gateway.heads import Heads
from serving.gateway.json_tensors import json_of_tensor
from serving.gateway.oip import IndexBody, LoadBody, RegionBody
from serving.gateway.oip_request import ParsedInfer, read_binary, read_infer
from serving.gateway.protos import ranking_pb2 as pb
from serving.gateway.protos.open_inference_pb2 import ModelInferRequest
from serving.gateway.schema import (
    asked_version,
    feedback_events,
    rank_query,
    read_feedback,
    read_prefetch,
    read_rank,
)
from serving.settings import GatewaySettings
from serving.tensors import Tensor, check_tensor, join_bytes
from tests.builders import NOW_MS
from tests.fuzz.target import READ, Target, pure, refusal
from tests.fuzz.targets.records import IDS
from tests.serving.http2_wire import ECHO, METHODS

LIMIT_BYTES = 1 << 16
SETTINGS_OF_GATEWAY = GatewaySettings(Path("events"), Path("plans"), ("worker",), max_json_bytes=LIMIT_BYTES)
MODELS = {model_tag("codesearch"): "codesearch"}


# HTTP


def _head(data: bytes) -> str:
    """What is read as plain is plain: one length, no way to read it in two ways."""
    head = Heads(lambda path: path if path.startswith("/v1/") else None).read(data)
    if head is None:
        return "for the full parser"
    assert head.length >= 0
    names = [line.partition(b":")[0] for line in data.lower().split(b"\r\n")[1:]]
    assert b"transfer-encoding" not in names
    assert names.count(b"content-length") == 1
    assert "%" not in head.path
    assert "\n" not in head.path
    return READ


def _rank(data: bytes) -> str:
    try:
        query = read_rank("codesearch", data, SETTINGS_OF_GATEWAY, "trace")
    except QueryRefused as error:
        return refusal(error)
    count = len(query.item_ids)
    assert 1 <= count <= SETTINGS_OF_GATEWAY.max_candidates
    assert query.ids_blob.count(b"\x00") == count - 1
    assert len(query.hashes) == count
    assert 1 <= query.top_k <= count
    assert 0 <= query.priority <= 255
    assert all(np.isfinite(column).all() and len(column) == count for column in query.candidate_features.values())
    return READ


def _feedback(data: bytes) -> str:
    try:
        events = read_feedback(data, SETTINGS_OF_GATEWAY, IDS, MODELS, NOW_MS)
    except QueryRefused as error:
        return refusal(error)
    assert all(event.model == "codesearch" for event in events)
    return READ


def _prefetch(data: bytes) -> str:
    try:
        _, hashes, ids = read_prefetch(data, SETTINGS_OF_GATEWAY)
    except QueryRefused as error:
        return refusal(error)
    assert ids.count(b"\x00") == len(hashes) - 1
    return READ


def _little_body(data: bytes) -> str:
    """Bodies of the repository's and the regions' routes."""
    came = "no JSON"
    for kind in (IndexBody, LoadBody, RegionBody):
        try:
            msgspec.json.decode(data, type=kind)
            came = READ
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if came != READ:
                came = refusal(error)
    return came


def _version_header(data: bytes) -> str:
    asking = GatewaySettings(Path("events"), Path("plans"), ("worker",), version_header=True)
    try:
        assert 1 <= asked_version(data, asking) < 10**9
    except QueryRefused as error:
        return refusal(error)
    return READ


def _sound(parsed: ParsedInfer) -> None:
    """A query that the next room can rely on."""
    query = parsed.query
    query.id.encode()
    assert query.deadline_ms >= 1
    assert 0 <= query.priority <= 255
    assert len({tensor.name for tensor in query.inputs}) == len(query.inputs)
    for tensor in query.inputs:
        check_tensor(tensor)
        values = tensor.array()
        assert values.shape == tensor.shape
        assert bytes(Tensor.of(tensor.name, tensor.datatype, values).data) == bytes(tensor.data)


def _infer(data: bytes) -> str:
    """Two bytes say how long the head is, 0 where all is JSON."""
    if len(data) < 2:
        return "nothing"
    length, body = struct.unpack_from("<H", data)[0], data[2:]
    try:
        parsed = read_infer("m", None, body, length or None, SETTINGS_OF_GATEWAY)
    except QueryRefused as error:
        assert read_binary("m", body, length, SETTINGS_OF_GATEWAY) is None, "the shorter way took what is refused"
        return refusal(error)
    _sound(parsed)
    if (short := read_binary("m", body, length, SETTINGS_OF_GATEWAY)) is not None:
        assert [bytes(one.data) for one in short.query.inputs] == [bytes(one.data) for one in parsed.query.inputs]
    for tensor in parsed.query.inputs:
        try:
            json.loads(json_of_tensor(tensor))
        except QueryRefused as error:
            refusal(error)
    return READ


def _large_infer(data: bytes) -> str:
    """The same JSON for the parser of large heads, which reads what the other reads.

    But for a name that stands there twice: which of the two counts is each parser's own.
    """
    small: ParsedInfer | None
    if _has_a_name_twice(data):
        return "a name twice"
    try:
        small = read_infer("m", None, data, None, SETTINGS_OF_GATEWAY)
    except QueryRefused:
        small = None
    try:
        parsed = read_infer("m", None, data + b" " * 5000, None, SETTINGS_OF_GATEWAY)
    except QueryRefused as error:
        assert small is None or len(data) > LIMIT_BYTES - 5000
        return refusal(error)
    _sound(parsed)
    assert small is not None
    assert [(one.name, bytes(one.data)) for one in small.query.inputs] == [
        (one.name, bytes(one.data)) for one in parsed.query.inputs
    ]
    return READ


def _has_a_name_twice(data: bytes) -> bool:
    twice: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        twice.extend(name for name in names if names.count(name) > 1)

    try:
        json.loads(data, object_pairs_hook=look)
    except (ValueError, RecursionError):
        return False
    return bool(twice)


def _http_infer_seeds() -> list[bytes]:
    values = np.arange(3, dtype=np.float32).tobytes()
    binary = {
        "id": "seven",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
            {"name": "w", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 11}},
        ],
        "outputs": [{"name": "s", "parameters": {"binary_data": True, "classification": 2}}],
        "parameters": {"priority": 3, "timeout": 1000, "unit": "u", "binary_data_output": True},
    }
    head = json.dumps(binary).encode()
    short = dict(binary, inputs=binary["inputs"][:1], outputs=[{"name": "s"}])  # type: ignore[index]
    del short["parameters"]
    short["parameters"] = {"binary_data_output": True}
    short_head = json.dumps(short).encode()
    return [
        struct.pack("<H", len(head)) + head + values + join_bytes([b"one", b""]),
        struct.pack("<H", len(short_head)) + short_head + values,
        *(b"\x00\x00" + one for one in _json_infer_seeds()),
    ]


def _json_infer_seeds() -> list[bytes]:
    tensors: list[tuple[str, list[int], Any]] = [
        ("FP32", [1, 3], [[0.5, 1e30, -0.0]]),
        ("BF16", [2], [1.0, 2.5]),
        ("FP16", [1], [float("nan")]),
        ("INT8", [2], [-128, 127]),
        ("UINT64", [1], [2**64 - 1]),
        ("BOOL", [2], [True, False]),
        ("BYTES", [2], ["ä", ""]),
        ("FP64", [], [1.5]),
    ]
    return [
        json.dumps({"inputs": [{"name": "x", "datatype": kind, "shape": shape, "data": data}]}).encode()
        for kind, shape, data in tensors
    ]


def _compression(data: bytes) -> str:
    """The first byte says the encoding. A body is unpacked up to the limit and no further."""
    if not data:
        return "nothing"
    encoding = (b"gzip", b"deflate", b"x-gzip", b"br")[data[0] & 3]
    wanted_encoding(data[1:])
    try:
        body = decompressed(data[1:], encoding, LIMIT_BYTES)
    except QueryRefused as error:
        return refusal(error)
    assert len(body) <= LIMIT_BYTES
    assert decompressed(compressed(body, encoding), encoding, LIMIT_BYTES) == body
    return READ


def _compressed_seeds() -> list[bytes]:
    bomb = zlib.compress(zlib.compress(bytes(50 << 20), 9), 9)
    return [
        b"\x00" + gzip.compress(b"hello" * 9),
        b"\x01" + zlib.compress(b"hello" * 9),
        b"\x00" + gzip.compress(bytes(5 << 20)),
        b"\x01" + bomb,
    ]


# gRPC


def _message(data: bytes) -> str:
    """A ModelInferRequest; the way without protobuf reads nothing else."""
    short = None
    if (pieces := pieces_of(data)) is not None and (layout := layout_of(pieces[0])) is not None:
        try:
            short = layout.query(pieces[1].decode(), pieces[2], 1000)
        except UnicodeDecodeError:
            short = None
    try:
        parsed = read_grpc_infer(decode(ModelInferRequest, data), SETTINGS_OF_GATEWAY)
    except QueryRefused as error:
        assert short is None, "the shorter way took what is refused"
        return refusal(error)
    _sound(parsed)
    if short is not None:
        assert [bytes(one.data) for one in short.inputs] == [bytes(one.data) for one in parsed.query.inputs]
    return READ


def _rank_message(data: bytes) -> str:
    try:
        rank_query("codesearch", rank_body(decode(pb.RankRequest, data)), SETTINGS_OF_GATEWAY, "trace")
    except QueryRefused as error:
        return refusal(error)
    return READ


def _feedback_message(data: bytes) -> str:
    try:
        feedback_events(feedback_body(decode(pb.FeedbackRequest, data)), SETTINGS_OF_GATEWAY, IDS, MODELS, NOW_MS)
    except QueryRefused as error:
        return refusal(error)
    return READ


def _frames(data: bytes) -> str:
    """HTTP/2 frames: the same whether they come at once or in pieces, as far as DATA may be cut."""
    whole, pieces = _read_frames([data]), _read_frames([data[at : at + 5] for at in range(0, len(data), 5)])
    if isinstance(whole, str) or isinstance(pieces, str):
        assert isinstance(whole, str)
        assert isinstance(pieces, str)
        return whole
    assert whole == pieces
    return READ


def _read_frames(pieces: list[bytes]) -> list[tuple[int, int, int, bytes]] | str:
    reader = FrameReader(1 << 14)
    found: list[tuple[int, int, int, bytes]] = []
    try:
        for piece in pieces:
            for kind, flags, stream, payload in reader.feed(piece):
                if kind == SETTINGS:
                    read_settings(payload)
                if kind == DATA and not flags & 8 and found and found[-1][0] == DATA and found[-1][2] == stream:
                    last = found.pop()
                    found.append((kind, last[1] | flags, stream, last[3] + bytes(payload)))
                else:
                    found.append((kind, flags, stream, bytes(without_padding(flags, payload))))
    except ConnectionBroken as error:
        return refusal(error)
    return found


def _fields(data: bytes) -> str:
    """Header blocks of one connection, parted by a byte that says how long each is."""
    reader = FieldReader(partial(understand, methods=METHODS), 1 << 13)
    at, came = 0, READ
    while at < len(data):
        size = data[at] or 256
        block = data[at + 1 : at + 1 + size]
        at += 1 + size
        try:
            head = reader.read(block)
        except ConnectionBroken as error:
            return refusal(error)
        assert head.method is not None or head.http_status or head.refusal is not None
        if head.refusal is not None:
            came = refusal(head.refusal)
        assert head.timeout_s is None or head.timeout_s >= 0
    return came


def _field_seeds() -> list[bytes]:
    encoder = Encoder()
    plain = [(":method", "POST"), (":scheme", "http"), (":path", ECHO), ("content-type", "application/grpc")]
    blocks = [
        encoder.encode([*plain, ("te", "trailers"), ("grpc-timeout", "100m")]),
        encoder.encode([*plain, ("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity,gzip")]),
        encoder.encode([*plain, ("traceparent", f"00-{1:032x}-{2:016x}-01")]),
    ]
    return [b"".join(bytes([len(block)]) + block for block in blocks), bytes([len(blocks[0])]) + blocks[0]]


def _messages(data: bytes) -> str:
    """Messages of a stream, whole or in pieces, unpacked."""
    whole, pieces = _buffered([data]), _buffered([data[at : at + 3] for at in range(0, len(data), 3)])
    if isinstance(whole, str) or isinstance(pieces, str):
        assert isinstance(whole, str)
        assert isinstance(pieces, str)
        return whole
    assert whole == pieces
    came = READ
    for received in whole:
        unpacking = unpacked(received, ENCODINGS[len(received[1]) % 3], LIMIT_BYTES)
        try:
            unpacking.send(None)
        except StopIteration as done:
            assert len(done.value) <= LIMIT_BYTES
        except QueryRefused as error:
            came = refusal(error)
        finally:
            unpacking.close()
    return came


def _buffered(pieces: list[bytes]) -> list[tuple[int, bytes]] | str:
    buffer, found = MessageBuffer(LIMIT_BYTES // 2), []
    try:
        for piece in pieces:
            found += [(flag, bytes(message)) for flag, message in buffer.feed(memoryview(piece))]
    except BodyTooLarge as error:
        return refusal(error)
    return found


def _request_seeds(kind: Any) -> list[bytes]:
    if kind is pb.RankRequest:
        return [
            pb.RankRequest(
                model="codesearch",
                candidates=["item-1", "item-2"],
                top_k=1,
                unit="u",
                query={"id": "q", "features": {"query_words": 2.0}},
                features={"match": {"values": [1.0, 2.0]}},
                deadline_ms=1000,
                priority=2,
            ).SerializeToString()
        ]
    event = {"event_id": "e", "ranking_id": IDS.issue(model_tag("codesearch"), NOW_MS - 5), "item": "a"}
    kinds = (pb.EVENT_TYPE_CLICK, pb.EVENT_TYPE_EXPOSURE)
    return [pb.FeedbackRequest(events=[event | {"type": one, "position": 1} for one in kinds]).SerializeToString()]


def _infer_message_seeds() -> list[bytes]:
    raw = ModelInferRequest(model_name="m", model_version="1", id="seven", raw_input_contents=[bytes(12), bytes(8)])
    typed = ModelInferRequest(model_name="m")
    for name, kind, shape in (("x", "FP32", [1, 3]), ("n", "INT64", [1])):
        raw.inputs.add(name=name, datatype=kind, shape=shape)
        typed.inputs.add(name=name, datatype=kind, shape=shape)
    typed.inputs[0].contents.fp32_contents.extend([1.0, 2.0, 3.0])
    typed.inputs[1].contents.int64_contents.extend([7])
    typed.parameters["priority"].uint64_param = 3
    typed.parameters["unit"].string_param = "u"
    typed.outputs.add(name="s").parameters["classification"].int64_param = 2
    words = ModelInferRequest(model_name="m", raw_input_contents=[join_bytes([b"a", b""])])
    words.inputs.add(name="w", datatype="BYTES", shape=[2])
    return [one.SerializeToString() for one in (raw, typed, words)]


def _conversation_bytes() -> list[bytes]:
    head = Encoder().encode([(":method", "POST"), (":path", ECHO), ("content-type", "application/grpc")])
    return [
        b"".join(
            (
                settings_frame({3: 100, 4: 1 << 20}),
                frame(HEADERS, END_HEADERS, 1, head),
                frame(DATA, END_STREAM, 1, prefixed(b"hello")),
                frame(HEADERS, END_HEADERS | 8, 3, b"\x02" + head + b"\0\0"),
                frame(DATA, 8, 3, b"\x01" + prefixed(b"x")[:3] + b"\0"),
                frame(8, 0, 0, b"\0\0\1\0"),
                frame(6, 0, 0, bytes(8)),
                frame(7, 0, 0, bytes(8)),
            )
        )
    ]


def targets() -> list[Target]:
    """Both doors of the gateway."""
    rank = {
        "candidates": ["a", "b", "c"],
        "top_k": 2,
        "unit": "u",
        "query": {"id": "q1", "features": {"query_words": 3}},
        "features": {"bm25": [1.5, 0.2, 1e30]},
        "deadline_ms": 200,
        "priority": 1,
    }
    issued = IDS.issue(model_tag("codesearch"), NOW_MS - 1000)
    events = [
        {"event_id": "e1", "type": "click", "ranking_id": issued, "item": "a", "position": 1, "time_ms": NOW_MS},
        {"event_id": "e2", "type": "exposure", "ranking_id": issued, "item": "b", "simulated": True},
    ]
    plain_head = b"POST /v1/models/m/rank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 7"
    little = [{"ready": True}, {"parameters": {"config": "{}"}}, {"key": "/x", "byte_size": 8, "offset": 1}]
    return [
        pure("http.head", _head, lambda: [plain_head, plain_head + b"\r\nConnection: keep-alive"], "lines", 2.0),
        pure("http.rank", _rank, lambda: [json.dumps(rank).encode(), b'{"candidates": ["a"]}'], "json", 2.0),
        pure("http.feedback", _feedback, lambda: [json.dumps({"events": events}).encode()], "json"),
        pure("http.prefetch", _prefetch, lambda: [b'{"model": "m", "items": ["a", "b", "a"]}'], "json"),
        pure("http.little_bodies", _little_body, lambda: [json.dumps(one).encode() for one in little], "json", 0.5),
        pure("http.version", _version_header, lambda: [b"7", b"123456789"], "lines", 0.3),
        pure("http.infer", _infer, _http_infer_seeds, share=2.0),
        pure("http.infer_json", _large_infer, _json_infer_seeds, "json", 2.0),
        pure("http.compression", _compression, _compressed_seeds, share=0.5),
        pure("grpc.infer", _message, _infer_message_seeds, "protobuf", 2.0),
        pure("grpc.rank", _rank_message, lambda: _request_seeds(pb.RankRequest), "protobuf"),
        pure("grpc.feedback", _feedback_message, lambda: _request_seeds(pb.FeedbackRequest), "protobuf"),
        pure("grpc.frames", _frames, _conversation_bytes, share=2.0),
        pure("grpc.fields", _fields, _field_seeds),
        pure(
            "grpc.messages",
            _messages,
            lambda: [prefixed(b"hello") + prefixed(gzip.compress(b"hello"), 1), prefixed(zlib.compress(b"x"), 1)],
        ),
    ]
