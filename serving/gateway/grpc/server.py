"""All connections of a port: how they begin, are counted, and end."""

import asyncio
import random
import socket
import ssl
from dataclasses import replace

from registry.contracts.traces import new_trace
from serving import metrics
from serving.errors import RankingError, UnknownSigner
from serving.gateway.grpc.calls import Call, Code, Conversation, Method, Methods, Status
from serving.gateway.grpc.connection import Connection, Service
from serving.gateway.grpc.heads import RequestHead, understand
from serving.identity.doorkeeper import Doorkeeper
from serving.settings import GrpcSettings
from serving.tally import CounterTally


class GrpcServer:
    """Serves the methods to everybody who connects.

    random: of the traces of calls that bring none. doorkeeper: None where methods are open to everybody.
    """

    def __init__(
        self, methods: Methods, settings: GrpcSettings, random: random.Random, doorkeeper: Doorkeeper | None = None
    ) -> None:
        self._random, self._doorkeeper = random, doorkeeper
        self._connections: set[Connection] = set()
        self._counts: dict[tuple[str, Code], CounterTally] = {}
        self._listening: asyncio.Server | None = None
        self._all_gone = asyncio.Event()
        self._service = Service(
            settings=settings,
            understand=lambda fields: understand(fields, methods),
            begin_trace=lambda: new_trace(self._random),
            count=self._count,
            lost=self._lost,
            admit=self._admit,
        )

    def __repr__(self) -> str:
        state = "LISTENING" if self._listening else "CLOSED"
        return f"<GrpcServer [{state} | {len(self._connections)} connections]>"

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accepts connections from now on. listener: bound; becomes the server's. tls: None for plain ones."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._connect, sock=listener, backlog=1024, ssl=tls)

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, and returns when those under way are answered, or cut off after `grace_s`."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for connection in list(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(grace_s):
                await self._until_gone()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
            await self._until_gone()

    async def _until_gone(self) -> None:
        while self._connections:
            self._all_gone.clear()
            await self._all_gone.wait()

    def _connect(self) -> Connection:
        connection = Connection(self._service)
        self._connections.add(connection)
        return connection

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._all_gone.set()

    def _admit(self, head: RequestHead, method: Method) -> Method:
        """Refuses whoever is not known or not let in, whatever the call is about: so for every method in the table."""
        doorkeeper = self._doorkeeper
        if doorkeeper is None or not doorkeeper.closed or method.open:
            return method
        try:
            doorkeeper.enter(head.fields, None)
        except UnknownSigner:  # perhaps known when its issuer has been asked: the method waits for that
            return _after_welcome(method, doorkeeper)
        except RankingError as error:
            doorkeeper.count(error)
            raise
        return method

    def _count(self, head: RequestHead, status: Status) -> None:
        method = head.method.path if head.method else ""
        tally = self._counts.get((method, status.code))
        if tally is None:
            child = metrics.GRPC_CALLS.labels(method, status.code.name)
            tally = self._counts[method, status.code] = CounterTally(child)
        tally.inc()


def _after_welcome(method: Method, doorkeeper: Doorkeeper) -> Method:
    """The method for those whom the doorkeeper lets in, whatever it checks itself."""

    async def answer(call: Call, message: bytes | memoryview) -> bytes:
        await doorkeeper.welcome(call.fields, None)
        assert method.answer is not None
        return await method.answer(call, message)

    async def converse(call: Call, conversation: Conversation) -> None:
        await doorkeeper.welcome(call.fields, None)
        assert method.converse is not None
        await method.converse(call, conversation)

    if method.converse is not None:
        return replace(method, converse=converse)
    return replace(method, answer=answer, begin=None)
