"""Do two stretches of traffic differ at all, and in what? It explains an alarm and never raises one.

`two_sample` is the test (a classifier tries to tell them apart), `explain` names the features by which it can and says
how well quiet days can be told apart. May take a minute: run on demand, in a process of its own.

Decisions

- The list is the unit: lists are held out whole, scored as their rows' mean, and counted as one. Rows taken one by one
  would be told apart by the query they share.
- Any two days differ a little, so significance alone says nothing: the figure stands beside what earlier days, which
  nobody complained of, come to among each other.
- Features are named by what is lost without them, one after another, until the rest cannot be told apart: of two
  copies of a feature, permuting one loses nothing.
"""
