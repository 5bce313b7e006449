"""Drift: does what flows through still look as when the version was made?"""

from deploy.grafana.panels import BAD, GOOD, WARN, Board, Query, Words, lines, number

_ARM = '{model=~"$model",arm=~"$arm"}'
_FEATURES = '{model=~"$model",arm=~"$arm",quantity!~"ranking:.*"}'
_CLEAR = "transparent"


def board() -> Board:
    """What moved, features and rankings apart, and whether the monitor sees."""
    question = "Do features, scores and confidence still look as when the version was made?"
    return Board("drift", "Drift", question, ("model", "arm"), "now-28d").add(
        number(
            Words(
                "Alarms open: features",
                "A mean, missing or zero share that moved for days, by more than 0.1 sd, and that no retraining has"
                " answered. `sluice drift show` says since when; then find the cause, or retrain.",
            ),
            "none",
            Query('sum(drift_alarms_open{model=~"$model",arm=~"$arm",family="features"}) or vector(0)'),
            ((None, GOOD), (1, BAD)),
            span=6,
        ),
        number(
            Words(
                "Alarms open: confidence",
                "How sure the ranker is, or how far it disagrees with its shadow, has moved. No statement on quality by"
                " itself: look at click-NDCG.",
            ),
            "none",
            Query('sum(drift_alarms_open{model=~"$model",arm=~"$arm",family="confidence"}) or vector(0)'),
            ((None, GOOD), (1, WARN)),
            span=6,
        ),
        number(
            Words("Newest closed day", "Since it ended. Over two days: the monitor is away, or there is no traffic."),
            "s",
            Query(f"time() - max(drift_day_end_timestamp_seconds{_ARM})"),
            ((None, GOOD), (130_000, WARN), (180_000, BAD)),
            span=6,
        ),
        number(
            Words(
                "Largest sum of daily shifts",
                "Over its threshold, of all quantities: past 1 it alarms, if the shift is past the floor.",
            ),
            "none",
            Query(f"max(drift_cusum_ratio{_ARM})"),
            ((None, GOOD), (0.7, WARN), (1, BAD)),
            span=6,
            decimals=2,
        ),
        lines(
            Words(
                "Sum of daily shifts over its threshold, ten largest",
                "What decides: past 1 a quantity alarms, if its shift is past the floor too. It grows for days before.",
            ),
            "none",
            Query(f"topk(10, drift_cusum_ratio{_ARM})", "{{model}} {{arm}} {{quantity}} {{kind}}"),
            steps=((None, _CLEAR), (1, BAD)),
            span=12,
        ),
        lines(
            Words(
                "Shift of the newest day, ten largest",
                "From the anchor: of a mean in standard deviations of single values, of a share as it is. A ramp is"
                " drift, a step is somebody's change: `sluice drift rebaseline` if it was meant.",
            ),
            "none",
            Query(f"topk(10, abs(drift_day_shift{_ARM}))", "{{model}} {{arm}} {{quantity}} {{kind}}"),
            steps=((None, _CLEAR), (0.1, WARN)),
            span=12,
        ),
        lines(
            Words(
                "Segments: largest sum of daily shifts over its threshold",
                "Of all quantities of a declared part of the rankings (SLUICE_DRIFT_SEGMENTS). Past 1 one alarms, if"
                " its shift is past the floor; from 28 days on. `sluice drift show` names it.",
            ),
            "none",
            Query(f"topk(10, drift_segment_cusum_ratio{_ARM})", "{{model}} {{arm}} {{segment}} {{family}}"),
            steps=((None, _CLEAR), (1, BAD)),
            span=12,
        ),
        lines(
            Words(
                "Segments: alarms open",
                "In a declared part of the rankings. They decide nothing by themselves: look whose queries these are.",
            ),
            "none",
            Query(f"drift_segment_alarms_open{_ARM}", "{{model}} {{arm}} {{segment}} {{family}}"),
            span=12,
        ),
        lines(
            Words(
                "Calibration: clicks for each that scores said",
                "Of the newest collected window, freed of position bias; the mapping of scores is fitted before it,"
                " so 1 says that it still holds. No statement on how good the ranking is.",
            ),
            "none",
            Query('drift_calibration_clicks_ratio{model=~"$model"}', "{{model}} simulated {{simulated}}"),
            span=12,
            bounds=(None, None),
        ),
        lines(
            Words(
                "Calibration error",
                "How far clicks lie from what scores said, score by score, over their mean and beyond noise. nan:"
                " position bias is not known, or there are too few clicks. `sluice drift calibration` shows the curve.",
            ),
            "percentunit",
            Query('drift_calibration_error_ratio{model=~"$model"}', "{{model}} simulated {{simulated}}"),
            span=12,
        ),
        lines(
            Words("Open alarms", "1 while an alarm is open and not answered, by quantity; open ones first."),
            "none",
            Query(
                f"topk(20, drift_alarm_open{_ARM})",
                "{{model}} {{arm}} {{quantity}} {{kind}}",
            ),
            bounds=(0, 1),
        ),
        lines(
            Words(
                "Days judged",
                "By verdict, since the platform started. inconclusive: too few lists, or too few days known.",
            ),
            "none",
            Query(f"sum by (family, verdict) (drift_day_verdicts_total{_ARM})", "{{family}} {{verdict}}"),
        ),
        lines(
            Words("Quantities that moved in a window", "Of minutes: shown, not decided on. Days decide."),
            "none",
            Query(f"drift_moved_quantities{_ARM}", "{{model}} {{arm}}"),
        ),
        lines(
            Words(
                "Windows: shift of features, ten largest",
                "Of the mean from the profile, in its standard deviations. Shown only.",
            ),
            "none",
            Query(f"topk(10, abs(drift_shift_deviations{_FEATURES}))", "{{model}} {{arm}} {{quantity}}"),
            steps=((None, _CLEAR), (0.1, WARN)),
            span=12,
        ),
        lines(
            Words(
                "Windows: shift of scores and confidence",
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
                "PSI beyond chance, ten largest",
                "Less what it comes to without drift: about 0 on quiet traffic. Shown; nothing is decided on it.",
            ),
            "none",
            Query(f"topk(10, drift_psi_excess_nats{_FEATURES})", "{{model}} {{arm}} {{quantity}}"),
        ),
        lines(
            Words(
                "Season: shift from the same hour, ten largest",
                "From the same hour of the up to four weeks before. Near 0 while the shift from the profile is large:"
                " it is the hour or the weekday, not drift.",
            ),
            "none",
            Query(f"topk(10, abs(drift_season_shift_deviations{_ARM}))", "{{model}} {{arm}} {{quantity}}"),
        ),
        lines(
            Words(
                "Categories: distance of their shares, ten largest",
                "Jensen-Shannon distance from the profile, of features that look like codes: 0 is the same shares, 1"
                " nothing in common.",
            ),
            "none",
            Query(f"topk(10, drift_jensen_shannon_distance{_FEATURES})", "{{model}} {{arm}} {{quantity}}"),
        ),
        lines(
            Words(
                "Categories that are new, ten most",
                "Share of a feature's values that the version was not made on: it answers them by guessing. `sluice"
                " drift show` names them.",
            ),
            "percentunit",
            Query(f"topk(10, drift_new_category_ratio{_FEATURES})", "{{model}} {{arm}} {{quantity}}"),
        ),
        lines(
            Words(
                "Age of rows",
                "How long ago a list's stored rows were written, by share of lists that lie below. Grows by the clock:"
                " the loader of features stands.",
            ),
            "s",
            Query(f"drift_row_age_seconds{_ARM}", "{{model}} {{arm}} {{of_lists}}"),
        ),
        lines(
            Words(
                "Spread over the profile's, ten most",
                "Logarithm of the standard deviations: 0.69 is twice as wide, -0.69 half. The mean may stand still.",
            ),
            "none",
            Query(f"topk(10, abs(drift_spread_log_ratio{_ARM}))", "{{model}} {{arm}} {{quantity}}"),
        ),
        lines(
            Words(
                "Wasserstein distance, ten largest",
                "From the profile, in its standard deviations: as far as values moved, whatever the shape. Shown only.",
            ),
            "none",
            Query(f"topk(10, drift_wasserstein_deviations{_ARM})", "{{model}} {{arm}} {{quantity}}"),
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
