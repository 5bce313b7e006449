"""The Celery app of this installation: `celery -A deploy.celery_app worker`, and `beat`."""

import logging
import os

from celery.signals import setup_logging, worker_ready

from deploy import wiring
from deploy.logs import configure_logging
from deploy.settings import PlatformSettings
from pipelines.archive import Archive
from pipelines.tasks import PipelineWiring, make_celery
from registry.errors import RegistryError

REPAIR_EVERY_S = 300.0

log = logging.getLogger(__name__)
settings = PlatformSettings.from_environment(os.environ)
broker = f"redis+socket://{settings.redis_socket}"

app = make_celery(
    broker,
    broker,
    PipelineWiring(
        archive=Archive(settings.archive_folder),
        reports=settings.reports_folder,
        models=lambda: wiring.traffic_control(settings).models(),
    ),
)


@app.task(name="deploy.repair")  # type: ignore[untyped-decorator]
def repair() -> None:
    """Board, aliases and what MLflow's pages say, as the tables say, whatever a crash between the three left behind."""
    try:
        store = wiring.model_store(settings)
        wiring.promoter(settings, store).repair()
        wiring.show_traffic(settings, store)
    except RegistryError as error:
        log.warning("could not repair board and aliases, next try in %.0f s: %s", REPAIR_EVERY_S, error)


app.conf.beat_schedule["repair"] = {
    "task": "deploy.repair",
    "schedule": REPAIR_EVERY_S,
    "options": {"expires": REPAIR_EVERY_S},
}


@setup_logging.connect  # type: ignore[untyped-decorator]
def _log_as_we_do(**_: object) -> None:
    configure_logging("celery", settings.log_level)


@worker_ready.connect  # type: ignore[untyped-decorator]
def _repair_at_start(**_: object) -> None:
    repair.delay()
