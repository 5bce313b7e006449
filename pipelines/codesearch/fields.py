"""What is indexed and stored of a definition: its text by field, and its numbers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.codesearch.stdlib_source import Symbol
from pipelines.codesearch.tokens import tokenise, trigrams

FIELDS = ("own_name", "name", "module", "signature", "code", "body", "module_text", "trigrams")
ROW_COLUMNS = (
    "log_body_tokens",
    "log_code_tokens",
    "log_statements",
    "log_name_uses",
    "log_module_imports",
    "arguments",
    "depth",
    "is_class",
    "is_method",
    "is_private",
    "is_decorated",
    "returns_value",
)


def texts_of(symbols: Sequence[Symbol]) -> dict[str, list[list[str]]]:
    """The tokens of each field of each candidate, by field."""
    names = [tokenise(symbol.name.removeprefix(symbol.module)) for symbol in symbols]
    return {
        "own_name": [tokenise(symbol.name.rpartition(".")[2]) for symbol in symbols],
        "name": names,
        "module": [tokenise(symbol.module) for symbol in symbols],
        "signature": [tokenise(symbol.signature) for symbol in symbols],
        "code": [tokenise(" ".join(symbol.identifiers)) for symbol in symbols],
        "body": [tokenise(symbol.body) for symbol in symbols],
        "module_text": [tokenise(symbol.module_text) for symbol in symbols],
        "trigrams": [trigrams(name) for name in names],
    }


def rows_of(symbols: Sequence[Symbol], texts: dict[str, list[list[str]]]) -> NDArray[np.float32]:
    """Float32 (items, `row` columns). texts: of `texts_of`."""
    rows = [
        (
            np.log1p(len(body)),
            np.log1p(len(code)),
            np.log1p(symbol.statements),
            np.log1p(symbol.name_uses),
            np.log1p(symbol.module_imports),
            symbol.arguments,
            symbol.depth,
            symbol.kind == "class",
            symbol.kind == "method",
            symbol.name.rpartition(".")[2].startswith("_"),
            symbol.decorated,
            symbol.returns,
        )
        for symbol, body, code in zip(symbols, texts["body"], texts["code"], strict=True)
    ]
    stored: NDArray[np.float32] = np.array(rows, dtype=np.float32)
    return stored
