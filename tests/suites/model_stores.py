"""What every model store does: immutable versions by number, and aliases that move."""

from dataclasses import replace
from itertools import count

import pytest
from msgspec import structs

from registry.contracts.errors import InvalidName
from registry.contracts.manifest import Lineage, ModelPackage
from registry.contracts.profile import no_profile
from registry.errors import RefusedVersion, UnknownVersion
from registry.store import ModelStore
from tests.builders import NOW_MS, a_package

_numbers = count()


class ModelStoreSuite:
    """Subclasses supply the fixture `store`; it may be shared, so every test has a model of its own."""

    @pytest.fixture
    def model(self) -> str:
        return f"model-{next(_numbers)}"

    def test_a_version_comes_back_as_it_was_registered(self, store: ModelStore, model: str) -> None:
        package = a_package(model=model, metrics={"ndcg@10": 0.731, "nan-free share": 1.0}, description="first")
        version = store.register(model, package)
        stored = store.get(model, version)

        assert version == 1
        assert store.package(model, 1) == package
        assert (stored.model, stored.version, stored.digest) == (model, 1, package.digest)
        assert (stored.manifest, stored.created_ms) == (package.manifest, NOW_MS)

    def test_a_version_that_takes_tensors_only_is_a_version_too(self, store: ModelStore, model: str) -> None:
        ranker = a_package(model=model)
        package = ModelPackage.of(
            ranker.program, structs.replace(ranker.manifest, view={}, fingerprint=""), no_profile()
        )

        assert store.package(model, store.register(model, package)) == package

    def test_versions_are_numbered_and_listed_in_order(self, store: ModelStore, model: str) -> None:
        packages = [a_package(scale, model=model) for scale in (1.0, 2.0, 3.0)]

        assert [store.register(model, package) for package in packages] == [1, 2, 3]
        assert [v.version for v in store.versions(model)] == [1, 2, 3]
        assert [v.digest for v in store.versions(model)] == [package.digest for package in packages]
        assert model in store.models()

    def test_registering_the_same_again_gives_the_same_version(self, store: ModelStore, model: str) -> None:
        store.register(model, a_package(1.0, model=model))
        second = store.register(model, a_package(2.0, model=model))

        assert store.register(model, a_package(2.0, model=model)) == second
        assert len(store.versions(model)) == 2

    def test_equal_weights_with_another_lineage_are_another_version(self, store: ModelStore, model: str) -> None:
        store.register(model, a_package(model=model))

        assert store.register(model, a_package(model=model, lineage=Lineage("made-up", "1" * 64, seed=7))) == 2

    def test_a_refused_package_leaves_nothing(self, store: ModelStore, model: str) -> None:
        sound = a_package(model=model)
        for broken in (
            replace(sound, program=b"\x80\x04."),
            replace(sound, manifest_json=b"{}"),
            replace(sound, profile_json=sound.profile_json.replace(sound.manifest.fingerprint.encode(), b"0" * 16)),
        ):
            with pytest.raises(RefusedVersion):
                store.register(model, broken)

        assert store.versions(model) == []
        assert model not in store.models()

    def test_a_package_of_another_model_is_refused(self, store: ModelStore, model: str) -> None:
        with pytest.raises(RefusedVersion, match="register it under that name"):
            store.register(model, a_package(model="codesearch"))

    def test_a_name_that_breaks_the_rule_is_refused(self, store: ModelStore) -> None:
        with pytest.raises(InvalidName):
            store.register("No Model", a_package(model="No Model"))

    def test_what_is_not_there_is_unknown(self, store: ModelStore, model: str) -> None:
        assert (store.versions(model), store.aliases(model)) == ([], {})
        with pytest.raises(UnknownVersion, match=f"no version 1 of model '{model}'"):
            store.get(model, 1)
        store.register(model, a_package(model=model))
        for version in (0, -1, 2):
            with pytest.raises(UnknownVersion):
                store.get(model, version)
            with pytest.raises(UnknownVersion):
                store.package(model, version)
            with pytest.raises(UnknownVersion):
                store.set_alias(model, "champion", version)
        assert store.aliases(model) == {}

    def test_aliases_move_and_go(self, store: ModelStore, model: str) -> None:
        register_two(store, model)
        store.set_alias(model, "champion", 1)
        store.set_alias(model, "challenger", 2)
        assert store.aliases(model) == {"champion": 1, "challenger": 2}
        store.set_alias(model, "champion", 2)
        store.drop_alias(model, "challenger")
        store.drop_alias(model, "challenger")
        assert store.aliases(model) == {"champion": 2}

    def test_an_archived_version_stays_and_says_since_when(self, store: ModelStore, model: str) -> None:
        first, _ = register_two(store, model)
        store.archive(model, 1, NOW_MS)
        store.archive(model, 1, NOW_MS + 1)

        assert [(v.archived_ms, v.servable) for v in store.versions(model)] == [(NOW_MS, False), (0, True)]
        assert store.package(model, 1) == first
        store.unarchive(model, 1)
        store.unarchive(model, 1)
        assert store.get(model, 1).servable

    def test_showing_traffic_changes_nothing_else(self, store: ModelStore, model: str) -> None:
        register_two(store, model)
        before = store.versions(model)
        store.show_traffic(model, {1: "champion"})
        store.show_traffic(model, {2: "champion", 7: "of no version"})
        store.show_traffic("nobody", {1: "champion"})

        assert store.versions(model) == before

    def test_only_a_condemned_version_is_deleted(self, store: ModelStore, model: str) -> None:
        register_two(store, model)
        store.archive(model, 1, NOW_MS)
        with pytest.raises(RefusedVersion, match="is not condemned: `sluice models gc`"):
            store.delete(model, 1)
        store.condemn(model, 1, wanted=True)
        store.condemn(model, 1, wanted=False)
        with pytest.raises(RefusedVersion):
            store.delete(model, 1)

        assert [version.version for version in store.versions(model)] == [1, 2]

    def test_a_deleted_version_is_gone_with_its_aliases_and_its_number(self, store: ModelStore, model: str) -> None:
        first, second = register_two(store, model)
        store.set_alias(model, "staging", 1)
        store.set_alias(model, "champion", 2)
        for version in (1, 2):
            store.condemn(model, version, wanted=True)
            assert not store.get(model, version).servable
        store.delete(model, 1)
        store.delete(model, 1)

        assert [version.version for version in store.versions(model)] == [2]
        assert store.aliases(model) == {"champion": 2}
        with pytest.raises(UnknownVersion):
            store.package(model, 1)
        assert store.package(model, 2) == second
        store.delete(model, 2)
        assert model not in store.models()
        assert store.register(model, first) == 3

    def test_a_version_that_is_not_there_cannot_be_archived_or_condemned(self, store: ModelStore, model: str) -> None:
        for change in (
            lambda: store.archive(model, 1, NOW_MS),
            lambda: store.unarchive(model, 1),
            lambda: store.condemn(model, 1, wanted=True),
        ):
            with pytest.raises(UnknownVersion):
                change()
        store.delete(model, 1)


def register_two(store: ModelStore, model: str) -> list[ModelPackage]:
    packages = [a_package(scale, model=model) for scale in (1.0, 2.0)]
    for package in packages:
        store.register(model, package)
    return packages
