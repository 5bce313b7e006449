"""Rankings and clicks into judgements: cleaned, freed of position bias, collected whole; and what they measure.

Decisions

- What is dropped of rankings and feedback (`cleaning`) is counted, each under one reason: given = kept + dropped.
- A closed window becomes judgements once (`collection`): a folder that is there as a whole or not at all, and stays
  as it is. The archive is read an hour at a time. Which estimator of position bias the window bears is found out
  (`bias_evidence`); where none is sure enough, nothing is debiased, and it says why.
- Position bias comes from explored swaps where there are enough (`position_bias.harvest_along`), else from several
  versions' lists, both a power of the position as far as nothing speaks against it, else from features
  (`regression_em`). Its likelihood is that of where a stratum's clicks fall, given their number: under half of the
  variance that comparing positions pair by pair and smoothing afterwards had.
- A log speaks of a challenger (`counterfactual`) only where it has shown its first ten. It is read by all looks at
  each item together (`attraction`), not list by list: single clicks that weigh hundreds leave a lift of 5 % off by 2
  points and more. What chance showed corrects that where it contradicts it (`doubly_robust`), and only there.
- Features are logged of what was shown only, so offline a challenger orders what was shown; how much of its first ten
  that leaves out is estimated from explored items, and counts as missing support.
"""
