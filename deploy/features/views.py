"""Which feature view a command means: one in a file, a model version's, or one found by its name."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploy import wiring
from deploy.errors import SluiceError
from deploy.settings import PlatformSettings
from registry.contracts.errors import ContractError
from registry.contracts.features import FeatureView
from registry.contracts.manifest import MANIFEST_FILE, ModelManifest
from registry.errors import RegistryError

if TYPE_CHECKING:
    import redis

FILE_HINT = """a file like {"name": "articles", "entity": "article", "columns": [{"name": "age_days"}]}"""


def view_of_file(path: Path) -> FeatureView:
    """Raises SluiceError if it holds no feature view."""
    try:
        return FeatureView.from_json(msgspec.json.decode(path.read_bytes()))
    except OSError as error:
        raise SluiceError(f"{path}: {error.strerror}", FILE_HINT) from error
    except (msgspec.DecodeError, ContractError) as error:
        raise SluiceError(f"{path}: {error}", FILE_HINT) from error


def view_of_model(settings: PlatformSettings, client: "redis.Redis", told: str) -> FeatureView:
    """told: `model` for its champion's view, or `model@version`.

    The copy of the version on this machine is asked first, then MLflow.
    Raises SluiceError if there is no such version, or it has no view.
    """
    model, _, version = told.partition("@")
    if not version:
        version = str(_champion(client, model))
    if not version.isdecimal():
        raise SluiceError(f"--model {told}: expected NAME or NAME@NUMBER", "sluice models list")
    try:
        copy = settings.versions_folder / model / version / MANIFEST_FILE
        if copy.exists():
            return ModelManifest.decode(copy.read_bytes()).feature_view()
        return wiring.model_store(settings).get(model, int(version)).manifest.feature_view()
    except (RegistryError, ContractError) as error:
        raise SluiceError(f"--model {told}: {error}", "sluice models list") from error


def views_named(settings: PlatformSettings, name: str) -> list[FeatureView]:
    """The views of this name among the versions on this machine, one of each layout, newest version first."""
    found: dict[str, FeatureView] = {}
    manifests = settings.versions_folder.glob(f"[!.]*/[!.]*/{MANIFEST_FILE}")
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        manifest = ModelManifest.decode(path.read_bytes())
        if manifest.ranks and manifest.view.get("name") == name:
            found.setdefault(manifest.fingerprint, manifest.feature_view())
    return list(found.values())


def _champion(client: "redis.Redis", model: str) -> int:
    from registry.board import RedisBoard

    plan = RedisBoard(client).read().get(model)
    if plan is None:
        raise SluiceError(f"no model {model!r} is served", "sluice models list, --model NAME@VERSION")
    return plan.champion
