"""`python -m tests.bench.infer_against_triton`: the Open Inference Protocol, here and on a real Triton.

100 x 136 float32 a request. Both sides serve the same weights: Triton in its Python backend with
its dynamic batching, Sluice with everything on (supervisor, Redis, archiver, worker, gateway). All
server processes on one core, wrk or h2load on the other; both servers stay up and take turns, the
one that waits is idle. Scores are checked before and after the load.
"""

import argparse
import contextlib
import platform as machine
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.bench import oip_requests
from tests.bench.generators import Request, generate, require_generators
from tests.bench.load import Measured, hardware, versions
from tests.bench.platform_under_test import COLUMNS, data_plane, platform_pids, tensors_package
from tests.bench.triton_peer import peers
from tests.triton import a_triton

SERVER_CORE, GENERATOR_CORE = 0, 1
ROWS = 100
CELLS = (("binary", 1), ("binary", 8), ("binary", 32), ("JSON", 32), ("gRPC", 32))
BARS = {
    ("null", "binary", 32): "CPU <= 0.50 x",
    ("mlp", "binary", 8): "req/s >= 1.1 x, p99 no worse",
    ("mlp", "binary", 32): "req/s >= 1.1 x, p99 no worse",
    ("null", "JSON", 32): "CPU <= 0.35 x",
    ("null", "gRPC", 32): "CPU <= 1.5 x",
}


@dataclass
class Side:
    """One server. port, grpc_port: on 127.0.0.1; grpc_port 0: it speaks none."""

    name: str
    port: int
    grpc_port: int
    pids: Callable[[], Sequence[int]]
    cells: dict[tuple[str, str, int], list[Measured]] = field(default_factory=dict)

    def request(self, model: str, encoding: str, matrix: NDArray[np.float32]) -> Request:
        """The matrix as this side is asked for its scores."""
        if encoding == "gRPC":
            return oip_requests.over_grpc(f"127.0.0.1:{self.grpc_port}", model, matrix)
        make = oip_requests.binary if encoding == "binary" else oip_requests.as_json
        return make(f"http://127.0.0.1:{self.port}", model, matrix)


@contextlib.contextmanager
def sides(only: str, seed: int) -> Iterator[list[Side]]:
    """The servers, ready."""
    with contextlib.ExitStack() as stack:
        found = []
        if only != "sluice":
            triton = stack.enter_context(a_triton(peers(seed), core=SERVER_CORE))
            found.append(Side("Triton", triton.http_port, triton.grpc_port, triton.pids))
        if only != "triton":
            packages = [tensors_package("null", seed, null=True), tensors_package("mlp", seed)]
            settings, state = stack.enter_context(data_plane(packages, SERVER_CORE))
            grpc_port = getattr(settings, "grpc_port", 0)  # until the gateway's gRPC front end is there
            found.append(Side("Sluice", settings.gateway_port, grpc_port, lambda: platform_pids(state)))
        yield found


def right_scores(seed: int, model: str, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """What both sides must answer, computed here."""
    from serving.program import TorchProgram

    program = TorchProgram(tensors_package(model, seed, null=model == "null"), "cpu")
    return program.score(matrix, np.zeros(len(matrix), dtype=np.int64))


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="a cell")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=("both", "triton", "sluice"), default="both")
    told = parser.parse_args()
    require_generators()
    matrix = np.random.default_rng(told.seed).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    print(f"{hardware()}; Python {machine.python_version()}, {versions()}; seed {told.seed}")
    print(f"{ROWS} x {COLUMNS} float32, {told.rounds} rounds of {told.seconds} s a cell, medians (lowest to highest)\n")
    with sides(told.only, told.seed) as servers:
        for model in ("null", "mlp"):
            right = right_scores(told.seed, model, matrix)
            for encoding, concurrency in CELLS:
                if encoding == "gRPC" and not all(side.grpc_port for side in servers):
                    continue
                for _ in range(told.rounds):
                    for side in servers:
                        request = side.request(model, encoding, matrix)
                        _check(request, model, matrix, right)
                        measured = generate(request, concurrency, told.seconds, GENERATOR_CORE, side.pids)
                        _check(request, model, matrix, right)
                        side.cells.setdefault((model, encoding, concurrency), []).append(measured)
        _print(servers)


def _check(request: Request, model: str, matrix: NDArray[np.float32], right: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(oip_requests.scores(request, model, matrix), right, rtol=1e-4, atol=1e-5)


def _print(servers: Sequence[Side]) -> None:
    print(
        "| model | encoding | c | server | server CPU us/request | requests/s | p50 ms | p99 ms | wrong | generator |"
    )
    print("|---|---|---:|---|---:|---:|---:|---:|---:|---:|")
    for cell in servers[0].cells:
        for side in servers:
            took = side.cells[cell]
            figures = [
                _spread([one.server_cpu_us for one in took]),
                _spread([one.requests_s for one in took]),
                f"{statistics.median(one.p50_ms for one in took):.2f}",
                f"{statistics.median(one.p99_ms for one in took):.2f}",
                str(sum(one.wrong for one in took)),
                f"{statistics.median(one.generator_cpu for one in took):.2f}",
            ]
            print(f"| {cell[0]} | {cell[1]} | {cell[2]} | {side.name} | {' | '.join(figures)} |")
    if len(servers) < 2:
        return
    print("\n| model | encoding | c | CPU, of Triton's | requests/s, of Triton's | p99, of Triton's | bar |")
    print("|---|---|---:|---:|---:|---:|---|")
    for cell in servers[0].cells:
        theirs, ours = (side.cells[cell] for side in servers)
        ratios = [
            statistics.median(getattr(one, what) for one in ours)
            / statistics.median(getattr(one, what) for one in theirs)
            for what in ("server_cpu_us", "requests_s", "p99_ms")
        ]
        print(
            f"| {cell[0]} | {cell[1]} | {cell[2]} | {' | '.join(f'{r:.2f}' for r in ratios)} | {BARS.get(cell, '')} |"
        )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
