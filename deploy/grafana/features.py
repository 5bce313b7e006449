"""Features: do the models see what they should, and where does it come from?"""

from deploy.grafana.panels import BAD, WARN, Board, Query, Words, lines

_CLEAR = "transparent"


def _per_candidate(counter: str) -> str:
    rows = 'sum by (model) (rate(serving_batch_candidates_sum{model=~"$model"}[$__rate_interval]))'
    return f'sum by (model) (rate({counter}{{model=~"$model"}}[$__rate_interval])) / ({rows} > 0)'


def board() -> Board:
    """What is missing or stale, by model and by column, and the tiers."""
    return Board("features", "Features", "Do models see the features they should, and where do those come from?").add(
        lines(
            Words(
                "Candidates without a row",
                "Share of ranked candidates whose features were all defaults. Rises: the loader is behind, or callers"
                " send items that are new.",
            ),
            "percentunit",
            Query(_per_candidate("serving_missing_rows_total"), "{{model}}"),
            steps=((None, _CLEAR), (0.05, WARN), (0.2, BAD)),
        ),
        lines(
            Words(
                "Candidates with a stale row", "Share past the view's freshness limit: the writer of rows has stopped."
            ),
            "percentunit",
            Query(_per_candidate("serving_stale_rows_total"), "{{model}}"),
            steps=((None, _CLEAR), (0.05, WARN), (0.2, BAD)),
        ),
        lines(
            Words("Refused rows", "Stored by another layout of the view, taken for missing. Load them again."),
            "cps",
            Query("sum by (view) (rate(serving_refused_rows_total[$__rate_interval]))", "{{view}}"),
        ),
        lines(
            Words(
                "Missing values, ten most", "Lookups that gave the default, by column. One alone: its source is broken."
            ),
            "cps",
            Query(
                "topk(10, sum by (view, column) (rate(serving_missing_values_total[$__rate_interval])))",
                "{{view}} {{column}}",
            ),
            span=12,
        ),
        lines(
            Words("Stale values, ten most", "Lookups past the column's own freshness limit."),
            "cps",
            Query(
                "topk(10, sum by (view, column) (rate(serving_stale_values_total[$__rate_interval])))",
                "{{view}} {{column}}",
            ),
            span=12,
        ),
        lines(
            Words(
                "Hits in the host slab",
                "Share of lookups that did not ask Redis. Low for long: more rows, or prefetch.",
            ),
            "percentunit",
            Query("view:serving_tier_hits_per_lookup:ratio_rate5m", "{{view}}"),
            bounds=(0, 1),
        ),
        lines(
            Words(
                "Rows held",
                "In the host slabs of all workers. At the bound a newcomer displaces what is asked for less.",
            ),
            "none",
            Query("sum by (view) (serving_tier_rows)", "{{view}}"),
        ),
        lines(
            Words(
                "Looked up again", "Rows checked because a change may have been missed, and those served before that."
            ),
            "cps",
            Query("sum by (view) (rate(serving_tier_checks_total[$__rate_interval]))", "{{view}} checked"),
            Query("sum by (view) (rate(serving_tier_unchecked_rows_total[$__rate_interval]))", "{{view}} not yet"),
        ),
        lines(
            Words("Prefetched rows", "By what became of them. dropped: too many at once. away: Redis did not answer."),
            "cps",
            Query("sum by (outcome) (rate(serving_prefetched_rows_total[$__rate_interval]))", "{{outcome}}"),
        ),
    )
