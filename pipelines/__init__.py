"""From what was seen to a better ranker: data, training, export, offline figures and gate; the archive; rollouts.

May import: `registry`, torch, scipy, pyarrow, celery. Never `serving`, `drift` or `deploy`: what
a run needs of them is handed over by `deploy` as a callable.

Decisions:

- Everything is a `RankingDataset` (ragged lists, one float32 matrix), whether it came from a
  LETOR file, from Parquet or from the code search made on the spot: one code path.
- NDCG is computed in `ndcg` and nowhere else, as `contracts.manifest.MetricDefinition` says.
  Figures of two definitions are not compared: a report carries its own, and `ndcg.paired` refuses.
- What is dropped of rankings and feedback (`cleaning`) is counted, each under one reason: given = kept + dropped.
- A closed window becomes judgements once (`collection`): a folder that is there as a whole or not at all, and stays
  as it is. The archive is read an hour at a time. Which estimator of position bias the window bears is found out
  (`bias_evidence`); where none is sure enough, nothing is debiased, and it says why.
- A debiased click is no grade: it estimates attraction, and stays unbiased only under a linear gain. What is trained
  on clicks is declared under `ATTRACTION_NDCG`, and compared with versions of the same definition only.
- Position bias comes from explored swaps where there are enough (`position_bias.harvest`), else from several
  versions' lists, both smoothed along positions, else from features (`regression_em`). A log speaks of a challenger
  (`counterfactual`) only where it has shown its first ten.
- Features are logged of what was shown only, so offline a challenger orders what was shown; how much of its first ten
  that leaves out is estimated from explored items, and counts as missing support.
- The offline gate is a veto: what passes has earned traffic to be measured on. Where judged NDCG and
  click-NDCG are in conflict, it holds.
- Preprocessing is part of the model (`ranker`), so an exported program needs nothing beside it: also quantiles,
  as sums of signs (five times as fast as binary search in every column).
- A listwise ranker (`ranker.AttentionRanker`) is exported attending over all rows of a batch under a mask, though
  32 lists of 100 cost 13 times what they cost padded: padding needs the longest list as a number on the host,
  and serving's CUDA graphs cannot ask for it. Trained it is padded, and both forms are held together at export.
- Losses (`losses`) take the metric's gains, so that what is learnt is what is measured, click weights too.
- What is random in an epoch follows from seed and epoch, so a checkpoint holds no generator and a resumed training
  ends with the same bits. A checkpoint of other inputs is left aside and said: nobody watches a retraining.
- The champion's weights are read from its exported program (`export.weights_of`): no second file to keep in step.
- Ranks sum gradients themselves (`ranks`), in one message a step: rankers are small, and weights keep their names.
- Offline figures are those of the exported program (`export`), not of the model in memory: what
  is measured is what is served.
- A rollout's next step is a pure function (`canary.decide`) of records that others wrote: evidence, and
  counters by arm (`guardrails`). What to do about it is `rollout_engine`'s, each second.
- Two rules differ, for a reason: stale evidence never lets a step pass, but bad news from any step of the
  rollout still rolls it back: a verdict that arrives just after a step has moved on is still true.
- Guardrails stand on confidence sequences (`sequential`), not on p-values: they are looked at each second.
  Counts are taken as independent; failures that come in bursts make them too sure. They fail only
  beyond doubt, pass on estimates within the limits, and hold in between.
- The online gate (`online_gate.judge`) is pure too: a plan fixed beforehand and the lists since then give a verdict,
  and the same again on replay. Promotion stands on group-sequential boundaries (`spending`: looks are planned),
  rollback on a confidence sequence (looks are unlimited), both on estimates clustered by unit.
- In the online gate a broken measurement (`errored`) goes before bad news, and bad news before good. Not proven by
  the last look is `inconclusive`, not `failed`: how long a rollout waits is its step's `max_s`.
- What a gate is judged on (`gate_data`) is a function of the archive and of a scope that stands in the evidence. So
  evidence replays byte for byte, chunks on disk may be lost at any time, and several judges (`gate_judge`) may run.
  The judge is a Celery task, for the archive is there; it decides nothing, the engine does, in another process.
- A gate's plan stands in its step (`contracts.gates`), made before the rollout begins (`gate_planning`): alpha from the
  year's budget, size from the champion's own traffic. What cannot finish never starts silently.
- A/A goes the way of any rollout, with the champion as challenger, and ends without a promotion: engine and moves
  both refuse one.
- Alpha is spent by planned looks, boundaries follow from the information that came: days may be of unequal size, and
  a look without news leaves its share to the next.
- Runs (`retraining`, step by step) live in tables (`registry.runs`); Celery only wakes somebody up (`run_tasks`). So a
  lost message, a second beat or an empty broker changes nothing, and `pipelines.tick` remembers nothing (`schedule`).
  Their tasks are acknowledged early: a tick sends again what is left, and a late acknowledgement over a connection
  that was lost meanwhile is what stops a worker.
- A step runs in a process of its own, bound to its worker's life, since only a process can be ended when it is past its
  time. It writes into a folder that gets its name when everything is in it (`steps`): whole or not there.
- Attempts of a step count from when it last got further than before: a training that is killed each night and goes on
  from its checkpoint is no dead letter, one that dies at the same epoch three times is.
- Of retrainings that were missed the newest is run, as it learns from all that was collected; of collections all.
- Nothing pickled is written or read: Parquet, npz without objects, JSON, torch.export.
"""
