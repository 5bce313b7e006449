"""Traces: a query's way told after it ended, to whoever wants to see it.

Decisions

- Spans are made of stage times that answers carry anyway, once the answer is out: a query that nobody looks at
  costs the reading of one header. It also lets the end decide: what was slow or failed is told whatever was drawn.
- A draw is a function of the trace id, as OpenTelemetry defines it, so that all services of a trace agree; a caller
  that has decided is followed, except that its slow and failed queries are told.
- A worker says how long its stages took, never when: clocks of two machines are not compared. Its spans are laid
  one after another in the middle of what the gateway saw.
- OpenTelemetry itself is `deploy.telemetry`'s: nothing here imports it, and nothing here waits for a collector.
"""
