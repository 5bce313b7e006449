"""The Celery app of this installation: `celery -A deploy.celery_app worker`, and `beat`."""

import logging
import os

from celery.signals import beat_init, setup_logging, worker_ready

from deploy import wiring
from deploy.drift_reports.parts import report_turns
from deploy.logs import configure_logging
from deploy.settings import PlatformSettings
from deploy.telemetry.probe_port import ProbePort
from deploy.training.retraining import run_wiring
from pipelines.archive.files import Archive
from pipelines.gates.tasks import GateWiring
from pipelines.settings import parse_gates
from pipelines.tasks import Chore, PipelineWiring, make_celery

CHATTY = ("celery.beat", "celery.worker.strategy", "celery.worker.request", "celery.app.trace")
"""They tell of every message: three lines each few seconds. What a task did, it says itself; errors still come."""

REPORTS_S = 15.0  # somebody may be waiting for one

settings = PlatformSettings.from_environment(os.environ)
broker = settings.broker_url

app = make_celery(
    broker,
    broker,
    PipelineWiring(
        archive=Archive(settings.archive_folder),
        reports=settings.reports_folder,
        models=lambda: wiring.traffic_control(settings).models(),
        runs=run_wiring(settings),
        gates=GateWiring(lambda: wiring.gate_judge(settings), parse_gates(settings.gates).period_s),
        chores=(Chore("report-drift", REPORTS_S, lambda now_ms: report_turns(settings).turn(now_ms)),),
    ),
)


@worker_ready.connect  # type: ignore[untyped-decorator]
@beat_init.connect  # type: ignore[untyped-decorator]
def _open_probe_port(**_: object) -> None:
    """For as long as the process lives, in the parent of a pool alone."""
    if settings.probe_address:
        ProbePort(settings, ready=lambda: True).start()


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log_as_we_do(**_: object) -> None:
    configure_logging("celery", settings.log_level)
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
