"""Text and code into tokens, the same for both, so that `GzipFile` meets "gzip files"."""

import re
from collections.abc import Iterable
from functools import lru_cache

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_IN_MOST_DOCSTRINGS = (
    "a an and are as at be by for from has have if in into is it its may not of on or self that the"
    " then this to was when which will with"
)
STOP_WORDS = frozenset(_IN_MOST_DOCSTRINGS.split())


def tokenise(text: str) -> list[str]:
    """Stems of the words of a text or the parts of its identifiers, stop words left out.

    >>> tokenise("GzipFile.readline: Read lines from a gzip file")
    ['gzip', 'file', 'readlin', 'read', 'line', 'gzip', 'file']
    """
    words = (match.lower() for match in _WORD.findall(text))
    return [stem(word) for word in words if word not in STOP_WORDS]


@lru_cache(maxsize=2**16)
def stem(word: str) -> str:
    """A lower-case word without its ending of number or tense.

    A few rules of Porter's (Program 14(3), 1980), enough to bring `compressed`, `compresses` and
    `compressing` together.

    >>> [stem(word) for word in ("files", "entries", "class", "compressing", "string")]
    ['file', 'entry', 'class', 'compress', 'string']
    """
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    for ending in ("ing", "ed"):
        kept = word.removesuffix(ending)
        if kept != word and len(kept) > 3:
            return kept[:-1] if kept[-1] == kept[-2] and kept[-1] not in "ls" else kept
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def trigrams(tokens: Iterable[str]) -> list[str]:
    """Three-letter pieces of the distinct tokens, so that `dir` meets `directory`.

    >>> trigrams(["dir", "ab"])
    ['^ab', '^di', 'dir']
    """
    return [f"^{token}"[i : i + 3] for token in sorted(set(tokens)) for i in range(max(1, len(token) - 1))]
