"""`SLUICE_CONTROL_URL` and `SLUICE_MLFLOW_BACKEND`: which database, and whether its driver is there."""

import importlib.util
from urllib.parse import urlsplit

from deploy.errors import SluiceError

RULE = "postgresql://user:password@host:port/database or sqlite:////path/of/a.db"
_DRIVER = "psycopg"


def database_url(text: str) -> str:
    """SQLAlchemy's URL, its driver named. Raises ValueError, naming the rule.

    >>> database_url("postgresql://sluice:secret@db.internal/control")
    'postgresql+psycopg://sluice:secret@db.internal/control'
    >>> database_url("sqlite:////data/control.db")
    'sqlite:////data/control.db'
    """
    scheme, separator, rest = text.partition("://")
    if scheme == "sqlite" and rest.startswith("//") and rest.strip("/"):
        return text
    try:
        parts = urlsplit(text)
        holds = bool(parts.hostname and parts.path.strip("/")) and parts.port != 0
    except ValueError:  # a port that is none
        holds = False
    if scheme not in ("postgresql", "postgres", f"postgresql+{_DRIVER}") or not holds:
        raise ValueError(f"expected {RULE}")
    return f"postgresql+{_DRIVER}{separator}{rest}"


def require_driver(setting: str, url: str) -> None:
    """Raises SluiceError if the database of this setting needs a driver that is not installed."""
    if not url.startswith("sqlite:") and importlib.util.find_spec(_DRIVER) is None:
        hint = "pip install '.[postgres]' in the clone"
        raise SluiceError(f"{setting} needs {_DRIVER}, which is not installed", hint)
