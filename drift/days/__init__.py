"""Closed days decide: per quantity a CUSUM of the daily shift against references that stay (`watch`, `shift_watch`).

`blocks` puts windows together to days, `means` is a day as the watch sees it, `anchor` and `cusum` its parts,
`confidence` the same watch over how sure a ranker is. `characteristics` measures what it reaches, on `simulated`,
`simulated_lists` and `resampled` days.

Decisions

- The day is the unit of variance: rows of a day share what that day was like, and taken one by one they make any two
  days differ. Windows that are over are put together to days, exact moments and bins; nothing else is kept.
- Two references, each with what the other lacks. The anchor is live traffic, by weekday, and stays where it was
  laid: it sees what is slow, also across retrainings. The profile is what the version was made on: it needs no
  history, and judges only what lies beyond the floor, for a training set is no sample of days.
- An alarm needs both a CUSUM past its threshold, so that noise does not do it, and an effect past the floor, so
  that what is certain and small does not. The budget of false alarms is the family's, split by importance.
- Odd days (a holiday, an outage) are left out of the anchor: with one of them in 28, a ramp was found in 5 % of runs.
- Days that remember each other add up further than they spread: sums are in units of the long run, measured on
  the anchor over all quantities together. One odd day counts half a threshold at most, unless the feature broke.
- A deploy may move what shown items look like. The charts rest, the jump is taken out where it is one, and what is
  not known of it is slack: without that, a version that scored on another scale was alarmed on in 2 of 10 runs.
  What shifted before stays.
- Retraining on what shifted answers an alarm; it stays in sight, as the anchor is still left. A declared change
  (`sluice drift rebaseline`) or another feature view lays the anchor anew.
- Confidence is margin, entropy and disagreement with a shadow together, and no statement on quality. The shadow is the
  champion of before, which ranks 1 % of queries unseen while units are held back with it (`RolloutSpec.shadow_share`);
  mirrored events name no features, so disagreement is of the whole only.
- No estimate of NDCG without labels is shown: the usual one (expected NDCG under the scores' own softmax) moves the
  wrong way when features break, since a ranker that sees less may be as sure as before. Clicks tell, when they are
  there.
- A declared segment is watched as the whole is, with half of the family's budget for all segments together and half
  for the whole: of 200 features in nine segments thresholds are 11.3 instead of 9, and of five a ramp to 35 % is
  found on day 7 instead of 5. It knows its anchor only, for no version was made on a segment, so it begins after
  `anchor_days`; and it decides nothing: no gate is held and nothing retrained, for nothing could show that its alarm
  is answered.
- A day is taken once: the watches' file holds its end with what it changed, and is replaced before the snapshot that
  no longer holds the day, and before anybody is told. The board and who else is told may hear it twice.
- Failed evidence rolls back, so `deploy.verdicts.drift_evidence` asks for more than an open alarm: that the champion's
  arm, on the same day, does not have it, and twice the floor.
"""
