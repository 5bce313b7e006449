"""One Triton server as a worker sees it: a few channels, calls with an end, errors in our words.

gRPC's own connecting makes a server that is back usable within a second, and a server that is
away fail at once: calls do not wait for a connection.
"""

import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.errors import DeadlineExceeded, QueryRefused, RankingError, RemoteUnfit, ReplicaUnhealthy

CHANNELS = 2
MAX_MESSAGE_BYTES = (1 << 31) - 1
OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),  # Triton allows a ping every five seconds
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),  # or all channels to one address would be one connection
]
QUESTION_TIMEOUT_S = 5.0
INFER_TIMEOUT_S = 60.0
_STATUS: dict[grpc.StatusCode, type[RankingError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: ReplicaUnhealthy,
    grpc.StatusCode.CANCELLED: ReplicaUnhealthy,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ReplicaUnhealthy,
    grpc.StatusCode.INVALID_ARGUMENT: QueryRefused,
    grpc.StatusCode.NOT_FOUND: RemoteUnfit,
    grpc.StatusCode.UNIMPLEMENTED: RemoteUnfit,
}
_HINTS = {
    grpc.StatusCode.UNAVAILABLE: "is it running, and is its address in SLUICE_TRITON_SERVERS right?",
    grpc.StatusCode.NOT_FOUND: "load the model there",
}


class TritonConnection:
    """name: of the server, for messages; address: host:port of its gRPC front end.

    Threads may share it. Opening it connects to nothing yet.
    """

    def __init__(self, name: str, address: str, channels: int = CHANNELS) -> None:
        self._where = f"Triton server {name!r} at {address}"
        self._channels = [grpc.insecure_channel(address, options=OPTIONS) for _ in range(channels)]
        self._stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        self._turns = cycle(self._stubs)

    def close(self) -> None:
        """Ends the connections; what is under way fails."""
        for channel in self._channels:
            channel.close()

    def ask(self, method: str, question: Any) -> Any:
        """The answer to a question about server or model. Raises as `infer`."""
        try:
            return getattr(self._stubs[0], method)(question, timeout=QUESTION_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def infer(self, requests: Sequence[Any], timeout_s: float | None) -> list[Any]:
        """The answers to ModelInferRequests that are under way together, in their order.

        timeout_s: for all of them; it travels with each, so that the server can give up too.
        Raises DeadlineExceeded, ReplicaUnhealthy if the server is away, RemoteUnfit if the model is,
        QueryRefused if it refuses the tensors, RankingError if it failed.
        """
        limit_s = INFER_TIMEOUT_S if timeout_s is None else timeout_s
        if limit_s <= 0:
            raise DeadlineExceeded(f"no time left to ask {self._where}")
        for request in requests:
            request.parameters["timeout"].int64_param = int(limit_s * 1e6)
        until_s = time.monotonic() + limit_s
        try:
            if len(requests) == 1:
                return [self._in_turn(requests[0], until_s)]
            calls = [next(self._turns).ModelInfer.future(request, timeout=limit_s) for request in requests]
            try:
                return [self._result(call, request, until_s) for call, request in zip(calls, requests, strict=True)]
            finally:
                for call in calls:
                    call.cancel()  # nothing to a call that is over
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def _result(self, call: Any, request: Any, until_s: float) -> Any:
        try:
            return call.result()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return self._in_turn(request, until_s)

    def _in_turn(self, request: Any, until_s: float) -> Any:
        """From the first channel that is connected: when a server is back, some notice sooner."""
        for last in (*[False] * (len(self._stubs) - 1), True):
            try:
                return next(self._turns).ModelInfer(request, timeout=until_s - time.monotonic())
            except grpc.RpcError as error:
                if last or error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
        raise AssertionError("a connection has at least one channel")

    def _translated(self, error: grpc.RpcError) -> RankingError:
        code = error.code()
        hint = f"; {_HINTS[code]}" if code in _HINTS else ""
        return _STATUS.get(code, RankingError)(f"{self._where}: {error.details()} ({code.name}){hint}")


def server_ready(connection: TritonConnection) -> bool:
    """Whether the server says that it is up and all its models are."""
    return bool(connection.ask("ServerReady", service_pb2.ServerReadyRequest()).ready)
