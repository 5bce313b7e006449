"""From what was seen to a better ranker: data, training, export, offline figures; the archive.

May import: `registry`, torch, scipy, pyarrow, celery. Never `serving`, `drift` or `deploy`: what
a run needs of them is handed over by `deploy` as a callable.

Decisions:

- Everything is a `RankingDataset` (ragged lists, one float32 matrix), whether it came from a
  LETOR file, from Parquet or from the code search made on the spot: one code path.
- NDCG is computed in `ndcg` and nowhere else, as `contracts.manifest.MetricDefinition` says.
- Preprocessing is part of the model (`ranker`), so an exported program needs nothing beside it.
- Offline figures are those of the exported program (`export`), not of the model in memory: what
  is measured is what is served.
- Nothing pickled is written or read: Parquet, npz without objects, JSON, torch.export.
"""
