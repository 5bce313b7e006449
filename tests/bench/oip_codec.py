"""`python -m tests.bench.oip_codec`: what reading an inference request and writing its answer costs.

One request of 100 x 136 float32, as tritonclient sends it, in binary and as JSON; and what other
JSON parsers need for the same numbers. CPU microseconds of this process, the least and the median
of several rounds; nothing is sent anywhere.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import simdjson

from serving.compression import compressed, decompressed
from serving.gateway.float_arrays import without_floats
from serving.gateway.oip_request import read_infer
from serving.gateway.oip_response import write_infer
from serving.infer import InferAnswer
from serving.settings import GatewaySettings
from serving.tensors import Tensor
from tests.bench.load import hardware, versions
from tests.serving.oip_tensors import as_input, request_body

ROUND_S = 0.2


class _Input(msgspec.Struct):
    data: list[float]


class _Request(msgspec.Struct):
    inputs: list[_Input]


def cost_us(work: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Least and median CPU microseconds of one call."""
    work()
    began_s = time.process_time()
    work()
    calls = max(1, int(ROUND_S / max(1e-6, time.process_time() - began_s)))
    found = []
    for _ in range(rounds):
        began_s = time.process_time()
        for _ in range(calls):
            work()
        found.append((time.process_time() - began_s) / calls * 1e6)
    return min(found), statistics.median(found)


def main() -> None:
    """Prints a table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--seed", type=int, default=7)
    told = arguments.parse_args()
    matrix = np.random.default_rng(told.seed).normal(size=(100, 136)).astype(np.float32)
    settings = GatewaySettings(Path("/nowhere"), Path("/nowhere"), ("worker.sock",))
    binary, header_length = request_body([as_input("features", "FP32", matrix)])
    text, _ = request_body([as_input("features", "FP32", matrix, binary=False)])
    packed = compressed(binary, b"gzip")
    parsed = read_infer("ranker", None, binary, header_length, settings)
    parsed_text = read_infer("ranker", None, text, None, settings)
    for one in (parsed, parsed_text):
        assert np.array_equal(one.query.inputs[0].array(), matrix)
    parsed_text.binary = False
    answer = InferAnswer("ranker", 1, "", [Tensor.of("scores", "FP32", matrix[:, 0])])
    decoder, parser = msgspec.json.Decoder(_Request), simdjson.Parser()

    def by_simdjson() -> Any:
        data: Any = parser.parse(text).at_pointer("/inputs/0/data")  # type: ignore[union-attr]
        return np.frombuffer(data.as_buffer(of_type="d"), np.float64).astype(np.float32)

    def as_float32(values: list[float]) -> Any:
        return np.array(values, dtype=np.float32)

    print(f"{hardware()}; {versions('msgspec', 'orjson', 'pysimdjson', 'tritonclient')}; seed {told.seed}")
    print(f"binary body {len(binary):,} bytes, JSON body {len(text):,} bytes, simdjson {parser.implementation[0]}")
    rows: list[tuple[str, Callable[[], Any]]] = [
        ("read binary", lambda: read_infer("ranker", None, binary, header_length, settings)),
        ("write binary", lambda: write_infer(parsed, answer)),
        ("read JSON", lambda: read_infer("ranker", None, text, None, settings)),
        ("write JSON", lambda: write_infer(parsed_text, answer)),
        ("  the numbers in C", lambda: without_floats(text)),
        ("  by simdjson", by_simdjson),
        ("  by orjson", lambda: as_float32(orjson.loads(text)["inputs"][0]["data"])),
        ("  by msgspec, typed", lambda: as_float32(decoder.decode(text).inputs[0].data)),
        ("  by json", lambda: as_float32(json.loads(text)["inputs"][0]["data"])),
        ("unpack gzip", lambda: decompressed(packed, b"gzip", 1 << 20)),
        ("pack the request as gzip", lambda: compressed(binary, b"gzip")),
    ]
    print(f"{'':28s}{'least us':>10s}{'median us':>11s}")
    for name, work in rows:
        least, median = cost_us(work, told.rounds)
        print(f"{name:28s}{least:10.2f}{median:11.2f}")


if __name__ == "__main__":
    main()
