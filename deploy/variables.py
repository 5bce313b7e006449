"""Settings as variables of the environment: their names, how values are read, and which are secret."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.errors import SettingsError
from deploy.features.url import without_password

PREFIX = "SLUICE_"
SECRETIVE = ("redis", "broker", "features_url", "events_url", "control_url", "mlflow", "mlflow_backend", "jwt_key_set")
"""These may hold a password."""
SECRET = ("jwt_secret", "ranking_key", "signing_key")
FROM_FILES = (*SECRETIVE, *SECRET, "trusted_keys", "key")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def variable(name: str) -> str:
    """The variable of a setting.

    >>> variable("gateway_port")
    'SLUICE_GATEWAY_PORT'
    """
    return PREFIX + name.upper()


def told(environment: Mapping[str, str], name: str) -> str:
    """The variable's value, or, of what may be secret, that of the file that `..._FILE` names. Raises SettingsError."""
    raw = environment.get(variable(name), "").strip()
    path = environment.get(f"{variable(name)}_FILE", "").strip() if name in FROM_FILES and not raw else ""
    if not path:
        return raw
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable(name)}_FILE", path, f"a file that can be read ({error})") from error


def value_of(name: str, raw: str, wanted: object) -> Any:
    """What a variable's text says. wanted: bool, int or str. Raises SettingsError."""
    if wanted is bool:
        require(raw.lower() in _TRUE + _FALSE, name, raw, "1 or 0")
        return raw.lower() in _TRUE
    if wanted is int:
        require(raw.isascii() and raw.removeprefix("-").isdigit(), name, raw, "a whole number")
        return int(raw)
    return raw


def text_of(value: object) -> str:
    """The text from which `value_of` reads the value again."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raises SettingsError, without a password, unless the setting's rule holds."""
    if not holds:
        raise SettingsError(variable(name), without_password(str(value)) if name in SECRETIVE else value, rule)
