"""Models that others keep in MLflow as an exported program: found, and fetched without opening anything.

What is downloaded is bytes: a `.pt2` archive, held against `artefacts.verify_program`, and JSON or YAML
beside it. Nothing of a pickled model is fetched at all.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from registry.artefacts import EXPORT_HINT, strip_sample_inputs, verify_program
from registry.contracts.manifest import TensorSpec
from registry.errors import RefusedVersion, UnknownVersion
from registry.mlflow_store import mlflow_errors, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION, models:/MODEL_ID or runs:/RUN_ID/PATH"
PROGRAM_SUFFIX = ".pt2"
_PICKLES = (".pth", ".pt", ".pkl", ".pickle", ".joblib", ".bin")
_MLMODEL = "MLmodel"
_EXAMPLE = "serving_input_example.json"
_MAX_DEPTH = 6


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """source: where it was found, an alias resolved to its version. name: the registered model's, or empty.

    program: verified, without sample inputs. inputs, outputs: of the signature that was logged with it, in
    its order, a name empty where it has none; None where there is no signature of tensors.
    example: the rows of the input example, if it is one matrix. dataset, dataset_digest, code_version:
    as its run has them, empty where it has not.
    """

    source: str
    name: str
    run_id: str
    created_ms: int
    program: bytes
    inputs: tuple[TensorSpec, ...] | None
    outputs: tuple[TensorSpec, ...] | None
    example: tuple[tuple[float, ...], ...]
    dataset: str
    dataset_digest: str
    code_version: str
    description: str


@dataclass(frozen=True, slots=True)
class _Place:
    source: str
    name: str
    run_id: str
    created_ms: int
    uri: str
    inside: str
    description: str


def fetch_foreign(tracking_uri: str, uri: str) -> ForeignModel:
    """The model that others logged there. uri: one of FORMS; a path may name the `.pt2` file itself.

    Raises UnknownVersion if there is none, RefusedVersion if it is pickled or holds no exported program, or
    several, StoreUnavailable.
    """
    client = open_client(tracking_uri)
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with mlflow_errors(f"find {uri}"):
        place = _place(client, uri)
        where = get_artifact_repository(place.uri, tracking_uri=tracking_uri, registry_uri=tracking_uri)
        files = sorted(_files(where, place.inside))
    chosen = _program_among(files, place.source)
    with tempfile.TemporaryDirectory() as folder, mlflow_errors(f"fetch {place.source}"):
        program = strip_sample_inputs(_read(where, chosen, folder))
        logged = _beside(where, files, _MLMODEL, folder)
        example = _beside(where, files, _EXAMPLE, folder)
        run = client.get_run(place.run_id) if place.run_id else None
    verify_program(program)
    inputs, outputs = _signature(logged)
    data = run.inputs.dataset_inputs[0].dataset if run and run.inputs and run.inputs.dataset_inputs else None
    return ForeignModel(
        source=place.source,
        name=place.name,
        run_id=place.run_id,
        created_ms=place.created_ms,
        program=program,
        inputs=inputs,
        outputs=outputs,
        example=_rows(example),
        dataset=data.name if data else "",
        dataset_digest=data.digest if data else "",
        code_version=run.data.tags.get("mlflow.source.git.commit", "") if run else "",
        description=place.description,
    )


def _place(client: "MlflowClient", uri: str) -> _Place:
    scheme, _, rest = uri.partition(":/")
    rest = rest.strip("/")
    if scheme == "runs" and "/" in rest:
        run_id, _, path = rest.partition("/")
        run = client.get_run(run_id)
        created = run.info.end_time or run.info.start_time
        # the folder is listed from above, so that the path of a file is one, too
        return _Place(uri, "", run_id, created, f"runs:/{run_id}", path, "")
    if scheme != "models" or not rest:
        raise UnknownVersion(f"{uri}: expected {FORMS}")
    name, at, alias = rest.partition("@")
    if at:
        found = _aliased(client, name, alias)
    elif "/" in rest:
        name, _, number = rest.partition("/")
        found = client.get_model_version(name, number)
    else:
        logged = client.get_logged_model(rest)
        return _Place(uri, "", logged.source_run_id or "", logged.creation_timestamp, logged.artifact_location, "", "")
    return _Place(
        source=f"models:/{name}/{found.version}",
        name=name,
        run_id=found.run_id or "",
        created_ms=int(found.creation_timestamp),
        uri=client.get_model_version_download_uri(name, found.version),
        inside="",
        description=found.description or "",
    )


def _aliased(client: "MlflowClient", name: str, alias: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":  # MLflow's word for an alias that is not there
            raise
        raise UnknownVersion(f"models:/{name}@{alias}: there is no such alias, see MLflow's page") from error


def _files(where: "ArtifactRepository", inside: str, depth: int = 0) -> Iterator[str]:
    """Paths of all files, as the repository names them."""
    listed = where.list_artifacts(inside or None)
    if not listed and inside and depth == 0:  # a file's own path lists nothing
        above = str(PurePosixPath(inside).parent)
        listed = [one for one in where.list_artifacts(None if above == "." else above) if one.path == inside]
    for one in listed:
        if one.is_dir and depth < _MAX_DEPTH:
            yield from _files(where, one.path, depth + 1)
        elif not one.is_dir:
            yield one.path


def _program_among(files: list[str], source: str) -> str:
    programs = [path for path in files if path.endswith(PROGRAM_SUFFIX)]
    if len(programs) == 1:
        return programs[0]
    if programs:
        raise RefusedVersion(
            f"{source} holds {len(programs)} exported programs ({', '.join(programs)}): name one of them"
        )
    if not files:
        raise UnknownVersion(f"{source} holds no files: expected {FORMS}")
    pickled = [path for path in files if path.endswith(_PICKLES)]
    what = f"a pickled model ({pickled[0]}), and nothing pickled is ever loaded" if pickled else "no exported program"
    raise RefusedVersion(f"{source} holds {what}: {EXPORT_HINT}")


def _beside(where: "ArtifactRepository", files: list[str], name: str, folder: str) -> bytes:
    """The file of that name nearest to the root, empty if there is none."""
    found = sorted((path for path in files if PurePosixPath(path).name == name), key=lambda path: path.count("/"))
    return _read(where, found[0], folder) if found else b""


def _read(where: "ArtifactRepository", path: str, folder: str) -> bytes:
    return Path(where.download_artifacts(path, folder)).read_bytes()


def _signature(logged: bytes) -> tuple[tuple[TensorSpec, ...] | None, tuple[TensorSpec, ...] | None]:
    if not logged:
        return None, None
    import yaml

    try:
        signature = yaml.safe_load(logged).get("signature") or {}
        return _specs(signature.get("inputs")), _specs(signature.get("outputs"))
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedVersion(f"its {_MLMODEL} cannot be read ({error}): log the model again") from error


def _specs(told: str | None) -> tuple[TensorSpec, ...] | None:
    """Of MLflow's JSON; None if it speaks of columns of a table."""
    listed: list[dict[str, Any]] = json.loads(told) if told else []
    if not listed or any(one["type"] != "tensor" for one in listed):
        return None
    return tuple(
        TensorSpec(one.get("name") or "", _datatype(one["tensor-spec"]["dtype"]), tuple(one["tensor-spec"]["shape"]))
        for one in listed
    )


def _datatype(dtype: str) -> str:
    """The Open Inference Protocol's name of numpy's.

    >>> _datatype("float32"), _datatype("int64"), _datatype("bool"), _datatype("<U7")
    ('FP32', 'INT64', 'BOOL', 'BYTES')
    """
    kind = dtype.rstrip("0123456789")
    names = {"float": "FP", "int": "INT", "uint": "UINT"}
    return names[kind] + dtype.removeprefix(kind) if kind in names else "BOOL" if dtype == "bool" else "BYTES"


def _rows(example: bytes) -> tuple[tuple[float, ...], ...]:
    """The matrix of an input example, if it is one."""
    try:
        rows = json.loads(example)["inputs"]
        if isinstance(rows, dict) and len(rows) == 1:
            [rows] = rows.values()
        return tuple(tuple(float(value) for value in row) for row in rows)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ()
