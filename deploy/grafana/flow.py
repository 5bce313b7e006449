"""Flow: what is let in, sent again, answered by less or turned away, and by whose rule."""

from deploy.grafana.panels import BAD, GOOD, WARN, Board, Query, Words, lines, number

_MODEL = '{model=~"$model"}'


def board() -> Board:
    """Permits and the limit that adapts, retries and hedges, breakers and ladder; then who is refused at the door."""
    question = "What is let in, sent again, answered by less or turned away, and by whose rule?"
    return Board("flow", "Flow and access", question).add(
        number(
            Words(
                "Refused for want of a permit",
                "Share of queries that got a 429, five minutes. Over 1 %: Overloaded in the runbook.",
            ),
            "percentunit",
            Query(
                '(sum(rate(serving_answers_total{model=~"$model",status="429"}[5m])) or vector(0))'
                f" / sum(rate(serving_answers_total{_MODEL}[5m]))"
            ),
            ((None, GOOD), (0.001, WARN), (0.01, BAD)),
            span=6,
            decimals=2,
        ),
        number(
            Words(
                "Replicas left out",
                "Their breaker is open, as the gateway that sees the most of them has it. `sluice status` names them.",
            ),
            "none",
            Query('max(serving_replica_breakers{state="open"})'),
            ((None, GOOD), (1, WARN)),
            span=6,
        ),
        number(
            Words(
                "Retries that may be made now",
                "Of the model with the least: one for ten queries, ten a second, 512 at most. At 0 a failure is final.",
            ),
            "none",
            Query(f"min(serving_retry_budget_queries{_MODEL})"),
            ((None, BAD), (1, WARN), (64, GOOD)),
            span=6,
            decimals=0,
        ),
        number(
            Words("Refused at the door", "Requests, five minutes, all reasons: who asks, or how much. Which: below."),
            "reqps",
            Query("sum(rate(serving_door_refusals_total[5m])) or vector(0)"),
            ((None, GOOD), (1, WARN)),
            span=6,
            decimals=2,
        ),
        lines(
            Words(
                "Permits",
                "Of all models, of all gateways: taken, and the bound that the settings give.",
            ),
            "none",
            Query("sum(serving_permits_in_use)", "in use"),
            Query("sum(serving_permits)", "bound"),
        ),
        lines(
            Words(
                "Limit that adapts",
                "Queries of a model that may be in flight: it falls when over a tenth wait longer than a third of their"
                " deadline, and grows when somebody is refused and nobody waits. Low for long: add workers.",
            ),
            "none",
            Query(f"sum by (model) (serving_model_permits{_MODEL})", "{{model}}"),
        ),
        lines(
            Words(
                "Let in and refused by status",
                "200 and 4xx of callers were let in. 429: permits or a quota. 503: no replica. 504: too late.",
            ),
            "reqps",
            Query(f"sum by (status) (rate(serving_answers_total{_MODEL}[$__rate_interval]))", "{{status}}"),
            stacked=True,
        ),
        lines(
            Words(
                "Too late, by the stage that dropped them",
                "gateway: late when they came. replica: nobody held the version. queue: too few workers. features:"
                " Redis. device: no answer in time.",
            ),
            "reqps",
            Query("sum by (stage) (rate(serving_passed_deadlines_total[$__rate_interval]))", "{{stage}}"),
        ),
        lines(
            Words("Sent again", "Queries whose replica was lost or failed. None of these failed for its caller."),
            "reqps",
            Query("sum(rate(serving_replica_retries_total[$__rate_interval]))", "sent again"),
        ),
        lines(
            Words(
                "Not sent again, by reason",
                "budget: more fail than may be tried twice. tries: four were enough. deadline: no time left. alone: it"
                " failed, and there is no second replica.",
            ),
            "reqps",
            Query("sum by (reason) (rate(serving_refused_retries_total[$__rate_interval]))", "{{reason}}"),
        ),
        lines(
            Words("Budget of retries", "That each model may make now, of the gateway with the least."),
            "none",
            Query(f"min by (model) (serving_retry_budget_queries{_MODEL})", "{{model}}"),
        ),
        lines(
            Words(
                "Hedged queries",
                "sent: to a second replica, as the first was slow. won: the second answered first. Many sent and few"
                " won: the queries are slow, not the replicas.",
            ),
            "reqps",
            Query("sum by (outcome) (rate(serving_hedged_queries_total[$__rate_interval]))", "{{outcome}}"),
        ),
        lines(
            Words(
                "Breakers of replicas",
                "Replicas that the gateway with the most leaves out (open) or tries with one query (half_open).",
            ),
            "none",
            Query("max by (state) (serving_replica_breakers)", "{{state}}"),
        ),
        lines(
            Words(
                "Breakers of versions",
                "Open ones over all gateways: a version fails on over half of its queries wherever they are sent.",
            ),
            "none",
            Query(f"sum by (model) (serving_breakers_open{_MODEL})", "{{model}}"),
        ),
        lines(
            Words(
                "Rungs of the ladder",
                "Answers by the lowest rung that they stand on; whole ones are not here. cached_order: nobody ranked"
                " them now. champion_only: the experiment's version is away.",
            ),
            "reqps",
            Query(f"sum by (rung) (rate(serving_ladder_answers_total{_MODEL}[$__rate_interval]))", "{{rung}}"),
            span=16,
            stacked=True,
        ),
        lines(
            Words(
                "Refused at the door: who asks",
                "none: no key or token. key: not known or revoked. expired, token: theirs is not good any more. role,"
                " model: good, and not for this. unknown_yet: the key board was never seen.",
            ),
            "reqps",
            Query(
                'sum by (reason) (rate(serving_door_refusals_total{reason!~"(key|line)_.*"}[$__rate_interval]))',
                "{{reason}}",
            ),
            span=12,
        ),
        lines(
            Words(
                "Refused at the door: how much",
                "By whose quota, the key's or the line's, and of what. 429 with Retry-After; `sluice keys list` has the"
                " rates.",
            ),
            "reqps",
            Query(
                'sum by (reason) (rate(serving_door_refusals_total{reason=~"(key|line)_.*"}[$__rate_interval]))',
                "{{reason}}",
            ),
            span=12,
        ),
        lines(
            Words(
                "Leases of quota tokens",
                "granted and refused by Redis. local: Redis is away, each gateway counts its share by itself.",
            ),
            "cps",
            Query("sum by (outcome) (rate(serving_quota_leases_total[$__rate_interval]))", "{{outcome}}"),
            span=12,
        ),
        lines(
            Words(
                "Fetches of the issuer's keys",
                "Of tokens. failed: the last key set stays, and a signer newer than that is refused.",
            ),
            "cps",
            Query("sum by (outcome) (rate(serving_key_set_fetches_total[$__rate_interval]))", "{{outcome}}"),
            span=12,
        ),
        lines(
            Words("Control requests refused", "401 and 403 of the control API, by route: a key of too small a role."),
            "reqps",
            Query(
                'sum by (route, status) (rate(deploy_control_requests_total{status=~"401|403"}[$__rate_interval]))',
                "{{route}} {{status}}",
            ),
            span=12,
        ),
        lines(
            Words(
                "Refused connections of workers",
                "TLS between gateways and workers: no handshake, none in time, or a certificate of somebody else.",
            ),
            "cps",
            Query("sum by (reason) (rate(serving_tls_refusals_total[$__rate_interval]))", "{{reason}}"),
            span=12,
        ),
    )
