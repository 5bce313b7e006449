"""Pipelines: does evidence arrive, and do collecting and retraining run?"""

from deploy.grafana.panels import BAD, GOOD, WARN, Board, Query, Words, lines, number


def board() -> Board:
    """The archive, clicks, the control API."""
    question = "Does the evidence arrive, and do collecting and retraining run?"
    return Board("pipelines", "Pipelines", question, ("model",), "now-24h").add(
        number(
            Words(
                "Runs that are dead",
                "They gave up. `sluice runs show ID` says where, `sluice runs retry ID` goes on from there.",
            ),
            "none",
            Query('sum(pipelines_runs{model=~"$model",state="dead"}) or vector(0)'),
            ((None, GOOD), (1, BAD)),
            span=6,
        ),
        number(
            Words("Runs under way", "Queued or running."),
            "none",
            Query('sum(pipelines_runs{model=~"$model",state=~"queued|running"}) or vector(0)'),
            span=6,
        ),
        number(
            Words(
                "Newest window learned from",
                "Since it ended. Over two periods of retraining: runs fail, or nobody looks.",
            ),
            "s",
            Query('time() - max(pipelines_run_succeeded_window_timestamp_seconds{model=~"$model",kind="retrain"})'),
            ((None, GOOD), (1_814_400, WARN), (2_592_000, BAD)),
            span=6,
        ),
        number(
            Words("Due runs last looked for", "Seconds since. Over some minutes: Celery's beat or worker is away."),
            "s",
            Query("time() - (max(pipelines_run_tick_timestamp_seconds) > 0)"),
            ((None, GOOD), (120, WARN), (600, BAD)),
            span=6,
        ),
        lines(
            Words("Progress of the newest run", "By kind. A line that lies still for hours: `sluice runs show`."),
            "percentunit",
            Query('pipelines_run_progress_ratio{model=~"$model"}', "{{model}} {{kind}}"),
            bounds=(0, 1),
        ),
        lines(
            Words("Runs by state", "Of the newest 400. failed and dead: `sluice runs list`."),
            "none",
            Query('sum by (kind, state) (pipelines_runs{model=~"$model"}) > 0', "{{kind}} {{state}}"),
        ),
        lines(
            Words(
                "Attempts at steps",
                "Since the platform started, by what came of them. Many of one step: it is tried in vain.",
            ),
            "none",
            Query("sum by (kind, step, what) (pipelines_run_steps_total)", "{{kind}} {{step}} {{what}}"),
        ),
        lines(
            Words("Archived events", "By kind. Should be what the gateways log; see Serving, Events."),
            "cps",
            Query("sum by (kind) (rate(pipelines_archived_events_total[$__rate_interval]))", "{{kind}}"),
        ),
        lines(
            Words(
                "Archive behind",
                "Stream entries that are not in the archive. Grows: disk full or slow, or archiver away.",
            ),
            "none",
            Query("max(pipelines_archive_lag_entries)", "entries"),
            steps=((None, "transparent"), (1000, BAD)),
        ),
        lines(
            Words("Time to write a batch", "p99. Over a second: the disk."),
            "s",
            Query(
                "histogram_quantile(0.99, sum by (le) (rate(pipelines_archive_flush_seconds_bucket[15m])))",
                "p99",
            ),
        ),
        lines(
            Words(
                "Event stream held back",
                "Age of the oldest entry that a group of readers has not acknowledged; Redis keeps all since. Grows:"
                " its process is away, or was left out and its group not removed.",
            ),
            "s",
            Query("max by (group) (deploy_event_stream_lag_seconds)", "{{group}}"),
            steps=((None, "transparent"), (3600, BAD)),
            span=12,
        ),
        lines(
            Words(
                "Event stream", "Entries in Redis. Each reader is near the end: few. Nobody archives: all that came."
            ),
            "none",
            Query("max(deploy_event_stream_entries)", "entries"),
            span=12,
        ),
        number(
            Words(
                "Unreadable events, 24 h",
                "Set aside in the archive's folder `rejected`: look at one, somebody writes them.",
            ),
            "none",
            Query("sum(increase(pipelines_archive_rejected_events_total[24h]))"),
            ((None, GOOD), (1, BAD)),
            span=6,
            decimals=0,
        ),
        number(
            Words("Rounds that failed, 24 h", "Stream or disk did not answer; tried again."),
            "none",
            Query("sum(increase(pipelines_archive_failures_total[24h]))"),
            ((None, GOOD), (10, WARN)),
            span=6,
            decimals=0,
        ),
        number(
            Words(
                "Repeats left out, 24 h",
                "Events that came twice: shipped again after a crash, or sent again by a client.",
            ),
            "none",
            Query("sum(increase(pipelines_archive_duplicate_events_total[24h]))"),
            span=6,
            decimals=0,
        ),
        number(
            Words(
                "Control requests refused, 24 h",
                "4xx and 5xx of the control API: a key without the role, or a conflict.",
            ),
            "none",
            Query('sum(increase(deploy_control_requests_total{status=~"[45].."}[24h])) or vector(0)'),
            ((None, GOOD), (20, WARN)),
            span=6,
            decimals=0,
        ),
        lines(
            Words(
                "Lists behind click-NDCG", "Of the last closed window. Few: wide intervals, and gates that take long."
            ),
            "none",
            Query(
                'pipelines_click_ndcg_lists{model=~"$model"}',
                "{{model}}@{{version}} {{arm}} simulated={{simulated}}",
            ),
        ),
        lines(
            Words("Feedback left out", "Of the last closed window, by reason. Much of one reason: tell the caller."),
            "none",
            Query('pipelines_feedback_left_out_events{model=~"$model"}', "{{model}} {{reason}}"),
        ),
        lines(
            Words("Control requests", "By route. Changes of who answers whom, and those who look."),
            "reqps",
            Query("sum by (route) (rate(deploy_control_requests_total[$__rate_interval]))", "{{route}}"),
        ),
        lines(
            Words(
                "Restarts by process", "Since the platform started. A step: it ended by itself and was started again."
            ),
            "none",
            Query("deploy_process_restarts_total", "{{process}}"),
            span=24,
            height=6,
        ),
    )
