"""`python -m deploy.drift_reports.process MODEL ARM DAY`: makes the report of that day; DAY as `day_name` writes it.

With `--links MODEL` instead: shows reports in MLflow that are not shown there yet, see `links`.
"""

import os
import sys
import time

from deploy.drift_reports.parts import evidently_reports, report_links, report_sources
from deploy.errors import SluiceError
from deploy.logs import configure_logging
from deploy.settings import PlatformSettings
from drift.errors import ReportRefused
from drift.evidently_reports.files import ReportPlace
from pipelines.errors import PipelineError
from registry.contracts.drift import day_of
from registry.contracts.errors import ContractError
from registry.errors import RegistryError

REFUSED = 3
"""Exit code of what trying again does not help."""


def main(argv: list[str]) -> int:
    """Returns the exit code; why it is not 0 is the last line of stderr."""
    # told before anything is imported that reads it: one of Evidently's parts counts its users
    os.environ.setdefault("DO_NOT_TRACK", "1")
    settings = PlatformSettings.from_environment(os.environ)
    configure_logging("drift-report", settings.log_level)
    try:
        if argv[0] == "--links":
            report_links(settings).show(argv[1])
            return 0
        place = ReportPlace(argv[0], argv[1], day_of(argv[2]))
        report = report_sources(settings).make(place, time.time_ns() // 1_000_000)
        evidently_reports(settings).write(report)
    except (ReportRefused, PipelineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except (SluiceError, RegistryError, ContractError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
