"""Programs compiled at load, if the settings ask for it; never a version that fails because of it."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from serving import metrics
from serving.device.flat import FlatProgram
from serving.device.precision import HALVES, Call

log = logging.getLogger(__name__)


def compiled(program: FlatProgram, call: Call, how: str, model: str, sample: Sequence[Any], precision: str) -> Call:
    """The call, compiled; or itself where that fails, counted and logged.

    how: one of `settings.COMPILES`. `compile` is torch.compile with dynamic rows; `aoti` compiles the exported
    program ahead of time, in float32 alone. sample: arguments that it is tried with. Takes from
    seconds to minutes and needs a C++ compiler on a CPU, Triton on CUDA.
    """
    if how == "none":
        return call
    try:
        if how == "aoti" and precision in HALVES:
            raise ValueError(f"aoti compiles float32 alone, not {precision}: ask for compile")
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of the compiler's own deprecations: nobody here can act on them
            fast: Call = _ahead_of_time(program, sample) if how == "aoti" else torch.compile(call, dynamic=True)
            fast(*sample)
    except Exception as error:  # compilers raise anything, OSError and AssertionError among it
        metrics.COMPILE_FALLBACKS.labels(model).inc()
        log.warning("%s: compile=%s failed, it is served as exported: %s", model, how, str(error).partition("\n")[0])
        return call
    return fast


def _ahead_of_time(program: FlatProgram, sample: Sequence[Any]) -> Call:
    exported = program.exported
    # a version's archive holds no sample inputs (`registry.artefacts`), and the compiler asks for some
    exported.example_inputs = torch.utils._pytree.tree_unflatten(list(sample), exported.call_spec.in_spec)
    with tempfile.TemporaryDirectory(prefix="sluice-aoti-") as folder:
        path = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "program.pt2"))
        run: Callable[..., Any] = torch._inductor.aoti_load_package(path)

    def call(*arguments: Any) -> Sequence[Any]:
        leaves: Sequence[Any] = torch.utils._pytree.tree_leaves(run(*arguments))
        return leaves

    return call
