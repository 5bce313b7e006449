"""API keys, limits and the audit log: bodies and answers."""

from typing import Annotated

import msgspec

from registry.audit_record import AuditRecord
from registry.roles import Role
from serving.gateway.control.fields import Body, Rate
from serving.gateway.control.traffic import ModelLine
from serving.settings import LINE

DAY_S = 86_400
MODEL_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$(?!\n)"
"""Python's `$` also matches before a last line's end, and JSON Schema knows no `\\Z`."""


YEAR_S = 366 * 86_400


class KeyBody(Body, frozen=True):
    """name: who the history says it was. models: that the key is good for; none: every one."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$(?!\n)")]
    role: Role
    models: tuple[Annotated[str, msgspec.Meta(pattern=MODEL_PATTERN)], ...] = ()
    expires_in_s: (
        Annotated[int, msgspec.Meta(ge=1, le=10 * YEAR_S, description="Never, if it is not given.")] | None
    ) = None
    requests_per_s: Rate = 0.0
    candidates_per_s: Rate = 0.0
    line: Annotated[str, msgspec.Meta(pattern=rf"^({LINE})?$(?!\n)", description="Whose quota it draws on, too.")] = ""


class RotateBody(Body, frozen=True):
    """grace_s: how long the key's text of now is good beside the new one."""

    grace_s: Annotated[int, msgspec.Meta(ge=0, le=90 * DAY_S)] = DAY_S


class LimitBody(Body, frozen=True):
    """A key's quota."""

    requests_per_s: Rate
    candidates_per_s: Rate


class MeAnswer(msgspec.Struct, frozen=True):
    """Whose key it is, and what there is for it."""

    name: str
    role: Role
    models: tuple[ModelLine, ...]


class KeyAnswer(msgspec.Struct, frozen=True):
    """What is known of a key; the key itself is kept nowhere. prefix: how it begins; old_prefix: the text before, which
    is good until `old_until_ms`. used_ms: when it last was, to the minute and as far as is known."""

    id: str
    name: str
    prefix: str
    role: Role
    models: tuple[str, ...]
    created_ms: int
    revoked_ms: int | None = None
    created_by: str = ""
    expires_ms: int | None = None
    rotated_ms: int | None = None
    old_prefix: str = ""
    old_until_ms: int | None = None
    requests_per_s: float = 0.0
    candidates_per_s: float = 0.0
    line: str = ""
    used_ms: int | None = None


class AuditLine(msgspec.Struct, frozen=True):
    """seq: in the order written."""

    seq: int
    record: AuditRecord


class AuditAnswer(msgspec.Struct, frozen=True):
    """The newest first. before: for the next page, None if there is none."""

    lines: tuple[AuditLine, ...]
    before: int | None


class NewKeyAnswer(msgspec.Struct, frozen=True):
    """key: shown this once."""

    key: str
    about: KeyAnswer


class KeysAnswer(msgspec.Struct, frozen=True):
    """All keys, the oldest first, revoked ones too."""

    keys: tuple[KeyAnswer, ...]
