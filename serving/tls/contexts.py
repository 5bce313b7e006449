"""SSL contexts from files, read again when the files change."""

import logging
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from serving import metrics
from serving.tls.settings import TlsFiles

log = logging.getLogger(__name__)

LOOKED_EVERY_S = 5.0


class UnusableCertificates(ValueError):
    """The message names the file and what is wrong with it."""


class Certificates:
    """One end's context. Not for several threads.

    server: whether this end is connected to. protocols: of ALPN, dearest first. A server with a CA asks for a
    certificate; a client always asks for one, and for the name that it is told when it connects.
    Raises UnusableCertificates.
    """

    def __init__(
        self,
        files: TlsFiles,
        server: bool,
        protocols: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._clock, self._looked_s = files, clock, clock()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        if protocols:
            self.context.set_alpn_protocols(list(protocols))
        if server and files.ca is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
        self._marks = self._seen()
        self._load()

    def fresh(self) -> ssl.SSLContext:
        """The context, with what the files hold now. Files that cannot be used are said once and passed over: what
        was there before stays."""
        now_s = self._clock()
        if now_s - self._looked_s >= LOOKED_EVERY_S:
            self._looked_s = now_s
            self._look()
        return self.context

    def _look(self) -> None:
        try:
            marks = self._seen()
            if marks == self._marks:
                return
            self._marks = marks
            self._load()
        except UnusableCertificates as error:
            log.error("certificates changed and cannot be used, the ones before stay: %s", error)
            metrics.TLS_ROTATIONS.labels("failed").inc()
            return
        log.info("certificates were read again: %s", self._files.certificate)
        metrics.TLS_ROTATIONS.labels("done").inc()

    def _seen(self) -> list[tuple[int, int]]:
        marks = []
        for path in self._files.all():
            try:
                about = path.stat()
            except OSError as error:
                raise UnusableCertificates(f"{path}: {error.strerror}") from error
            marks.append((about.st_mtime_ns, about.st_ino))
        return marks

    def _load(self) -> None:
        """A pair is tried on a context of its own first: half a pair on ours would break every handshake to come."""
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self._files)
        if self._files.ca is not None:
            load_authorities(self.context, self._files.ca)
        load_pair(self.context, self._files)


def load_pair(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Our own certificate and key. Raises UnusableCertificates."""
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ValueError) as error:
        why = "is encrypted, a key without a password is needed" if isinstance(error, _Encrypted) else str(error)
        raise UnusableCertificates(f"{files.certificate} with {files.key}: {why}") from error


def load_authorities(context: ssl.SSLContext, ca: Path) -> None:
    """Those whose signatures count. Raises UnusableCertificates."""
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError) as error:
        raise UnusableCertificates(f"{ca}: {error}") from error


def pinned(files: TlsFiles) -> ssl.SSLContext:
    """For a client on the server's own machine, which knows its files: it trusts that very certificate, whatever host
    it is made out to, and shows it where clients are asked for one. Raises UnusableCertificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    load_authorities(context, files.certificate)
    if files.ca is not None:
        load_pair(context, files)
    return context


class _Encrypted(ValueError):
    """A key with a password."""


def _no_password() -> str:
    raise _Encrypted  # OpenSSL would ask at the terminal otherwise
