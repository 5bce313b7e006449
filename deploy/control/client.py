"""A client of the control API, for the commands: on this machine by itself, elsewhere by SLUICE_URL and SLUICE_KEY."""

import http.client
import secrets
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from deploy.control.admin_key import read_admin_key
from deploy.errors import NotRunning, Refused, SluiceError
from deploy.machine.gateway_door import connection_to
from deploy.machine.lifecycle import running
from deploy.settings import ClientSettings, PlatformSettings

TIMEOUT_S = 40.0  # longer than the gateway waits for the controller: its words say more than ours
PATIENCE_S = 30.0
_PAUSE_S = 0.5
_AGAIN = (429, 503, 504)


class ControlClient:
    """Asks one model's routes and the keys'. One thread at a time.

    url: of the gateway. key: an API key. on_behalf_of: for the histories. patience_s: how long what may
    be there in a moment (a process that restarts, a store that is away) is asked again.
    """

    def __init__(
        self,
        url: str,
        key: str,
        on_behalf_of: str = "",
        patience_s: float = PATIENCE_S,
        connection: http.client.HTTPConnection | None = None,
    ) -> None:
        self.url, self._key, self._on_behalf_of, self._patience_s = url, key, on_behalf_of, patience_s
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SluiceError(f"SLUICE_URL={url}: expected http://host:port of a gateway", "unset SLUICE_URL")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = connection or kind(parts.hostname, parts.port, timeout=TIMEOUT_S)
        self._base = parts.path.rstrip("/")

    @staticmethod
    def of(environment: Mapping[str, str], on_behalf_of: str = "") -> "ControlClient":
        """To where the variables say, or to the platform of the data folder, with its key.

        The local key goes nowhere but to this machine. Raises NotRunning, SluiceError.
        """
        told = ClientSettings.from_environment(environment)
        who = on_behalf_of or environment.get("USER", "")
        if told.url:
            if not told.key:
                raise SluiceError(
                    "SLUICE_URL is set, SLUICE_KEY is not", "SLUICE_KEY=… from `sluice keys create` there"
                )
            return ControlClient(told.url, told.key, who)
        settings, _ = running(PlatformSettings.from_environment(environment))
        return ControlClient.local(settings, who, told.key)

    @staticmethod
    def local(settings: PlatformSettings, on_behalf_of: str, key: str = "") -> "ControlClient":
        """To the platform of this data folder. key: its own by default. Raises SluiceError."""
        try:
            key = key or read_admin_key(settings.admin_key_file)
        except OSError as error:
            raise SluiceError(f"{settings.admin_key_file}: {error.strerror}", "SLUICE_KEY=… of your own") from error
        if not key:
            raise SluiceError(f"{settings.admin_key_file} is not there", "sluice status: the controller makes it")
        door = connection_to(settings, TIMEOUT_S)
        return ControlClient(settings.gateway_url, key, on_behalf_of, connection=door)

    def __enter__(self) -> "ControlClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str) -> Any:
        """The decoded answer. Raises as `post`."""
        return msgspec.json.decode(self.fetch(path))

    def fetch(self, path: str) -> bytes:
        """The answer as it is. Raises as `post`."""
        return self._until_answered("GET", path, None, {})

    def post(self, path: str, body: Any = None, *, if_match: int | None = None, idempotency_key: str = "") -> Any:
        """The decoded answer. What was asked is done once, however often this has to ask.

        if_match: the plan revision that it was decided on. idempotency_key: by default a fresh one.
        Raises Refused with the API's own words, NotRunning if nobody answers.
        """
        headers = {"idempotency-key": idempotency_key or secrets.token_hex(16)}
        if if_match is not None:
            headers["if-match"] = f'"{if_match}"'
        return msgspec.json.decode(self._until_answered("POST", path, body, headers))

    def _until_answered(self, method: str, path: str, body: Any, headers: dict[str, str]) -> bytes:
        until_s = time.monotonic() + self._patience_s
        raw = None if body is None else msgspec.json.encode(body)
        while True:
            try:
                status, answer = self._ask(method, path, raw, headers)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if time.monotonic() >= until_s:
                    raise NotRunning(
                        f"no gateway answers at {self.url} ({error})", "sluice up, or SLUICE_URL"
                    ) from error
            else:
                if status < 400:
                    return answer
                if status not in _AGAIN or time.monotonic() >= until_s:
                    raise Refused(status, _reason(answer))
            time.sleep(_PAUSE_S)

    def _ask(self, method: str, path: str, raw: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        sent = {"authorization": f"Bearer {self._key}"} | headers
        if raw is not None:
            sent["content-type"] = "application/json"
        if self._on_behalf_of:
            # a header is Latin-1; whose name is not loses letters, not the request
            sent["x-on-behalf-of"] = self._on_behalf_of.encode("latin-1", "replace").decode("latin-1")
        self._connection.request(method, self._base + path, raw, sent)
        response = self._connection.getresponse()
        return response.status, response.read()


def model_path(model: str, *parts: str) -> str:
    """The path of a model's control route.

    >>> model_path("search", "rollouts", "search-7")
    '/v1/models/search/rollouts/search-7'
    """
    return "/v1/models/" + "/".join(quote(part, safe="") for part in (model, *parts))


def _reason(raw: bytes) -> str:
    try:
        return str(msgspec.json.decode(raw)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return raw[:200].decode(errors="replace")
