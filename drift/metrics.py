"""What drift tells Prometheus. Labels are few and bounded: never an id, and no version.

Gauges show the newest judged window of a model's arm; its version and all else are in the report.
`quantity` is a feature's name, or `ranking:scores`, `ranking:margin`, `ranking:entropy`.
"""

from prometheus_client import Counter, Gauge

_ARM = ["model", "arm"]
_QUANTITY = [*_ARM, "quantity"]

EVENTS = Counter(
    "drift_events",
    "Rankings read, by what became of them: absorbed, repeated, late, misdated, outside; or unreadable events.",
    ["outcome"],
)
VERDICTS = Counter("drift_verdicts", "Windows judged, by verdict.", [*_ARM, "verdict"])
SHIFT = Gauge(
    "drift_shift_deviations",
    "Shift of a quantity's mean, in reference standard deviations.",
    _QUANTITY,
    multiprocess_mode="mostrecent",
)
MISSING_SHARE = Gauge(
    "drift_missing_share", "Share of a feature's values that were missing.", _QUANTITY, multiprocess_mode="mostrecent"
)
ZERO_SHARE = Gauge(
    "drift_zero_share", "Share of a feature's values that were zero.", _QUANTITY, multiprocess_mode="mostrecent"
)
PSI = Gauge("drift_psi_nats", "Population stability index, not to alarm on.", _QUANTITY, multiprocess_mode="mostrecent")
MOVED = Gauge(
    "drift_moved_quantities", "Quantities that moved, in the newest window.", _ARM, multiprocess_mode="mostrecent"
)
WINDOW_LISTS = Gauge("drift_window_lists", "Lists in the newest window.", _ARM, multiprocess_mode="mostrecent")
WINDOW_END = Gauge(
    "drift_window_end_seconds", "When the newest judged window ended, unix time.", _ARM, multiprocess_mode="mostrecent"
)
OPEN_WINDOWS = Gauge("drift_open_windows", "Windows that still take events.", multiprocess_mode="livesum")
LAG = Gauge("drift_lag_entries", "Stream entries the monitor has not acknowledged.", multiprocess_mode="livemax")
