"""What `kubectl kustomize FOLDER` gives, for the features that deploy/kubernetes uses; anything else is refused.

Kustomize is no Python and no Debian package. A test holds this against the real one wherever kubectl is there.
"""

import copy
import functools
import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

# by which field the elements of a list are told apart when they are merged; other lists are replaced
_KEYS = {
    "containers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "topologySpreadConstraints": "topologyKey",
}
_OPTIONS = {"resources", "components", "patches", "namespace", "configMapGenerator", "secretGenerator", "images"}
_OPTIONS |= {"apiVersion", "kind", "generatorOptions"}
_NOT_IN_A_NAMESPACE = {"Namespace"}


def build(folder: Path) -> list[Object]:
    """All objects of the folder's kustomization. Raises ValueError for what this does not know."""
    found: list[Object] = json.loads(_built(folder))
    return found


@functools.cache
def _built(folder: Path) -> str:
    return json.dumps([_finished(one) for one in _accumulate(folder)])


def _accumulate(folder: Path, into: list[Object] | None = None) -> list[Object]:
    told = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(told) - _OPTIONS:
        raise ValueError(f"{folder}: {sorted(unknown)} is not understood here")
    objects = into if into is not None else []
    for name in told.get("resources", ()):
        path = folder / name
        objects += _accumulate(path) if path.is_dir() else _documents(path)
    for generator in told.get("configMapGenerator", ()):
        objects.append(_generated(folder, "ConfigMap", generator, told))
    for generator in told.get("secretGenerator", ()):
        objects.append(_generated(folder, "Secret", generator, told))
    for name in told.get("components", ()):
        _accumulate(folder / name, objects)
    for patch in told.get("patches", ()):
        _patch(objects, patch, folder)
    for one in objects:
        if "namespace" in told and one["kind"] not in _NOT_IN_A_NAMESPACE:
            one["metadata"]["namespace"] = told["namespace"]
    for image in told.get("images", ()):
        for one in objects:
            for container in _containers(one):
                if container["image"].partition(":")[0] == image["name"]:
                    container["image"] = image["newName"]
    _rename(objects)
    return objects


def _documents(path: Path) -> list[Object]:
    # by way of JSON: what an anchor names more than once must not change together
    return [json.loads(json.dumps(one)) for one in yaml.load_all(path.read_text(), yaml.CSafeLoader) if one]


def _containers(one: Object) -> list[Object]:
    found: list[Object] = one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    return found


def _generated(folder: Path, kind: str, generator: Object, told: Object) -> Object:
    data: dict[str, str] = {}
    for name in generator.get("envs", ()):
        lines = (folder / name).read_text().splitlines()
        data |= dict(line.split("=", 1) for line in lines if line.strip() and not line.startswith("#"))
    for name in generator.get("files", ()):
        data[name] = (folder / name).read_text()
    data |= dict(literal.split("=", 1) for literal in generator.get("literals", ()))
    made: Object = {"apiVersion": "v1", "kind": kind, "metadata": {"name": generator["name"]}, "data": data}
    if kind == "Secret":
        made["data"] = {key: b64encode(value.encode()).decode() for key, value in data.items()}
        made["type"] = "Opaque"
    if not told.get("generatorOptions", {}).get("disableNameSuffixHash"):
        made["metadata"]["name"] += f"-{_hash(made)}"
        made["metadata"]["_was"] = generator["name"]
    return made


def _hash(made: Object) -> str:
    """Kustomize's: of a canonical JSON in which the name is left empty; ten digits, none a vowel."""
    told = {"data": made["data"], "kind": made["kind"], "name": ""}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return digest.translate(str.maketrans("013ae", "ghkmt"))


def _rename(objects: list[Object]) -> None:
    """References to generated ConfigMaps get their whole names."""
    for made in [one for one in objects if "_was" in one["metadata"]]:
        for one in objects:
            for container in _containers(one):
                for source in container.get("envFrom", ()):
                    if source.get("configMapRef", {}).get("name") == made["metadata"]["_was"]:
                        source["configMapRef"]["name"] = made["metadata"]["name"]


def _patch(objects: list[Object], patch: Object, folder: Path) -> None:
    text = (folder / patch["path"]).read_text() if "path" in patch else patch["patch"]
    told = yaml.safe_load(text)
    target = patch.get("target") or {"kind": told["kind"], "name": told["metadata"]["name"]}
    hit = [one for one in objects if _is_meant(one, target)]
    if not hit:
        raise ValueError(f"{folder}: nothing is meant by {target}")
    for one in hit:
        if isinstance(told, list):
            for operation in told:
                _operate(one, operation)
        elif told.get("$patch") == "delete":
            objects.remove(one)
        else:
            changes = {key: value for key, value in told.items() if key not in ("apiVersion", "kind", "metadata")}
            _merge(one, changes)


def _is_meant(one: Object, target: Object) -> bool:
    if unknown := set(target) - {"kind", "name", "labelSelector"}:
        raise ValueError(f"a target by {sorted(unknown)} is not understood here")
    if one["kind"] != target.get("kind", one["kind"]) or one["metadata"]["name"] != target.get(
        "name", one["metadata"]["name"]
    ):
        return False
    if "labelSelector" not in target:
        return True
    found = re.fullmatch(r"([^!=]+)(!?=)(.+)", target["labelSelector"])
    assert found is not None, target
    return (one["metadata"].get("labels", {}).get(found[1]) == found[3]) == (found[2] == "=")


def _merge(into: Object, changes: Object) -> None:
    for key, value in changes.items():
        old = into.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value)
        elif isinstance(value, list) and isinstance(old, list) and key in _KEYS:
            fresh = []
            for element in value:
                same = [one for one in old if one.get(_KEYS[key]) == element[_KEYS[key]]]
                if same:
                    _merge(same[0], element)
                else:
                    fresh.append(copy.deepcopy(element))
            old[:0] = fresh
        else:
            into[key] = copy.deepcopy(value)


def _operate(one: Object, operation: Object) -> None:
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    at: Any = one
    for part in way:
        at = at[int(part)] if isinstance(at, list) else at[part]
    match operation["op"]:
        case "add" if isinstance(at, dict):
            at[last] = copy.deepcopy(operation["value"])
        case "replace" if last in at:
            at[last] = copy.deepcopy(operation["value"])
        case "remove" if last in at:
            del at[last]
        case _:
            raise ValueError(f"{operation} does not fit {one['kind']} {one['metadata']['name']}")


def _finished(one: Object) -> Object:
    one["metadata"].pop("_was", None)
    return one


def by_kind(objects: list[Object], kind: str) -> list[Object]:
    """Those of a kind."""
    return [one for one in objects if one["kind"] == kind]


def the(objects: list[Object], kind: str, name: str) -> Object:
    """The one of this kind and name."""
    [found] = [one for one in by_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


def normal(one: Object) -> Object:
    """The object with lists that are sets in their order: for comparison."""

    def sorted_lists(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: sorted_lists(element) for key, element in value.items()}
        if isinstance(value, list):
            elements = [sorted_lists(element) for element in value]
            key: Callable[[Any], str] = lambda element: json.dumps(element, sort_keys=True)  # noqa: E731
            return sorted(elements, key=key)
        return value

    found: Object = sorted_lists(one)
    return found
