"""HTTP/2 as clients speak it, well and badly: one connection, frame by frame."""

import asyncio
import gc
import struct
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.grpc.calls import Call, Code
from serving.gateway.grpc.exchange import Exchange
from serving.gateway.grpc.fields import FieldReader
from serving.gateway.grpc.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    ConnectionBroken,
    Reason,
    frame,
    settings_frame,
    window_update,
)
from serving.gateway.grpc.messages import READ_BYTES, MessageBuffer, prefixed
from tests.serving.http2_wire import BEGUN, CHAT, DEAF, ECHO, HANG, MAX_BYTES, ONCE, Wire, cut, wired


def told(wire: Wire, number: int = 1) -> tuple[int | None, bytes, bool]:
    """Code, messages and whether the stream has ended."""
    answer = wire.answers[number]
    return answer.code, answer.messages, answer.ended


ECHOED = (Code.OK, prefixed(b"hello"), True)


# what must work


@given(places=st.lists(st.integers(0, 1 << 20), max_size=8), size=st.integers(0, 70_000))
def test_bytes_mean_the_same_however_they_are_cut(places: list[int], size: int) -> None:
    async def scenario(wire: Wire) -> None:
        message = bytes(i % 251 for i in range(size))
        body = prefixed(message)
        said = [PREFACE, settings_frame({INITIAL_WINDOW_SIZE: 1 << 20}), window_update(0, 1 << 20)]
        for number in (1, 3):
            said.append(frame(HEADERS, END_HEADERS, number, wire.head()))
            parts = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
            if number == 1:
                parts.append(b"")  # some clients end a stream with its last bytes, some after them
            said += [frame(DATA, 0, number, part) for part in parts[:-1]]
            said.append(frame(DATA, END_STREAM, number, parts[-1]))
        for piece in cut(b"".join(said), places):
            await wire.say(piece)
        assert told(wire, 1) == told(wire, 3) == (Code.OK, body, True)

    wired(scenario)


def test_padding_priorities_continuations_and_trailers_are_understood() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        block = wire.head()
        padded = bytes([3]) + bytes(4) + bytes([15]) + block[:10] + bytes(3)
        body = prefixed(b"hello")
        await wire.say(
            frame(HEADERS, PADDED | WITH_PRIORITY, 1, padded),
            frame(CONTINUATION, 0, 1, block[10:12]),
            frame(CONTINUATION, END_HEADERS, 1, block[12:]),
            frame(PRIORITY, 0, 1, bytes(5)),
            frame(DATA, PADDED, 1, bytes([2]) + body + bytes(2)),
            frame(0x63, 0, 1, b"an extension"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, Encoder().encode([("some", "trailer")])),
        )
        assert told(wire) == ECHOED

    wired(scenario)


def test_settings_and_pings_are_answered() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        await wire.say(frame(PING, 0, 0, b"12345678"), frame(PING, ACK, 0, b"87654321"))
        assert [(kind, flags) for kind, flags, _, _ in wire.frames] == [
            (SETTINGS, 0),
            (WINDOW_UPDATE, 0),
            (SETTINGS, ACK),
            (PING, ACK),
        ]
        assert wire.last(PING) == (0, b"12345678")

    wired(scenario)


@given(
    stream_grants=st.lists(st.integers(1, 5000), max_size=6),
    connection_grants=st.lists(st.integers(1, 5000), max_size=6),
    first=st.integers(0, 3000),
)
def test_no_more_is_sent_than_the_windows_allow_and_all_of_it_in_the_end(
    stream_grants: list[int], connection_grants: list[int], first: int
) -> None:
    message = bytes(i % 253 for i in range(80_000))
    whole = prefixed(message)

    async def scenario(wire: Wire) -> None:
        await wire.greet(_4=first)
        await wire.say(wire.call(1, message))
        stream, connection = first, 65_535
        grants = [(1, more) for more in stream_grants] + [(0, more) for more in connection_grants]
        for number, more in grants:
            await wire.say(window_update(number, more))
            stream += more * (number == 1)
            connection += more * (number == 0)
            sent = wire.answers[1].messages
            assert sent == whole[: min(stream, connection)]
            assert not wire.answers[1].ended
        await wire.say(window_update(0, 100_000), window_update(1, 100_000))
        assert told(wire) == (Code.OK, whole, True)

    wired(scenario)


def test_answers_of_many_calls_share_the_connections_window() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet(_4=1 << 20)
        whole = prefixed(bytes(10_000))
        numbers = range(1, 21, 2)
        await wire.say(*(wire.call(number, bytes(10_000)) for number in numbers))
        assert sum(len(wire.answers[number].messages) for number in numbers) == 65_535
        await wire.say(window_update(0, 1 << 20))
        assert {told(wire, number) for number in numbers} == {(Code.OK, whole, True)}

    wired(scenario)


def test_a_smaller_initial_window_counts_for_calls_under_way() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet(_4=100)
        await wire.say(wire.call(1, bytes(500)))
        await wire.say(settings_frame({INITIAL_WINDOW_SIZE: 50}), window_update(1, 60))
        assert len(wire.answers[1].messages) == 110
        await wire.say(settings_frame({INITIAL_WINDOW_SIZE: 1000}))
        assert told(wire) == (Code.OK, prefixed(bytes(500)), True)

    wired(scenario)


def test_received_bytes_are_granted_again() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        granted = {0: 0, 1: 0}
        head = frame(HEADERS, END_HEADERS, 1, wire.head(CHAT))
        await wire.say(window_update(0, 1 << 30), head, window_update(1, 1 << 30))
        part = prefixed(bytes(500_000))
        for _ in range(20):
            await wire.say(*(frame(DATA, 0, 1, part[at : at + 16_384]) for at in range(0, len(part), 16_384)))
        for kind, _, number, payload in wire.frames[3:]:
            if kind == WINDOW_UPDATE:
                granted[number] += struct.unpack(">I", payload)[0]
        assert len(wire.answers[1].messages) == 20 * len(part)
        assert all(20 * len(part) - given < 1 << 23 for given in granted.values())
        assert 20 * len(part) - granted[1] < 1 << 20

    wired(scenario)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_who_compresses_is_answered_compressed_if_that_is_accepted(encoding: str) -> None:
    import zlib

    bits = {"gzip": 31, "deflate": 15}[encoding]

    async def scenario(wire: Wire) -> None:
        await wire.greet()
        deflater = zlib.compressobj(wbits=bits)
        squeezed = deflater.compress(b"hello") + deflater.flush()
        body = prefixed(squeezed, 1)
        for number, accepted in ((1, "identity,deflate, gzip"), (3, "identity")):
            head = wire.head(ECHO, ("grpc-encoding", encoding), ("grpc-accept-encoding", accepted))
            await wire.say(frame(HEADERS, END_HEADERS, number, head), frame(DATA, END_STREAM, number, body))
        answer = wire.answers[1]
        assert (answer.code, answer.fields["grpc-encoding"], answer.messages[0]) == (Code.OK, encoding, 1)
        assert zlib.decompress(answer.messages[5:], bits) == b"hello"
        assert told(wire, 3) == ECHOED
        assert "grpc-encoding" not in wire.answers[3].fields

    wired(scenario)


@given(
    heads=st.lists(
        st.lists(
            st.tuples(st.sampled_from(["a", "b", "user-agent"]), st.sampled_from(["1", "2", "x" * 3000])), max_size=4
        ),
        max_size=12,
    ),
    table=st.sampled_from([4096, 4096, 100, 0]),
    resized_at=st.integers(0, 12),
)
def test_remembered_fields_are_the_decoded_fields(
    heads: list[list[tuple[str, str]]], table: int, resized_at: int
) -> None:
    encoder, plain = Encoder(), Decoder()
    reader = FieldReader(lambda fields: list(fields), 1 << 16)
    for place, fields in enumerate(heads):
        if place == resized_at:
            encoder.header_table_size = table
        block = encoder.encode(fields)
        assert reader.read(block) == [tuple(one) for one in plain.decode(block, raw=True)]


def test_the_same_block_means_what_the_table_says_now() -> None:
    newest, resize_to_nothing, resize_back = b"\xbe", b"\x20", b"\x3f\xe1\x1f"
    reader = FieldReader(lambda fields: list(fields), 1 << 16)

    assert reader.read(b"\x40\x01a\x011") == [(b"a", b"1")]
    assert reader.read(newest) == reader.read(newest) == [(b"a", b"1")]
    assert reader.read(b"\x40\x01b\x012") == [(b"b", b"2")]
    assert reader.read(newest) == [(b"b", b"2")]
    assert reader.read(resize_to_nothing + resize_back) == []
    with pytest.raises(ConnectionBroken):
        reader.read(newest)


# what is refused, with a status


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"path": "/test/Nothing"}, Code.UNIMPLEMENTED, "/test/Nothing: no such method is served"),
        (
            {"grpc-encoding": "snappy"},
            Code.UNIMPLEMENTED,
            "grpc-encoding=snappy: expected one of identity, gzip, deflate",
        ),
        (
            {"grpc-timeout": "1 minute"},
            Code.INVALID_ARGUMENT,
            "grpc-timeout=1 minute: expected at most eight digits and one of H, M, S, m, u, n",
        ),
    ],
)
def test_a_call_that_cannot_be_made_is_told_why(changes: dict[str, str], code: Code, message: str) -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        more = [(name, value) for name, value in changes.items() if name != "path"]
        await wire.say(wire.call(1, b"hello", changes.get("path", ECHO), *more))
        answer = wire.answers[1]
        assert (answer.code, answer.fields["grpc-message"], answer.ended) == (code, message, True)
        assert answer.fields[":status"] == "200"

    wired(scenario)


@pytest.mark.parametrize(("changes", "status"), [({"method": "GET"}, "405"), ({"type": "text/html"}, "415")])
def test_what_is_no_grpc_call_gets_a_status_of_http(changes: dict[str, str], status: str) -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        fields = [(":method", changes.get("method", "POST")), (":path", ECHO), (":scheme", "http")]
        fields.append(("content-type", changes.get("type", "application/grpc")))
        await wire.say(frame(HEADERS, END_HEADERS | END_STREAM, 1, Encoder().encode(fields)))
        assert wire.answers[1].fields == {":status": status}
        assert wire.answers[1].ended

    wired(scenario)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: no message"),
        (prefixed(b"hello")[:7], "body: part of a message"),
        (prefixed(b"hello") * 2, "body: more than one message"),
        (prefixed(b"hello", 1), "body: a message is marked as compressed, but grpc-encoding does not say how"),
        (prefixed(b"x" * (MAX_BYTES + 1)), f"body: {MAX_BYTES + 1} bytes, expected at most {MAX_BYTES}"),
    ],
)
def test_a_body_that_is_not_one_message_is_refused(body: bytes, message: str) -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head()))
        parts = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
        await wire.say(*(frame(DATA, 0, 1, part) for part in parts), frame(DATA, END_STREAM, 1, b""))
        answer = wire.answers[1]
        assert (answer.code, answer.fields["grpc-message"]) == (Code.INVALID_ARGUMENT, message)
        await wire.say(wire.call(3))
        assert told(wire, 3) == ECHOED

    wired(scenario)


def test_a_message_that_says_it_is_too_long_is_refused_at_once_and_need_not_be_sent() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        lies = struct.pack(">BI", 0, 1 << 31)
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head()), frame(DATA, 0, 1, lies))
        assert wire.answers[1].code == Code.INVALID_ARGUMENT
        assert wire.last(RST_STREAM) == (1, struct.pack(">I", Reason.NO_ERROR))
        await wire.say(frame(DATA, END_STREAM, 1, bytes(1000)), wire.call(3))  # it did not know yet
        assert told(wire, 3) == ECHOED

    wired(scenario)


@pytest.mark.parametrize("lacking_bytes", [100, 0])
def test_more_unfinished_messages_than_a_connection_may_have_are_refused(lacking_bytes: int) -> None:
    """Also those of which nothing but the end of their stream is lacking."""

    async def scenario(wire: Wire) -> list[int | None]:
        await wire.greet()
        begun = struct.pack(">BI", 0, MAX_BYTES) + bytes(MAX_BYTES - lacking_bytes)
        for number in range(1, 20, 2):
            await wire.say(
                frame(HEADERS, END_HEADERS, number, wire.head()),
                *(frame(DATA, 0, number, begun[at : at + 16_384]) for at in range(0, len(begun), 16_384)),
            )
        return [answer.code for answer in wire.answers.values()]

    codes = wired(scenario, max_receiving_bytes=3 << 20)

    assert codes
    assert set(codes) == {Code.RESOURCE_EXHAUSTED}


def test_those_that_hold_most_are_refused_if_the_one_that_goes_on_holds_next_to_nothing() -> None:
    """Beginning with it, and no more than it takes: what the others have sent is not lost."""
    sizes = {1: 500_000, 3: 900_000, 5: 1_000_000, 7: 800_000}

    async def scenario(wire: Wire) -> None:
        await wire.greet(_4=1 << 20)
        rest = {}
        for number, size in sizes.items():
            body = prefixed(bytes(size))
            begun, rest[number] = body[:-100], body[-100:]
            await wire.say(
                frame(HEADERS, END_HEADERS, number, wire.head()),
                *(frame(DATA, 0, number, begun[at : at + 16_384]) for at in range(0, len(begun), 16_384)),
            )
        assert not wire.answers  # too much is held since the last of them, which is noticed as the window is returned
        number = 9
        while 3 not in wire.answers and 5 not in wire.answers:
            assert number < 1000
            head = frame(HEADERS, END_HEADERS, number, wire.head())
            await wire.say(head, frame(DATA, PADDED, number, bytes([0]) + prefixed(bytes(16_000))[:10_000]))
            if number not in wire.answers:
                await wire.say(frame(RST_STREAM, 0, number, bytes(4)))
            number += 2
        refused = {number for number, answer in wire.answers.items() if answer.code == Code.RESOURCE_EXHAUSTED}
        assert refused == {number - 2, 5}
        assert wire.answers[5].fields["grpc-message"].endswith("of unfinished messages on one connection: slow down")
        await wire.say(window_update(0, 1 << 24))
        for number in (1, 3, 7):
            await wire.say(frame(DATA, END_STREAM, number, rest[number]))
            assert told(wire, number) == (Code.OK, prefixed(bytes(sizes[number])), True)

    wired(scenario, max_receiving_bytes=3 << 20)


def test_calls_beyond_the_limit_may_be_made_again_elsewhere() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        await wire.say(*(wire.call(number, b"", HANG) for number in (1, 3, 5)))
        assert wire.last(RST_STREAM) == (5, struct.pack(">I", Reason.REFUSED_STREAM))
        assert repr(wire.connection) == "<Connection [2 calls]>"

    wired(scenario, max_streams=2)


def test_a_connection_that_drains_answers_what_it_has_and_takes_nothing_new() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head()))
        wire.connection.drain()
        await wire.say(wire.call(3))
        assert wire.last(GOAWAY) == (0, struct.pack(">II", 1, Reason.NO_ERROR))
        assert wire.last(RST_STREAM) == (3, struct.pack(">I", Reason.REFUSED_STREAM))
        await wire.say(frame(DATA, END_STREAM, 1, prefixed(b"hello")))
        assert told(wire) == ECHOED
        assert wire.transport.closed

    wired(scenario)


def test_who_does_not_read_is_not_read_from() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        wire.connection.pause_writing()
        assert wire.transport.reading_paused
        wire.connection.resume_writing()
        assert not wire.transport.reading_paused

    wired(scenario)


def test_messages_that_nobody_takes_are_not_asked_for() -> None:
    """The window of a streaming call is widened as its messages are taken, not as they arrive."""

    async def scenario(wire: Wire) -> None:
        def granted() -> int:
            updates = [payload for kind, _, number, payload in wire.frames if (kind, number) == (WINDOW_UPDATE, 1)]
            return sum(struct.unpack(">I", update)[0] for update in updates)

        await wire.greet()  # whose windows hold back the answers after 64 KB
        part = prefixed(bytes(200_000))
        said = [frame(DATA, 0, 1, part[at : at + 16_384]) for at in range(0, len(part), 16_384)]
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head(CHAT)))
        for _ in range(20):
            await wire.say(*said)
        assert granted() < 3 << 20
        assert not wire.answers[1].ended
        await wire.say(window_update(0, 1 << 26), window_update(1, 1 << 26))
        for _ in range(20):
            await wire.listen()
        assert len(wire.answers[1].messages) == 20 * len(part)
        assert granted() > 20 * len(part) - (1 << 20)

    wired(scenario)


@pytest.mark.parametrize("path", [ECHO, BEGUN, CHAT])
@pytest.mark.parametrize("heads_first", [False, True])
def test_no_more_answers_than_a_connection_may_have_wait_for_its_windows(path: str, heads_first: bool) -> None:
    """Whether they were asked for before too many waited, or after that."""
    message, limit, numbers = bytes(MAX_BYTES - 1000), 3 << 20, range(1, 20, 2)
    body = prefixed(message)

    async def scenario(wire: Wire) -> None:
        def kept_bytes() -> int:
            return wire.connection.outbox.kept_bytes

        await wire.greet(_4=0)
        heads = {number: frame(HEADERS, END_HEADERS, number, wire.head(path)) for number in numbers}
        parts = [body[at : at + 16_384] for at in range(0, len(body), 16_384)]
        if heads_first:
            await wire.say(*heads.values())
        for number in numbers:
            said = [] if heads_first else [heads[number]]
            said += [frame(DATA, 0, number, part) for part in parts[:-1]]
            await wire.say(*said, frame(DATA, END_STREAM, number, parts[-1]))
            assert kept_bytes() < limit + len(body) + 1000
        answered, refused = numbers[:4], numbers[4:]
        assert kept_bytes() > limit
        for number in refused:
            answer = wire.answers[number]
            assert (answer.code, answer.fields["retry-after"]) == (Code.RESOURCE_EXHAUSTED, "1")
            assert answer.fields["grpc-message"].endswith("windows: take them, then ask for more")
        await wire.say(frame(HEADERS, END_HEADERS, 23, wire.head(HANG)))  # it need not even send its message
        assert wire.answers[23].code == Code.RESOURCE_EXHAUSTED
        await wire.say(settings_frame({INITIAL_WINDOW_SIZE: 1 << 30}), window_update(0, 1 << 30))
        assert {told(wire, number) for number in answered} == {(Code.OK, body, True)}
        assert kept_bytes() == 0
        await wire.say(wire.call(25))
        assert told(wire, 25) == ECHOED

    wired(scenario, max_unsent_bytes=limit)


def test_answers_of_calls_that_are_given_up_wait_no_longer() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet(_4=0)
        await wire.say(wire.call(1, bytes(10_000)), wire.call(3, bytes(10_000)))
        one = wire.connection.outbox.kept_bytes // 2
        await wire.say(frame(RST_STREAM, 0, 1, bytes(4)))
        assert wire.connection.outbox.kept_bytes == one > 10_000

    wired(scenario)


def test_answers_that_wait_count_for_what_it_takes_to_keep_them() -> None:
    """Empty ones, and those of which all but a byte has gone."""

    async def scenario(wire: Wire) -> None:
        await wire.greet(_4=10_004)
        await wire.say(wire.call(1, bytes(10_000)), frame(HEADERS, END_HEADERS, 3, wire.head(CHAT)))
        assert wire.connection.outbox.kept_bytes > 10_000
        before = wire.connection.outbox.kept_bytes
        await wire.say(settings_frame({INITIAL_WINDOW_SIZE: 0}), frame(DATA, 0, 3, prefixed(b"") * 5))
        await wire.listen()
        assert wire.connection.outbox.kept_bytes >= before + 5 * 500

    wired(scenario)


def granted(wire: Wire, number: int) -> int:
    """By how much the window of a stream was widened."""
    updates = [payload for kind, _, of, payload in wire.frames if (kind, of) == (WINDOW_UPDATE, number)]
    return sum(struct.unpack(">I", update)[0] for update in updates)


def test_messages_that_wait_count_for_what_it_takes_to_keep_them() -> None:
    """Also if there is nothing in them: nobody takes them, so no more of them are asked for."""

    async def scenario(wire: Wire) -> int:
        await wire.greet()
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head(DEAF)))
        for _ in range(60):  # nearly the window
            await wire.say(frame(DATA, 0, 1, prefixed(b"") * 3276))
        return granted(wire, 1)

    assert wired(scenario) == 0


def test_messages_that_wait_count_for_what_a_connection_may_have() -> None:
    async def scenario(wire: Wire) -> list[int | None]:
        await wire.greet()
        for number in range(1, 20, 2):
            await wire.say(frame(HEADERS, END_HEADERS, number, wire.head(DEAF)))
            for _ in range(60):
                await wire.say(frame(DATA, 0, number, prefixed(b"") * 3276))
        return [answer.code for answer in wire.answers.values()]

    codes = wired(scenario)

    assert codes
    assert set(codes) == {Code.RESOURCE_EXHAUSTED}


def test_a_second_message_is_refused_where_one_is_all_that_is_taken() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head(ONCE)), frame(DATA, 0, 1, prefixed(b"")))
        assert 1 not in wire.answers
        await wire.say(frame(DATA, 0, 1, prefixed(b"")))
        answer = wire.answers[1]
        assert (answer.code, answer.fields["grpc-message"]) == (Code.INVALID_ARGUMENT, "body: more than one message")

    wired(scenario)


# what ends the connection


BROKEN = {
    "not HTTP/2": (b"\x16\x03\x01 hello, TLS", Reason.PROTOCOL_ERROR),
    "data before any call": (PREFACE + frame(DATA, 0, 1, b"x"), Reason.PROTOCOL_ERROR),
    "a stream of the server's": (PREFACE + frame(HEADERS, END_HEADERS, 2, b"\x82"), Reason.PROTOCOL_ERROR),
    "stream 0": (PREFACE + frame(HEADERS, END_HEADERS, 0, b"\x82"), Reason.PROTOCOL_ERROR),
    "an interrupted block": (
        PREFACE + frame(HEADERS, 0, 1, b"\x82") + frame(PING, 0, 0, bytes(8)),
        Reason.PROTOCOL_ERROR,
    ),
    "a continuation of nothing": (PREFACE + frame(CONTINUATION, END_HEADERS, 1, b"\x82"), Reason.PROTOCOL_ERROR),
    "a block without end": (
        PREFACE + frame(HEADERS, 0, 1, b"\x82") + frame(CONTINUATION, 0, 1, b"\x82") * 10,
        Reason.ENHANCE_YOUR_CALM,
    ),
    "a huge block": (PREFACE + frame(HEADERS, END_HEADERS, 1, b"\x82" * 17_000), Reason.ENHANCE_YOUR_CALM),
    "fields beyond the limit": (
        PREFACE + frame(HEADERS, END_HEADERS, 1, b"\x40\x01a\x7f\xc1\x1e" + b"x" * 4000 + b"\xbe" * 100),
        Reason.ENHANCE_YOUR_CALM,
    ),
    "an index of no field": (PREFACE + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\x01"), Reason.COMPRESSION_ERROR),
    "a frame that is too large": (PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", Reason.FRAME_SIZE_ERROR),
    "padding beyond its frame": (PREFACE + frame(HEADERS, PADDED | END_HEADERS, 1, b"\x05ab"), Reason.PROTOCOL_ERROR),
    "a short ping": (PREFACE + frame(PING, 0, 0, b"1234"), Reason.FRAME_SIZE_ERROR),
    "short settings": (PREFACE + frame(SETTINGS, 0, 0, b"1234"), Reason.FRAME_SIZE_ERROR),
    "an impossible window": (PREFACE + settings_frame({INITIAL_WINDOW_SIZE: 1 << 31}), Reason.FLOW_CONTROL_ERROR),
    "impossible frames": (PREFACE + settings_frame({5: 100}), Reason.PROTOCOL_ERROR),
    "a window that overflows": (PREFACE + window_update(0, (1 << 31) - 1), Reason.FLOW_CONTROL_ERROR),
    "a window wider by nothing": (PREFACE + window_update(0, 0), Reason.PROTOCOL_ERROR),
    "a push": (PREFACE + frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), Reason.PROTOCOL_ERROR),
    "a reset of nothing": (PREFACE + frame(RST_STREAM, 0, 7, bytes(4)), Reason.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_client_that_breaks_http2_is_told_why_and_left(case: str) -> None:
    said, reason = BROKEN[case]

    async def scenario(wire: Wire) -> None:
        await wire.say(said)
        assert struct.unpack(">I", wire.last(GOAWAY)[1][4:8])[0] == reason
        assert wire.transport.closed

    wired(scenario)


def test_calls_that_are_taken_back_as_fast_as_they_are_made_end_the_connection() -> None:
    async def scenario(wire: Wire) -> int:
        await wire.greet()
        number = 1
        while not wire.transport.closed:
            assert number < 10_000
            head = frame(HEADERS, END_HEADERS, number, wire.head())
            await wire.say(head, frame(RST_STREAM, 0, number, struct.pack(">I", Reason.CANCEL)))
            number += 2
        reason: int = struct.unpack(">I", wire.last(GOAWAY)[1][4:8])[0]
        return reason

    assert wired(scenario) == Reason.ENHANCE_YOUR_CALM


def test_calls_that_are_given_up_while_they_are_answered_do_not_end_the_connection() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        for number in range(1, 4001, 2):
            await wire.say(wire.call(number, b"", HANG), frame(RST_STREAM, 0, number, bytes(4)))
        await wire.say(wire.call(4001))
        assert told(wire, 4001) == ECHOED

    wired(scenario)


def test_a_browser_is_told_what_this_port_is() -> None:
    async def scenario(wire: Wire) -> bytes:
        wire.connection.data_received(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
        await asyncio.sleep(0)
        assert wire.transport.closed
        return wire.transport.written

    written = wired(scenario)

    assert written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert written.endswith(b"this port speaks gRPC (HTTP/2)\n")


def test_calls_of_a_client_that_is_gone_are_cancelled() -> None:
    async def scenario(wire: Wire) -> None:
        await wire.greet()
        before = len(asyncio.all_tasks())
        await wire.say(wire.call(1, b"", HANG), frame(HEADERS, END_HEADERS, 3, wire.head(CHAT)))
        assert len(asyncio.all_tasks()) == before + 2
        wire.connection.connection_lost(None)
        await wire.listen()
        assert len(asyncio.all_tasks()) == before
        assert repr(wire.connection) == "<Connection [0 calls]>"

    wired(scenario)


# memory


def test_a_call_that_is_over_is_freed_at_once_and_its_message_with_it() -> None:
    """Not by the collector, which comes seldom in a gateway."""

    async def scenario(wire: Wire) -> None:
        await wire.greet()
        gc.collect()
        gc.disable()
        try:
            await wire.say(wire.call(1), wire.call(3, b"hello", "/test/Nothing"), wire.call(5, b"hello", BEGUN))
            await wire.say(wire.call(7, b"hello", HANG), frame(RST_STREAM, 0, 7, bytes(4)))
            head = frame(HEADERS, END_HEADERS, 9, wire.head(CHAT))
            await wire.say(head, frame(DATA, END_STREAM, 9, prefixed(b"hello")))
            assert [wire.answers[number].code for number in (1, 3, 5, 9)] == [0, Code.UNIMPLEMENTED, 0, 0]
            left = [one for one in gc.get_objects() if issubclass(type(one), Exchange | Call)]
            assert left == []
        finally:
            gc.enable()

    wired(scenario)


def taken_bytes(buffer: MessageBuffer, parts: Iterable[memoryview]) -> int:
    """The memory that is in use once the buffer has been fed, and was not before."""
    tracemalloc.start()
    try:
        for part in parts:
            buffer.feed(part)
        del part
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def reads(body: bytes, piece_bytes: int, read_bytes: int) -> Iterator[memoryview]:
    """The body in pieces, each from a read of its own with whatever else the client says."""
    for at in range(0, len(body), piece_bytes):
        piece = body[at : at + piece_bytes]
        yield memoryview(piece + bytes(max(0, read_bytes - len(piece))))[: len(piece)]


@pytest.mark.parametrize(
    ("size", "piece_bytes", "read_bytes"),
    [(200_000, 1, 10), (200_000, 1, 1), (2000, 1, 60_000), (1 << 20, 5000, 250_000), (1 << 20, 16_384, 65_536)],
    ids=["frames of a byte", "reads of a byte", "a byte between others", "small frames between others", "shared reads"],
)
def test_an_unfinished_message_takes_about_the_memory_of_its_bytes(
    size: int, piece_bytes: int, read_bytes: int
) -> None:
    buffer, message = MessageBuffer(1 << 20), bytes(i % 251 for i in range(size))
    body = prefixed(message)

    taken = taken_bytes(buffer, reads(body[:-1], piece_bytes, read_bytes))

    assert taken < 3 * size + READ_BYTES + 50_000
    [(flag, received)] = buffer.feed(memoryview(body)[-1:])
    assert (flag, bytes(received)) == (0, message)


def test_large_pieces_of_a_message_are_not_copied_until_it_is_complete() -> None:
    pieces = list(reads(prefixed(bytes(1 << 20))[:-1], 1 << 17, 1 << 17))

    assert taken_bytes(MessageBuffer(1 << 20), pieces) < 10_000


def test_the_beginning_of_a_message_does_not_keep_the_one_before_it() -> None:
    assert taken_bytes(MessageBuffer(1 << 20), reads(prefixed(bytes(1 << 20)) + b"x", 1 << 18, 1)) < 10_000


def test_messages_that_wait_do_not_keep_what_was_read_with_them() -> None:
    async def scenario(wire: Wire) -> int:
        await wire.greet()
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head(DEAF)))
        ignored = frame(0x63, 0, 1, bytes(100_000))  # an extension
        tracemalloc.start()
        try:
            for _ in range(100):
                await wire.say(frame(DATA, 0, 1, prefixed(b"x")), ignored)
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert wired(scenario) < 1 << 20
