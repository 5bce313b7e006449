"""Rollout and gate: where is the new version, what does the evidence say, and how do the arms compare?"""

from deploy.grafana.panels import BAD, GOOD, WARN, Board, Query, Words, lines, number, states

STATES = (
    ("running", "blue"),
    ("paused", WARN),
    ("promoted", GOOD),
    ("rolled back", BAD),
    ("aborted", "#808080"),
    ("superseded", "#808080"),
)
_MODEL = '{model=~"$model"}'
_CLEAR = "transparent"


def board() -> Board:
    """The rollout, its arms side by side, the mirror."""
    question = "Where is the new version, what does the evidence say, and how do the arms compare?"
    return Board("rollout-and-gate", "Rollout and gate", question, ("model",), "now-7d").add(
        states(
            Words("Rollouts", "State of each layer's newest rollout. `sluice rollout show` says what it waits for."),
            Query(f"max by (model, layer) (pipelines_rollout_state{_MODEL})", "{{model}} {{layer}}"),
            STATES,
            span=12,
        ),
        states(
            Words(
                "Step", "Number of the step in the rollout's own list, from 0; `sluice rollout show` has their names."
            ),
            Query(f"max by (model, layer) (pipelines_rollout_step{_MODEL})", "{{model}} {{layer}}"),
            (("none", "#808080"), *((str(step), "blue") for step in range(12))),
            span=12,
            first=-1,
        ),
        lines(
            Words("Share of units", "What the plan gives each arm. The champion has what is left."),
            "percentunit",
            Query(
                f"max by (model, experiment, arm) (serving_plan_weight_ratio{_MODEL}) > 0",
                "{{model}} {{arm}} {{experiment}}",
            ),
            bounds=(0, 1),
        ),
        lines(
            Words("Versions by arm", "Which version each arm gets."),
            "none",
            Query(
                f"max by (model, experiment, arm) (serving_plan_version{_MODEL}) > 0",
                "{{model}} {{arm}} {{experiment}}",
            ),
        ),
        lines(
            Words(
                "Verdicts", "That the engine's decisions stood on, by kind. A failed one rolls back, whenever it comes."
            ),
            "none",
            Query("sum by (kind, verdict) (pipelines_rollout_verdicts_total)", "{{kind}} {{verdict}}"),
        ),
        states(
            Words(
                "Gate",
                "The online gate's verdict so far. inconclusive holds, failed rolls back. errored: the measurement is"
                " broken, `sluice rollout explain` says how.",
            ),
            Query(f"max by (model, layer, kind) (pipelines_gate_verdict{_MODEL})", "{{model}} {{layer}} {{kind}}"),
            (("passed", GOOD), ("inconclusive", "blue"), ("errored", WARN), ("failed", BAD)),
            span=24,
        ),
        lines(
            Words(
                "Gate: estimate and interval",
                "Relative lift of click-NDCG (of interleaving the score), with the interval adjusted for looking. The"
                " last line is what may still be, whenever one looks: under the rollback margin it fails.",
            ),
            "percentunit",
            Query(f"pipelines_gate_estimate_ratio{_MODEL}", "{{model}} {{layer}} {{kind}}"),
            Query(f"pipelines_gate_low_ratio{_MODEL}", "{{model}} {{layer}} {{kind}} lower bound"),
            Query(f"pipelines_gate_high_ratio{_MODEL}", "{{model}} {{layer}} {{kind}} upper bound"),
            Query(f"pipelines_gate_anytime_high_ratio{_MODEL}", "{{model}} {{layer}} {{kind}} at most"),
            steps=((None, _CLEAR), (0, "text")),
            bounds=(None, None),
        ),
        lines(
            Words(
                "Gate: z and its boundary",
                "Over the boundary at a planned look it passes. Do not wait for a late look to be lucky.",
            ),
            "none",
            Query(f"pipelines_gate_z{_MODEL}", "{{model}} {{layer}} {{kind}} z"),
            Query(f"pipelines_gate_boundary_z{_MODEL}", "{{model}} {{layer}} {{kind}} boundary"),
            bounds=(None, None),
        ),
        lines(
            Words(
                "Gate: lists and looks",
                "Lists judged so far. `sluice rollout explain` says how many are still expected.",
            ),
            "none",
            Query(f"pipelines_gate_lists{_MODEL}", "{{model}} {{layer}} {{kind}} lists"),
            Query(f"pipelines_gate_look{_MODEL}", "{{model}} {{layer}} {{kind}} looks"),
        ),
        lines(
            Words(
                "Failed queries by arm", "A guardrail. The challenger above the champion beyond chance is rolled back."
            ),
            "percentunit",
            Query(f"model_arm:serving_failed_per_query:ratio_rate5m{_MODEL}", "{{model}} {{arm}}"),
        ),
        lines(
            Words(
                "Degraded answers by arm", "A guardrail. What the champion had to answer for an arm counts as failed."
            ),
            "percentunit",
            Query(f"model_arm:serving_degraded_per_answer:ratio_rate5m{_MODEL}", "{{model}} {{arm}}"),
        ),
        lines(
            Words("Latency p99 by arm", "A guardrail, over the same time for both arms."),
            "s",
            Query(f"model_arm:serving_arm_seconds:p99_rate5m{_MODEL}", "{{model}} {{arm}}"),
        ),
        lines(
            Words(
                "Click-NDCG by version",
                "Of the last closed window, with one standard error. Not the gate's figure: that is cleaned, and"
                " adjusted for looking.",
            ),
            "none",
            Query(
                'pipelines_click_ndcg{model=~"$model",simulated="false"}',
                "{{model}}@{{version}} {{arm}}",
            ),
            Query(
                'pipelines_click_ndcg{model=~"$model",simulated="false"}'
                ' - pipelines_click_ndcg_standard_error{model=~"$model",simulated="false"}',
                "{{model}}@{{version}} {{arm}} lower bound",
            ),
            Query(
                'pipelines_click_ndcg{model=~"$model",simulated="false"}'
                ' + pipelines_click_ndcg_standard_error{model=~"$model",simulated="false"}',
                "{{model}}@{{version}} {{arm}} upper bound",
            ),
            bounds=(None, None),
        ),
        lines(
            Words(
                "Mirror: agreement with the champion",
                "Mean over the newest window's mirrored lists; 1 is the same list. A retrained version keeps most.",
            ),
            "none",
            Query(
                'drift_rank_agreement{model=~"$model",measure=~"overlap|rank_biased_overlap|first_agrees|kendall_tau"}',
                "{{model}} {{experiment}} {{measure}}",
            ),
            bounds=(None, 1),
        ),
        lines(
            Words(
                "Mirror: errors and time", "Share of mirrored queries without a list, and their p99 over the answers'."
            ),
            "none",
            Query(f"drift_mirror_error_ratio{_MODEL}", "{{model}} {{experiment}} errors"),
            Query(f"drift_mirror_p99_ratio{_MODEL}", "{{model}} {{experiment}} p99 ratio"),
        ),
        number(
            Words(
                "Engine last looked", "Seconds since a controller looked at all rollouts. Over a minute: it is away."
            ),
            "s",
            Query("time() - (max(pipelines_rollout_turn_timestamp_seconds) > 0)"),
            ((None, GOOD), (10, WARN), (60, BAD)),
            span=6,
        ),
        number(
            Words(
                "Gates last judged",
                "Seconds since. Matters while a rollout waits for a gate: it is the Celery worker's.",
            ),
            "s",
            Query("time() - (max(pipelines_gate_turn_timestamp_seconds) > 0)"),
            ((None, GOOD), (180, WARN), (600, BAD)),
            span=6,
        ),
        number(
            Words(
                "Gates that could not be judged",
                "In the last hour; tried again each minute. `sluice logs celery-worker` says why.",
            ),
            "none",
            Query("sum(increase(pipelines_gate_failures_total[1h]))"),
            ((None, GOOD), (1, WARN)),
            span=6,
            decimals=0,
        ),
        number(
            Words(
                "A/A: false verdicts",
                "Of champions against themselves, ever. As many as alpha allows are right; more: tell us.",
            ),
            "none",
            Query('sum(pipelines_aa_results_total{model=~"$model",verdict=~"passed|failed"}) or vector(0)'),
            span=6,
        ),
        number(
            Words(
                "Turns that could not move a rollout",
                "In the last hour; tried again each second. The controller logs why.",
            ),
            "none",
            Query("sum(increase(pipelines_rollout_failures_total[1h]))"),
            ((None, GOOD), (1, WARN)),
            span=6,
            decimals=0,
        ),
        number(
            Words(
                "Breakers open", "Versions under test that fail on over half of their queries, summed over gateways."
            ),
            "none",
            Query(f"sum(serving_breakers_open{_MODEL}) or vector(0)"),
            ((None, GOOD), (1, BAD)),
            span=6,
        ),
        number(
            Words("Versions that could not be loaded", "In the last hour. The worker's log says why; the plan waits."),
            "none",
            Query(f"sum(increase(serving_failed_loads_total{_MODEL}[1h])) or vector(0)"),
            ((None, GOOD), (1, BAD)),
            span=6,
            decimals=0,
        ),
    )
