"""Which data the demo ranks: code search by default, or judged files of the user's own."""

import logging
import platform
from collections.abc import Callable
from pathlib import Path

from deploy.demo.chain import DemoData
from deploy.errors import SluiceError
from deploy.settings import PlatformSettings
from pipelines.errors import DataRefused, PipelineError

log = logging.getLogger(__name__)

Told = Callable[[int, int], None]


def code_search_folder(settings: PlatformSettings) -> Path:
    """Where index and lists of this Python version lie: another version has another library."""
    return settings.datasets_folder / f"codesearch-py{platform.python_version()}"


def load_data(settings: PlatformSettings, path: Path | None, model: str, told: Told) -> DemoData:
    """The data at `path`, or code search, built on first use (about half a minute).

    told: how far the reading is. Raises SluiceError.
    """
    if path is None:
        return _code_search(settings, model, told)
    from pipelines.sources.letor import load

    try:
        return DemoData(model, f"judged lists of {path.name}", load(path))
    except (PipelineError, OSError) as error:
        raise SluiceError(f"--data {path}: {error}", "a LETOR/SVMLight file or folder, or Parquet") from error


def _code_search(settings: PlatformSettings, model: str, told: Told) -> DemoData:
    from pipelines.codesearch.lists import CodeSearchData, build_from_library

    folder = code_search_folder(settings)
    title = f"code search over Python {platform.python_version()}'s standard library"
    try:
        return DemoData(model, title, CodeSearchData.load(folder).splits)
    except DataRefused:
        log.info("building the code search data in %s", folder)
    built = build_from_library(lambda stage, done, total: told(done, total))
    folder.mkdir(parents=True, exist_ok=True)
    built.save(folder)
    return DemoData(model, title, built.splits)
