"""Code search: a question in words, the functions, classes and methods that may answer it.

A candidate is a documented definition, seen through the fields below. A docstring's first sentence
is in none of them, because it is the question that its own candidate should answer (`lists`);
leaving it out for all alike keeps a typed question and a test question the same.

Columns of the view, by where they come from when a query is served:

- `row`, stored per item: sizes, kind, flags, popularity (how many of the library's modules import
  its module, and how many use its bare name).
- `candidate`, made by `search`: BM25 by field, overlaps, and how strongly the list as a whole
  points to the candidate's module and class (which needs the candidates, not the answer).
- `query`: length and rarity of the question's words.

Sources: Husain et al., "CodeSearchNet challenge", 2019; BM25: see `bm25`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pipelines.codesearch.bm25 import bm25_weights, count_tokens, inverse_frequency, vocabulary
from pipelines.codesearch.fields import FIELDS, ROW_COLUMNS, rows_of, texts_of
from pipelines.codesearch.stdlib_source import Symbol
from pipelines.codesearch.tokens import tokenise, trigrams
from pipelines.errors import DataRefused
from registry.contracts.features import Column, FeatureView

Matrix = NDArray[np.float32]

CANDIDATES = 100

FOUND_BY = ("own_name", "module", "signature", "code", "body", "module_text", "trigrams")  # best recall on train
TEXT_FIELDS = ("name", "module", "signature", "code", "body")

CANDIDATE_COLUMNS = (
    *(f"bm25_{field}" for field in FIELDS),
    "bm25",
    "bm25_of_best",
    "reciprocal_rank",
    "query_in_own_name",
    "query_in_name",
    "query_in_text",
    "rarity_in_text",
    "own_name_in_query",
    "module_votes",
    "module_best",
    "scope_votes",
    "scope_best",
)
QUERY_COLUMNS = ("query_tokens", "query_rarity")

VIEW = FeatureView(
    "codesearch",
    "definition",
    (
        *(Column(name, "row") for name in ROW_COLUMNS),
        *(Column(name, "candidate") for name in CANDIDATE_COLUMNS),
        *(Column(name, "query") for name in QUERY_COLUMNS),
    ),
)


class IndexedItem(msgspec.Struct, frozen=True):
    """What is shown of an item, and where it stands in the code's structure."""

    item_id: str
    module: str
    scope: str
    signature: str
    summary: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """`file:line`, below the library's root."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class FoundCandidates:
    """Best first by BM25. columns: float32 (candidates, `candidate` columns), query_values:
    float32 (`query` columns,), both in the view's order."""

    item_ids: tuple[str, ...]
    columns: Matrix
    query_values: Matrix


@dataclass(frozen=True, slots=True)
class FoundBatch:
    """Candidates of many queries. items: positions in the index, (queries, candidates), best first;
    found: (queries,), how many of them match at all; columns: (queries, candidates, columns);
    query_values: (queries, columns)."""

    items: NDArray[np.int64]
    found: NDArray[np.int64]
    columns: Matrix
    query_values: Matrix


@dataclass(frozen=True, eq=False)
class CodeSearchIndex:
    """All candidates as sparse BM25 fields. rows: float32 (items, `row` columns); weights: by field,
    (terms of the field, items); terms, trigram_terms: the vocabularies, in order."""

    items: tuple[IndexedItem, ...]
    rows: Matrix
    weights: dict[str, sparse.csr_array]
    terms: tuple[str, ...]
    trigram_terms: tuple[str, ...]

    @staticmethod
    def build(symbols: Sequence[Symbol]) -> "CodeSearchIndex":
        """The index of these definitions. Raises DataRefused if there are none."""
        if not symbols:
            raise DataRefused("no documented definition to index: expected the source of some modules")
        texts = texts_of(symbols)
        words = {field: text for field, text in texts.items() if field != "trigrams"}
        terms = vocabulary(text for field in words.values() for text in field)
        trigram_terms = vocabulary(texts["trigrams"])
        return CodeSearchIndex(
            items=tuple(_indexed(symbol) for symbol in symbols),
            rows=rows_of(symbols, texts),
            weights={
                field: bm25_weights(count_tokens(text, trigram_terms if field == "trigrams" else terms))
                for field, text in texts.items()
            },
            terms=tuple(terms),
            trigram_terms=tuple(trigram_terms),
        )

    def __repr__(self) -> str:
        return f"<CodeSearchIndex [{len(self.items)} items | {len(self.terms)} terms]>"

    @cached_property
    def item_ids(self) -> tuple[str, ...]:
        return tuple(item.item_id for item in self.items)

    def search(self, text: str, candidates: int = CANDIDATES) -> FoundCandidates:
        """The best candidates for a question; fewer, or none, if fewer match at all."""
        batch = self.search_tokens([tokenise(text)], candidates)
        found = int(batch.found[0])
        item_ids = tuple(self.item_ids[i] for i in batch.items[0, :found])
        return FoundCandidates(item_ids, batch.columns[0, :found], batch.query_values[0])

    def search_tokens(self, queries: Sequence[Sequence[str]], candidates: int = CANDIDATES) -> FoundBatch:
        """As `search`, for many tokenised queries at once; a query's numbers do not depend on the
        others."""
        asked = _present(count_tokens(queries, self._term_numbers))
        asked_trigrams = _present(count_tokens([trigrams(query) for query in queries], self._trigram_numbers))
        by_field = {
            field: ((asked_trigrams if field == "trigrams" else asked) @ self.weights[field]).toarray()
            for field in FIELDS
        }
        total = np.sum([by_field[field] for field in FOUND_BY], axis=0)
        items = np.argsort(-total, axis=1, kind="stable")[:, :candidates]
        best = np.take_along_axis(total, items, axis=1)
        of_best = best / np.maximum(best[:, :1], np.float32(1e-6))
        tokens = np.array([len(set(query)) for query in queries], np.float32)
        asked_rarity = asked.multiply(self._rarity[np.newaxis, :]).tocsr()
        rarity = np.asarray(asked_rarity.sum(axis=1), np.float32)
        per_token, per_rarity = (
            np.maximum(tokens, 1)[:, np.newaxis],
            np.maximum(rarity, np.float32(1e-6))[:, np.newaxis],
        )

        def picked(scores: Matrix) -> Matrix:
            return np.take_along_axis(scores, items, axis=1)

        in_own = picked((asked @ self._present["own_name"]).toarray())
        columns = [
            *(picked(scores) for scores in by_field.values()),
            best,
            of_best,
            np.broadcast_to(1 / np.arange(1, items.shape[1] + 1, dtype=np.float32), items.shape),
            in_own / per_token,
            picked((asked @ self._present["name"]).toarray()) / per_token,
            picked((asked @ self._present["text"]).toarray()) / per_token,
            picked((asked_rarity @ self._present["text"]).toarray()) / per_rarity,
            in_own / self._own_name_tokens[items],
            *_votes(self.modules[items], of_best),
            *_votes(self.scopes[items], of_best),
        ]
        return FoundBatch(
            items=items,
            found=(best > 0).sum(axis=1),
            columns=np.stack(columns, axis=-1, dtype=np.float32),
            query_values=np.stack([tokens, rarity / per_token[:, 0]], axis=-1, dtype=np.float32),
        )

    def show(self, item_id: str) -> IndexedItem:
        """What to print of an item. Raises KeyError if there is none of this id."""
        return self.items[self._positions[item_id]]

    def save(self, folder: Path) -> None:
        """As `index.json` and `index.npz`, nothing pickled."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = _IndexTexts(self.items, self.terms, self.trigram_terms)
        (folder / "index.json").write_bytes(msgspec.json.encode(texts))
        arrays = {
            f"{field}.{part}": getattr(matrix, part)
            for field, matrix in self.weights.items()
            for part in ("data", "indices", "indptr")
        }
        np.savez(folder / "index.npz", allow_pickle=False, rows=self.rows, **arrays)

    @staticmethod
    def load(folder: Path) -> "CodeSearchIndex":
        """What `save` wrote. Raises DataRefused if it is not there or not ours."""
        try:
            texts = msgspec.json.decode((folder / "index.json").read_bytes(), type=_IndexTexts)
            with np.load(folder / "index.npz", allow_pickle=False) as arrays:
                weights = {
                    field: sparse.csr_array(
                        tuple(arrays[f"{field}.{part}"] for part in ("data", "indices", "indptr")),
                        shape=(len(texts.trigram_terms if field == "trigrams" else texts.terms), len(texts.items)),
                    )
                    for field in FIELDS
                }
                return CodeSearchIndex(texts.items, arrays["rows"], weights, texts.terms, texts.trigram_terms)
        except (OSError, KeyError, ValueError) as error:
            raise DataRefused(f"{folder}: no readable code search index ({error}): build it again") from error

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {item_id: i for i, item_id in enumerate(self.item_ids)}

    @cached_property
    def _term_numbers(self) -> dict[str, int]:
        return {term: i for i, term in enumerate(self.terms)}

    @cached_property
    def _trigram_numbers(self) -> dict[str, int]:
        return {term: i for i, term in enumerate(self.trigram_terms)}

    @cached_property
    def _present(self) -> dict[str, sparse.csr_array]:
        """Which term is in which item, 1 or 0, (terms, items)."""
        first, *others = (_present(self.weights[field]) for field in TEXT_FIELDS)
        whole = sum(others, start=first)
        return {
            "own_name": _present(self.weights["own_name"]),
            "name": _present(self.weights["name"]),
            "text": _present(whole.tocsr()),
        }

    @cached_property
    def _rarity(self) -> Matrix:
        """Inverse frequency of each term over whole texts."""
        return inverse_frequency(self._present["text"].T.tocsr())

    @cached_property
    def _own_name_tokens(self) -> Matrix:
        tokens: Matrix = np.maximum(self._present["own_name"].sum(axis=0), 1).astype(np.float32)
        return tokens

    @cached_property
    def modules(self) -> NDArray[np.int64]:
        return _codes([item.module for item in self.items])

    @cached_property
    def scopes(self) -> NDArray[np.int64]:
        return _codes([item.scope for item in self.items])


class _IndexTexts(msgspec.Struct, frozen=True):
    items: tuple[IndexedItem, ...]
    terms: tuple[str, ...]
    trigram_terms: tuple[str, ...]


def _indexed(symbol: Symbol) -> IndexedItem:
    return IndexedItem(
        symbol.name, symbol.module, symbol.scope, symbol.signature, symbol.summary, symbol.file, symbol.line
    )


def _present(matrix: sparse.csr_array) -> sparse.csr_array:
    """1 where the matrix has a value."""
    return sparse.csr_array((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)


def _votes(groups: NDArray[np.int64], strength: Matrix) -> tuple[Matrix, Matrix]:
    """Sum and maximum of the strength of all candidates of each candidate's group, (queries, candidates)."""
    same = groups[:, :, np.newaxis] == groups[:, np.newaxis, :]
    of_group = np.where(same, strength[:, np.newaxis, :], np.float32(0))
    return of_group.sum(axis=2), of_group.max(axis=2)


def _codes(names: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
