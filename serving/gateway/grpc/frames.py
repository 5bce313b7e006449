"""HTTP/2 frames, as far as gRPC needs them.

Source: RFC 9113.
"""

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# kinds and flags are plain numbers: an enum's comparison would cost more than reading a frame
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

MAX_STREAM = (1 << 31) - 1
MAX_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65_535
MIN_FRAME_BYTES = 16_384
MAX_FRAME_BYTES = (1 << 24) - 1

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 4, 5, 6

_HEAD = struct.Struct(">HBBBI")  # length in two parts, kind, flags, stream
_SETTING = struct.Struct(">HI")
_NUMBER = struct.Struct(">I")

Frame = tuple[int, int, int, memoryview]
"""Kind, flags, stream, payload."""


class Reason(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class ConnectionBroken(Exception):
    """The peer broke a rule after which its bytes mean nothing any more."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class FrameReader:
    """Cuts a byte stream into frames. max_bytes: of one payload, as told to the peer.

    DATA is given on as it arrives, in pieces that look like smaller frames: a tensor is not
    copied once more to put its frame together.

    >>> reader = FrameReader(16_384)
    >>> [(flags, bytes(part)) for _, flags, _, part in reader.feed(frame(DATA, END_STREAM, 1, b"12345678")[:12])]
    [(0, b'123')]
    >>> [(flags, bytes(part)) for _, flags, _, part in reader.feed(b"45678")]
    [(1, b'45678')]
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes | memoryview] = []  # of a frame that is not complete
        self._have, self._need = 0, _HEAD.size
        self._missing, self._missing_flags, self._missing_stream = 0, 0, 0  # of a DATA frame given on in part

    @property
    def waits(self) -> bool:
        """Whether part of a frame is held that cannot be given on."""
        return self._have > 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now; payloads are views of the bytes given.

        Raises ConnectionBroken if one is larger than `max_bytes`.
        """
        if self._have:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        frames: list[Frame] = []
        view, at, end = memoryview(data), 0, len(data)
        if self._missing:
            at = min(self._missing, end)
            self._missing -= at
            flags = 0 if self._missing else self._missing_flags
            frames.append((DATA, flags, self._missing_stream, view[:at]))
        self._need = _HEAD.size
        while end - at >= 9:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            size = high << 8 | low
            if size > self._max_bytes:
                raise ConnectionBroken(Reason.FRAME_SIZE_ERROR, f"a frame of {size} bytes, at most {self._max_bytes}")
            stream &= MAX_STREAM
            start = at + 9
            at = start + size
            if at <= end:
                frames.append((kind, flags, stream, view[start:at]))
            elif kind == DATA and not flags & PADDED:
                self._missing, self._missing_flags, self._missing_stream = at - end, flags, stream
                frames.append((DATA, 0, stream, view[start:]))
                at = end
            else:
                self._need, at = 9 + size, start - 9
                break
        self._have = end - at
        if self._have:
            self._parts.append(view[at:])
        return frames


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """The bytes of one frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings_frame(settings: dict[int, int]) -> bytes:
    """What we tell the peer of ourselves."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings.items()))


def window_update(stream: int, more: int) -> bytes:
    """Leave to send so many bytes more; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(more))


def reset(stream: int, reason: Reason) -> bytes:
    """The stream ends here."""
    return frame(RST_STREAM, 0, stream, _NUMBER.pack(reason))


def go_away(last_stream: int, reason: Reason, message: str = "") -> bytes:
    """No stream beyond this one will be answered."""
    return frame(GOAWAY, 0, 0, _NUMBER.pack(last_stream) + _NUMBER.pack(reason) + message.encode())


def read_settings(payload: memoryview) -> list[tuple[int, int]]:
    """Setting and value. Raises ConnectionBroken if a value breaks the setting's rule."""
    if len(payload) % _SETTING.size:
        raise ConnectionBroken(Reason.FRAME_SIZE_ERROR, "a SETTINGS frame that is no multiple of six bytes")
    settings = list(_SETTING.iter_unpack(payload))
    for setting, value in settings:
        if setting == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionBroken(Reason.FLOW_CONTROL_ERROR, f"an initial window of {value} bytes")
        if setting == MAX_FRAME_SIZE and not MIN_FRAME_BYTES <= value <= MAX_FRAME_BYTES:
            raise ConnectionBroken(Reason.PROTOCOL_ERROR, f"frames of {value} bytes")
    return settings


def read_number(payload: memoryview) -> int:
    """The payload of RST_STREAM or WINDOW_UPDATE, 31 bits. Raises ConnectionBroken if it is no number."""
    if len(payload) != _NUMBER.size:
        raise ConnectionBroken(Reason.FRAME_SIZE_ERROR, "a frame of one number that is not four bytes long")
    number: int = _NUMBER.unpack(payload)[0]
    return number & MAX_WINDOW


def without_padding(flags: int, payload: memoryview) -> memoryview:
    """The payload of DATA or HEADERS proper. Raises ConnectionBroken if it is all padding and more."""
    if not flags & PADDED:
        return payload
    if not len(payload) or payload[0] >= len(payload):
        raise ConnectionBroken(Reason.PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]
