"""Feature tiers: device slab over host slab over Redis. A tier over a tier is a tier again.

Decisions

- Redis pushes what changed (`invalidation`); the worker's thread applies it between batches
  (`tiers`), so that a lookup, its fetch and its keeping are one step to which no change comes between.
- After a lost channel rows are marked and looked up again at a bounded rate, hot ones first because
  they are asked for first (`suspects`). There is no sweep beside the queries: rows that nobody asks
  for need no look, and a sweep would need every held row's id in memory.
- A row fetched on another thread (`prefetch`) is kept only if it did not change meanwhile (`leases`).
- Absence is a row like any other: bounded, pushed out when the row is created.
- Who stays is decided by decayed counts, of held rows exactly and of all others in a sketch
  (`index`, `sketch`): a hit costs one addition a row, and nothing is reordered. Against exact
  simulations of LRU, LFU and W-TinyLFU see `tests/bench/tier_policies.py`.
- A value that a row lacks is stored as its default and named in bits at the row's end, which only such
  rows have: scores need no look at them, and counting costs nothing where nothing is missing.
- While a node of a cluster is away, what the others gave is kept, and what looks absent is not.
- Tiers go with the last version that ranks by their view: nobody else would ask them.
- A row has one time, limits belong to features: `freshness` counts stale and missing values by
  view and column. A row is stale, and marks the answer, once the strictest of its limits is past.
"""
