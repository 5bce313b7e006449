"""Opens a version on its device: in the precision that was asked for, or in float32 where its ranking
would change."""

import logging

import numpy as np
import torch

from registry.contracts.manifest import ModelPackage
from serving import metrics
from serving.device.accuracy import LIST_ROWS, Agreement, Tolerance, agreement, sample_rows
from serving.device.flat import load_flat
from serving.device.precision import in_float64
from serving.device.ranker import DeviceRanker
from serving.device.streams import Lane
from serving.features.device import DeviceTier
from serving.program import TorchProgram
from serving.scoring import LoadedModel

log = logging.getLogger(__name__)

SEED = 7


def open_program(
    package: ModelPackage,
    device: str,
    precision: str = "fp32",
    compile: str = "none",
    tolerance: Tolerance | None = None,
) -> TorchProgram:
    """The program of a verified package, checked against float64 if its precision is below float32.

    A version that breaks the tolerance (`accuracy.Tolerance`, unless given), or whose accuracy
    cannot be known (no feature view; a graph that insists on float32), is opened in float32: logged
    and counted, never silent. `TorchProgram.precision` tells which it became.
    """
    tolerance = tolerance or Tolerance()
    model = package.manifest.model
    if precision == "fp32":
        return TorchProgram(package, device, compile=compile)
    if not package.manifest.ranks:
        return _in_float32(package, device, compile, precision, "it has no feature view to draw sample rows from")
    program = TorchProgram(package, device, precision, compile)
    try:
        found = accuracy_of(program, package)
    except (RuntimeError, TypeError) as error:
        reason = f"its float64 reference failed: {str(error).partition(chr(10))[0]}"
        return _in_float32(package, device, compile, precision, reason)
    if not tolerance.holds(found):
        return _in_float32(package, device, compile, precision, f"{found}, expected at least {tolerance}")
    log.info("%s in %s against float64: %s", model, precision, found)
    return program


def accuracy_of(program: TorchProgram, package: ModelPackage) -> Agreement:
    """The program's scores held against the package's in float64 on the CPU, over lists of sample rows.

    Raises RuntimeError or TypeError if the graph cannot be computed in float64.
    """
    columns = len(package.manifest.feature_view().columns)
    rows = sample_rows(package.profile, columns, SEED)
    index = np.arange(len(rows)) // LIST_ROWS
    scores = program.score(rows, index)
    exact = in_float64(load_flat(package.program, torch.device("cpu")))
    with torch.inference_mode():
        reference = program.scores_of(exact, torch.from_numpy(rows).double(), torch.from_numpy(index))
    return agreement(scores, reference.numpy())


def device_ranker(
    loaded: LoadedModel, program: TorchProgram, lane: Lane, batch_candidates: int, graphs: bool
) -> DeviceRanker:
    """What ranks the version's batches on the lane's device. Captures graphs, and takes a while.

    loaded: its tier is a DeviceTier of that device. Raises TypeError if it is not.
    """
    if not isinstance(loaded.tier, DeviceTier):
        raise TypeError(f"{loaded.model}@{loaded.version}: its rows are in a {type(loaded.tier).__name__}")
    return DeviceRanker(loaded, program, loaded.tier, lane, batch_candidates, graphs)


def _in_float32(package: ModelPackage, device: str, compile: str, precision: str, reason: str) -> TorchProgram:
    model = package.manifest.model
    metrics.PRECISION_FALLBACKS.labels(model).inc()
    log.warning("%s is served in fp32 instead of %s: %s", model, precision, reason)
    return TorchProgram(package, device, compile=compile)
