"""The way to a worker: a connection that is made again whenever it is lost, with its arena or its TLS."""

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Callable

from serving.addresses import check_peer, parse_address
from serving.arena import Arena
from serving.frames import encode_arena
from serving.link import Link, Replica
from serving.tls.channel import SHAKEN_WITHIN_S
from serving.tls.contexts import Certificates
from serving.tls.settings import FleetTls

log = logging.getLogger(__name__)

RECONNECT_S = 0.05
SHAKEN_AGAIN_S = 1.0  # after a handshake that failed: it costs both sides more than a closed port
HUNG_UP = (
    "hangs up before it says what it holds: is the port another server's, does it expect TLS,"
    " or does it refuse this gateway's certificate? See the worker's log"
)


class Connector:
    """Connects a gateway to replicas.

    arena_bytes: for tensors on their way to one replica of this machine. tls: for replicas on other
    machines; None sends in the clear. link: what a replica's connection is handed to.
    """

    def __init__(self, arena_bytes: int, tls: FleetTls | None, link: Callable[[Replica], Link]) -> None:
        self._arena_bytes, self._tls, self._make_link = arena_bytes, tls, link
        self._certificates = Certificates(tls.files, server=False) if tls is not None else None

    async def keep_connected(self, replica: Replica) -> None:
        """Connects, and again after each loss, until the replica is to be left."""
        told, pause_s = "", RECONNECT_S
        while replica.wanted:
            try:
                channel = await self._connect(replica)
                link = await self._link(replica, channel)
            except ssl.SSLError as error:
                if str(error) != told:  # once, not every second
                    told = str(error)
                    log.error("replica %s: no TLS connection: %s", replica.address, error)
                await asyncio.sleep(SHAKEN_AGAIN_S)
                continue
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            if told != HUNG_UP:
                log.info("connected to replica %s", replica.address)
            await asyncio.shield(link.lost)
            if link.told:
                told, pause_s = "", RECONNECT_S
                log.warning("lost replica %s", replica.address)
                continue
            if told != HUNG_UP:
                told = HUNG_UP
                log.error("replica %s %s", replica.address, HUNG_UP)
            pause_s = SHAKEN_AGAIN_S if self._tls is not None else min(SHAKEN_AGAIN_S, 2 * pause_s)
            await asyncio.sleep(pause_s)

    async def _link(self, replica: Replica, channel: socket.socket) -> Link:
        loop, make = asyncio.get_running_loop(), functools.partial(self._make_link, replica)
        if channel.family == socket.AF_UNIX:
            return (await loop.create_unix_connection(make, sock=channel))[1]
        if self._tls is None or self._certificates is None:
            return (await loop.create_connection(make, sock=channel))[1]
        return (
            await loop.create_connection(
                make,
                sock=channel,
                ssl=self._certificates.fresh(),
                server_hostname=self._tls.worker,
                ssl_handshake_timeout=SHAKEN_WITHIN_S,
            )
        )[1]

    async def _connect(self, replica: Replica) -> socket.socket:
        """A connection; on one machine its first frame has brought the arena."""
        address = parse_address(replica.address)
        channel = address.socket()
        try:
            await asyncio.get_running_loop().sock_connect(channel, address.target)
            check_peer(channel)
            if not address.passes_descriptors:
                return channel
            replica.arena = Arena(self._arena_bytes)
            # the first bytes on a fresh socket: they fit
            socket.send_fds(channel, [encode_arena(self._arena_bytes)], [replica.arena.file])
        except OSError:
            channel.close()
            raise
        return channel
