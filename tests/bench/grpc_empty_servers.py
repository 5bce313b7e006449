"""`python -m tests.bench.grpc_empty_servers NAME PORT`: gRPC servers whose ModelInfer does nothing.

Each answers every request with the same ready-made bytes: what is left is what the server itself costs.
"""

import asyncio
import random
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.bench.oip_requests import GRPC_METHOD

THREADS = 32
ANSWER = bytes(450)


def _grpcio_handlers(behaviour: Callable[..., Any]) -> Any:
    import grpc

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(behaviour) if details.method == GRPC_METHOD else None

    return Handlers()


async def grpcio_aio(port: int) -> None:
    """grpcio's asyncio server, without generated code: bytes in, bytes out."""
    from grpc import aio

    async def answer(message: bytes, context: Any) -> bytes:
        return ANSWER

    server = aio.server()
    server.add_generic_rpc_handlers((_grpcio_handlers(answer),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def grpcio_threads(port: int, hand_over: bool) -> None:
    """grpcio's threaded server; hand_over: the answer comes from an event loop, as a gateway's must."""
    import grpc
    import uvloop

    loop = uvloop.new_event_loop()

    async def answer() -> bytes:
        return ANSWER

    def behaviour(message: bytes, context: Any) -> bytes:
        return asyncio.run_coroutine_threadsafe(answer(), loop).result() if hand_over else ANSWER

    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers((_grpcio_handlers(behaviour),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    loop.run_forever()


async def ours(port: int, begun: bool) -> None:
    """The gateway's; begun: answered without a coroutine."""
    from serving.gateway.grpc.calls import Call, Done, Method
    from serving.gateway.grpc.server import GrpcServer
    from serving.settings import GrpcSettings

    async def answer(call: Call, message: bytes | memoryview) -> bytes:
        return ANSWER

    def begin(call: Call, message: bytes | memoryview, done: Done) -> Callable[[], None]:
        handle = asyncio.get_running_loop().call_soon(done, ANSWER)
        return handle.cancel

    method = Method(GRPC_METHOD, 1 << 26, answer, begin if begun else None)
    server = GrpcServer({GRPC_METHOD: method}, GrpcSettings(), random.Random(0))
    await server.start(socket.create_server(("127.0.0.1", port)))
    await asyncio.Event().wait()


def main(name: str, port: int) -> None:
    """Runs until it is killed."""
    import uvloop

    servers: dict[str, Callable[[], object]] = {
        "grpcio, asyncio": lambda: asyncio.run(grpcio_aio(port)),
        "grpcio, uvloop": lambda: uvloop.run(grpcio_aio(port)),
        "grpcio, threads": lambda: grpcio_threads(port, False),
        "grpcio, threads to a loop": lambda: grpcio_threads(port, True),
        "ours, asyncio": lambda: asyncio.run(ours(port, False)),
        "ours, uvloop": lambda: uvloop.run(ours(port, False)),
        "ours, uvloop, no coroutine": lambda: uvloop.run(ours(port, True)),
    }
    servers[name]()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
