"""Flow control: what is let in, sent again, sent twice or answered by less. Decisions only: no sockets, no loop.

Every module is a plain function of outcomes and a clock; `replicas`, `rank` and `infer` do what it says.

Decisions

- What travels is the time that is left, never a moment: machines need no common clock. Each stage drops what
  is past its deadline, and counts it by its own name (`metrics.DEADLINES`).
- A query is sent again only because its replica lost it or failed on it: rankings and tensors change nothing,
  so that is safe; to another process, where there is one; within a budget, since retries are what an outage is
  made worse by (`retries`). The budget's reserve covers one replica that dies with all permits.
- A query is sent twice once it takes longer than 95 % of its model's do (`hedging`), while few permits are
  out: then a second replica has room. The first answer counts, the other is taken back. What users waited is
  what is remembered, not what the faster replica took: hedges must not make the next hedge earlier.
- In flight is bounded by what comes back in time, not by a number (`admission`): as many queries as wait
  no longer than a third of their deadline. Waiting in our queue costs them the same as waiting at home, and
  those who are refused at once can go elsewhere. Newest first (LIFO) would answer a few sooner and let the
  oldest wait for nothing; CoDel drops what has waited already: a bound before the queue needs neither.
- There is one ladder (`ladder`), and one place that says on which rung an answer stands and why.
"""
