"""Overview: is everything well, for users, for the model, for the machine."""

from deploy.grafana.panels import BAD, GOOD, WARN, Board, Query, Words, lines, number, states
from deploy.grafana.rollout_and_gate import STATES

_MODEL = '{model=~"$model"}'


def board() -> Board:
    """A dozen numbers, then traffic, latency, quality and what is on its way."""
    return Board("overview", "Overview", "Is everything well? Red is for now, orange for today.").add(
        number(
            Words(
                "Error budget left, 30 days",
                "Of the 0.1 % of queries that may fail in 30 days. Below a quarter: no risky changes. Below 0: see the"
                " runbook of ErrorBudgetBurnsFast.",
            ),
            "percentunit",
            Query(
                '1 - (sum(increase(serving_answers_total{status=~"5..",model=~"$model"}[30d])) or vector(0))'
                ' / sum(increase(serving_answers_total{model=~"$model"}[30d])) / 0.001'
            ),
            ((None, BAD), (0.0, WARN), (0.25, GOOD)),
            span=4,
            decimals=1,
        ),
        number(
            Words("Failed queries", "Queries that got a 5xx, five minutes. Over 0.1 %: look at Serving, by status."),
            "percentunit",
            Query(f"max(model:serving_errors_per_query:ratio_rate5m{_MODEL})"),
            ((None, GOOD), (0.001, WARN), (0.01, BAD)),
            span=4,
            decimals=2,
        ),
        number(
            Words("p99 of the champion", "Permit to answer, five minutes. Over 128 ms an answer counts as slow."),
            "s",
            Query('max(model_arm:serving_arm_seconds:p99_rate5m{model=~"$model",arm="champion"})'),
            ((None, GOOD), (0.064, WARN), (0.128, BAD)),
            span=4,
        ),
        number(
            Words("Degraded answers", "Answers that did without something. Serving says by what reason."),
            "percentunit",
            Query(f"max(model_arm:serving_degraded_per_answer:ratio_rate5m{_MODEL})"),
            ((None, GOOD), (0.01, WARN), (0.05, BAD)),
            span=4,
            decimals=2,
        ),
        number(
            Words("Processes not ready", "Of this machine. Not 0: `sluice status` says which, `sluice logs` why."),
            "none",
            Query("count(deploy_process_ready == 0) or vector(0)"),
            ((None, GOOD), (1, BAD)),
            span=4,
        ),
        number(
            Words("Events lost, 24 h", "Answers or mirrors of which no event was kept. Any is a gap in the evidence."),
            "none",
            Query("sum(increase(serving_events_dropped_total[24h]))"),
            ((None, GOOD), (1, BAD)),
            span=4,
            decimals=0,
        ),
        number(
            Words(
                "Drift alarms open",
                "On features and on confidence, not yet answered by a retraining. The board Drift says on what.",
            ),
            "none",
            Query(f"sum(drift_alarms_open{_MODEL}) or vector(0)"),
            ((None, GOOD), (1, WARN)),
            span=4,
        ),
        number(
            Words(
                "Runs that are dead", "Collecting or retraining that gave up: a person has to look. `sluice runs list`."
            ),
            "none",
            Query('sum(pipelines_runs{model=~"$model",state="dead"}) or vector(0)'),
            ((None, GOOD), (1, BAD)),
            span=4,
        ),
        number(
            Words("Replicas ready", "Of the gateway that sees the fewest. 0: queries get 503."),
            "none",
            Query('min(serving_replicas{state="ready"})'),
            ((None, BAD), (1, GOOD)),
            span=4,
        ),
        number(
            Words("Queries", "A second, over five minutes. 0: nobody asks, or nobody gets through."),
            "reqps",
            Query(f"sum(model:serving_queries:rate5m{_MODEL})"),
            span=4,
            decimals=1,
        ),
        number(
            Words("Pages firing", "Alerts that somebody should look at now; the runbook says what to do for each."),
            "none",
            Query('count(ALERTS{alertstate="firing",severity="page"}) or vector(0)'),
            ((None, GOOD), (1, BAD)),
            span=4,
        ),
        number(
            Words("Tickets firing", "Alerts that can wait for the morning."),
            "none",
            Query('count(ALERTS{alertstate="firing",severity="ticket"}) or vector(0)'),
            ((None, GOOD), (1, WARN)),
            span=4,
        ),
        lines(
            Words("Queries by arm", "The arm that the plan gave each unit. Shares should be those of the plan."),
            "reqps",
            Query(f"sum by (arm) (rate(serving_arm_answers_total{_MODEL}[$__rate_interval]))", "{{arm}}"),
            stacked=True,
        ),
        lines(
            Words(
                "Latency p99 by arm", "Permit to answer. A challenger far above the champion is rolled back by itself."
            ),
            "s",
            Query(f"model_arm:serving_arm_seconds:p99_rate5m{_MODEL}", "{{model}} {{arm}}"),
            steps=((None, "transparent"), (0.128, BAD)),
        ),
        lines(
            Words(
                "Click-NDCG by version",
                "Of the last closed window, from people's clicks. Noisy: the gate decides, not the eye. A version that"
                " has left is gone from the windows.",
            ),
            "none",
            Query(
                'pipelines_click_ndcg{model=~"$model",simulated="false"}',
                "{{model}}@{{version}} {{arm}}",
            ),
        ),
        states(
            Words("Rollouts", "State of each layer's newest rollout. Rolled back: `sluice rollout show` says why."),
            Query(f"max by (model, layer) (pipelines_rollout_state{_MODEL})", "{{model}} {{layer}}"),
            STATES,
        ),
        lines(
            Words(
                "Versions by arm", "Which version answers whom: a step is a promotion, a rollback or a new challenger."
            ),
            "none",
            Query(
                'max by (model, experiment, arm) (serving_plan_version{model=~"$model"}) > 0',
                "{{model}} {{arm}} {{experiment}}",
            ),
            span=12,
            height=5,
        ),
    )
