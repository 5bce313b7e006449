"""The way to the controller: requests of the control plane, handed on as they are.

A request here changes who answers whom, or asks about it; it is rare and may take seconds. So it gets
a connection of its own, a bound on size, number and time, and never a thread or a place in the ranking
path. Nothing of what it means is known here: bodies, keys and revisions are the controller's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import httptools

from serving.addresses import Address, UnixAddress, check_peer, parse_address
from serving.errors import ControlAway, DeadlineExceeded, NotServed, Overloaded
from serving.gateway.http import Answer
from serving.settings import ControlSettings

CLIENT_HEADER = b"x-sluice-client"
"""The client's address, for the audit log; what a client says of itself under this name is not sent on."""
_SENT_ON = frozenset(
    {
        CLIENT_HEADER,
        b"accept",
        b"accept-encoding",
        b"authorization",
        b"content-type",
        b"idempotency-key",
        b"if-match",
        b"traceparent",
        b"x-on-behalf-of",
    }
)
_SENT_BACK = frozenset(
    {
        b"allow",
        b"cache-control",
        b"content-encoding",
        b"content-security-policy",
        b"etag",
        b"idempotency-replayed",
        b"location",
        b"retry-after",
        b"vary",
        b"www-authenticate",
        b"x-content-type-options",
        b"x-request-id",
    }
)
_READ_BYTES = 1 << 16

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(slots=True)
class _Received:
    """An answer as it comes in; httptools calls these methods."""

    max_bytes: int
    headers: dict[bytes, bytes] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, part: bytes) -> None:
        self.size += len(part)
        if self.size > self.max_bytes:
            raise ControlAway(f"the controller's answer has more than {self.max_bytes} bytes: ask for less")
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.complete = True


class Controller:
    """Asks the controller. settings.address: empty if none runs here."""

    def __init__(self, settings: ControlSettings) -> None:
        self._settings = settings
        self._address = parse_address(settings.address) if settings.address else None
        self._under_way = 0

    async def ask(self, method: str, target: bytes, headers: Headers, body: bytes) -> Answer:
        """The controller's answer, whatever it is. target: path and query, as the client wrote them.

        Raises ControlAway, DeadlineExceeded or Overloaded; NotServed if there is none.
        """
        address, limit = self._address, self._settings.max_in_flight
        if address is None:
            raise NotServed("no controller belongs to this platform: start it with SLUICE_WITH_CONTROLLER=1")
        if self._under_way >= limit:
            raise Overloaded(f"{limit} control requests are under way already: come back", retry_after_s=1.0)
        self._under_way += 1
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._exchange(address, _request(method, target, headers, body))
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the controller did not answer within {self._settings.timeout_s:g} s, and may still do what was "
                "asked: repeat the request with the same Idempotency-Key"
            ) from error
        finally:
            self._under_way -= 1

    async def _exchange(self, address: Address, request: bytes) -> Answer:
        async with _connection(address) as (reader, writer):
            received = _Received(self._settings.max_answer_bytes)
            parser = httptools.HttpResponseParser(received)
            try:
                writer.write(request)
                await writer.drain()
                while not received.complete:
                    part = await reader.read(_READ_BYTES)
                    if not part:
                        raise ConnectionResetError("it closed the connection")
                    parser.feed_data(part)
            except (OSError, httptools.HttpParserError) as error:
                if isinstance(error.__context__, ControlAway):
                    raise error.__context__ from None
                raise ControlAway(
                    f"the controller went away during the request ({error}) and may have done what was asked: "
                    "repeat it with the same Idempotency-Key"
                ) from error
        return Answer(
            parser.get_status_code(),
            b"".join(received.parts),
            tuple((name, value) for name, value in received.headers.items() if name in _SENT_BACK),
            received.headers.get(b"content-type", b"application/json"),
        )


@contextlib.asynccontextmanager
async def _connection(address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        if isinstance(address, UnixAddress):
            reader, writer = await asyncio.open_unix_connection(address.path)
        else:
            reader, writer = await asyncio.open_connection(address.host, address.port)
    except OSError as error:
        raise ControlAway(
            f"the controller does not answer ({error.strerror or error}); queries go on by the plan there is: "
            "see `sluice status`, then repeat the request"
        ) from error
    try:
        if not isinstance(address, UnixAddress):
            check_peer(writer.get_extra_info("socket"))
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _request(method: str, target: bytes, headers: Headers, body: bytes) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method.encode(), target), b"host: controller", b"connection: close"]
    lines += [name + b": " + value for name, value in headers if name in _SENT_ON]
    lines += [b"content-length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)
