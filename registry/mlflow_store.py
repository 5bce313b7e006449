"""Versions in MLflow: a run holds the figures and the files, the model registry the numbers.

A version registered from a training run (`manifest.lineage.run_id`, see `record_training`) joins
that run, so that curves and version are one page in MLflow. The files lie in the run under
`sluice/<digest>/`: registering after a crash overwrites what the crash left, and one run can hold
several versions.

Only this module imports mlflow, and only when a store is made: it takes seconds.
"""

import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry.artefacts import read, verify, write
from registry.contracts.ids import model_name
from registry.contracts.manifest import MANIFEST_FILE, ModelManifest, ModelPackage, TensorSpec
from registry.errors import RefusedVersion, RegistryError, StoreUnavailable, UnknownVersion
from registry.signatures import ANYBODY, Signer, TrustedKeys
from registry.store import StoredVersion, check_package, not_condemned, unknown_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

DIGEST_TAG = "sluice.digest"
FINGERPRINT_TAG = "sluice.fingerprint"
SIGNATURES_TAG = "sluice.signatures"
ARCHIVED_TAG = "sluice.archived"
TRAFFIC_TAG = "sluice.traffic"
CONDEMNED_TAG = "sluice.condemned"
OURS_TAG = "sluice.run"
RUN_KEY_TAG = "sluice.run_key"
"""On a version: of its package; of its feature view; who vouches for it, see `signatures`; since when it is archived,
ISO 8601; what it is in the traffic plan, in words; marked to be deleted. On a run: made by us, and deleted with its
last version; the key by which a pipeline's run finds it again."""

MODEL_NOTE = """Served by **Sluice**. Who answers whom is decided in its traffic plan; the aliases `champion` and
`challenger` and the tags `sluice.*` are copies of that, written again after every change. Change traffic with
`sluice models register --promote` or the promote API, not here."""

_KEY = re.compile(r"[A-Za-z0-9_:.-]+")  # stands in a filter's quotes
_BATCH = 1000  # figures that MLflow takes in one request
_S3_CLIENT = ("boto3", "botocore", "s3transfer")  # their errors have no base in common

# mlflow reads these when it is imported; what the user has set wins
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class MlflowStore:
    """A ModelStore on an MLflow server or straight on its database.

    tracking_uri: `http://host:port` of a server that serves artefacts too, or `sqlite:///path`.
    artefacts: where the files of new models go; for a database on its own only, a server decides
    itself. signer: signs what is registered. trusted: whose versions are registered, given out and given traffic.
    """

    def __init__(
        self,
        tracking_uri: str,
        artefacts: Path | None = None,
        signer: Signer | None = None,
        trusted: TrustedKeys = ANYBODY,
    ) -> None:
        self._artefacts, self._tracking_uri = artefacts, tracking_uri
        self._signer, self._trusted = signer, trusted
        self._manifests: dict[str, ModelManifest] = {}  # by digest; they never change
        self._client = open_client(tracking_uri)

    def register(self, model: str, package: ModelPackage) -> int:
        """See `ModelStore`."""
        package = self._signer.signed(package) if self._signer else package
        manifest, digest = check_package(model, package, self._trusted), package.digest
        signatures = {SIGNATURES_TAG: package.signatures_json.decode()} if package.signatures_json else {}
        if (known := self._by_digest(model, digest)) is not None:
            with mlflow_errors(f"sign version {known} of {model!r}"):
                for tag, text in signatures.items():
                    self._client.set_model_version_tag(model, str(known), tag, text)
            return known
        with mlflow_errors(f"register a version of {model!r}"):
            run_id = self._run_for(manifest)
            self._upload(run_id, package)
            self._make_model(model)
            made = self._client.create_model_version(
                model,
                source=f"runs:/{run_id}/{_folder(digest)}",
                run_id=run_id,
                tags={DIGEST_TAG: digest, FINGERPRINT_TAG: manifest.fingerprint, **signatures},
                description=describe_version(manifest),
                await_creation_for=0,  # there is nothing to wait for, and waiting is logged
            )
        first = self._by_digest(model, digest)
        if first is not None and first < int(made.version):  # somebody registered the same meanwhile
            with mlflow_errors("remove a version that was registered twice"):
                self._client.delete_model_version(model, str(made.version))
            return first
        return int(made.version)

    def require_ours(self, model: str) -> None:
        """Raises RefusedVersion if others have versions under this name: who loads theirs by number or alias
        would find ours."""
        with mlflow_errors(f"look for versions of {model!r}"):
            found = self._client.search_model_versions(f"name = '{model_name(model)}'", max_results=1000)
        if theirs := [version.version for version in found if DIGEST_TAG not in version.tags]:
            raise RefusedVersion(
                f"version {theirs[0]} of model {model!r} in MLflow is of others: register under another name"
            )

    def record_training(
        self,
        model: str,
        name: str,
        params: Mapping[str, object],
        curves: Mapping[str, Sequence[float]],
        now_ms: int,
    ) -> str:
        """The id of a new, finished run with these parameters, and a step for each point of a curve."""
        from mlflow.entities import Metric, Param

        points = [
            Metric(_metric_name(metric), value, now_ms, step)
            for metric, curve in curves.items()
            for step, value in enumerate(curve)
        ]
        with mlflow_errors(f"record a training of {model!r}"):
            run_id = self._new_run(model, name)
            self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
            for start in range(0, len(points), _BATCH):
                self._client.log_batch(run_id, points[start : start + _BATCH])
            self._client.set_terminated(run_id)
        return run_id

    def open_run(self, model: str, key: str, name: str) -> str:
        """The id of the run with this key in the model's experiment, made if there is none; it is running then.

        Raises ValueError if the key has other characters than letters, digits and `-_:.`.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"run key {key!r}: expected letters, digits and -_:. only")
        with mlflow_errors(f"open the run {key!r} of {model!r}"):
            experiment = self._client.get_experiment_by_name(model_name(model))
            found = (
                self._client.search_runs(
                    [experiment.experiment_id],
                    f"tags.`{RUN_KEY_TAG}` = '{key}'",
                    max_results=1,
                    order_by=["attributes.start_time ASC"],
                )
                if experiment
                else []
            )
            if not found:
                return self._new_run(model, name, {RUN_KEY_TAG: key})
            if found[0].info.status != "RUNNING":
                self._client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)

    def curve_steps(self, run_id: str) -> dict[str, set[int]]:
        """Which steps each curve of the run has; names as they were given to `log_figures`."""
        with mlflow_errors(f"read the curves of run {run_id}"):
            curves = self._client.get_run(run_id).data.metrics
            return {
                _figure_name(name): {point.step for point in self._client.get_metric_history(run_id, name)}
                for name in curves
            }

    def log_params(self, run_id: str, values: Mapping[str, object]) -> None:
        """Those that the run does not have yet: MLflow lets nobody change one."""
        from mlflow.entities import Param

        with mlflow_errors(f"log parameters of run {run_id}"):
            known = self._client.get_run(run_id).data.params
            params = [Param(name, str(value)) for name, value in values.items() if name not in known]
            self._client.log_batch(run_id, params=params)

    def log_figures(self, run_id: str, step: int, values: Mapping[str, float], now_ms: int) -> None:
        """A point of each of these curves."""
        from mlflow.entities import Metric

        points = [Metric(_metric_name(name), value, now_ms, step) for name, value in values.items()]
        with mlflow_errors(f"log figures of run {run_id}"):
            self._client.log_batch(run_id, points)

    def log_file(self, run_id: str, name: str, content: bytes) -> None:
        """A file of the run, in place of one of that name, which may have folders."""
        folder, _, last = name.rpartition("/")
        with tempfile.TemporaryDirectory() as scratch, mlflow_errors(f"log {name!r} of run {run_id}"):
            file = Path(scratch) / last
            file.write_bytes(content)
            self._client.log_artifact(run_id, str(file), folder or None)

    def log_tags(self, run_id: str, values: Mapping[str, str]) -> None:
        """The last word counts."""
        from mlflow.entities import RunTag

        with mlflow_errors(f"tag run {run_id}"):
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in values.items()])

    def end_run(self, run_id: str, succeeded: bool) -> None:
        """FINISHED or FAILED."""
        with mlflow_errors(f"end run {run_id}"):
            self._client.set_terminated(run_id, "FINISHED" if succeeded else "FAILED")

    def get(self, model: str, version: int) -> StoredVersion:
        """See `ModelStore`."""
        return self._stored(self._version(model, version))

    def package(self, model: str, version: int) -> ModelPackage:
        """See `ModelStore`."""
        found = self._version(model, version)
        digest = found.tags[DIGEST_TAG]
        with tempfile.TemporaryDirectory() as folder, mlflow_errors(f"fetch version {version} of {model!r}"):
            package = read(Path(self._client.download_artifacts(found.run_id, _folder(digest), folder)))
        package = replace(package, signatures_json=found.tags.get(SIGNATURES_TAG, "").encode())  # the newest are there
        verify(package, digest, self._trusted)
        return package

    def versions(self, model: str) -> list[StoredVersion]:
        """See `ModelStore`."""
        return sorted(map(self._stored, self._search(f"name = '{model_name(model)}'")), key=lambda v: v.version)

    def models(self) -> list[str]:
        """See `ModelStore`; models of others in the same MLflow are left out."""
        return sorted({str(version.name) for version in self._search("")})

    def aliases(self, model: str) -> dict[str, int]:
        """See `ModelStore`."""
        try:
            with mlflow_errors(f"read the aliases of {model!r}"):
                found = self._client.get_registered_model(model)
        except UnknownVersion:
            return {}
        return {alias: int(version) for alias, version in found.aliases.items()}

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """See `ModelStore`."""
        self._version(model, version)
        with mlflow_errors(f"set alias {alias!r} of {model!r}"):
            self._client.set_registered_model_alias(model, alias, str(version))

    def drop_alias(self, model: str, alias: str) -> None:
        """See `ModelStore`."""
        if alias in self.aliases(model):
            with mlflow_errors(f"drop alias {alias!r} of {model!r}"):
                self._client.delete_registered_model_alias(model, alias)

    def archive(self, model: str, version: int, now_ms: int) -> None:
        """See `ModelStore`."""
        if ARCHIVED_TAG not in self._version(model, version).tags:
            self._tag(model, version, ARCHIVED_TAG, _iso(now_ms))

    def unarchive(self, model: str, version: int) -> None:
        """See `ModelStore`."""
        if ARCHIVED_TAG in self._version(model, version).tags:
            self._tag(model, version, ARCHIVED_TAG, None)

    def show_traffic(self, model: str, words: Mapping[int, str]) -> None:
        """See `ModelStore`: a tag on each version that has a role, and on no other."""
        for found in list(self._search(f"name = '{model_name(model)}'")):
            said = words.get(int(found.version))
            if found.tags.get(TRAFFIC_TAG) != said:
                self._tag(model, int(found.version), TRAFFIC_TAG, said)

    def condemn(self, model: str, version: int, wanted: bool) -> None:
        """See `ModelStore`."""
        if (CONDEMNED_TAG in self._version(model, version).tags) != wanted:
            self._tag(model, version, CONDEMNED_TAG, "true" if wanted else None)

    def delete(self, model: str, version: int) -> None:
        """See `ModelStore`. What a crash in the middle leaves is condemned still: delete it again.

        The run goes with its last version if it is one of ours; MLflow keeps it in its trash until
        `mlflow gc`.
        """
        try:
            found = self._version(model, version)
        except UnknownVersion:
            return
        if CONDEMNED_TAG not in found.tags:
            raise not_condemned(model, version)
        with mlflow_errors(f"delete version {version} of {model!r}"):
            run = self._client.get_run(found.run_id)
            self._delete_files(run.info.artifact_uri, _folder(found.tags[DIGEST_TAG]))
            self._client.delete_model_version(model, str(version))
            others = self._client.search_model_versions(f"run_id = '{found.run_id}'", max_results=1)
            if OURS_TAG in run.data.tags and not others:
                self._client.delete_run(found.run_id)

    def _tag(self, model: str, version: int, tag: str, value: str | None) -> None:
        with mlflow_errors(f"mark version {version} of {model!r}"):
            if value is None:
                self._client.delete_model_version_tag(model, str(version), tag)
            else:
                self._client.set_model_version_tag(model, str(version), tag, value)

    def _delete_files(self, artifact_uri: str, folder: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        where = get_artifact_repository(artifact_uri, tracking_uri=self._tracking_uri)
        if where.list_artifacts(folder):
            where.delete_artifacts(folder)

    def _version(self, model: str, version: int) -> "ModelVersion":
        try:
            with mlflow_errors(f"read version {version} of {model!r}"):
                found = self._client.get_model_version(model, str(version))
        except UnknownVersion as error:
            raise unknown_version(model, version) from error
        if DIGEST_TAG not in found.tags:
            raise unknown_version(model, version)
        return found

    def _stored(self, found: "ModelVersion") -> StoredVersion:
        digest = found.tags[DIGEST_TAG]
        if digest not in self._manifests:
            with tempfile.TemporaryDirectory() as folder, mlflow_errors(f"read the manifest of {found.name!r}"):
                path = self._client.download_artifacts(found.run_id, f"{_folder(digest)}/{MANIFEST_FILE}", folder)
                self._manifests[digest] = ModelManifest.decode(Path(path).read_bytes())
        manifest = self._manifests[digest]
        return StoredVersion(
            model=found.name,
            version=int(found.version),
            digest=digest,
            manifest=manifest,
            created_ms=manifest.created_ms,
            run_id=found.run_id,
            archived_ms=_ms(found.tags[ARCHIVED_TAG]) if ARCHIVED_TAG in found.tags else 0,
            condemned=CONDEMNED_TAG in found.tags,
            untrusted=self._trusted.refusal(digest, found.tags.get(SIGNATURES_TAG, "").encode()),
        )

    def _search(self, condition: str) -> Iterator["ModelVersion"]:
        """All versions of ours that fit, whatever the number of pages."""
        token: str | None = None
        while token != "":
            with mlflow_errors("list the versions"):
                page = self._client.search_model_versions(condition or None, page_token=token)
            yield from (version for version in page if DIGEST_TAG in version.tags)
            token = page.token or ""

    def _by_digest(self, model: str, digest: str) -> int | None:
        same = self._search(f"name = '{model}' and tag.`{DIGEST_TAG}` = '{digest}'")
        return min((int(version.version) for version in same), default=None)

    def _run_for(self, manifest: ModelManifest) -> str:
        """The manifest's own run, or a new one if it has none here, with its figures logged."""
        from mlflow.entities import Metric, Param

        try:
            with mlflow_errors("look up the training run"):
                known = self._client.get_run(manifest.lineage.run_id) if manifest.lineage.run_id else None
        except UnknownVersion:  # trained under another MLflow
            known = None
        run_id = known.info.run_id if known else self._new_run(manifest.model, manifest.lineage.dataset)
        metrics = [
            Metric(_metric_name(name), value, manifest.created_ms, 0) for name, value in manifest.metrics.items()
        ]
        params = [
            Param(name, str(value))
            for name, value in _params(manifest).items()
            if known is None or name not in known.data.params  # they cannot be changed
        ]
        self._client.log_batch(run_id, metrics, params)
        if known is None:
            self._client.set_terminated(run_id)
        return run_id

    def _new_run(self, model: str, name: str, tags: Mapping[str, str] | None = None) -> str:
        """A run in the model's experiment, which is made if need be."""
        from mlflow.exceptions import MlflowException

        where = (self._artefacts / model).absolute().as_uri() if self._artefacts else None
        experiment = self._client.get_experiment_by_name(model)
        if experiment is None:
            try:
                self._client.create_experiment(model, artifact_location=where)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was quicker
                    raise
            experiment = self._client.get_experiment_by_name(model)
        made = self._client.create_run(
            experiment.experiment_id, run_name=name or None, tags={OURS_TAG: "true", **(tags or {})}
        )
        return str(made.info.run_id)

    def _make_model(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model, description=MODEL_NOTE)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _upload(self, run_id: str, package: ModelPackage) -> None:
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder) / "version"
            write(package, files)
            self._client.log_artifacts(run_id, str(files), _folder(package.digest))


def open_client(tracking_uri: str) -> "MlflowClient":
    """A client that neither prints nor reports; the first takes seconds. Raises StoreUnavailable."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with mlflow_errors("open the store"):
        return MlflowClient(tracking_uri, tracking_uri)


def _folder(digest: str) -> str:
    return f"sluice/{digest}"


def _metric_name(name: str) -> str:
    """MLflow allows no `@`.

    >>> _metric_name("ndcg@10")
    'ndcg_at_10'
    """
    return name.replace("@", "_at_")


def _figure_name(metric: str) -> str:
    """The inverse of `_metric_name`."""
    return metric.replace("_at_", "@")


def _params(manifest: ModelManifest) -> dict[str, object]:
    lineage = manifest.lineage
    return {
        "dataset": lineage.dataset,
        "dataset_digest": lineage.dataset_digest,
        "training_window": " to ".join(lineage.training_window).strip(),
        "parent": lineage.parent,
        "seed": lineage.seed,
        "code_version": lineage.code_version,
        "feature_view": manifest.view.get("name", ""),
        "fingerprint": manifest.fingerprint,
        "metric_definition": manifest.metric.digest,
    }


def describe_version(manifest: ModelManifest) -> str:
    """What MLflow's page of the version says, in Markdown."""
    lineage, remote = manifest.lineage, manifest.remote
    window = " to ".join(filter(None, lineage.training_window))
    facts = {
        **{name: f"{value:.4f}" for name, value in sorted(manifest.metrics.items())},
        "trained on": ", ".join(filter(None, (lineage.dataset, _code(lineage.dataset_digest[:12]), window))),
        "parent": f"[version {lineage.parent}](#/models/{manifest.model}/versions/{lineage.parent})"
        if lineage.parent is not None
        else "",
        "seed": str(lineage.seed),
        "code": _code(lineage.code_version),
        "feature view": _view(manifest),
        "inputs": _tensors(manifest.inputs),
        "outputs": _tensors(manifest.outputs),
        "runs on": f"Triton server {remote.server}, model {remote.model} {remote.version}".strip() if remote else "",
    }
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value]
    return "\n".join(filter(None, (manifest.description and f"{manifest.description}\n", "| | |", "|---|---|", *rows)))


def _view(manifest: ModelManifest) -> str:
    view = manifest.view
    if not manifest.ranks:
        return "none: it takes tensors only"
    return f"{view['name']}, {len(view['columns'])} columns, {_code(manifest.fingerprint)}"


def _tensors(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"`{spec.name}` {spec.datatype} {list(spec.shape)}" for spec in specs)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    """One cell of a table, whatever others put into it.

    >>> _cell("a|b" + chr(10) + "c")
    'a\\\\|b c'
    """
    return " ".join(text.replace("|", "\\|").split())


def _iso(at_ms: int) -> str:
    """
    >>> _iso(1_767_225_600_123), _ms("2026-01-01T00:00:00.123+00:00")
    ('2026-01-01T00:00:00.123+00:00', 1767225600123)
    """
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _ms(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1000)


@contextmanager
def mlflow_errors(what: str) -> Iterator[None]:
    """MLflow's errors, translated: UnknownVersion for what is not there, else StoreUnavailable.

    Without a server the database's and the file system's own errors come through mlflow, too; where the server
    does not serve artefacts, those of S3's client do.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except RegistryError:
        raise
    except MlflowException as error:
        first_line = str(error).partition("\n")[0]
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise UnknownVersion(f"MLflow could not {what}: {first_line}") from error
        raise StoreUnavailable(f"MLflow could not {what}: {first_line}") from error
    except (SQLAlchemyError, OSError) as error:
        raise StoreUnavailable(f"MLflow could not {what}: {str(error).partition(chr(10))[0]}") from error
    except ModuleNotFoundError as error:  # MLflow imports the client of an artefact store when it first asks there
        hint = "; try: pip install '.[s3]' in the clone" if error.name == "boto3" else ""
        raise StoreUnavailable(f"MLflow could not {what}: {error}, which its artefact store needs{hint}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _S3_CLIENT:
            raise
        raise StoreUnavailable(f"MLflow could not {what} in S3: {str(error).partition(chr(10))[0]}") from error
