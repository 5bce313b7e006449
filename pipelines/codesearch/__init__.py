"""Judged data for anybody, offline: code search over the Python standard library, made on the spot.

`stdlib_source` finds definitions, `fields` and `tokens` make text of them, `bm25` matches, `index` is the search,
`lists` asks with docstrings and judges by the code's structure.
"""
