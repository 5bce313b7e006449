"""How many rows a program takes at a time on a CPU.

What a layer gives goes to the next one through the caches as long as it fits into them. A wide batch's does not, and a
row of it costs a fifth more; a listwise model's lists cost more together than apart, where attention pads or masks
them. A narrow batch pays for the calls. Which size is best depends on the model and the machine, so it is measured when
a version is loaded, and a batch goes through the program in passes of about that size.
"""

import logging
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from registry.contracts.manifest import ModelManifest, TensorSpec
from serving.program import QUERY_INDEX, Program
from serving.tensors import DTYPES, Tensor

log = logging.getLogger(__name__)

SIZES = (128, 256, 512, 1024, 2048)
REPEATS = 3
ENOUGH_S = 0.4  # of measuring: a slow model's small batches say enough
WORTH = 0.03  # a smaller pass, whose answers come sooner, may cost so much more
LIST_ROWS = 100
_SEED = 7


def learn_score_pass(program: Program, columns: int) -> int:
    """See `learn_pass`; of a program that scores lists of `LIST_ROWS`."""
    most = SIZES[-1]
    features = np.random.default_rng(_SEED).standard_normal((most, columns), dtype=np.float32)
    lists = _lists(most)
    return learn_pass(lambda rows: program.score(features[:rows], lists[:rows]))


def learn_tensor_pass(program: Program, manifest: ModelManifest) -> int:
    """See `learn_pass`; 0 if it is not known what a row of the program's inputs is, or it does not take any."""
    samples = {rows: sample_tensors(manifest.inputs, rows) for rows in SIZES}
    try:
        return learn_pass(lambda rows: program.run(samples[rows] or [])) if all(samples.values()) else 0
    except Exception as error:  # of the program's own: it takes other values than these, nobody asked it to take them
        log.info("%s: what it takes at a time is not learned: %s", manifest.model, error)
        return 0


def learn_pass(run: Callable[[int], object], clock: Callable[[], float] = time.perf_counter) -> int:
    """Rows that are best computed together; 0 if a batch is best computed whole. run: computes so many rows."""
    began_s = clock()
    costs: list[tuple[float, int]] = []
    for rows in SIZES:
        if costs and clock() - began_s + costs[-1][0] * rows * (REPEATS + 1) > ENOUGH_S:
            break
        run(rows)  # gets its memory
        took_s = []
        for _ in range(REPEATS):
            before_s = clock()
            run(rows)
            took_s.append(clock() - before_s)
        costs.append((min(took_s) / rows, rows))
    least, _ = min(costs)
    best = next(rows for cost, rows in costs if cost <= least * (1 + WORTH))
    return 0 if best == costs[-1][1] else best


def sample_tensors(inputs: Sequence[TensorSpec], rows: int) -> list[Tensor] | None:
    """Inputs of so many rows; None if their shapes do not say what a row is, or hold text."""
    tensors = []
    for spec in inputs:
        if not spec.shape or spec.shape[0] != -1 or min(spec.shape[1:], default=1) < 0 or spec.datatype not in DTYPES:
            return None
        dtype, shape = DTYPES[spec.datatype], (rows, *spec.shape[1:])
        if spec.name == QUERY_INDEX:
            values = _lists(rows).reshape(-1, *[1] * (len(shape) - 1)).astype(dtype)
        elif np.issubdtype(dtype, np.floating):
            values = np.random.default_rng(_SEED).standard_normal(shape).astype(dtype)
        else:
            values = np.zeros(shape, dtype)
        tensors.append(Tensor.of(spec.name, spec.datatype, values))
    return tensors


def whole_passes(counts: Sequence[int], most: int) -> list[slice]:
    """Which parts, of so many rows each, go together: in their order, of at most `most` rows; a larger one by itself.

    >>> whole_passes([3, 3, 9, 2, 2], 6)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 5, None)]
    """
    passes, first, rows = [], 0, 0
    for place, count in enumerate(counts):
        if place > first and rows + count > most:
            passes.append(slice(first, place))
            first, rows = place, 0
        rows += count
    return [*passes, slice(first, len(counts))]


def row_passes(counts: Sequence[int], most: int, listwise: bool) -> list[slice]:
    """The rows of lists of so many rows, as `whole_passes`; a larger list of a pointwise program in even parts.

    >>> row_passes([2, 1, 9], 4, listwise=False)
    [slice(0, 3, None), slice(3, 6, None), slice(6, 9, None), slice(9, 12, None)]
    >>> row_passes([2, 1, 9], 4, listwise=True)
    [slice(0, 3, None), slice(3, 12, None)]
    """
    starts = [0, *accumulate(counts)]
    passes = []
    for one in whole_passes(counts, most):
        first, last = starts[one.start], starts[one.stop]
        parts = 1 if listwise else -(-(last - first) // most)
        ends = [first + (last - first) * part // parts for part in range(parts + 1)]
        passes += [slice(*both) for both in pairwise(ends)]
    return passes


def _lists(rows: int) -> NDArray[np.int64]:
    return np.arange(rows) // LIST_ROWS
