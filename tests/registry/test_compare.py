"""What differs between two versions, and what is never compared."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.compare import ColumnDifferences, Comparison, Difference, MetricDifference, compare
from registry.contracts.features import Column, FeatureView
from registry.contracts.manifest import CLICK_NDCG, Lineage, RemoteModel, TensorSpec
from registry.errors import RegistryError
from registry.store import StoredVersion
from tests.builders import NOW_MS, a_manifest

NAMES = st.sampled_from(["ndcg@10", "test_ndcg@10", "validation_ndcg@10", "recall"])
FIGURES = st.dictionaries(NAMES, st.floats(-1e6, 1e6))


def a_version(version: int = 1, view: FeatureView | None = None, **changes: Any) -> StoredVersion:
    manifest = a_manifest(view, **changes)
    return StoredVersion(manifest.model, version, f"{version:064x}", manifest, NOW_MS)


def fields(differences: tuple[Difference, ...]) -> dict[str, tuple[str, str]]:
    return {difference.field: (difference.a, difference.b) for difference in differences}


def test_a_version_does_not_differ_from_itself():
    compared = compare(a_version(), a_version())

    assert compared == Comparison(
        model="codesearch",
        a=1,
        b=1,
        incomparable="",
        metrics=(MetricDifference("ndcg@10", 0.5, 0.5, 0.0, 0.0),),
        manifest=(),
        columns=ColumnDifferences((), (), (), False),
        lineage=(),
    )


def test_a_figure_is_compared_absolutely_and_relatively_where_both_have_it():
    a = a_version(metrics={"ndcg@10": 0.50, "old": 1.0, "zero": 0.0})
    b = a_version(2, metrics={"ndcg@10": 0.55, "new": 2.0, "zero": 0.1})

    metrics = {metric.name: metric for metric in compare(a, b).metrics}

    assert metrics["ndcg@10"].difference == pytest.approx(0.05)
    assert metrics["ndcg@10"].relative == pytest.approx(0.1)
    assert metrics["old"] == MetricDifference("old", 1.0, None, None, None)
    assert metrics["new"] == MetricDifference("new", None, 2.0, None, None)
    assert (metrics["zero"].difference, metrics["zero"].relative) == (0.1, None)


@given(FIGURES, FIGURES)
def test_comparing_the_other_way_round_turns_every_difference_round(one: dict[str, float], other: dict[str, float]):
    a, b = a_version(metrics=one), a_version(2, metrics=other, lineage=Lineage("other", "1" * 64, parent=1))
    there, back = compare(a, b), compare(b, a)

    assert [m.difference for m in there.metrics] == [
        None if m.difference is None else -m.difference for m in back.metrics
    ]
    assert [(d.field, d.a, d.b) for d in there.lineage] == [(d.field, d.b, d.a) for d in back.lineage]


def test_figures_of_different_definitions_are_not_compared_and_it_says_why():
    compared = compare(a_version(), a_version(2, metric=CLICK_NDCG))

    assert compared.metrics == ()
    assert compared.incomparable == (
        "the figures of 1 and 2 are different metrics (ndcg@10, exponential gain, log2 discount, ties in served_order, "
        "empty lists left_out; ndcg@10, linear gain, log2 discount, ties in served_order, empty lists zero): "
        "measure both versions under one definition, then compare"
    )
    assert "metric definition" in fields(compared.manifest)


def test_columns_that_came_went_moved_or_changed_are_named():
    columns = (
        Column("length"),
        Column("match", "candidate"),
        Column("age", default=1.0, freshness_s=60.0),
        Column("x"),
    )
    changed = (Column("new"), columns[1], columns[0], Column("age", dtype="int16", default=2.0))
    a = a_version(view=FeatureView("functions", "function", columns))
    b = a_version(2, view=FeatureView("functions", "function", changed))

    found = compare(a, b)

    assert (found.columns.added, found.columns.removed, found.columns.reordered) == (("new",), ("x",), True)
    assert fields(found.columns.changed) == {
        "age: dtype": ("float32", "int16"),
        "age: default": ("1.0", "2.0"),
        "age: freshness_s": ("60.0", ""),
    }
    assert "fingerprint" in fields(found.manifest) and "feature view" not in fields(found.manifest)


def test_columns_added_at_the_end_do_not_reorder_the_others():
    a = FeatureView("functions", "function", (Column("a"), Column("b")))
    b = FeatureView("functions", "function", (Column("a"), Column("new"), Column("b")))

    assert not compare(a_version(view=a), a_version(2, view=b)).columns.reordered


def test_tensors_and_where_a_model_runs_are_compared():
    a = a_version(inputs=(TensorSpec("rows", "FP32", (-1, 3)), TensorSpec("query_index", "INT64", (-1,))))
    b = a_version(2, inputs=(TensorSpec("rows", "FP16", (-1, 4)),), remote=RemoteModel("gpu", "ranker"))

    assert fields(compare(a, b).manifest) == {
        "input rows": ("FP32 [-1, 3]", "FP16 [-1, 4]"),
        "input query_index": ("INT64 [-1]", ""),
        "order of inputs": ("rows, query_index", "rows"),
        "runs on": ("", "gpu, model ranker"),
    }


def test_a_model_that_takes_tensors_only_has_no_columns():
    a = a_version()
    bare = replace(a, version=2, manifest=msgspec.structs.replace(a.manifest, view={}, fingerprint=""))

    compared = compare(a, bare)

    assert compared.columns.removed == ("length", "match", "query_words")
    assert fields(compared.manifest)["feature view"] == ("functions", "")


def test_lineage_is_compared_field_by_field():
    a = a_version(lineage=Lineage("logs", "0" * 64, ("2026-01-01", "2026-01-14"), None, 7, "r1", "abc"))
    b = a_version(2, lineage=Lineage("logs", "1" * 64, ("2026-01-15", "2026-01-28"), 1, 7, "r2", "abc"))

    assert fields(compare(a, b).lineage) == {
        "dataset_digest": ("0" * 64, "1" * 64),
        "training_window": ("2026-01-01 to 2026-01-14", "2026-01-15 to 2026-01-28"),
        "parent": ("", "1"),
        "run_id": ("r1", "r2"),
    }


def test_versions_of_different_models_are_not_compared():
    with pytest.raises(RegistryError, match="codesearch@1 and other@1 are of different models"):
        compare(a_version(), a_version(model="other"))
