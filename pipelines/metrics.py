"""What pipelines tell Prometheus. Labels are few and bounded: never an id."""

from prometheus_client import Counter, Gauge, Histogram

ARCHIVE_LAG = Gauge(
    "pipelines_archive_lag_entries",
    "Stream entries that are not in the archive yet.",
    multiprocess_mode="mostrecent",
)
ARCHIVED = Counter("pipelines_archived_events", "Events written to the archive.", ["kind"])
ARCHIVE_DUPLICATES = Counter("pipelines_archive_duplicate_events", "Events that a batch or a compaction left out.")
ARCHIVE_REJECTED = Counter("pipelines_archive_rejected_events", "Events set aside as unreadable: alarm on any.")
ARCHIVE_FLUSH_SECONDS = Histogram(
    "pipelines_archive_flush_seconds",
    "Time to write a batch and acknowledge it.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
ARCHIVE_FAILURES = Counter("pipelines_archive_failures", "Rounds in which stream or disk did not answer; tried again.")

_ARM = ["model", "version", "arm", "simulated"]
CLICK_NDCG = Gauge(
    "pipelines_click_ndcg",
    "Click-NDCG of the last closed window, in [0, 1].",
    _ARM,
    multiprocess_mode="mostrecent",
)
CLICK_NDCG_ERROR = Gauge(
    "pipelines_click_ndcg_standard_error",
    "Standard error of pipelines_click_ndcg, clustered by unit; nan with fewer than two units.",
    _ARM,
    multiprocess_mode="mostrecent",
)
CLICK_LISTS = Gauge(
    "pipelines_click_ndcg_lists",
    "Rankings behind pipelines_click_ndcg.",
    _ARM,
    multiprocess_mode="mostrecent",
)
LEFT_OUT = Gauge(
    "pipelines_feedback_left_out_events",
    "Feedback of the last closed window that does not count, by reason.",
    ["model", "reason"],
    multiprocess_mode="mostrecent",
)

ROLLOUT_STATES = ("running", "paused", "promoted", "rolled_back", "aborted", "superseded")
_ROLLOUT = ["model", "layer"]
ROLLOUT_STATE = Gauge(
    "pipelines_rollout_state",
    "State of the layer's newest rollout: 0 running, 1 paused, 2 promoted, 3 rolled back, 4 aborted, 5 superseded.",
    _ROLLOUT,
    multiprocess_mode="mostrecent",
)
ROLLOUT_STEP = Gauge(
    "pipelines_rollout_step",
    "Step that the layer's rollout is in, from 0; -1 without one.",
    _ROLLOUT,
    multiprocess_mode="mostrecent",
)
ROLLOUT_WEIGHT = Gauge(
    "pipelines_rollout_weight_ratio",
    "Share of units that the layer's rollout gives its challenger, in [0, 1].",
    _ROLLOUT,
    multiprocess_mode="mostrecent",
)
ROLLOUT_STEP_SINCE = Gauge(
    "pipelines_rollout_step_timestamp_seconds",
    "When the layer's newest rollout came into its step, or ended, since the epoch.",
    _ROLLOUT,
    multiprocess_mode="mostrecent",
)
ROLLOUT_CHANGES = Counter("pipelines_rollout_changes", "What the engine did to rollouts.", ["model", "what"])
ROLLOUT_VERDICTS = Counter(
    "pipelines_rollout_verdicts", "Verdicts that the engine's decisions stand on.", ["kind", "verdict"]
)
ROLLOUT_FAILURES = Counter("pipelines_rollout_failures", "Rollouts that a turn could not move; tried again.")
ROLLOUT_TURN = Gauge(
    "pipelines_rollout_turn_timestamp_seconds",
    "When the engine last looked at all rollouts, since the epoch: alarm on an old one.",
    multiprocess_mode="mostrecent",
)

_RUN = ["model", "kind"]
RUNS = Gauge(
    "pipelines_runs",
    "Runs of pipelines by state; alarm on any that is dead: it waits for a person.",
    [*_RUN, "state"],
    multiprocess_mode="mostrecent",
)
RUN_PROGRESS = Gauge(
    "pipelines_run_progress_ratio",
    "Progress of the newest run, in [0, 1].",
    _RUN,
    multiprocess_mode="mostrecent",
)
RUN_WINDOW = Gauge(
    "pipelines_run_succeeded_window_timestamp_seconds",
    "End of the newest window with a run that succeeded, since the epoch: alarm on an old one.",
    _RUN,
    multiprocess_mode="mostrecent",
)
RUN_STEPS = Counter("pipelines_run_steps", "Attempts at steps of runs, by what came of them.", ["kind", "step", "what"])
RUN_TICK = Gauge(
    "pipelines_run_tick_timestamp_seconds",
    "When due windows and silent workers were last looked for, since the epoch: alarm on an old one.",
    multiprocess_mode="mostrecent",
)

AA_RESULTS = Counter(
    "pipelines_aa_results",
    "Steps that an A/A has left, by what it stood on: passed and failed are false, and may be as often as alpha says.",
    ["model", "kind", "verdict"],
)

_GATE = ["model", "layer", "kind"]
GATE_ESTIMATE = Gauge(
    "pipelines_gate_estimate_ratio",
    "Online gate: relative lift of click-NDCG, of interleaving the score, at the look that counts; nan before one.",
    _GATE,
    multiprocess_mode="mostrecent",
)
GATE_LOW = Gauge(
    "pipelines_gate_low_ratio",
    "Lower end of the interval, adjusted for looking; nan if there is none.",
    _GATE,
    multiprocess_mode="mostrecent",
)
GATE_HIGH = Gauge(
    "pipelines_gate_high_ratio",
    "Upper end of the interval, adjusted for looking; nan if there is none.",
    _GATE,
    multiprocess_mode="mostrecent",
)
GATE_ANYTIME_HIGH = Gauge(
    "pipelines_gate_anytime_high_ratio",
    "Upper end of the confidence sequence over everything until now: under the rollback margin it fails.",
    _GATE,
    multiprocess_mode="mostrecent",
)
GATE_Z = Gauge("pipelines_gate_z", "z at the look that counts.", _GATE, multiprocess_mode="mostrecent")
GATE_BOUNDARY = Gauge(
    "pipelines_gate_boundary_z", "The z to be crossed at that look.", _GATE, multiprocess_mode="mostrecent"
)
GATE_LOOK = Gauge("pipelines_gate_look", "Planned looks that are closed.", _GATE, multiprocess_mode="mostrecent")
GATE_LISTS = Gauge("pipelines_gate_lists", "Lists that were judged.", _GATE, multiprocess_mode="mostrecent")
GATE_VERDICT = Gauge(
    "pipelines_gate_verdict",
    "The gate's verdict: 0 passed, 1 inconclusive, 2 errored, 3 failed.",
    _GATE,
    multiprocess_mode="mostrecent",
)
GATE_GAUGES = (
    GATE_ESTIMATE, GATE_LOW, GATE_HIGH, GATE_ANYTIME_HIGH, GATE_Z, GATE_BOUNDARY, GATE_LOOK, GATE_LISTS, GATE_VERDICT
)  # fmt: skip
"""Of one gate; nan when it is over."""
GATE_VERDICTS = ("passed", "inconclusive", "errored", "failed")
GATE_TURN = Gauge(
    "pipelines_gate_turn_timestamp_seconds",
    "When gates were last judged, since the epoch: alarm on an old one while a rollout runs.",
    multiprocess_mode="mostrecent",
)
GATE_FAILURES = Counter("pipelines_gate_failures", "Gates that a turn could not judge; tried again.")
