"""What a model on a Triton server takes and gives, and whether that is what was registered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc import service_pb2

from registry.contracts.manifest import ModelManifest, RemoteModel, TensorSpec
from serving.errors import RemoteUnfit
from serving.tensors import DATATYPES
from serving.triton_connection import TritonConnection

QUERY_INDEX = "query_index"
SCORES = "scores"
FLOATS = ("FP32", "FP16", "FP64")


@dataclass(frozen=True, slots=True)
class Signature:
    """max_rows: of one request; 0: dimension 0 is none that Triton batches by, and has no limit.

    platform: what runs it there, "tensorrt_plan" or "python" for example.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_rows: int
    platform: str


def read_signature(connection: TritonConnection, remote: RemoteModel) -> Signature:
    """What the server says of the model.

    Raises ReplicaUnhealthy if the server is away, RemoteUnfit if the model is not ready there or
    answers in another way than once to each request.
    """
    what = _named(remote)
    named = {"name": remote.model, "version": remote.version}
    if not connection.ask("ModelReady", service_pb2.ModelReadyRequest(**named)).ready:
        raise RemoteUnfit(f"{what} is not ready: load it there, or look into that server's log")
    metadata = connection.ask("ModelMetadata", service_pb2.ModelMetadataRequest(**named))
    config = connection.ask("ModelConfig", service_pb2.ModelConfigRequest(**named)).config
    if config.model_transaction_policy.decoupled:
        raise RemoteUnfit(f"{what} is decoupled (any number of answers a request): expected one that answers once")
    if config.HasField("sequence_batching"):
        raise RemoteUnfit(f"{what} keeps state between requests (sequence_batching): expected one that does not")
    return Signature(
        _specs(metadata.inputs), _specs(metadata.outputs), int(config.max_batch_size), str(metadata.platform)
    )


def check_signature(manifest: ModelManifest, remote: RemoteModel, found: Signature) -> None:
    """Raises RemoteUnfit, naming every difference, unless the model takes and gives what the manifest says."""
    wrong = [
        *_differences("input", manifest.inputs, found.inputs),
        *_differences("output", manifest.outputs, found.outputs),
        *(_ranker_flaws(manifest) if manifest.ranks else ()),
    ]
    taken = {spec.name for spec in manifest.inputs}
    wrong += [f"input {spec.name!r} is missing in the manifest" for spec in found.inputs if spec.name not in taken]
    if wrong:
        raise RemoteUnfit(
            f"{_named(remote)} does not fit version {manifest.model!r}: {'; '.join(wrong)}. "
            "Register a new version of it: sluice models register-remote"
        )


def features_input(manifest: ModelManifest) -> TensorSpec:
    """The input that takes the feature matrix of a ranker whose signature was checked."""
    return next(spec for spec in manifest.inputs if spec.name != QUERY_INDEX)


def scores_place(manifest: ModelManifest) -> int:
    """Which output has a ranker's scores: the one of that name, or the first."""
    names = [spec.name for spec in manifest.outputs]
    return names.index(SCORES) if SCORES in names else 0


def _specs(listed: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(one.name, one.datatype, tuple(one.shape)) for one in listed)


def _named(remote: RemoteModel) -> str:
    return f"model {remote.model!r}{f' {remote.version}' if remote.version else ''} on server {remote.server!r}"


def _differences(kind: str, wanted: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> list[str]:
    there = {spec.name: spec for spec in found}
    wrong = []
    for spec in wanted:
        other = there.get(spec.name)
        if other is None:
            wrong.append(f"{kind} {spec.name!r} is not there (there: {', '.join(there) or 'none'})")
        elif spec.datatype != other.datatype or spec.datatype not in DATATYPES:
            wrong.append(f"{kind} {spec.name!r} is {other.datatype} there and {spec.datatype} in the manifest")
        elif not _fits(kind, spec.shape, other.shape):
            wrong.append(
                f"{kind} {spec.name!r} has shape {list(other.shape)} there and {list(spec.shape)} in the manifest"
            )
    return wrong


def _fits(kind: str, promised: Sequence[int], there: Sequence[int]) -> bool:
    """What one side may send, the other must take: -1 takes every size."""
    taking, sending = (there, promised) if kind == "input" else (promised, there)
    return len(taking) == len(sending) and all(take in (-1, send) for take, send in zip(taking, sending, strict=True))


def _ranker_flaws(manifest: ModelManifest) -> list[str]:
    columns = len(manifest.feature_view().columns)
    matrices = [spec for spec in manifest.inputs if spec.name != QUERY_INDEX]
    wrong = []
    if len(matrices) != 1 or matrices[0].datatype not in FLOATS or matrices[0].shape[1:] not in ((columns,), (-1,)):
        wrong.append(
            f"a ranker takes one float matrix of {columns} columns (its feature view's) and, if it looks at whole "
            f"lists, {QUERY_INDEX!r}: this one takes "
            + ", ".join(f"{spec.name!r} {spec.datatype} {list(spec.shape)}" for spec in manifest.inputs)
        )
    wrong += [
        f"input {QUERY_INDEX!r} is {spec.datatype}, expected INT64"
        for spec in manifest.inputs
        if spec.name == QUERY_INDEX and spec.datatype != "INT64"
    ]
    if not manifest.outputs or manifest.outputs[scores_place(manifest)].datatype not in FLOATS:
        wrong.append("a ranker's scores, a float a row, are its output 'scores', or its first")
    return wrong
