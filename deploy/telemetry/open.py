"""The exporter of one process, if traces go anywhere."""

from importlib.metadata import version

from deploy.settings import PlatformSettings
from deploy.telemetry.export import Exporter
from deploy.telemetry.settings import parse_traces


def exporter_of(settings: PlatformSettings) -> Exporter | None:
    """None if `SLUICE_TRACES` names no collector. The caller starts it."""
    endpoint = parse_traces(settings.traces).endpoint
    return Exporter(endpoint, {"service.version": version("sluice")}) if endpoint else None
