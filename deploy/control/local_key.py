"""The first admin key: in the data folder, readable by its owner alone, so that commands on this machine
need no setting up."""

import logging
import os
import secrets
from pathlib import Path

from deploy.control.admin_key import read_admin_key
from registry.api_keys import SECRET_BYTES, KeyRing, key_text, make_key

log = logging.getLogger(__name__)

LOCAL_KEY_NAME = "local"


def local_key(path: Path, ring: KeyRing, now_ms: int) -> str:
    """The key in the file, made if there is none, and good unless somebody revoked it.

    Whoever wants another deletes the file and restarts the controller. Raises StoreUnavailable.
    """
    text = read_admin_key(path) or _make(path)
    key = make_key(text, LOCAL_KEY_NAME, "admin", created_ms=now_ms, created_by=f"controller, {path}")
    ring.add(key, text)
    found = ring.find(text)
    if why := "it was rotated" if found is None else found.refusal(now_ms):
        log.warning("the key in %s is not good (%s): delete the file and restart the controller for another", path, why)
    return text


def _make(path: Path) -> str:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.touch(0o600)
    fresh.write_text(key_text(secrets.token_bytes(SECRET_BYTES)) + "\n")
    try:
        os.link(fresh, path)  # fails if another process was first: its key counts
    except FileExistsError:
        log.info("another controller made the key")
    finally:
        fresh.unlink()
    return read_admin_key(path)
