import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.codesearch.bm25 import K1, B, bm25_weights, count_tokens, vocabulary
from pipelines.codesearch.index import VIEW, CodeSearchIndex
from pipelines.codesearch.lists import CodeSearchData, build
from pipelines.codesearch.stdlib_source import Symbol, library_root, module_files, read_symbols, split_docstring
from pipelines.codesearch.tokens import tokenise
from pipelines.errors import DataRefused

PACKAGES = ("json/", "gzip.py", "csv.py", "zipfile", "bz2.py", "lzma.py", "textwrap.py", "shutil.py", "queue.py")

SOURCE = '''
"""About shops."""
import json

class Shop:
    """Sells things. Opens at nine.

    And closes at five.
    """

    def sell(self, thing, *, price: int = 1) -> bool:
        """Hand a thing over."""
        def wrap():
            """Put paper around it."""
        return json.dumps(thing)

    def _hidden(self): ...

if True:
    def visit(shop):
        """Walk into a shop."""

def visit(shop, again):
    """Walk into a shop again."""
'''


@pytest.fixture(scope="module")
def symbols() -> list[Symbol]:
    root = library_root()
    files = [file for file in module_files(root) if str(file.relative_to(root)).startswith(PACKAGES)]
    return read_symbols(root, files)


@pytest.fixture(scope="module")
def data(symbols: list[Symbol]) -> CodeSearchData:
    return build(symbols, seed=1)


def column(name: str) -> int:
    return [column.name for column in VIEW.columns].index(name)


def test_documented_definitions_are_read_from_source(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def (:")
    (tmp_path / "visitor.py").write_text("import shop\nfrom shop import visit\nvisit(1)\n")

    found = {symbol.name: symbol for symbol in read_symbols(tmp_path, module_files(tmp_path))}

    assert list(found) == ["shop.Shop", "shop.Shop.sell", "shop.Shop.sell.wrap", "shop.visit"]
    sell = found["shop.Shop.sell"]
    assert (sell.kind, sell.scope, sell.summary) == ("method", "shop.Shop", "Hand a thing over.")
    assert (sell.signature, sell.arguments, sell.returns) == ("(self, thing, *, price: int=1) -> bool", 3, True)
    assert found["shop.Shop"].scope == "shop.Shop"
    assert (found["shop.Shop"].summary, found["shop.Shop"].body) == (
        "Sells things.",
        "Opens at nine.\n\nAnd closes at five.",
    )
    assert found["shop.visit"].summary == "Walk into a shop."
    assert (found["shop.visit"].module_imports, found["shop.visit"].name_uses) == (1, 1)


def test_tests_and_installed_packages_are_not_the_library(tmp_path: Path) -> None:
    for name in ("a.py", "test/b.py", "json/tests/c.py", "site-packages/d.py", "config-3.11/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    assert module_files(tmp_path) == [tmp_path / "a.py"]


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Read.\n\nMore.", "Read."),
        ("Read a\n    line. More.", "Read a line."),
        ("Read a line\n\nMore", "Read a line"),
        ("Use os.path here. More.", "Use os.path here."),
        ("No end", "No end"),
    ],
)
def test_the_first_sentence_ends_with_a_stop_or_the_paragraph(docstring: str, sentence: str) -> None:
    first, rest = split_docstring(docstring)

    assert first == sentence
    assert sentence not in rest


def test_bm25_is_the_formula() -> None:
    texts = [["read", "file", "file"], ["read"], ["write", "line", "line", "line"]]
    terms = vocabulary(texts)
    scores = (count_tokens([["file", "read", "unknown"]], terms) @ bm25_weights(count_tokens(texts, terms))).toarray()

    def term(frequency: int, having: int, length: int) -> float:
        mean = sum(map(len, texts)) / 3
        idf = math.log(1 + (3 - having + 0.5) / (having + 0.5))
        return idf * frequency * (K1 + 1) / (frequency + K1 * (1 - B + B * length / mean))

    np.testing.assert_allclose(scores, [[term(2, 1, 3) + term(1, 2, 3), term(1, 2, 1), 0]], rtol=1e-6)


def test_labels_are_the_structure(data: CodeSearchData) -> None:
    for part in (data.splits.train, data.splits.validation, data.splits.test):
        for judged in part.lists():
            asked = data.index.show(judged.query_id)
            for item_id, label in zip(judged.item_ids, judged.labels, strict=True):
                item = data.index.show(item_id)
                expected = (
                    3 if item is asked else 2 if item.scope == asked.scope else 1 if item.module == asked.module else 0
                )
                assert label == expected


def test_a_module_asks_in_one_split_only(data: CodeSearchData) -> None:
    parts = (data.splits.train, data.splits.validation, data.splits.test)
    modules = [{data.index.show(query_id).module for query_id in part.query_ids} for part in parts]

    assert all(modules)
    assert not (modules[0] & modules[1] or modules[0] & modules[2] or modules[1] & modules[2])


def test_no_first_sentence_is_indexed(symbols: list[Symbol]) -> None:
    question = symbols[0].summary
    silent = [replace(symbol, summary="") for symbol in symbols]

    indexed, without = CodeSearchIndex.build(symbols), CodeSearchIndex.build(silent)

    np.testing.assert_array_equal(indexed.search(question).columns, without.search(question).columns)


def test_one_typed_question_has_the_numbers_of_its_list(data: CodeSearchData) -> None:
    candidate, query = VIEW.positions("candidate"), VIEW.positions("query")
    for judged in list(data.splits.test.lists())[:20]:
        found = data.index.search(judged.text)

        assert found.item_ids == judged.item_ids
        np.testing.assert_array_equal(found.columns, judged.features[:, candidate])
        np.testing.assert_array_equal(np.tile(found.query_values, (len(found.item_ids), 1)), judged.features[:, query])


def test_stored_rows_are_the_lists_row_columns(data: CodeSearchData) -> None:
    row_of = dict(zip(data.index.item_ids, data.index.rows, strict=True))
    stored = data.splits.stored_rows()

    for item_id, values in zip(stored.item_ids, stored.values, strict=True):
        np.testing.assert_array_equal(values, row_of[item_id])


def test_candidates_come_best_first_and_all_match(data: CodeSearchData) -> None:
    found = data.index.search("read lines from a compressed file")
    bm25 = found.columns[:, column("bm25") - len(VIEW.of_source("row"))]

    assert (np.diff(bm25) <= 0).all() and bm25[-1] > 0
    assert {"gzip", "bz2", "lzma"} & {data.index.show(item_id).module for item_id in found.item_ids[:10]}


def test_a_question_that_nothing_matches_has_no_candidates(data: CodeSearchData) -> None:
    assert data.index.search("ξενοδοχείο").item_ids == ()
    assert data.index.search("").item_ids == ()


def test_most_queries_find_their_own_definition(data: CodeSearchData) -> None:
    parts = (data.splits.train, data.splits.validation, data.splits.test)
    lists = [judged for part in parts for judged in part.lists()]

    assert data.recall == pytest.approx(np.mean([judged.query_id in judged.item_ids for judged in lists]))
    assert data.recall > 0.8


def test_building_twice_gives_the_same_data(data: CodeSearchData, symbols: list[Symbol]) -> None:
    again = build(symbols, seed=1)

    assert again.splits.train.digest == data.splits.train.digest
    assert again.splits.test.digest == data.splits.test.digest


def test_what_is_saved_is_loaded_and_finds_the_same(data: CodeSearchData, tmp_path: Path) -> None:
    data.save(tmp_path)
    loaded = CodeSearchData.load(tmp_path)
    question = "compress a file"

    assert loaded.recall == data.recall
    assert loaded.splits.validation.digest == data.splits.validation.digest
    np.testing.assert_array_equal(loaded.index.search(question).columns, data.index.search(question).columns)
    assert loaded.index.show("gzip.open") == data.index.show("gzip.open")


def test_half_saved_data_is_refused(data: CodeSearchData, tmp_path: Path) -> None:
    data.index.save(tmp_path)

    with pytest.raises(DataRefused, match="build it again"):
        CodeSearchData.load(tmp_path)


def test_too_few_modules_are_refused(symbols: list[Symbol]) -> None:
    with pytest.raises(DataRefused, match="no query falls into"):
        build([symbol for symbol in symbols if symbol.module == "gzip"])


def test_code_and_words_meet_as_tokens() -> None:
    assert set(tokenise("GzipFile.decompress_lines")) & set(tokenise("decompresses lines")) == {"decompress", "line"}
