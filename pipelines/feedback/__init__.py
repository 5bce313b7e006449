"""Rankings and clicks into judgements: cleaned, freed of position bias, collected whole; and what they measure.

Decisions

- What is dropped of rankings and feedback (`cleaning`) is counted, each under one reason: given = kept + dropped.
- A closed window becomes judgements once (`collection`): a folder that is there as a whole or not at all, and stays
  as it is. The archive is read an hour at a time. Which estimator of position bias the window bears is found out
  (`bias_evidence`); where none is sure enough, nothing is debiased, and it says why.
- Position bias comes from explored swaps where there are enough (`position_bias.harvest`), else from several
  versions' lists, both smoothed along positions, else from features (`regression_em`). A log speaks of a challenger
  (`counterfactual`) only where it has shown its first ten.
- Features are logged of what was shown only, so offline a challenger orders what was shown; how much of its first ten
  that leaves out is estimated from explored items, and counts as missing support.
"""
