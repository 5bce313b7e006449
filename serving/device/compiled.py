"""Programs compiled at load, if the settings ask for it; never a version that fails because of it."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from serving import metrics
from serving.device.flat import FlatProgram
from serving.device.precision import Call

log = logging.getLogger(__name__)

COMPILES = ("none", "compile", "aoti")


def compiled(program: FlatProgram, call: Call, how: str, model: str, sample: Sequence[torch.Tensor]) -> Call:
    """The call, compiled; or itself where that fails, counted and logged.

    how: one of COMPILES. `compile` is torch.compile with dynamic rows; `aoti` compiles the exported
    program ahead of time, in float32 alone. sample: arguments that it is tried with. Takes from
    seconds to minutes and needs a C++ compiler on a CPU, Triton on CUDA.
    """
    if how == "none":
        return call
    try:
        fast: Call = _ahead_of_time(program) if how == "aoti" else torch.compile(call, dynamic=True)
        with torch.inference_mode():
            fast(*sample)
    except Exception as error:  # compilers raise anything, OSError and AssertionError among it
        metrics.COMPILE_FALLBACKS.labels(model).inc()
        log.warning("%s: compile=%s failed, it is served as exported: %s", model, how, str(error).partition("\n")[0])
        return call
    return fast


def _ahead_of_time(program: FlatProgram) -> Call:
    folder = Path(tempfile.mkdtemp(prefix="sluice-aoti-"))
    path = torch._inductor.aoti_compile_and_package(program.exported, package_path=str(folder / "program.pt2"))
    run: Callable[..., Any] = torch._inductor.aoti_load_package(path)

    def call(*arguments: Any) -> Sequence[Any]:
        leaves: Sequence[Any] = torch.utils._pytree.tree_leaves(run(*arguments))
        return leaves

    return call
