"""Judged lists for code search: docstrings ask, the code's structure judges.

A query is a docstring's first sentence. Its candidates are the best by BM25 over the whole
corpus, nothing forced in. Labels come from structure only: 3 the definition itself, 2 the same
class (or enclosing function), 1 the same module, 0 any other. Modules are dealt to the splits
whole, by hash.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.codesearch.index import CANDIDATES, VIEW, CodeSearchIndex, FoundBatch
from pipelines.codesearch.stdlib_source import Symbol, library_root, module_files, read_symbols
from pipelines.codesearch.tokens import tokenise
from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import DataRefused
from registry.contracts.ids import hash64

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]

MIN_QUERY_TOKENS = 3
QUERIES_PER_STEP = 128
SPLIT_PERCENT = {"train": 70, "validation": 15, "test": 15}


@dataclass(frozen=True, slots=True)
class CodeSearchData:
    """recall: share of queries whose own definition is among their candidates."""

    index: CodeSearchIndex
    splits: DatasetSplits
    recall: float

    def save(self, folder: Path) -> None:
        """Index, lists, and last the summary that says they are whole."""
        self.index.save(folder)
        self.splits.save(folder)
        (folder / "summary.json").write_bytes(msgspec.json.encode({"recall": self.recall}))

    @staticmethod
    def load(folder: Path) -> "CodeSearchData":
        """What `save` wrote. Raises DataRefused."""
        try:
            recall = msgspec.json.decode((folder / "summary.json").read_bytes(), type=dict[str, float])["recall"]
        except (OSError, KeyError, msgspec.MsgspecError) as error:
            raise DataRefused(f"{folder}: no whole code search data: build it again") from error
        return CodeSearchData(CodeSearchIndex.load(folder), DatasetSplits.load(folder), recall)


@dataclass(frozen=True, slots=True)
class _Question:
    """item: position of the definition whose docstring asks."""

    item: int
    text: str
    tokens: list[str]


def build_from_library(progress: Progress = lambda stage, done, total: None, seed: int = 0) -> CodeSearchData:
    """Code search over the running Python's standard library, the same for one Python version.

    progress: called with a stage's name, steps done and steps in all. seed: of the split.
    """
    root = library_root()
    files = module_files(root)
    return build(read_symbols(root, files, lambda done, total: progress("reading", done, total)), progress, seed)


def build(
    symbols: Sequence[Symbol], progress: Progress = lambda stage, done, total: None, seed: int = 0
) -> CodeSearchData:
    """Code search over these definitions.

    Raises DataRefused if a split gets no query: there are too few modules.
    """
    index = CodeSearchIndex.build(symbols)
    questions = _questions(symbols)
    split_of = np.array([_split(symbols[question.item].module, seed) for question in questions])
    parts: dict[str, RankingDataset] = {}
    retrieved = 0
    for split in SPLIT_PERCENT:
        chosen = [question for question, its in zip(questions, split_of, strict=True) if its == split]
        if not chosen:
            raise DataRefused(f"code search: no query falls into {split}: expected more modules, or another seed")
        parts[split] = _lists(f"codesearch/{split}", index, chosen, progress)
        retrieved += int((parts[split].labels == 3).sum())
    recall = retrieved / len(questions)
    logger.info("code search built", extra={"items": len(symbols), "queries": len(questions), "recall": recall})
    return CodeSearchData(index, DatasetSplits(**parts), recall)


def _questions(symbols: Sequence[Symbol]) -> list[_Question]:
    """First sentences that say enough and that no other definition shares."""
    times = Counter(symbol.summary for symbol in symbols)
    asked = (_Question(i, symbol.summary, tokenise(symbol.summary)) for i, symbol in enumerate(symbols))
    return [
        question for question in asked if times[question.text] == 1 and len(set(question.tokens)) >= MIN_QUERY_TOKENS
    ]


def _split(module: str, seed: int) -> str:
    percent = hash64(f"{seed}\x00{module}") % 100
    if percent < SPLIT_PERCENT["train"]:
        return "train"
    return "validation" if percent < SPLIT_PERCENT["train"] + SPLIT_PERCENT["validation"] else "test"


def _lists(name: str, index: CodeSearchIndex, questions: Sequence[_Question], progress: Progress) -> RankingDataset:
    """The judged lists of some questions; one that nothing matches has none."""
    features: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.float32]] = []
    items: list[int] = []
    kept: list[_Question] = []
    sizes: list[int] = []
    for start in range(0, len(questions), QUERIES_PER_STEP):
        asked = questions[start : start + QUERIES_PER_STEP]
        batch = index.search_tokens([question.tokens for question in asked], CANDIDATES)
        judged = _judge(index, np.array([question.item for question in asked]), batch.items)
        matches = np.arange(batch.items.shape[1]) < batch.found[:, np.newaxis]
        features.append(_matrix(index, batch)[matches])
        labels.append(judged[matches])
        items.extend(batch.items[matches].tolist())
        kept.extend(question for question, found in zip(asked, batch.found, strict=True) if found)
        sizes.extend(int(found) for found in batch.found if found)
        progress(f"lists of {name}", min(start + QUERIES_PER_STEP, len(questions)), len(questions))
    return RankingDataset(
        name=name,
        view=VIEW,
        features=np.concatenate(features),
        labels=np.concatenate(labels),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        query_ids=tuple(index.item_ids[question.item] for question in kept),
        item_ids=tuple(index.item_ids[i] for i in items),
        query_texts=tuple(question.text for question in kept),
    )


def _judge(index: CodeSearchIndex, own: NDArray[np.int64], candidates: NDArray[np.int64]) -> NDArray[np.float32]:
    """Labels of shape (queries, candidates)."""
    asked = own[:, np.newaxis]
    same_module = index.modules[candidates] == index.modules[asked]
    same_scope = index.scopes[candidates] == index.scopes[asked]
    return np.select([candidates == asked, same_scope, same_module], [3, 2, 1], 0).astype(np.float32)


def _matrix(index: CodeSearchIndex, batch: FoundBatch) -> NDArray[np.float32]:
    """All columns in the view's order, (queries, candidates, columns)."""
    shape = batch.columns.shape[:2]
    matrix = np.empty((*shape, len(VIEW.columns)), dtype=np.float32)
    matrix[:, :, VIEW.positions("row")] = index.rows[batch.items]
    matrix[:, :, VIEW.positions("candidate")] = batch.columns
    matrix[:, :, VIEW.positions("query")] = batch.query_values[:, np.newaxis, :]
    return matrix
