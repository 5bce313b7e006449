"""A call's request head: its fields understood once, whoever repeats them.

Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md), requests.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.contracts.traces import Trace, parse_traceparent
from serving.errors import NotServed, QueryRefused, RankingError
from serving.gateway.grpc.calls import Method, Methods
from serving.gateway.grpc.messages import ENCODINGS

_CONTENT_TYPE = re.compile(rb"application/grpc(\+proto)?(;.*)?")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What a stream begins with.

    method: None if the call cannot be made; then `http_status` says that it is no gRPC call at
    all, or else `refusal` why. encoding: of the client's messages; answer_encoding: of ours.
    timeout_s: None if the client waits for ever. trace: None if the caller has none.
    """

    path: str
    fields: Mapping[bytes, bytes]
    method: Method | None
    refusal: RankingError | None = None
    http_status: bytes = b""
    encoding: bytes = b"identity"
    answer_encoding: bytes = b"identity"
    timeout_s: float | None = None
    trace: Trace | None = None


def understand(fields: Sequence[tuple[bytes, bytes]], methods: Methods) -> RequestHead:
    """The head that these fields make; of a field that is there twice, the last counts."""
    given = dict(fields)
    path = given.get(b":path", b"").decode("latin-1")
    if given.get(b":method") != b"POST":
        return RequestHead(path, given, None, http_status=b"405")
    if not _CONTENT_TYPE.fullmatch(given.get(b"content-type", b"")):
        return RequestHead(path, given, None, http_status=b"415")
    try:
        method = methods.get(path)
        if method is None:
            raise NotServed(f"{path[:200]}: no such method is served")
        encoding = given.get(b"grpc-encoding", b"identity")
        if encoding not in ENCODINGS:
            known = b", ".join(ENCODINGS).decode()
            raise NotServed(f"grpc-encoding={encoding.decode(errors='replace')[:64]}: expected one of {known}")
        accepted = given.get(b"grpc-accept-encoding", b"").replace(b" ", b"").split(b",")
        return RequestHead(
            path,
            given,
            method,
            encoding=encoding,
            answer_encoding=encoding if encoding in accepted else b"identity",
            timeout_s=_timeout_s(given.get(b"grpc-timeout")),
            trace=parse_traceparent(traced) if (traced := given.get(b"traceparent")) else None,
        )
    except RankingError as error:
        return RequestHead(path, given, None, refusal=error)


def _timeout_s(raw: bytes | None) -> float | None:
    """Raises QueryRefused if it is not gRPC's form of a duration."""
    if raw is None:
        return None
    found = _TIMEOUT.fullmatch(raw)
    if not found:
        given = raw.decode(errors="replace")[:32]
        raise QueryRefused(f"grpc-timeout={given}: expected at most eight digits and one of H, M, S, m, u, n")
    return int(found[1]) * _UNIT_S[found[2]]
