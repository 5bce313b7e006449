"""In which precision a program computes, and the same program in float64 to hold it against.

fp32: plain float32. tf32: float32 whose matrix products round their operands to 10 bits (CUDA
alone). bf16, fp16: matrix products in 16 bits, everything else, preprocessing first of all, in
float32, as `torch.autocast` knows the operators; weights that only matrix products read are kept
in 16 bits, so that nothing is converted at each call.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.fx.node import map_aggregate

from serving.device.flat import FlatProgram

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_aten = torch.ops.aten
_MATRIX_PRODUCTS = {
    _aten.linear.default,
    _aten.matmul.default,
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.conv1d.default,
    _aten.conv2d.default,
}
_product_mode = threading.Lock()  # torch's switch for tf32 is the process's, read when a product is enqueued

Call = Callable[..., Sequence[Any]]


def forward_in(program: FlatProgram, precision: str, device: torch.device) -> Call:
    """The program's function in this precision. Results may come in 16 bits."""
    if precision in HALVES:
        dtype = HALVES[precision]
        call = partial(program.graph.forward, *_halved_weights(program, dtype))

        def lowered(*arguments: Any) -> Sequence[Any]:
            # the cache would live as long as the call: weights are lowered already
            with torch.autocast(device.type, dtype, cache_enabled=False):
                results: Sequence[Any] = call(*arguments)
                return results

        return lowered
    plain = program.bind()
    if device.type == "cpu":
        return plain
    mode = "tf32" if precision == "tf32" else "ieee"

    def switched(*arguments: Any) -> Sequence[Any]:
        with _matrix_products(mode):
            return plain(*arguments)

    return switched


def in_float64(program: FlatProgram) -> Call:
    """The program in float64, for one loaded on the CPU: what others are held against.

    A float type that the graph names is replaced too. It raises when called if a part of the graph
    insists on float32.
    """
    graph = torch.fx.Graph()
    graph.output(graph.graph_copy(program.graph.graph, {}))
    for node in graph.nodes:
        node.args, node.kwargs = map_aggregate((node.args, node.kwargs), _doubled)
    module = torch.fx.GraphModule(program.graph, graph)
    lifted = [tensor.double() if tensor.is_floating_point() else tensor for tensor in program.lifted]
    return partial(module.forward, *lifted)


def _doubled(argument: Any) -> Any:
    return torch.float64 if isinstance(argument, torch.dtype) and argument in _FLOATS else argument


def _halved_weights(program: FlatProgram, dtype: torch.dtype) -> list[Any]:
    """What was lifted, weights of matrix products in the lower type."""
    nodes = [node for node in program.graph.graph.nodes if node.op == "placeholder"][: len(program.lifted)]
    return [
        tensor.to(dtype)
        if tensor.dtype is torch.float32 and node.users and all(user.target in _MATRIX_PRODUCTS for user in node.users)
        else tensor
        for node, tensor in zip(nodes, program.lifted, strict=True)
    ]


@contextmanager
def _matrix_products(mode: str) -> Iterator[None]:
    """Matrix products enqueued within compute so, whatever the loading thread does beside."""
    with _product_mode:
        before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = mode
        try:
            yield
        finally:
            torch.backends.cuda.matmul.fp32_precision = before
