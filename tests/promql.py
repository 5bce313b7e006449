"""What a PromQL expression names: series, and labels with the series that they are asked of. Enough for our queries.

Not a parser: Prometheus itself checks the grammar (`promtool`, and the end-to-end test). This finds every name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'")
_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?\s*\{([^}]*)\}")
_GROUPED = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_DURATION = re.compile(r"\[[^\]]*\]|\boffset\s+\d+\w+")
_NUMBER = re.compile(r"\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b")
FUNCTIONS = {
    *("sum", "max", "min", "avg", "count", "topk", "rate", "increase", "histogram_quantile", "abs", "time", "vector"),
    *(
        "changes",
        "absent",
        "max_over_time",
        "min_over_time",
        "clamp_min",
        "label_replace",
        "deriv",
        "delta",
        "timestamp",
    ),
}
KEYWORDS = {"and", "or", "unless", "bool", "by", "without", "on", "ignoring", "group_left", "group_right", "offset"}


@dataclass(frozen=True)
class Asked:
    """A series and the labels that its selector names; `grouped`: labels in `by`, `on` and the like, anywhere."""

    series: str
    labels: frozenset[str]


def selectors(expr: str) -> Iterator[Asked]:
    """Every series of the expression. Raises ValueError for a word that is neither series nor PromQL."""
    text = _DURATION.sub(" ", _STRING.sub('""', expr))
    for match in _SELECTOR.finditer(text):
        name, inside = match.groups()
        if name is None:
            raise ValueError(f"a selector without a name: {expr}")
        yield Asked(name, frozenset(word for word in re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", inside)))
    bare = _GROUPED.sub(" ", _SELECTOR.sub(" ", text))
    bare = _NUMBER.sub(" ", bare)
    for word in _WORD.findall(bare):
        if word in FUNCTIONS or word in KEYWORDS:
            continue
        if "_" not in word and ":" not in word and word != "up":
            raise ValueError(f"{word!r} is neither a series nor PromQL that we know: {expr}")
        yield Asked(word, frozenset())


def grouped_labels(expr: str) -> frozenset[str]:
    """Labels that aggregations and joins name."""
    text = _STRING.sub('""', expr)
    return frozenset(word for _, inside in _GROUPED.findall(text) for word in _WORD.findall(inside))


def raw_selectors(expr: str) -> Iterator[str]:
    """Every series with its matchers as written, to be asked of by itself; braces in strings are not ours."""
    yield from (f"{name}{{{inside}}}" for name, inside in _SELECTOR.findall(expr) if name)
    bare = _GROUPED.sub(" ", _SELECTOR.sub(" ", _DURATION.sub(" ", _STRING.sub(" ", expr))))
    for word in _WORD.findall(_NUMBER.sub(" ", bare)):
        if word not in FUNCTIONS and word not in KEYWORDS:
            yield word
