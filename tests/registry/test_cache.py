"""The cache of versions: fetched once, verified always, safe when processes race."""

import multiprocessing
from pathlib import Path

import pytest

from registry.artefacts import read
from registry.cache import VersionCache
from registry.contracts.manifest import PROGRAM_FILE, ModelPackage
from registry.errors import RefusedVersion, StoreUnavailable
from tests.builders import a_package


class Source:
    """Gives the same package to everyone, and counts."""

    def __init__(self, package: ModelPackage) -> None:
        self.package, self.fetched = package, 0

    def __call__(self, model: str, version: int) -> ModelPackage:
        self.fetched += 1
        return self.package


def test_a_version_is_fetched_once(tmp_path: Path) -> None:
    source = Source(a_package())
    folders = {VersionCache(tmp_path, source).get("codesearch", 3, a_package().digest) for _ in range(3)}

    assert folders == {tmp_path / "codesearch" / "3"}
    assert (read(folders.pop()), source.fetched) == (a_package(), 1)


def test_a_damaged_copy_is_fetched_again(tmp_path: Path) -> None:
    source = Source(a_package())
    cache = VersionCache(tmp_path, source)
    folder = cache.get("codesearch", 3, a_package().digest)
    (folder / PROGRAM_FILE).write_bytes(b"half of it")

    assert read(cache.get("codesearch", 3, a_package().digest)) == a_package()
    assert source.fetched == 2


def test_what_is_damaged_at_its_source_is_refused_and_not_kept(tmp_path: Path) -> None:
    source = Source(a_package(2.0))

    with pytest.raises(RefusedVersion):
        VersionCache(tmp_path, source).get("codesearch", 3, a_package(1.0).digest)
    assert (source.fetched, list(tmp_path.iterdir())) == (1, [])


def test_a_copy_serves_while_its_source_is_away(tmp_path: Path) -> None:
    def away(model: str, version: int) -> ModelPackage:
        raise StoreUnavailable("MLflow is away")

    VersionCache(tmp_path, Source(a_package())).get("codesearch", 3, a_package().digest)

    assert read(VersionCache(tmp_path, away).get("codesearch", 3, a_package().digest)) == a_package()
    with pytest.raises(StoreUnavailable):
        VersionCache(tmp_path, away).get("codesearch", 4, a_package().digest)


def test_copies_that_nobody_wants_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    cache = VersionCache(tmp_path, Source(a_package()))
    for model, version in (("codesearch", 1), ("codesearch", 2), ("other", 1)):
        cache.get(model, version, a_package().digest)
    (tmp_path / "plans-worker-0.json").touch()
    (tmp_path / "codesearch" / ".3-half").mkdir()

    assert cache.drop(lambda model, version: (model, version) == ("codesearch", 2)) == [("codesearch", 1), ("other", 1)]
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")} == {"codesearch/2", "codesearch/.3-half"}
    assert (tmp_path / "plans-worker-0.json").exists()
    assert read(cache.get("other", 1, a_package().digest)) == a_package()


def _get_again_and_again(folder: Path, package: ModelPackage) -> None:
    for _ in range(20):
        got = VersionCache(folder, Source(package)).get("codesearch", 3, package.digest)
        (got / PROGRAM_FILE).unlink(missing_ok=True)  # so that the others find it damaged


def test_processes_that_race_all_get_the_whole_version(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    racing = [context.Process(target=_get_again_and_again, args=(tmp_path, a_package())) for _ in range(3)]
    for process in racing:
        process.start()
    for process in racing:
        process.join(timeout=60)

    assert [process.exitcode for process in racing] == [0, 0, 0]
    cache = VersionCache(tmp_path, Source(a_package()))
    assert read(cache.get("codesearch", 3, a_package().digest)) == a_package()
    assert [path.name for path in (tmp_path / "codesearch").iterdir()] == ["3"]
