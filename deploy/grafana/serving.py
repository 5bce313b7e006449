"""Serving: who gets which answers, how fast, and where the time goes."""

from deploy.grafana.panels import BAD, WARN, Board, Query, Words, lines

_ARM = '{model=~"$model",arm=~"$arm"}'
_CLEAR = "transparent"


def board() -> Board:
    """Traffic and errors, latency by arm and stage, queue and permits, events."""
    question = "Who gets which answers, how fast, and where does the time go?"
    return Board("serving", "Serving", question, ("model", "arm")).add(
        lines(
            Words(
                "Queries by status",
                "429: no permit, see below. 503: no replica. 504: past its deadline. Other 4xx: callers.",
            ),
            "reqps",
            Query(
                'sum by (status) (rate(serving_answers_total{model=~"$model"}[$__rate_interval]))',
                "{{status}}",
            ),
            stacked=True,
        ),
        lines(
            Words(
                "Failed queries by arm",
                "Of the arm that the plan gave, also where the champion stepped in. One arm alone: its version. Both:"
                " the machine or the features.",
            ),
            "percentunit",
            Query(f"model_arm:serving_failed_per_query:ratio_rate5m{_ARM}", "{{model}} {{arm}}"),
            steps=((None, _CLEAR), (0.001, WARN), (0.01, BAD)),
        ),
        lines(
            Words(
                "Degraded answers by reason",
                "features_away, missing_rows, stale_rows: see Features. absent_columns: the caller leaves columns out."
                " challenger_away: no replica holds it, or its breaker is open.",
            ),
            "reqps",
            Query(
                'sum by (reason) (rate(serving_degraded_answers_total{model=~"$model"}[$__rate_interval]))',
                "{{reason}}",
            ),
        ),
        lines(
            Words("Latency by arm", "Permit to answer: p99, and the median dashed. Compare the arms, not the hours."),
            "s",
            Query(f"model_arm:serving_arm_seconds:p99_rate5m{_ARM}", "{{model}} {{arm}} p99"),
            Query(f"model_arm:serving_arm_seconds:p50_rate5m{_ARM}", "{{model}} {{arm}} median"),
            steps=((None, _CLEAR), (0.128, BAD)),
        ),
        lines(
            Words(
                "p99 by stage",
                "queue: too few workers, or batches that take long. features: Redis or a cold tier. device: the model."
                " hop: sockets and scheduling.",
            ),
            "s",
            Query("stage:serving_stage_seconds:p99_rate5m", "{{stage}}"),
        ),
        lines(
            Words("Median by stage", "Where the time of the usual query goes."),
            "s",
            Query("stage:serving_stage_seconds:p50_rate5m", "{{stage}}"),
        ),
        lines(
            Words("Permits in use", "Queries between permit and answer, of all gateways. At the bound more get a 429."),
            "none",
            Query("sum(serving_permits_in_use)", "in use"),
            Query("sum(serving_permits)", "bound"),
        ),
        lines(
            Words("Queries that wait", "In the workers' queues, twice a second. Grows without end: add workers."),
            "none",
            Query("sum(serving_queue_queries)", "waiting"),
        ),
        lines(
            Words(
                "Rows in a forward pass", "Mean over the batches. Near 1 query's candidates: there is time to spare."
            ),
            "none",
            Query(
                'sum by (model) (rate(serving_batch_candidates_sum{model=~"$model"}[$__rate_interval]))'
                ' / sum by (model) (rate(serving_batch_candidates_count{model=~"$model"}[$__rate_interval]))',
                "{{model}}",
            ),
        ),
        lines(
            Words(
                "Replicas",
                "Of the gateway that sees the fewest: connected, and ready of them. Ready at 0 is an outage.",
            ),
            "none",
            Query("serving_replicas", "{{state}}"),
            span=6,
        ),
        lines(
            Words(
                "Sent again", "Queries whose replica was lost on the way: none fails, but something ends or is silent."
            ),
            "reqps",
            Query("sum(rate(serving_replica_retries_total[$__rate_interval]))", "sent again"),
            span=6,
        ),
        lines(
            Words("Mirrored queries", "What became of them. dropped_busy and dropped_full: answers went first."),
            "reqps",
            Query(
                'sum by (outcome) (rate(serving_mirrored_queries_total{model=~"$model"}[$__rate_interval]))',
                "{{outcome}}",
            ),
            span=6,
        ),
        lines(
            Words(
                "gRPC calls by code",
                "Beside OK: the same words as over HTTP. UNAVAILABLE and DEADLINE_EXCEEDED are ours.",
            ),
            "reqps",
            Query("sum by (code) (rate(serving_grpc_calls_total[$__rate_interval]))", "{{code}}"),
            span=6,
        ),
        lines(
            Words("Events", "Written to the journal by kind. Dropped ones are lost for good: alarm."),
            "cps",
            Query("sum by (kind) (rate(serving_events_logged_total[$__rate_interval]))", "{{kind}}"),
            Query("sum by (kind) (rate(serving_events_dropped_total[$__rate_interval]))", "{{kind}} dropped"),
        ),
        lines(
            Words("Journal", "Bytes that Redis does not have yet, and the bound. Grows: Redis is away or slow."),
            "bytes",
            Query("sum(serving_journal_backlog_bytes)", "backlog"),
            Query("sum(serving_journal_capacity_bytes)", "bound"),
        ),
        lines(
            Words(
                "Feedback", "Events by kind and outcome. refused: the body or the ranking_id is wrong, tell the caller."
            ),
            "cps",
            Query(
                "sum by (kind, outcome) (rate(serving_feedback_events_total[$__rate_interval]))",
                "{{kind}} {{outcome}}",
            ),
        ),
    )
