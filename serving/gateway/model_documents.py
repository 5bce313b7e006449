"""A model's metadata, configuration and statistics in the words of the Open Inference Protocol.

Plain values with the field names that the protocol's JSON and its protobuf messages share.

Source: Open Inference Protocol v2; model configuration, statistics and repository extensions.
"""

from typing import Any

from registry.contracts.manifest import TensorSpec
from serving.infer import IndexEntry, ModelInfo
from serving.statistics import Spent, VersionStatistics

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
    "system_shared_memory",
)


def metadata(info: ModelInfo) -> dict[str, Any]:
    """Names, datatypes and shapes; -1 is dynamic."""
    return {
        "name": info.model,
        "versions": [str(version) for version in info.versions],
        "platform": info.platform,
        "inputs": [_tensor(spec) for spec in info.inputs],
        "outputs": [_tensor(spec) for spec in info.outputs],
    }


def config(info: ModelInfo) -> dict[str, Any]:
    """Triton's ModelConfig: `dims` leave out the rows of a model that batches, `max_batch_size` bounds them."""
    return {
        "name": info.model,
        "platform": info.platform,
        "backend": "",
        "version_policy": {"specific": {"versions": list(info.versions)}},
        "max_batch_size": info.max_rows if info.batchable else 0,
        "input": [_configured(spec, info.batchable) for spec in info.inputs],
        "output": [_configured(spec, info.batchable) for spec in info.outputs],
        "parameters": {},
    }


def statistics(versions: list[VersionStatistics]) -> dict[str, Any]:
    """Counts, and nanoseconds in all.

    `compute_input` is gathering, `compute_infer` the device; writing outputs is part of the latter.
    `batch_size` counts the requests of one forward pass.
    """
    return {"model_stats": [_version_statistics(version) for version in versions]}


def index(entries: list[IndexEntry]) -> list[dict[str, str]]:
    """What the platform has, and whether it can answer."""
    return [
        {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
        for entry in entries
    ]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _configured(spec: TensorSpec, batchable: bool) -> dict[str, Any]:
    data_type = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": data_type, "dims": list(spec.shape[1:] if batchable else spec.shape)}


def _version_statistics(version: VersionStatistics) -> dict[str, Any]:
    return {
        "name": version.model,
        "version": str(version.version),
        "last_inference": version.last_ms,
        "inference_count": version.inferences,
        "execution_count": version.executions,
        "inference_stats": {
            "success": _spent(version.success),
            "fail": _spent(version.failed),
            "queue": _spent(version.queue),
            "compute_input": _spent(version.gather),
            "compute_infer": _spent(version.device),
            "compute_output": _spent(version.answer),
            "cache_hit": _spent(Spent()),
            "cache_miss": _spent(Spent()),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _spent(batch.gather),
                "compute_infer": _spent(batch.device),
                "compute_output": _spent(batch.answer),
            }
            for size, batch in sorted(version.batches.items())
        ],
    }


def _spent(spent: Spent) -> dict[str, int]:
    return {"count": spent.count, "ns": spent.ns}
