"""Two versions of a model side by side: figures, tensors, feature view, lineage. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from registry.contracts.features import FeatureView
from registry.contracts.manifest import MetricDefinition, ModelManifest, TensorSpec
from registry.errors import RegistryError
from registry.store import StoredVersion


@dataclass(frozen=True, slots=True)
class MetricDifference:
    """One figure of both. a, b: None where a version does not have it.

    difference: b - a; relative: that over a. None where it cannot be said.
    """

    name: str
    a: float | None
    b: float | None
    difference: float | None
    relative: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which they differ; a, b: in words, empty where a version does not have it."""

    field: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class ColumnDifferences:
    """Columns of the feature views, by name.

    added: those only b has; removed: only a. changed: both have them, with another source, type, default
    or freshness. reordered: whether the columns that both have come in another order.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[Difference, ...]
    reordered: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between versions a and b; what is not there is the same.

    incomparable: why the metrics are not compared, empty if they are.
    """

    model: str
    a: int
    b: int
    incomparable: str
    metrics: tuple[MetricDifference, ...]
    manifest: tuple[Difference, ...]
    columns: ColumnDifferences
    lineage: tuple[Difference, ...]


def compare(a: StoredVersion, b: StoredVersion) -> Comparison:
    """Raises RegistryError if they are of different models: their figures have nothing in common."""
    if a.model != b.model:
        raise RegistryError(
            f"{a.model}@{a.version} and {b.model}@{b.version} are of different models: compare versions of one"
        )
    one, other = a.manifest, b.manifest
    incomparable = _incomparable(a, b)
    return Comparison(
        model=a.model,
        a=a.version,
        b=b.version,
        incomparable=incomparable,
        metrics=() if incomparable else _metrics(one.metrics, other.metrics),
        manifest=_manifest(one, other),
        columns=_columns(one, other),
        lineage=_differences(msgspec.to_builtins(one.lineage), msgspec.to_builtins(other.lineage)),
    )


def define(metric: MetricDefinition) -> str:
    """The definition in words.

    >>> define(MetricDefinition())
    'ndcg@10, exponential gain, log2 discount, ties in served_order, empty lists left_out'
    """
    return (
        f"{metric.name}@{metric.k}, {metric.gain} gain, {metric.discount} discount, ties in {metric.ties}, "
        f"empty lists {metric.empty_lists}"
    )


def _incomparable(a: StoredVersion, b: StoredVersion) -> str:
    one, other = a.manifest.metric, b.manifest.metric
    if one.digest == other.digest:
        return ""
    return (
        f"the figures of {a.version} and {b.version} are different metrics ({define(one)}; {define(other)}): "
        "measure both versions under one definition, then compare"
    )


def _metrics(a: dict[str, float], b: dict[str, float]) -> tuple[MetricDifference, ...]:
    return tuple(_metric(name, a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys()))


def _metric(name: str, a: float | None, b: float | None) -> MetricDifference:
    if a is None or b is None:
        return MetricDifference(name, a, b, None, None)
    return MetricDifference(name, a, b, b - a, (b - a) / abs(a) if a else None)


def _manifest(a: ModelManifest, b: ModelManifest) -> tuple[Difference, ...]:
    return _differences(_in_words(a), _in_words(b))


def _in_words(manifest: ModelManifest) -> dict[str, str]:
    remote = manifest.remote
    return {
        **{f"input {spec.name}": _tensor(spec) for spec in manifest.inputs},
        "order of inputs": _order(manifest.inputs),
        **{f"output {spec.name}": _tensor(spec) for spec in manifest.outputs},
        "order of outputs": _order(manifest.outputs),
        "feature view": str(manifest.view.get("name", "")),
        "fingerprint": manifest.fingerprint,
        "metric definition": define(manifest.metric),
        "batchable": str(manifest.batchable),
        "runs on": f"{remote.server}, model {remote.model} {remote.version}".strip() if remote else "",
        "description": manifest.description,
    }


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def _order(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _columns(a: ModelManifest, b: ModelManifest) -> ColumnDifferences:
    one, other = _view(a), _view(b)
    names = [name for name in one if name in other]
    changed = tuple(
        Difference(f"{name}: {difference.field}", difference.a, difference.b)
        for name in names
        for difference in _differences(one[name], other[name])
    )
    return ColumnDifferences(
        added=tuple(name for name in other if name not in one),
        removed=tuple(name for name in one if name not in other),
        changed=changed,
        reordered=names != [name for name in other if name in one],
    )


def _view(manifest: ModelManifest) -> dict[str, dict[str, Any]]:
    """The columns by name, in their order."""
    view: FeatureView | None = manifest.feature_view() if manifest.ranks else None
    return {column.name: msgspec.to_builtins(column) for column in view.columns} if view else {}


def _differences(a: dict[str, Any], b: dict[str, Any]) -> tuple[Difference, ...]:
    fields = [*a, *(field for field in b if field not in a)]
    shown = [(field, _words(a.get(field)), _words(b.get(field))) for field in fields]
    return tuple(Difference(field, one, other) for field, one, other in shown if one != other)


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " to ".join(str(part) for part in value if part)
    return "" if value is None else str(value)
