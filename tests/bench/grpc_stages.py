"""`python -m tests.bench.grpc_stages`: where each microsecond of a gRPC ModelInfer goes.

One request of 100 x 136 float32 with raw contents. First the servers alone, each with a handler that
does nothing; then reading the request and writing the answer; then the whole platform with a null
model, process by process, beside binary REST in the same run. Servers on one core, h2load or wrk on
the other, 32 connections. CPU microseconds per request, medians of several rounds.
"""

import argparse
import contextlib
import os
import platform as machine
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.gateway.grpc.inference import decode
from serving.gateway.grpc.layouts import layout_of, pieces_of, response_of
from serving.gateway.grpc.tensors import read_infer, write_infer
from serving.gateway.protos.open_inference_pb2 import ModelInferRequest
from serving.infer import InferAnswer, InferQuery
from serving.settings import GatewaySettings
from serving.tensors import Tensor
from tests.bench import oip_requests
from tests.bench.generators import Request, generate, require_generators
from tests.bench.grpc_empty_servers import ANSWER
from tests.bench.load import cpu_s, hardware, pss_mb, versions
from tests.bench.oip_codec import cost_us
from tests.bench.platform_under_test import COLUMNS, data_plane, tensors_package

SERVER_CORE, GENERATOR_CORE = 0, 1
ROWS, CONCURRENCY = 100, 32
READY_WITHIN_S = 20.0
SERVERS = (
    "grpcio, asyncio",
    "grpcio, uvloop",
    "grpcio, threads",
    "grpcio, threads to a loop",
    "ours, asyncio",
    "ours, uvloop",
    "ours, uvloop, no coroutine",
)


@contextlib.contextmanager
def an_empty_server(name: str) -> Iterator[tuple[int, int]]:
    """Port and pid."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "taskset",
        "-c",
        str(SERVER_CORE),
        sys.executable,
        "-m",
        "tests.bench.grpc_empty_servers",
        name,
        str(port),
    ]
    process = subprocess.Popen(command)
    try:
        give_up_s = time.monotonic() + READY_WITHIN_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > give_up_s:
                raise RuntimeError(f"{name} did not start")
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def servers_alone(message: bytes, rounds: int, seconds: int) -> None:
    """Prints what each costs for the same bytes in and out."""
    print("| server, empty handler | CPU us/request | lowest to highest | requests/s | PSS MB after it |")
    print("|---|---:|---:|---:|---:|")
    costs: dict[str, list[float]] = {name: [] for name in SERVERS}
    rates: dict[str, list[float]] = {name: [] for name in SERVERS}
    memory: dict[str, float] = {}
    body = b"\0" + struct.pack(">I", len(message)) + message
    headers = {"content-type": "application/grpc", "te": "trailers"}
    for _ in range(rounds):
        for name in SERVERS:
            with an_empty_server(name) as (port, pid):
                url = f"http://127.0.0.1:{port}{oip_requests.GRPC_METHOD}"
                request = Request(url, body, headers, grpc=True, answer_bytes=5 + len(ANSWER))
                took = generate(request, CONCURRENCY, seconds, GENERATOR_CORE, lambda pid=pid: [pid])
                if took.wrong:
                    raise RuntimeError(f"{name}: {took.wrong} wrong answers")
                costs[name].append(took.server_cpu_us)
                rates[name].append(took.requests_s)
                memory[name] = pss_mb(pid)
    for name, found in costs.items():
        print(
            f"| {name} | {statistics.median(found):.0f} | {min(found):.0f} to {max(found):.0f} "
            f"| {statistics.median(rates[name]):.0f} | {memory[name]:.0f} |"
        )


def codec(message: bytes, matrix: NDArray[np.float32], rounds: int) -> None:
    """Prints what reading and writing cost, the remembered way and protobuf's."""
    settings = GatewaySettings(Path("/nowhere"), Path("/nowhere"), ("worker.sock",))
    answer = InferAnswer("null", 1, "", [Tensor.of("scores", "FP32", matrix[:, 0])])

    def remembered() -> InferQuery | None:
        pieces = pieces_of(message)
        layout = layout_of(pieces[0]) if pieces else None
        return layout.query(pieces[1].decode(), pieces[2], 1000) if pieces and layout else None

    def by_protobuf() -> InferQuery:
        return read_infer(decode(ModelInferRequest, message), settings).query

    parsed = read_infer(decode(ModelInferRequest, message), settings)
    query = remembered()
    assert query is not None
    assert bytes(query.inputs[0].data) == bytes(by_protobuf().inputs[0].data) == matrix.tobytes()
    print("\n| stage in the gateway | us, least | median |")
    print("|---|---:|---:|")
    for name, work in {
        "read the request by its remembered layout": remembered,
        "read it by protobuf": by_protobuf,
        "write the answer by its remembered head": lambda: response_of(answer),
        "write it by protobuf": lambda: write_infer(parsed, answer).SerializeToString(),
    }.items():
        least, median = cost_us(work, rounds)
        print(f"| {name} | {least:.1f} | {median:.1f} |")


def whole(matrix: NDArray[np.float32], rounds: int, seconds: int, seed: int) -> None:
    """Prints what the platform costs over both front ends, by process."""
    package = tensors_package("null", seed, null=True)
    with data_plane([package], SERVER_CORE) as (settings, state):
        pids = {process.name: process.pid for process in state.processes if process.pid}
        pids["supervisor"] = state.supervisor_pid
        requests = {
            "gRPC": oip_requests.over_grpc(f"127.0.0.1:{settings.grpc_port}", "null", matrix),
            "binary REST": oip_requests.binary(f"http://127.0.0.1:{settings.gateway_port}", "null", matrix),
        }
        costs: dict[str, dict[str, list[float]]] = {way: {} for way in requests}
        for _ in range(rounds):
            for way, request in requests.items():
                generate(request, CONCURRENCY, 1, GENERATOR_CORE, list)  # warm
                before = {name: cpu_s([pid]) for name, pid in pids.items()}
                took = generate(request, CONCURRENCY, seconds, GENERATOR_CORE, lambda: list(pids.values()))
                if took.wrong:
                    raise RuntimeError(f"{way}: {took.wrong} wrong answers")
                used = {name: cpu_s([pid]) - before[name] for name, pid in pids.items()}  # with a warm-up in it
                costs[way].setdefault("all processes", []).append(took.server_cpu_us)
                for name, used_s in used.items():
                    costs[way].setdefault(name, []).append(took.server_cpu_us * used_s / sum(used.values()))
        memory = {name: pss_mb(pid) for name, pid in pids.items()}
    print("\n| platform, null model | gRPC, us | binary REST, us | PSS MB |")
    print("|---|---:|---:|---:|")
    memory["all processes"] = sum(memory.values())
    for name in ("all processes", *sorted(pids)):
        over = [statistics.median(costs[way][name]) for way in requests]
        print(f"| {name} | {over[0]:.0f} | {over[1]:.0f} | {memory[name]:.0f} |")


def message_of(model: str, matrix: NDArray[np.float32]) -> bytes:
    """The request, as a client serialises it."""
    request = ModelInferRequest(model_name=model, raw_input_contents=[matrix.tobytes()])
    request.inputs.add(name="features", datatype="FP32", shape=matrix.shape)
    return request.SerializeToString()


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=2, help="a cell")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    told = parser.parse_args()
    require_generators()
    matrix = np.random.default_rng(told.seed).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    message = message_of("null", matrix)
    print(f"{hardware()}; Python {machine.python_version()}, {versions('protobuf', 'hpack')}; seed {told.seed}")
    print(f"{len(message)} bytes a request, {told.rounds} rounds of {told.seconds} s a cell\n")
    servers_alone(message, told.rounds, told.seconds)
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    codec(message, matrix, told.rounds)
    os.sched_setaffinity(0, everywhere)
    whole(matrix, told.rounds, told.seconds, told.seed)


if __name__ == "__main__":
    main()
