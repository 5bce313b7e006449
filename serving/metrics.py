"""What serving tells Prometheus. Labels are few and bounded: never an id."""

from prometheus_client import Counter, Gauge, Histogram

from registry.contracts.counters import LATENCY_BOUNDS_MS

_FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

ANSWERS = Counter(
    "serving_answers", "Queries answered or refused, by model, arm and HTTP status.", ["model", "arm", "status"]
)
_ARM = ["model", "experiment", "arm"]  # experiments: of plans, bounded by `arm_counts`; empty in the champion's arm
ARM_ANSWERS = Counter(
    "serving_arm_answers",
    "Queries by the arm that the plan gave their unit, and what became of them.",
    [*_ARM, "outcome"],
)
ARM_DEGRADED = Counter("serving_arm_degraded_answers", "Answers that had to do without something, by arm.", _ARM)
ARM_BOUNDS_STEP = 4  # every so many of the counter board's buckets
ARM_SECONDS = Histogram(
    "serving_arm_seconds",
    "Time from permit to answer, by arm.",
    _ARM,
    buckets=[bound_ms / 1000 for bound_ms in LATENCY_BOUNDS_MS[::ARM_BOUNDS_STEP]],
)
BREAKERS_OPEN = Gauge(
    "serving_breakers_open",
    "Versions that fail on over half of their queries: for an experiment's the champion answers, for a champion the"
    " last known order.",
    ["model"],
    multiprocess_mode="livesum",
)
MIRRORED = Counter(
    "serving_mirrored_queries",
    "Queries that the coin chose for a mirror, by what became of them.",
    ["model", "outcome"],
)
DOOR_REFUSALS = Counter(
    "serving_door_refusals",
    "Requests refused before their query was looked at, by reason: who asks, or how much.",
    ["reason"],
)
QUOTA_LEASES = Counter(
    "serving_quota_leases",
    "Leases of quota tokens: granted and refused by Redis, local while it is away.",
    ["outcome"],
)
KEY_SET_FETCHES = Counter(
    "serving_key_set_fetches", "Fetches of the token issuer's public keys, by what came of them.", ["outcome"]
)
TLS_REFUSED = Counter(
    "serving_tls_refusals",
    "Connections that a worker refused: no handshake, none in time, or a certificate of somebody else.",
    ["reason"],
)
TLS_ROTATIONS = Counter(
    "serving_tls_rotations", "Certificates read again because their files changed, by what came of it.", ["outcome"]
)
GRPC_CALLS = Counter("serving_grpc_calls", "gRPC calls ended, by method and status code.", ["method", "code"])
STAGE_SECONDS = Histogram("serving_stage_seconds", "Time of one stage of an answered query.", ["stage"], buckets=_FAST)
DEGRADED = Counter("serving_degraded_answers", "Answers that had to do without something.", ["model", "reason"])
RUNGS = Counter(
    "serving_ladder_answers",
    "Answers below the first rung of the ladder, by the lowest one that they stand on.",
    ["model", "rung"],
)
IN_FLIGHT = Gauge("serving_permits_in_use", "Queries between permit and answer.", multiprocess_mode="livesum")
PERMITS = Gauge("serving_permits", "Queries that may be in flight at once.", multiprocess_mode="livesum")
MODEL_PERMITS = Gauge(
    "serving_model_permits",
    "Queries of a model that may be in flight at once: as many as come back well before their deadline.",
    ["model"],
    multiprocess_mode="livesum",
)
QUEUE = Gauge("serving_queue_queries", "Queries that wait for a device, twice a second.", multiprocess_mode="livesum")
PLAN_REVISION = Gauge(
    "serving_plan_revision", "Traffic plan revision that this process follows.", ["model"], multiprocess_mode="livemin"
)
PLAN_VERSION = Gauge(
    "serving_plan_version",
    "Version that the plan gives an arm's units; 0: the experiment is over.",
    _ARM,
    multiprocess_mode="livemostrecent",
)
PLAN_WEIGHT = Gauge(
    "serving_plan_weight_ratio",
    "Share of units that the plan gives an arm, in [0, 1]; the champion has what is left.",
    _ARM,
    multiprocess_mode="livemostrecent",
)
REPLICAS = Gauge(  # with a label, or the zeros of processes without replicas would be the minimum
    "serving_replicas",
    "Replicas that a gateway is connected to, and those of them that are ready; of the gateway with the fewest.",
    ["state"],
    multiprocess_mode="livemin",
)
REPLICA_BREAKERS = Gauge(
    "serving_replica_breakers",
    "Replicas that a gateway leaves out (open) or tries again (half_open), as the gateway with the most sees it.",
    ["state"],
    multiprocess_mode="livemax",
)
RETRIES = Counter("serving_replica_retries", "Queries sent again because their replica was lost or failed.")
RETRY_BUDGET = Gauge(
    "serving_retry_budget_queries",
    "Queries of a model that may be sent again now; of the gateway with the fewest.",
    ["model"],
    multiprocess_mode="livemin",
)
RETRIES_REFUSED = Counter(
    "serving_refused_retries",
    "Queries whose replica was lost or failed that were not sent again: budget, tries, deadline, or alone.",
    ["reason"],
)
HEDGES = Counter(
    "serving_hedged_queries",
    "Queries sent to a second replica because the first was slow; won: the second answered first.",
    ["outcome"],
)
DEADLINES = Counter(
    "serving_passed_deadlines",
    "Queries dropped because their deadline passed, or was sure to, by the stage that dropped them.",
    ["stage"],
)

EVENTS_LOGGED = Counter("serving_events_logged", "Events written to the journal.", ["kind"])
EVENTS_DROPPED = Counter("serving_events_dropped", "Events lost because the journal was full: alarm on any.", ["kind"])
EVENTS_SHIPPED = Counter("serving_events_shipped", "Events handed to the stream.")
JOURNAL_BYTES = Gauge(
    "serving_journal_backlog_bytes", "Journal bytes not yet in the stream.", multiprocess_mode="livesum"
)
JOURNAL_CAPACITY = Gauge(
    "serving_journal_capacity_bytes", "Journal bytes until events are dropped.", multiprocess_mode="livesum"
)
TRACES = Counter("serving_traces", "Queries told of as traces.")
TRACES_LEFT_OUT = Counter("serving_traces_left_out", "Queries wanted as traces, over what one process tells a second.")
FEEDBACK = Counter("serving_feedback_events", "Feedback events by kind and outcome.", ["kind", "outcome"])

BATCH_CANDIDATES = Histogram(
    "serving_batch_candidates",
    "Rows in one forward pass.",
    ["model"],
    buckets=(1, 10, 50, 100, 200, 400, 800, 1600, 3200, 6400),
)
MISSING_ROWS = Counter("serving_missing_rows", "Candidates without a stored row.", ["model"])
STALE_ROWS = Counter("serving_stale_rows", "Candidates whose row is past its freshness limit.", ["model"])
STALE_VALUES = Counter(
    "serving_stale_values", "Feature values looked up past their own freshness limit.", ["view", "column"]
)
MISSING_VALUES = Counter(
    "serving_missing_values",
    "Feature values that were the default: there is no row, or it lacks the value.",
    ["view", "column"],
)
REFUSED_ROWS = Counter("serving_refused_rows", "Stored rows of another layout, treated as missing.", ["view"])
TIER_LOOKUPS = Counter("serving_tier_lookups", "Row lookups in the host slab.", ["view", "outcome"])
TIER_ROWS = Gauge("serving_tier_rows", "Rows held in the host slab.", ["view"], multiprocess_mode="livesum")
TIER_CHECKS = Counter(
    "serving_tier_checks", "Rows held that were looked up again because changes may have been missed.", ["view"]
)
TIER_UNCHECKED_ROWS = Counter(
    "serving_tier_unchecked_rows", "Rows served from the host slab that were yet to be looked up again.", ["view"]
)
PREFETCHES = Counter("serving_prefetched_rows", "Rows to be fetched ahead, by what became of them.", ["outcome"])
MODEL_BYTES = Gauge(
    "serving_model_bytes", "Device memory of a model's loaded versions.", ["model"], multiprocess_mode="livesum"
)
FAILED_LOADS = Counter("serving_failed_loads", "Versions that could not be loaded.", ["model"])

DEVICE_LOOKUPS = Counter("serving_device_tier_lookups", "Row lookups in device memory.", ["view", "outcome"])
DEVICE_ROWS = Gauge(
    "serving_device_tier_rows", "Rows resident in device memory.", ["view"], multiprocess_mode="livesum"
)
PRECISION_FALLBACKS = Counter(
    "serving_precision_fallbacks", "Versions served in float32 because a lower precision ranked otherwise.", ["model"]
)
COMPILE_FALLBACKS = Counter("serving_compile_fallbacks", "Versions served as exported: compiling failed.", ["model"])
GRAPH_FALLBACKS = Counter("serving_graph_fallbacks", "Row counts that no captured graph serves.", ["model", "reason"])
GRAPH_PASSES = Counter("serving_graph_passes", "Forward passes, by whether a graph was replayed.", ["model", "how"])

# several workers may share a device: each tells what it saw last
DEVICE_MEMORY = Gauge(
    "serving_device_memory_bytes",
    "Memory of a device, used and free.",
    ["device", "kind"],
    multiprocess_mode="livemostrecent",
)
DEVICE_BUSY = Gauge(
    "serving_device_utilisation_ratio",
    "Share of the last moment in which a kernel ran.",
    ["device"],
    multiprocess_mode="livemostrecent",
)
DEVICE_POWER = Gauge(
    "serving_device_power_watts", "Power that a device draws.", ["device"], multiprocess_mode="livemostrecent"
)
DEVICE_TEMPERATURE = Gauge(
    "serving_device_temperature_celsius", "Temperature of a device.", ["device"], multiprocess_mode="livemostrecent"
)
DEVICE_CLOCK = Gauge(
    "serving_device_sm_clock_hertz",
    "Clock of a device's multiprocessors.",
    ["device"],
    multiprocess_mode="livemostrecent",
)

_FROM_ZERO: tuple[tuple[Counter, tuple[str, ...]], ...] = (
    (DOOR_REFUSALS, ("none", "key", "expired", "token", "role", "model", "unknown_yet")),
    (QUOTA_LEASES, ("granted", "refused", "local")),
    (RETRIES_REFUSED, ("budget", "tries", "deadline", "alone")),
    (HEDGES, ("sent", "won", "lost")),
    (DEADLINES, ("gateway", "replica", "queue", "features", "device")),
    (TLS_REFUSED, ("handshake", "name", "timeout")),
    (TLS_ROTATIONS, ("done", "failed")),
)


def begin_at_zero() -> None:
    """Gives counters with few labels their series: they would begin with their first event, which no rate sees."""
    for counter, labels in _FROM_ZERO:
        for label in labels:
            counter.labels(label)
    for state in ("open", "half_open"):
        REPLICA_BREAKERS.labels(state).set(0)
