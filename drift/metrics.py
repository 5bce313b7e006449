"""What drift tells Prometheus. Labels are few and bounded: never an id, and no version.

Gauges show the newest judged window of a model's arm; its version and all else are in the report.
`quantity` is a feature's name, or `ranking:scores`, `ranking:margin`, `ranking:entropy`, `ranking:disagreement`.
Windows are shown, closed days decide: alert on `drift_alarms_open`.
"""

from prometheus_client import Counter, Gauge

_ARM = ["model", "arm"]
_QUANTITY = [*_ARM, "quantity"]

EVENTS = Counter(
    "drift_events",
    "Rankings read, by what became of them: absorbed, repeated, late, misdated, crowded (too many windows are open), "
    "outside; or unreadable events.",
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
    "drift_missing_ratio", "Share of a feature's values that were missing.", _QUANTITY, multiprocess_mode="mostrecent"
)
ZERO_SHARE = Gauge(
    "drift_zero_ratio", "Share of a feature's values that were zero.", _QUANTITY, multiprocess_mode="mostrecent"
)
PSI = Gauge("drift_psi_nats", "Population stability index, not to alarm on.", _QUANTITY, multiprocess_mode="mostrecent")
PSI_EXCESS = Gauge(
    "drift_psi_excess_nats",
    "Population stability index less what chance makes of it: about 0 on quiet traffic, whatever its amount.",
    _QUANTITY,
    multiprocess_mode="mostrecent",
)
KS = Gauge(
    "drift_ks_distance",
    "Kolmogorov-Smirnov distance from the profile, over its bins.",
    _QUANTITY,
    multiprocess_mode="mostrecent",
)
WASSERSTEIN = Gauge(
    "drift_wasserstein_deviations",
    "Wasserstein distance from the profile, in reference standard deviations.",
    _QUANTITY,
    multiprocess_mode="mostrecent",
)
SPREAD = Gauge(
    "drift_spread_log_ratio",
    "Natural logarithm of a quantity's standard deviation over the profile's.",
    _QUANTITY,
    multiprocess_mode="mostrecent",
)
SEASON_SHIFT = Gauge(
    "drift_season_shift_deviations",
    "Shift of a quantity's mean from the same hour of earlier weeks, in reference standard deviations.",
    _QUANTITY,
    multiprocess_mode="mostrecent",
)
JENSEN_SHANNON = Gauge(
    "drift_jensen_shannon_distance",
    "Jensen-Shannon distance of a feature's categories from the profile's.",
    _QUANTITY,
    multiprocess_mode="mostrecent",
)
NEW_CATEGORIES = Gauge(
    "drift_new_category_ratio",
    "Share of a feature's values that are a category the version was not made on.",
    _QUANTITY,
    multiprocess_mode="mostrecent",
)
ROW_AGE = Gauge(
    "drift_row_age_seconds",
    "How long ago a list's stored rows were written on average, by share of lists that lie below.",
    [*_ARM, "of_lists"],
    multiprocess_mode="mostrecent",
)
MOVED = Gauge(
    "drift_moved_quantities", "Quantities that moved, in the newest window.", _ARM, multiprocess_mode="mostrecent"
)
WINDOW_LISTS = Gauge("drift_window_lists", "Lists in the newest window.", _ARM, multiprocess_mode="mostrecent")
WINDOW_END = Gauge(
    "drift_window_end_timestamp_seconds",
    "When the newest judged window ended, unix time.",
    _ARM,
    multiprocess_mode="mostrecent",
)
_KIND = [*_QUANTITY, "kind"]
DAY_VERDICTS = Counter("drift_day_verdicts", "Closed days judged, by verdict.", [*_ARM, "family", "verdict"])
DAY_END = Gauge(
    "drift_day_end_timestamp_seconds",
    "When the newest closed day ended, since the epoch.",
    _ARM,
    multiprocess_mode="mostrecent",
)
DAY_SHIFT = Gauge(
    "drift_day_shift",
    "The newest closed day's shift from the anchor (from the profile before there is one): of a mean in standard "
    "deviations of single values, of a share as it is.",
    _KIND,
    multiprocess_mode="mostrecent",
)
CUSUM = Gauge(
    "drift_cusum_ratio",
    "The largest sum of daily shifts over its threshold: past 1 it alarms, if the shift is past the floor too.",
    _KIND,
    multiprocess_mode="mostrecent",
)
ALARM_OPEN = Gauge(
    "drift_alarm_open",
    "1 while an alarm on the quantity is open and not answered.",
    _KIND,
    multiprocess_mode="mostrecent",
)
ALARMS_OPEN = Gauge(
    "drift_alarms_open",
    "Alarms that are open and not answered by a retraining.",
    [*_ARM, "family"],
    multiprocess_mode="mostrecent",
)
_SEGMENT = [*_ARM, "segment", "family"]
SEGMENT_ALARMS_OPEN = Gauge(
    "drift_segment_alarms_open",
    "Alarms that are open in a declared segment of the arm's rankings.",
    _SEGMENT,
    multiprocess_mode="mostrecent",
)
SEGMENT_CUSUM = Gauge(
    "drift_segment_cusum_ratio",
    "The largest sum of daily shifts of a segment over its threshold, of all its quantities.",
    _SEGMENT,
    multiprocess_mode="mostrecent",
)
_CLICKS = ["model", "simulated"]
CALIBRATION_ERROR = Gauge(
    "drift_calibration_error_ratio",
    "How far clicks of the newest collected window lie from what scores said, noise taken off, over the mean expected.",
    _CLICKS,
    multiprocess_mode="mostrecent",
)
CALIBRATION_CLICKS = Gauge(
    "drift_calibration_clicks_ratio",
    "Clicks of the newest collected window over those that scores said, by a mapping fitted before it.",
    _CLICKS,
    multiprocess_mode="mostrecent",
)
CALIBRATION_CLICKS_ERROR = Gauge(
    "drift_calibration_clicks_standard_error",
    "Standard error of drift_calibration_clicks_ratio.",
    _CLICKS,
    multiprocess_mode="mostrecent",
)
CALIBRATION_END = Gauge(
    "drift_calibration_end_timestamp_seconds",
    "When the newest window ended of which calibration is known, since the epoch.",
    _CLICKS,
    multiprocess_mode="mostrecent",
)
OPEN_WINDOWS = Gauge("drift_open_windows", "Windows that still take events.", multiprocess_mode="livesum")
LAG = Gauge("drift_lag_entries", "Stream entries the monitor has not acknowledged.", multiprocess_mode="livemax")

MIRROR_EVENTS = Counter(
    "drift_mirror_events",
    "Mirror events read, by what became of them: absorbed, late (counted in the step alone), repeated, misdated, "
    "crowded, unreadable.",
    ["outcome"],
)
MIRROR_LAG = Gauge(
    "drift_mirror_lag_entries", "Stream entries the mirror monitor has not acknowledged.", multiprocess_mode="livemax"
)
_SHADOW = ["model", "experiment"]
RANK_DIFFS = Counter("drift_rank_diffs", "Windows of mirrored lists judged, by verdict.", [*_SHADOW, "verdict"])
RANK_AGREEMENT = Gauge(
    "drift_rank_agreement",
    "Mean over the newest window's mirrored lists, by measure (rank_summary.MEASURES).",
    [*_SHADOW, "measure"],
    multiprocess_mode="mostrecent",
)
MIRRORED_LISTS = Gauge(
    "drift_mirrored_lists", "Lists compared in the newest window.", _SHADOW, multiprocess_mode="mostrecent"
)
MIRROR_ERROR_SHARE = Gauge(
    "drift_mirror_error_ratio",
    "Share of the newest window's mirrored queries without a list.",
    _SHADOW,
    multiprocess_mode="mostrecent",
)
MIRROR_P99_RATIO = Gauge(
    "drift_mirror_p99_ratio",
    "99th percentile of the mirrored queries' latency over the answers'.",
    _SHADOW,
    multiprocess_mode="mostrecent",
)

MOST_EXPERIMENTS = 64
_experiments: set[str] = set()


def experiment_label(name: str) -> str:
    """The name while there are few, then `other`: experiments come and go, series stay."""
    if name not in _experiments and len(_experiments) >= MOST_EXPERIMENTS:
        return "other"
    _experiments.add(name)
    return name
