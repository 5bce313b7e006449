"""Rankers: what they learn from, how they are trained, and how they become a version.

Decisions

- A debiased click is no grade: it estimates attraction, and stays unbiased only under a linear gain. What is trained
  on clicks (`splits`) is declared under `ATTRACTION_NDCG`, and compared with versions of the same definition only.
- Preprocessing is part of the model (`ranker`), so an exported program needs nothing beside it: also quantiles,
  as sums of signs (five times as fast as binary search in every column).
- A listwise ranker (`ranker.AttentionRanker`) is exported attending over all rows of a batch under a mask, though
  32 lists of 100 cost 13 times what they cost padded: padding needs the longest list as a number on the host,
  and serving's CUDA graphs cannot ask for it. Trained it is padded, and both forms are held together at export.
- Losses (`losses`) take the metric's gains, so that what is learnt is what is measured, click weights too.
- What is random in an epoch follows from seed and epoch, so a `checkpoint` holds no generator and a resumed training
  ends with the same bits. A checkpoint of other inputs is left aside and said: nobody watches a retraining.
- The champion's weights are read from its exported program (`export.weights_of`): no second file to keep in step.
- Ranks sum gradients themselves (`ranks`), in one message a step: rankers are small, and weights keep their names.
- Offline figures are those of the exported program (`export`), not of the model in memory: what
  is measured is what is served.
"""
