"""HorizontalPodAutoscaler manifests into rules: those that are shipped, or a user's own."""

from pathlib import Path
from typing import Any, cast

from deploy.capacity.autoscaler import DEFAULT_DOWN, DEFAULT_UP, AutoscalerRule, Direction, MetricRule, Policy
from deploy.errors import SluiceError

FOLDER = Path(__file__).parent.parent / "kubernetes"
BASE, GPU = FOLDER / "base/worker-autoscaler.yaml", FOLDER / "overlays/gpu/worker-autoscaler.yaml"

_SUFFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


def quantity(told: str | int | float) -> float:
    """Of Kubernetes' words.

    >>> quantity("10m"), quantity("1000"), quantity("2k")
    (0.01, 1000.0, 2000.0)
    """
    words = str(told)
    for suffix, factor in sorted(_SUFFIXES.items(), key=lambda pair: -len(pair[0])):
        if words.endswith(suffix):
            return round(float(words.removesuffix(suffix)) * factor, 12)
    return float(words)


def shipped() -> AutoscalerRule:
    """The workers' autoscaler with GPUs: the overlay's numbers, the base's behaviour."""
    return read(GPU, over=BASE)


def read(path: Path, over: Path | None = None) -> AutoscalerRule:
    """From a file. over: what it is an overlay of, whose fields count where it has none.

    Raises SluiceError if it cannot be read, or is no autoscaling/v2 manifest.
    """
    import yaml

    try:
        spec = _spec(yaml.safe_load(path.read_text()))
        below = _spec(yaml.safe_load(over.read_text())) if over is not None else {}
        return _rule(below | spec)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SluiceError(
            f"{path}: no HorizontalPodAutoscaler of autoscaling/v2 ({type(error).__name__}: {error})", f"one like {GPU}"
        ) from error


def _spec(document: Any) -> dict[str, Any]:
    if document["kind"] != "HorizontalPodAutoscaler" or document["apiVersion"] != "autoscaling/v2":
        raise ValueError(f"kind {document['kind']} of {document['apiVersion']}")
    return cast("dict[str, Any]", document["spec"])


def _rule(spec: dict[str, Any]) -> AutoscalerRule:
    behaviour = spec.get("behavior", {})
    return AutoscalerRule(
        least=int(spec.get("minReplicas", 1)),
        most=int(spec["maxReplicas"]),
        metrics=tuple(_metric(metric) for metric in spec["metrics"]),
        up=_direction(behaviour.get("scaleUp", {}), DEFAULT_UP),
        down=_direction(behaviour.get("scaleDown", {}), DEFAULT_DOWN),
    )


def _metric(told: dict[str, Any]) -> MetricRule:
    kind = told["type"]
    body = told[kind[0].lower() + kind[1:]]
    target = body["target"]
    if kind == "Resource":
        return MetricRule(body["name"], "average", target["averageUtilization"] / 100, of_pods=True)
    name = body["metric"]["name"]
    if target["type"] == "Value":
        return MetricRule(name, "value", quantity(target["value"]))
    return MetricRule(name, "average", quantity(target["averageValue"]), of_pods=kind == "Pods")


def _direction(told: dict[str, Any], default: Direction) -> Direction:
    policies = tuple(Policy(p["type"], int(p["value"]), float(p["periodSeconds"])) for p in told.get("policies", ()))
    return Direction(
        float(told.get("stabilizationWindowSeconds", default.stabilisation_s)),
        policies or default.policies,
        told.get("selectPolicy", default.select),
    )
