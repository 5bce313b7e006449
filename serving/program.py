"""The native backend: an exported torch program, loaded once, warmed, run on one device.

Nothing here knows of queries; a program takes a matrix and gives a score per row, or takes the
tensors of its manifest and gives those.
"""

import io
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from registry.contracts.manifest import ModelManifest, ModelPackage
from serving.tensors import Tensor

WARM_UP_ROWS = (1, 2, 7, 100, 1000)


class Program(Protocol):
    """What scores rows: the native torch program, or a remote server's model."""

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """One score per row.

        features: float32 (rows, columns), in the feature view's order. query_index: int64
        (rows,), ascending: rows of one query share a number; a pointwise model ignores it.
        timeout_s: nobody waits for the answer after that; None: for as long as it takes. A program
        that waits for others raises DeadlineExceeded then, one that computes goes on.
        """
        ...

    def run(self, inputs: Sequence[Tensor], timeout_s: float | None = None) -> list[Tensor]:
        """All outputs, in the manifest's order.

        inputs: checked, all of them, in the manifest's order. timeout_s: as in `score`.
        """
        ...


class TorchProgram:
    """A program exported by `torch.export`. The package must have been verified before."""

    def __init__(self, package: ModelPackage, device: str) -> None:
        exported = torch.export.load(io.BytesIO(package.program))
        # inputs were checked against the manifest: the guards would check every call again
        self._module = exported.module(check_guards=False).to(device)
        self._device = torch.device(device)
        self._outputs = package.manifest.outputs
        self._listwise = takes_query_index(package.manifest)

    @torch.inference_mode()
    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """See `Program`; a forward pass cannot be stopped."""
        matrix = torch.from_numpy(features)
        if self._device.type != "cpu":
            matrix = matrix.pin_memory().to(self._device, non_blocking=True)
        if self._listwise:
            scores = self._module(matrix, torch.from_numpy(query_index).to(self._device))
        else:
            scores = self._module(matrix)
        on_host: NDArray[np.float32] = scores.reshape(-1).to("cpu", torch.float32).numpy()
        return on_host

    @torch.inference_mode()
    def run(self, inputs: Sequence[Tensor], timeout_s: float | None = None) -> list[Tensor]:
        """See `Program`; a forward pass cannot be stopped."""
        arguments = [torch.from_numpy(tensor.array().copy()).to(self._device) for tensor in inputs]
        results = self._module(*arguments)
        given = results if isinstance(results, tuple | list) else (results,)
        return [
            Tensor.of(spec.name, spec.datatype, result.cpu().numpy())
            for spec, result in zip(self._outputs, given, strict=True)
        ]


def takes_query_index(manifest: ModelManifest) -> bool:
    """Whether the model looks at whole lists."""
    return any(spec.name == "query_index" for spec in manifest.inputs)


def warm_up(program: Program, columns: int) -> None:
    """Runs a few sizes, so that the first query pays for no lazy initialisation.

    Raises ValueError if the program does not give one finite score per row.
    """
    for rows in WARM_UP_ROWS:
        scores = program.score(np.zeros((rows, columns), dtype=np.float32), np.zeros(rows, dtype=np.int64))
        if scores.shape != (rows,) or not np.isfinite(scores).all():
            raise ValueError(f"the program gave scores of shape {scores.shape} for {rows} rows, or not finite ones")
