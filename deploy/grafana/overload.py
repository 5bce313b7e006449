"""Overload: who is not let in, what is done about slow or lost replicas, and by how much less queries are answered."""

from deploy.grafana.panels import BAD, WARN, Board, Query, Words, lines

_CLEAR = "transparent"


def board() -> Board:
    """Permits and refusals, deadlines, retries and hedges, breakers, the ladder, the door."""
    question = "Who is refused or answered by less, at which stage, and what is done about slow replicas?"
    return Board("overload", "Overload", question).add(
        lines(
            Words(
                "Refused for want of a permit",
                "Share of a model's queries with 429. What is admitted is still answered in time. More replicas, or"
                " fewer queries.",
            ),
            "percentunit",
            Query(
                '(sum by (model) (rate(serving_answers_total{model=~"$model",status="429"}[$__rate_interval]))'
                ' or 0 * sum by (model) (rate(serving_answers_total{model=~"$model"}[$__rate_interval])))'
                ' / sum by (model) (rate(serving_answers_total{model=~"$model"}[$__rate_interval]))',
                "{{model}}",
            ),
            steps=((None, _CLEAR), (0.001, WARN), (0.01, BAD)),
        ),
        lines(
            Words(
                "Permits by model",
                "How many queries of a model may be in flight: as many as come back well before their deadline. Falls:"
                " replicas got slower, or were lost.",
            ),
            "none",
            Query('sum by (model) (serving_model_permits{model=~"$model"})', "{{model}}"),
            Query("sum(serving_permits_in_use)", "in use, all models"),
        ),
        lines(
            Words(
                "Dropped for their deadline",
                "By the stage that dropped them. gateway: they came too late. queue, features, device: the workers are"
                " slow. replica: none was to be had in time.",
            ),
            "reqps",
            Query("sum by (stage) (rate(serving_passed_deadlines_total[$__rate_interval]))", "{{stage}}"),
        ),
        lines(
            Words(
                "Sent again, or not",
                "Queries whose replica was lost or failed. Not for want of budget: most queries fail, and sending them"
                " again would only add load.",
            ),
            "reqps",
            Query("sum(rate(serving_replica_retries_total[$__rate_interval]))", "sent again"),
            Query("sum by (reason) (rate(serving_refused_retries_total[$__rate_interval]))", "not: {{reason}}"),
        ),
        lines(
            Words(
                "Retry budget",
                "How many queries may be sent again now. Near 0: replicas fail on more than is spared for them.",
            ),
            "none",
            Query('sum by (model) (serving_retry_budget_queries{model=~"$model"})', "{{model}}"),
        ),
        lines(
            Words(
                "Hedged queries",
                "Sent to a second replica because the first was slow. won: the second answered first, so it helped.",
            ),
            "reqps",
            Query("sum by (outcome) (rate(serving_hedged_queries_total[$__rate_interval]))", "{{outcome}}"),
        ),
        lines(
            Words(
                "Replicas left out",
                "open: gets no queries for a while. half_open: one at a time, to see. Of the gateway with the most.",
            ),
            "none",
            Query("serving_replica_breakers", "{{state}}"),
            Query("sum(serving_breakers_open)", "versions, over all gateways"),
        ),
        lines(
            Words(
                "Answers by less",
                "By the lowest rung of the ladder that they stand on: stale features, defaults, the champion alone, the"
                " last order. Below comes 503.",
            ),
            "reqps",
            Query(
                'sum by (rung) (rate(serving_ladder_answers_total{model=~"$model"}[$__rate_interval]))',
                "{{rung}}",
            ),
            stacked=True,
        ),
        lines(
            Words(
                "Refused at the door",
                "Before the query was looked at: who asks (401, 403), or how much (429, its quota). A caller's matter,"
                " unless all are: then keys cannot be read.",
            ),
            "reqps",
            Query("sum by (reason) (rate(serving_door_refusals_total[$__rate_interval]))", "{{reason}}"),
        ),
        lines(
            Words(
                "Quota leases",
                "Tokens of quotas come from Redis in leases. local: Redis is away, and each gateway counts for itself.",
            ),
            "reqps",
            Query("sum by (outcome) (rate(serving_quota_leases_total[$__rate_interval]))", "{{outcome}}"),
        ),
    )
