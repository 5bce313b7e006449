"""How many of what for how many queries: a model of the fleet from measured stage costs, and a sales day to try it on.

Under the roof, beside `simulation`: nothing here is imported by what serves. `sluice capacity` prints what is found.

- `stages`: what a query costs in each process, from a file with date and machine; `measuring` makes one.
- `queueing`, `residency`: waits from closed forms and a batch server's embedded chain; hit ratios of the tiers.
- `demand` and `fleet`: a user's numbers into gateways, workers, shards, bytes, waits and money; `orders`: what breaks
  first from 10 to a million queries a second.
- `autoscaler`: the algorithm of autoscaling/v2, pure, over the files that are shipped (`autoscaler_files`).
- `replicas_queue`, `sales_day`, `surge`: queries, balancing and batches of a sales day under that algorithm.

Decisions

- Costs are lines over candidates, measured; nothing is fitted to a throughput that the model then foretells.
- Replicas are sized by the wait that is promised, not by a share of use that sounds right: the share follows.
- Where a formula is wrong it is wrong to the safe side, and says so: each replica is taken to have Poisson arrivals of
  its own, while balancing makes them smoother. The simulation, which balances, is the check.
"""
