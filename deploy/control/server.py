"""The control API's server: uvicorn on a thread of the controller process."""

import contextlib
import logging
import threading

import fastapi
import uvicorn

from serving.addresses import Address

log = logging.getLogger(__name__)

DRAIN_S = 10


class ControlServer:
    """Serves the application at the address from `start` to `stop`."""

    def __init__(self, app: fastapi.FastAPI, address: Address) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            proxy_headers=False,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        self._server = uvicorn.Server(config)
        # signals are the process's, and only a main thread may ask for them
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]
        self._address = address
        self._thread = threading.Thread(target=self._run, name="control-api", daemon=True)

    def start(self) -> None:
        """Listens when it returns. Raises OSError if the address is taken."""
        self._listener = self._address.listen()
        self._thread.start()

    def stop(self) -> None:
        """Requests under way are answered first."""
        self._server.should_exit = True
        self._thread.join(DRAIN_S + 5)

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except BaseException:
            log.exception("the control API ended")
            raise
