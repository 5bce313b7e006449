"""A worker's side of TLS: handshakes that never wait, and who is let in."""

import contextlib
import logging
import socket
import ssl

from serving import metrics
from serving.tls.contexts import Certificates
from serving.tls.settings import FleetTls

log = logging.getLogger(__name__)

SHAKEN_WITHIN_S = 5.0
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a channel that does not block raises when it would have to wait."""


class PeerRefused(OSError):
    """A peer that does not shake hands, or is not who may talk to us."""


class WorkerTls:
    """Lets gateways in that show a certificate of the CA, made out to the gateways' name."""

    def __init__(self, rules: FleetTls) -> None:
        self._certificates = Certificates(rules.files, server=True)
        self._gateway = rules.gateway

    def wrap(self, channel: socket.socket) -> ssl.SSLSocket:
        """A connection that has yet to shake hands; it does not block. Takes the socket's place, whose descriptor is
        gone also if it raises PeerRefused: the peer has hung up."""
        try:
            return self._certificates.fresh().wrap_socket(channel, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            raise self._refused(channel, "handshake", str(error)) from error

    def shake(self, channel: ssl.SSLSocket) -> None:
        """A step further. Raises one of `NOT_NOW` while there is more to come, PeerRefused if it ends here."""
        try:
            channel.do_handshake()
        except NOT_NOW:
            raise
        except OSError as error:
            raise self._refused(channel, "handshake", str(error)) from error
        shown = (channel.getpeercert() or {}).get("subjectAltName", ())
        names = [str(name[1]) for name in shown if name[0] == "DNS"]
        if self._gateway not in names:
            told = ", ".join(names) or "nobody"
            raise self._refused(channel, "name", f"its certificate is made out to {told}, expected {self._gateway}")

    def timed_out(self, channel: socket.socket) -> PeerRefused:
        """For one that does not go on."""
        return self._refused(channel, "timeout", f"no handshake within {SHAKEN_WITHIN_S:g} s")

    def _refused(self, channel: socket.socket, reason: str, why: str) -> PeerRefused:
        metrics.TLS_REFUSED.labels(reason).inc()
        peer = "?"
        with contextlib.suppress(OSError):
            peer = str(channel.getpeername()[0])
        return PeerRefused(f"refused a connection from {peer}: {why}")
