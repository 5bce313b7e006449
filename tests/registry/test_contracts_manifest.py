"""Laws of manifests and packages: the digest sees every byte."""

import math
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.errors import ContractError
from registry.contracts.manifest import (
    CLICK_NDCG,
    JUDGED_NDCG,
    Lineage,
    MetricDefinition,
    ModelManifest,
    ModelPackage,
)
from tests.builders import a_manifest, a_profile, a_view

PARTS = ("program", "manifest_json", "profile_json")
packages = st.builds(ModelPackage, *(st.binary(max_size=40) for _ in PARTS))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)

manifests = st.builds(
    a_manifest,
    metrics=st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    description=texts,
    created_ms=st.integers(0, 2**53),
    lineage=st.builds(
        Lineage,
        dataset=texts,
        dataset_digest=texts,
        training_window=st.tuples(texts, texts),
        parent=st.none() | st.integers(1, 1000),
        seed=st.integers(0, 2**32),
        run_id=texts,
    ),
)


@given(manifests)
def test_a_manifest_comes_back_as_it_was(manifest: ModelManifest) -> None:
    assert ModelManifest.decode(manifest.encode()) == manifest


@given(manifests)
def test_a_manifest_that_was_read_is_written_as_the_same_bytes(manifest: ModelManifest) -> None:
    again = ModelManifest.decode(manifest.encode())

    assert again.encode() == manifest.encode()
    assert again.feature_view() == a_view()


@given(packages, st.sampled_from(PARTS), st.data())
def test_the_digest_changes_with_any_byte_of_any_file(package: ModelPackage, part: str, data: st.DataObject) -> None:
    content = getattr(package, part)
    at = data.draw(st.integers(0, len(content)))
    changed = data.draw(
        st.sampled_from(
            [
                content[:at] + b"\x00" + content[at:],
                content[:at] + content[at + 1 :],
                content[:at] + bytes(255 - byte for byte in content[at : at + 1]) + content[at + 1 :],
            ]
        )
    )

    assert (replace(package, **{part: changed}).digest == package.digest) == (changed == content)


@given(st.binary(min_size=1, max_size=40), st.integers(0, 40))
def test_the_digest_sees_where_one_file_ends_and_the_next_begins(content: bytes, cut: int) -> None:
    whole = ModelPackage(content, b"", b"")
    moved = ModelPackage(content[:cut], content[cut:], b"")

    assert (whole.digest == moved.digest) == (cut >= len(content))


def test_the_same_records_have_the_same_digest() -> None:
    packages_ = [ModelPackage.of(b"program", a_manifest(), a_profile()) for _ in range(2)]

    assert packages_[0].digest == packages_[1].digest
    assert len(packages_[0].digest) == 64
    assert list(packages_[0].files()) == ["program.pt2", "manifest.json", "profile.json"]


def test_a_fingerprint_that_is_not_the_view_s_is_refused() -> None:
    with pytest.raises(ContractError, match="the manifest says 0000000000000000"):
        a_manifest(fingerprint="0" * 16).feature_view()


def test_text_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(ContractError):
        ModelManifest.decode(b'{"model": "\xff"}')


@given(st.binary(max_size=40))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ContractError, match="not a model manifest"):
        ModelManifest.decode(garbage)


def test_every_property_of_a_metric_is_in_its_digest() -> None:
    changes: list[dict[str, Any]] = [{"k": 5}, {"gain": "linear"}, {"empty_lists": "zero"}]
    definitions = [MetricDefinition(**change) for change in changes] + [JUDGED_NDCG, CLICK_NDCG]

    assert len({definition.digest for definition in definitions}) == 5
    assert MetricDefinition().digest == JUDGED_NDCG.digest


def test_a_figure_that_is_no_number_does_not_pass_for_one() -> None:
    """JSON has no NaN: it is written as null, and null is no figure."""
    raw = a_manifest(metrics={"ndcg@10": math.nan}).encode()

    assert msgspec.json.decode(raw)["metrics"] == {"ndcg@10": None}
    with pytest.raises(ContractError):
        ModelManifest.decode(raw)
