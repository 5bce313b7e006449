"""The native backend: an exported torch program, loaded once, warmed, run on one device.

Nothing here knows of queries; a program takes a matrix and gives a score per row, or takes the
tensors of its manifest and gives those (`device.tensors` says how BYTES become arguments).
"""

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from registry.contracts.manifest import ModelManifest, ModelPackage
from serving.device.compiled import compiled
from serving.device.flat import FlatProgram, Size, UnfitProgram, load_flat, shape_refusal
from serving.device.precision import Call, forward_in
from serving.device.tensors import from_torch, parts_of, to_torch
from serving.errors import QueryRefused
from serving.tensors import Tensor

log = logging.getLogger(__name__)

WARM_UP_ROWS = (1, 2, 7, 100, 1000)
QUERY_INDEX = "query_index"
SCORES = "scores"


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
    """A program exported by `torch.export`. The package must have been verified before.

    Its arguments are the manifest's inputs by name, or by place where names differ; its results
    the manifest's outputs by the keys of a dictionary, or by place. precision: see
    `device.precision`; compile: see `device.compiled`.
    Raises UnfitProgram if program and manifest do not fit.
    """

    def __init__(self, package: ModelPackage, device: str, precision: str = "fp32", compile: str = "none") -> None:
        manifest = package.manifest
        self.device = torch.device(device)
        self.precision = precision
        self.listwise = takes_query_index(manifest)
        self._inputs, self._outputs = manifest.inputs, manifest.outputs
        program = load_flat(package.program, self.device)
        self._program = program
        names = [argument.name for argument in program.arguments]
        self._argument_order = _order("inputs", names, [name for name, _ in parts_of(manifest.inputs)])
        results = list(program.result_names) or [""] * len(program.result_dtypes)
        wanted = [name for name, _ in parts_of(manifest.outputs)]
        # place of each of the manifest's parts among the results
        self._result_order = np.argsort(_order("outputs", results, wanted)).tolist()
        _check_dtypes(program, manifest, self._argument_order, self._result_order)
        self._score_place = self._result_order[wanted.index(SCORES) if SCORES in wanted else 0]
        self._features_first = manifest.inputs[0].name != QUERY_INDEX
        call = forward_in(program, precision, self.device)
        if compile != "none":
            call = compiled(program, call, compile, manifest.model, self._sample(), precision)
        self._call = call

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """See `Program`; a forward pass cannot be stopped."""
        with torch.inference_mode():
            matrix = torch.from_numpy(features)
            index = torch.from_numpy(query_index) if self.listwise else None
            if self.device.type != "cpu":
                matrix = matrix.pin_memory().to(self.device, non_blocking=True)
                index = None if index is None else index.to(self.device)
            on_host: NDArray[np.float32] = self.score_on_device(matrix, index).cpu().numpy()
            return on_host

    def score_on_device(self, matrix: torch.Tensor, query_index: torch.Tensor | None) -> torch.Tensor:
        """As `score`, without leaving the device: float32 (rows,). For callers in inference mode."""
        return self.scores_of(self._call, matrix, query_index).float()

    def scores_of(self, call: Call, matrix: torch.Tensor, query_index: torch.Tensor | None) -> torch.Tensor:
        """The scores, of any float type, that another form of the program's function gives."""
        if self.listwise and query_index is not None:
            given = (matrix, query_index) if self._features_first else (query_index, matrix)
            results = call(*[given[place] for place in self._argument_order])
        else:
            results = call(matrix)
        scores: torch.Tensor = results[self._score_place]
        return scores.reshape(-1)

    def run(self, inputs: Sequence[Tensor], timeout_s: float | None = None) -> list[Tensor]:
        """See `Program`; a forward pass cannot be stopped.

        Raises QueryRefused, naming the tensor, if the model cannot take these shapes.
        """
        parts: list[torch.Tensor] = []
        names: list[str] = []
        for tensor in inputs:
            given = to_torch(tensor)
            parts += given
            names += [tensor.name] * len(given)
        parts, names = [parts[i] for i in self._argument_order], [names[i] for i in self._argument_order]
        if refusal := shape_refusal(self._program, [part.shape for part in parts], names):
            raise QueryRefused(refusal)
        arguments = [
            part.item() if argument.is_number else part
            for part, argument in zip(parts, self._program.arguments, strict=True)
        ]
        with torch.inference_mode():
            if self.device.type != "cpu":
                arguments = [part.to(self.device) if isinstance(part, torch.Tensor) else part for part in arguments]
            results = self._call(*arguments)
            ordered = iter([results[place] for place in self._result_order])
            return [
                from_torch(spec, [next(ordered) for _ in range(2 if spec.datatype == "BYTES" else 1)])
                for spec in self._outputs
            ]

    def _sample(self) -> list[torch.Tensor | int]:
        """Arguments of two in every dynamic dimension, or as many as it must have, for a compiler to look at."""
        bounds = self._program.bounds

        def size_of(size: Size) -> int:
            return size if isinstance(size, int) else max(2, bounds.get(size, (None, None))[0] or 2)

        return [
            2
            if argument.is_number
            else torch.zeros([size_of(size) for size in argument.sizes], dtype=argument.dtype, device=self.device)
            for argument in self._program.arguments
        ]


def takes_query_index(manifest: ModelManifest) -> bool:
    """Whether the model looks at whole lists."""
    return any(spec.name == QUERY_INDEX for spec in manifest.inputs)


def warm_up(program: Program, columns: int) -> None:
    """Runs a few sizes, so that the first query pays for no lazy initialisation.

    Raises ValueError if the program does not give one finite score per row.
    """
    for rows in WARM_UP_ROWS:
        scores = program.score(np.zeros((rows, columns), dtype=np.float32), np.zeros(rows, dtype=np.int64))
        if scores.shape != (rows,) or not np.isfinite(scores).all():
            raise ValueError(f"the program gave scores of shape {scores.shape} for {rows} rows, or not finite ones")


def _order(what: str, of_program: Sequence[str], of_manifest: Sequence[str]) -> list[int]:
    """For each of the program's, its place in the manifest."""
    if len(of_program) != len(of_manifest):
        raise UnfitProgram(
            f"the program has {len(of_program)} {what}, its manifest {len(of_manifest)} "
            f"({', '.join(of_manifest)}; BYTES count twice): let the manifest name them all"
        )
    if sorted(of_program) == sorted(of_manifest):
        return [of_manifest.index(name) for name in of_program]
    return list(range(len(of_program)))


def _check_dtypes(
    program: FlatProgram, manifest: ModelManifest, argument_order: Sequence[int], result_order: Sequence[int]
) -> None:
    inputs = parts_of(manifest.inputs)
    for argument, place in zip(program.arguments, argument_order, strict=True):
        name, dtype = inputs[place]
        if argument.dtype not in (None, dtype):
            raise UnfitProgram(f"input {name!r}: the program takes {argument.dtype}, its manifest says {dtype}")
    for (name, dtype), place in zip(parts_of(manifest.outputs), result_order, strict=True):
        given = program.result_dtypes[place]
        if given not in (None, dtype):
            raise UnfitProgram(f"output {name!r}: the program gives {given}, its manifest says {dtype}")
