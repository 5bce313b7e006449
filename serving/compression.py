"""Bodies in gzip and deflate, both ways, within a limit.

`deflate` is zlib's format (RFC 1950), as HTTP has it.
Source: RFC 9110, section 8.4.1; what tritonclient.http sends.
"""

import asyncio
import gzip
import zlib

from serving.errors import BodyTooLarge, QueryRefused, WrongContentType

WORTH_A_THREAD_BYTES = 1 << 16
IN_PLACE_BYTES = 1 << 18
"""Of what comes out: a thousand times less may say that."""
_LEVEL = 1  # tensors compress badly at any level
_WINDOWS = {b"gzip": 16 + zlib.MAX_WBITS, b"x-gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


def decompressed(body: bytes, encoding: bytes, limit_bytes: int) -> bytes:
    """The body as it was before `encoding` (of the Content-Encoding header).

    Raises WrongContentType for another encoding, QueryRefused if the body is not in it, BodyTooLarge
    before more than the limit is unpacked.
    """
    name = encoding.strip().lower()
    if name == b"identity":
        return body
    window = _WINDOWS.get(name)
    if window is None:
        raise WrongContentType(f"content-encoding={_shown(name)}: expected gzip or deflate")
    unpacker = zlib.decompressobj(window)
    try:
        unpacked = unpacker.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise QueryRefused(f"body: not in content-encoding {_shown(name)} ({error})") from error
    if len(unpacked) > limit_bytes:
        raise BodyTooLarge(f"body: more than {limit_bytes} bytes after decompression")
    if not unpacker.eof or unpacker.unused_data:
        raise QueryRefused(f"body: the {_shown(name)} data ends too early, or something follows it")
    return unpacked


async def unpacked_aside(body: bytes, encoding: bytes, limit_bytes: int) -> bytes:
    """As `decompressed`, for an event loop: in a thread if much goes in, or much comes out."""
    if len(body) < WORTH_A_THREAD_BYTES:
        try:
            return decompressed(body, encoding, min(IN_PLACE_BYTES, limit_bytes))
        except BodyTooLarge:
            if limit_bytes <= IN_PLACE_BYTES:
                raise
    return await asyncio.to_thread(decompressed, body, encoding, limit_bytes)


def wanted_encoding(accepted: bytes) -> bytes | None:
    """How an answer should be compressed by an Accept-Encoding header; None: not at all.

    Only a client that names one encoding gets it: HTTP libraries list all they know by default, and
    compressing tensors costs more than computing them.

    >>> wanted_encoding(b"deflate"), wanted_encoding(b"gzip, deflate, br"), wanted_encoding(b"gzip;q=0")
    (b'deflate', None, None)
    """
    name, _, weight = accepted.partition(b";")
    name = name.strip().lower()
    if name not in _WINDOWS or weight.replace(b" ", b"").rstrip(b"0.") == b"q=":
        return None
    return name


def compressed(body: bytes, encoding: bytes) -> bytes:
    """The body in one of the encodings that `wanted_encoding` gives."""
    return zlib.compress(body, _LEVEL) if encoding == b"deflate" else gzip.compress(body, _LEVEL, mtime=0)


def _shown(name: bytes) -> str:
    return name.decode("latin-1")[:32]
