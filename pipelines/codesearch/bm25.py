"""BM25 as sparse matrices: a field of the whole corpus is one matrix, many queries are one product.

Source: Robertson & Zaragoza, Foundations and Trends in IR 3(4), 2009; idf as in Lucene, > 0.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

K1 = 1.2
B = 0.75


def vocabulary(texts: Iterable[Sequence[str]]) -> dict[str, int]:
    """A number for every token, in alphabetical order.

    >>> vocabulary([["read", "file"], ["file"]])
    {'file': 0, 'read': 1}
    """
    return {token: i for i, token in enumerate(sorted({token for text in texts for token in text}))}


def count_tokens(texts: Sequence[Sequence[str]], terms: Mapping[str, int]) -> sparse.csr_array:
    """How often each text has each term, float32 (texts, terms); unknown tokens are passed over."""
    columns: list[int] = []
    counts: list[int] = []
    starts = [0]
    for text in texts:
        found = Counter(terms[token] for token in text if token in terms)
        columns.extend(found.keys())
        counts.extend(found.values())
        starts.append(len(columns))
    shape = (len(texts), len(terms))
    return sparse.csr_array((np.array(counts, np.float32), np.array(columns, np.int32), starts), shape=shape)


def inverse_frequency(counts: sparse.csr_array) -> NDArray[np.float32]:
    """How much a term tells, shape (terms,): ln(1 + (texts - having + .5) / (having + .5))."""
    having = np.bincount(counts.indices, minlength=counts.shape[1]).astype(np.float64)
    texts = int(counts.shape[0])
    return np.log1p((texts - having + 0.5) / (having + 0.5)).astype(np.float32)


def bm25_weights(counts: sparse.csr_array) -> sparse.csr_array:
    """What each term adds to each text's score, float32 (terms, texts).

    `count_tokens(queries) @ bm25_weights(counts)` are the scores, (queries, texts).
    """
    lengths = counts.sum(axis=1)
    saturation = K1 * (1 - B + B * lengths / max(float(lengths.mean()), 1e-9))
    weights = counts.tocoo()
    frequency = weights.data
    data = inverse_frequency(counts)[weights.col] * frequency * (K1 + 1) / (frequency + saturation[weights.row])
    transposed = sparse.coo_array((data.astype(np.float32), (weights.col, weights.row)), shape=counts.shape[::-1])
    return transposed.tocsr()
