"""From what was seen to a better ranker: data, training, export, offline figures and gate; the archive; rollouts.

May import: `registry`, torch, scipy, pyarrow, celery. Never `serving`, `drift` or `deploy`: what
a run needs of them is handed over by `deploy` as a callable.

Folders, in the order in which data goes through them; each has a door sign with its decisions:

- `archive`: the event stream as Parquet files. `sources`, `codesearch`: judged data from elsewhere.
- `feedback`: rankings and clicks cleaned, freed of position bias, collected, and measured.
- `training`: rankers, losses, training and export.
- `gates`: challenger against champion, offline and on traffic. `rollouts`: the next step of a rollout.
- `runs`: all of this every two weeks, nothing lost when killed.

Decisions:

- Everything is a `dataset.RankingDataset` (ragged lists, one float32 matrix), whether it came from a
  LETOR file, from Parquet or from the code search made on the spot: one code path.
- NDCG is computed in `ndcg` and nowhere else, as `contracts.manifest.MetricDefinition` says.
  Figures of two definitions are not compared: a report carries its own, and `ndcg.paired` refuses.
- Nothing pickled is written or read: Parquet, npz without objects, JSON, torch.export.
- Celery's tasks (`tasks`) are thin; what they do is decided elsewhere and can be called without a broker.
"""
