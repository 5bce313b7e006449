"""Drift: does what flows through still look as when the version was made?"""

from deploy.grafana.panels import BAD, GOOD, WARN, Board, Query, Words, lines, number

_ARM = '{model=~"$model",arm=~"$arm"}'
_FEATURES = '{model=~"$model",arm=~"$arm",quantity!~"ranking:.*"}'
_CLEAR = "transparent"


def board() -> Board:
    """What moved, features and rankings apart, and whether the monitor sees."""
    question = "Do features, scores and confidence still look as when the version was made?"
    return Board("drift", "Drift", question, ("model", "arm"), "now-14d").add(
        lines(
            Words("Shift of features, ten largest", "Of the mean, in reference standard deviations, newest window."),
            "none",
            Query(f"topk(10, abs(drift_shift_deviations{_FEATURES}))", "{{model}} {{arm}} {{quantity}}"),
            steps=((None, _CLEAR), (0.1, WARN)),
            span=12,
        ),
        lines(
            Words(
                "Shift of scores and confidence",
                "Margin falls, entropy rises: the model is less sure than it was. Scores alone: another scale.",
            ),
            "none",
            Query(
                'drift_shift_deviations{model=~"$model",arm=~"$arm",quantity=~"ranking:.*"}',
                "{{model}} {{arm}} {{quantity}}",
            ),
            span=12,
            bounds=(None, None),
        ),
        lines(
            Words("Missing values, ten most", "Share of a feature's values. See Features for where they are lost."),
            "percentunit",
            Query(f"topk(10, drift_missing_ratio{_FEATURES})", "{{model}} {{arm}} {{quantity}}"),
        ),
        lines(
            Words("Zeros, ten most", "Share of a feature's values that were zero: how a broken join looks."),
            "percentunit",
            Query(f"topk(10, drift_zero_ratio{_FEATURES})", "{{model}} {{arm}} {{quantity}}"),
        ),
        lines(
            Words(
                "PSI, ten largest",
                "Shown because people ask for it. Nothing is decided on it: it alarms without drift.",
            ),
            "none",
            Query(f"topk(10, drift_psi_nats{_FEATURES})", "{{model}} {{arm}} {{quantity}}"),
        ),
        lines(
            Words("Lists in the newest window", "With few a window is inconclusive: it says nothing either way."),
            "none",
            Query(f"drift_window_lists{_ARM}", "{{model}} {{arm}}"),
        ),
        lines(
            Words("Windows judged", "By verdict, per hour. errored: no profile, or events do not fit it."),
            "none",
            Query(f"sum by (verdict) (increase(drift_verdicts_total{_ARM}[1h]))", "{{verdict}}"),
        ),
        lines(
            Words("Events read", "By what became of them. late and misdated count in no window: look at clocks."),
            "cps",
            Query("sum by (outcome) (rate(drift_events_total[$__rate_interval]))", "{{outcome}}"),
        ),
        number(
            Words(
                "Newest window",
                "Since the newest judged window ended. Grows while there is traffic: the monitor is away.",
            ),
            "s",
            Query(f"time() - max(drift_window_end_timestamp_seconds{_ARM})"),
            ((None, GOOD), (1800, WARN), (7200, BAD)),
            span=8,
        ),
        number(
            Words("Monitor behind", "Stream entries that it has not acknowledged."),
            "none",
            Query("max(drift_lag_entries)"),
            ((None, GOOD), (500, WARN), (1000, BAD)),
            span=8,
        ),
        number(
            Words("Windows open", "That still take events. Many: events come late, or clocks differ."),
            "none",
            Query("max(drift_open_windows)"),
            span=8,
        ),
    )
