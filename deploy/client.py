"""A small client of the gateway's HTTP API, for the commands and the demo."""

import http.client
import time
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from deploy.control.admin_key import read_admin_key
from deploy.errors import NotRunning, SluiceError
from deploy.machine.gateway_door import connection_to
from deploy.settings import PlatformSettings


class GatewayClient:
    """One kept-alive connection; one thread at a time.

    url: of the gateway. key: an API key, empty where queries need none. timeout_s: for one request. A
    connection that the gateway closed (it was restarted) is opened again for `patience_s`. connection: to it, if it
    is not a plain one.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 65.0,
        patience_s: float = 0.0,
        key: str = "",
        connection: http.client.HTTPConnection | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._url, self._patience_s = url, patience_s
        self._connection = connection or http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)

    @staticmethod
    def of(settings: PlatformSettings, timeout_s: float = 65.0, patience_s: float = 0.0) -> "GatewayClient":
        """To the platform of this data folder, with its key where queries need one."""
        key = read_admin_key(settings.admin_key_file) if settings.queries_need_keys else ""
        return GatewayClient(settings.gateway_url, timeout_s, patience_s, key, connection_to(settings, timeout_s))

    def __enter__(self) -> "GatewayClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str) -> Any:
        """The decoded answer. Raises as `post`."""
        return msgspec.json.decode(self._request("GET", path, None))

    def text(self, path: str) -> str:
        """The answer as text. Raises as `post`."""
        return self._request("GET", path, None).decode()

    def post(self, path: str, body: Any) -> Any:
        """The decoded answer. Raises SluiceError with the gateway's own words, NotRunning if
        nobody answers."""
        return msgspec.json.decode(self._request("POST", path, msgspec.json.encode(body)))

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        until_s = time.monotonic() + self._patience_s
        while True:
            try:
                self._connection.request(method, path, body, self._headers)
                response = self._connection.getresponse()
                raw = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if time.monotonic() >= until_s:
                    raise NotRunning(f"no gateway answers at {self._url} ({error})", "sluice up") from error
                time.sleep(0.05)
        if response.status >= 400:
            raise SluiceError(f"{method} {path} gave {response.status}: {_reason(raw)}", "sluice status")
        return raw


def _reason(raw: bytes) -> str:
    try:
        return str(msgspec.json.decode(raw)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return raw[:200].decode(errors="replace")
