"""ModelStore: immutable model versions by number, and the aliases that name some of them."""

import threading
from dataclasses import dataclass
from typing import Protocol

from registry.artefacts import verify
from registry.contracts.ids import model_name
from registry.contracts.manifest import ModelManifest, ModelPackage
from registry.errors import RefusedVersion, UnknownVersion


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """What a store knows of a version without opening its program.

    run_id: of the MLflow run that holds the training curves, empty without MLflow.
    """

    model: str
    version: int
    digest: str
    manifest: ModelManifest
    created_ms: int
    run_id: str = ""


class ModelStore(Protocol):
    """Where versions live. Every method may raise StoreUnavailable."""

    def register(self, model: str, package: ModelPackage) -> int:
        """The package's version number, from 1 up: a new one, or the one it got before (by digest).

        Raises RefusedVersion if the package fails `artefacts.verify` or is of another model,
        InvalidName if the model's name breaks its rule.
        """
        ...

    def get(self, model: str, version: int) -> StoredVersion:
        """Raises UnknownVersion."""
        ...

    def package(self, model: str, version: int) -> ModelPackage:
        """The version's files, verified. Raises UnknownVersion, RefusedVersion if they were changed."""
        ...

    def versions(self, model: str) -> list[StoredVersion]:
        """Ascending; empty if there are none."""
        ...

    def models(self) -> list[str]:
        """The names of all models, sorted."""
        ...

    def aliases(self, model: str) -> dict[str, int]:
        """Version by alias; empty if there are none."""
        ...

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Makes or moves the alias. Raises UnknownVersion."""
        ...

    def drop_alias(self, model: str, alias: str) -> None:
        """Removes the alias, if it is there."""
        ...


def check_package(model: str, package: ModelPackage) -> ModelManifest:
    """The manifest of a package that may be registered under this name.

    Raises RefusedVersion, InvalidName.
    """
    manifest = verify(package, package.digest)
    if manifest.model != model_name(model):
        raise RefusedVersion(f"the manifest is of model {manifest.model!r}: register it under that name, not {model!r}")
    return manifest


def unknown_version(model: str, version: int) -> UnknownVersion:
    """The error that every store raises for a version that it does not have."""
    return UnknownVersion(f"there is no version {version} of model {model!r}: `sluice models list` shows what there is")


class MemoryStore:
    """Versions inside one process; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._packages: dict[str, list[ModelPackage]] = {}
        self._aliases: dict[str, dict[str, int]] = {}

    def register(self, model: str, package: ModelPackage) -> int:
        """See `ModelStore`."""
        check_package(model, package)
        with self._lock:
            known = self._packages.setdefault(model, [])
            if package not in known:
                known.append(package)
            return known.index(package) + 1

    def get(self, model: str, version: int) -> StoredVersion:
        """See `ModelStore`."""
        package = self._package(model, version)
        manifest = package.manifest
        return StoredVersion(model, version, package.digest, manifest, manifest.created_ms)

    def package(self, model: str, version: int) -> ModelPackage:
        """See `ModelStore`; nobody can change a package in memory."""
        return self._package(model, version)

    def versions(self, model: str) -> list[StoredVersion]:
        """See `ModelStore`."""
        return [self.get(model, version + 1) for version in range(len(self._packages.get(model, [])))]

    def models(self) -> list[str]:
        """See `ModelStore`."""
        return sorted(self._packages)

    def aliases(self, model: str) -> dict[str, int]:
        """See `ModelStore`."""
        return dict(self._aliases.get(model, {}))

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """See `ModelStore`."""
        self._package(model, version)
        with self._lock:
            self._aliases.setdefault(model, {})[alias] = version

    def drop_alias(self, model: str, alias: str) -> None:
        """See `ModelStore`."""
        with self._lock:
            self._aliases.get(model, {}).pop(alias, None)

    def _package(self, model: str, version: int) -> ModelPackage:
        known = self._packages.get(model, [])
        if not 1 <= version <= len(known):
            raise unknown_version(model, version)
        return known[version - 1]
