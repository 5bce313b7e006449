"""Challenger against champion: a veto offline, and on traffic by a plan fixed beforehand.

`offline` and its data `log_evaluation`; `online` judges `gate_lists` by a `gate_plan`, `evidence` and `explain` tell
it, `judge` does so each minute, `planning` makes the plan. `data` sums the lists up, for a `scope`, of `chunks` of
`cleaned_lists`. Statistics: `clustered`, `preference`, `spending`, `confidence_sequence`, `sample_ratio`, `planner`,
`shrinkage`.

Decisions

- The offline gate is a veto: what passes has earned traffic to be measured on. Where judged NDCG and
  click-NDCG are in conflict, it holds.
- The online gate (`online.judge`) is pure: a plan fixed beforehand and the lists since then give a verdict,
  and the same again on replay. Promotion stands on group-sequential boundaries (`spending`: looks are planned),
  rollback on a confidence sequence (looks are unlimited), both on estimates clustered by unit.
- In the online gate a broken measurement (`errored`) goes before bad news, and bad news before good. Not proven by
  the last look is `inconclusive`, not `failed`: how long a rollout waits is its step's `max_s`.
- What a gate is judged on (`data`) is a function of the archive and of a scope that stands in the evidence. So
  evidence replays byte for byte, chunks on disk may be lost at any time, and several judges (`judge`) may run.
  The judge is a Celery task, for the archive is there; it decides nothing, the engine does, in another process.
- A gate's plan stands in its step (`contracts.gates`), made before the rollout begins (`planning`): alpha from the
  year's budget, size from the champion's own traffic. What cannot finish never starts silently.
- A/A goes the way of any rollout, with the champion as challenger, and ends without a promotion: engine and moves
  both refuse one.
- Alpha is spent by planned looks, boundaries follow from the information that came: days may be of unequal size, and
  a look without news leaves its share to the next.
"""
