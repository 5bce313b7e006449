"""The public keys of a token issuer (JWKS): fetched, kept, and fetched anew when a token names one that is not there.

Source: RFC 7517. Of its keys those count that verify signatures: RSA for RS256, EC P-256 for ES256; never a
symmetric one, whoever shows it.
"""

import json
import logging
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from serving import metrics
from serving.settings import TokenSettings

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
MIN_RSA_BITS = 2048
_FILE_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class PublicKey:
    """algorithm: the one that it is good for, RS256 or ES256. key: as `cryptography` has it."""

    algorithm: str
    key: Any


class KeySetRefused(Exception):
    """What was fetched is no key set, or none that verifies anything."""


def parse_key_set(raw: bytes) -> dict[str, PublicKey]:
    """The usable keys by their id; the empty one for a single key without id. Raises KeySetRefused."""
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    try:
        told = json.loads(raw)["keys"]
        entries = [entry for entry in told if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise KeySetRefused('expected {"keys": […]} as in RFC 7517') from error
    found: dict[str, PublicKey] = {}
    for entry in entries:
        algorithm = _algorithm(entry)
        if algorithm is None:
            continue
        try:
            public = PyJWK({name: value for name, value in entry.items() if name != "d"}, algorithm).key
        except (PyJWTError, ValueError, TypeError) as error:
            log.warning("left out a key of the issuer's key set: %s", error)
            continue
        if algorithm == "RS256" and public.key_size < MIN_RSA_BITS:
            log.warning("left out an RSA key of %d bits of the issuer's key set", public.key_size)
            continue
        found[str(entry.get("kid", ""))] = PublicKey(algorithm, public)
    if not found:
        raise KeySetRefused("there is no RSA or EC P-256 key in it that verifies signatures")
    return found


def _algorithm(entry: Mapping[str, Any]) -> str | None:
    """The one that the key is good for; None if that is none of ours."""
    may = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(may, list) or "verify" not in may:
        return None
    parts = [str(entry[name]) for name in ("kty", "crv") if entry.get(name)]
    kind = {"RSA": "RS256", "EC/P-256": "ES256"}.get("/".join(parts))
    return kind if entry.get("alg", kind) == kind else None


class KeySet:
    """The issuer's keys, as last seen; safe for several threads.

    changed: called, on the fetching thread, whenever they are others. copy: file that keeps them for a start without
    the issuer; None: nowhere.
    """

    def __init__(
        self,
        settings: TokenSettings,
        copy: Path | None = None,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._copy, self.changed, self._clock = settings, copy, changed, clock
        self._fetching = threading.Lock()
        self._keys: dict[str, PublicKey] = {}
        self._raw = b""
        self._seen_s = float("-inf")  # when the issuer last answered
        self._tried_s = float("-inf")
        self._failed = False

    def find(self, key_id: str) -> PublicKey | None:
        """None if the issuer has not shown it, or has been away for too long."""
        if self._clock() - self._seen_s > self._settings.stale_s:
            return None
        return self._keys.get(key_id)

    @property
    def may_be_new(self) -> bool:
        """Whether it is time to ask again for a key that is not there."""
        return self._clock() - self._tried_s >= self._settings.unknown_s

    @property
    def due(self) -> bool:
        """Whether the keys are to be fetched anew."""
        every_s = self._settings.refresh_s if not self._failed else self._settings.unknown_s
        return self._clock() - self._tried_s >= (every_s if self._is_url else _FILE_LOOK_S)

    def read_copy(self) -> None:
        """What was kept of the last time; it counts as seen now."""
        if self._copy is None:
            return
        try:
            self._take(self._copy.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, KeySetRefused) as error:
            log.warning("left out the unreadable copy of the issuer's keys: %s", error)

    def refresh(self, unknown: bool = False) -> None:
        """Fetches the keys. unknown: for one that is not there, if it is time to. Whatever fails is told to the log,
        and the keys there are stay."""
        with self._fetching:
            if unknown and not self.may_be_new:
                return
            self._tried_s = self._clock()
            try:
                raw = self._fetch()
                new = self._take(raw)
            except (OSError, ValueError, HTTPException, KeySetRefused) as error:
                metrics.KEY_SET_FETCHES.labels("failed").inc()
                if not self._failed:
                    log.warning("no key set from %s, the last one stays: %s", self._where, error)
                self._failed = True
                return
            metrics.KEY_SET_FETCHES.labels("fetched").inc()
            self._failed = False
            if new and self._copy is not None:
                self._write_copy(raw)

    @property
    def _where(self) -> str:
        """For people: without a user and a password."""
        before, separator, after = self._settings.key_set.partition("://")
        host, slash, path = after.partition("/")
        return f"{before}{separator}{host.rpartition('@')[2]}{slash}{path}"

    @property
    def _is_url(self) -> bool:
        return "://" in self._settings.key_set

    def _fetch(self) -> bytes:
        if not self._is_url:
            return Path(self._settings.key_set).read_bytes()
        request = urllib.request.Request(self._settings.key_set, headers={"accept": "application/json"})
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=self._settings.timeout_s) as response:
            raw: bytes = response.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise KeySetRefused(f"it has more than {MAX_BYTES} bytes")
        return raw

    def _take(self, raw: bytes) -> bool:
        """Whether the keys are others than before."""
        keys = self._keys if raw == self._raw else parse_key_set(raw)
        self._seen_s = self._clock()
        if raw == self._raw:
            return False
        self._keys, self._raw = keys, raw
        log.info("the issuer's key set has %d keys", len(keys))
        self.changed()
        return True

    def _write_copy(self, raw: bytes) -> None:
        assert self._copy is not None
        try:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._copy.with_suffix(".new")
            fresh.write_bytes(raw)
            fresh.replace(self._copy)
        except OSError as error:
            log.warning("could not keep a copy of the issuer's keys: %s", error)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from where the settings say, or not at all."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class KeySetWatcher(threading.Thread):
    """Keeps a key set fresh."""

    def __init__(self, key_set: KeySet, look_s: float = 1.0) -> None:
        super().__init__(name="key-set", daemon=True)
        self.key_set, self._look_s = key_set, look_s
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Until stopped."""
        self.key_set.read_copy()
        while not self._stop_asked.is_set():
            if self.key_set.due:
                self.key_set.refresh()
            self._stop_asked.wait(self._look_s)

    def stop(self) -> None:
        """Ends the thread within `look_s`, and the fetch under way."""
        self._stop_asked.set()
