"""Feature tiers: device slab over host slab over Redis. A tier over a tier is a tier again.

Decisions

- Who stays is decided by decayed counts, of held rows exactly and of all others in a sketch
  (`index`, `sketch`): a hit costs one addition a row, and nothing is reordered. Against exact
  simulations of LRU, LFU and W-TinyLFU see `tests/bench/tier_policies.py`.
- A row has one time, limits belong to features: `freshness` counts stale and missing values by
  view and column. A row is stale, and marks the answer, once the strictest of its limits is past.
"""
