"""`If-Match` and `Idempotency-Key`: on which plan a request was decided, and which request it is."""

import hashlib
import re
from dataclasses import dataclass

import msgspec

from deploy.control.errors import ControlRefused, OtherRevision

_ETAG = re.compile(r'(?:W/)?"[^"]*"')
_KEY = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class IfMatch:
    """revisions: that the plan may have; None if any will do. any_plan: it must be there (`*`)."""

    revisions: frozenset[int] | None = None
    any_plan: bool = False

    @staticmethod
    def parse(header: str) -> "IfMatch":
        """Raises ControlRefused. A tag that no plan can have matches none.

        >>> IfMatch.parse('"7", "8"').revisions == {7, 8}, IfMatch.parse("").revisions
        (True, None)
        """
        if not header:
            return IfMatch()
        if header.strip() == "*":
            return IfMatch(any_plan=True)
        tags = [tag.strip() for tag in header.split(",")]
        if not all(_ETAG.fullmatch(tag) for tag in tags):
            raise ControlRefused(f'If-Match: {header[:64]}: expected a plan revision in quotes, "7", or *')
        strong = [tag[1:-1] for tag in tags if tag.startswith('"')]
        return IfMatch(frozenset(int(tag) for tag in strong if tag.isascii() and tag.isdigit() and len(tag) < 18))

    @property
    def given(self) -> bool:
        """Whether the client set a condition."""
        return self.any_plan or self.revisions is not None

    def check(self, model: str, actual: int) -> None:
        """Raises OtherRevision. actual: revision of the plan, 0 if there is none."""
        if (self.any_plan and not actual) or (self.revisions is not None and actual not in self.revisions):
            raise OtherRevision(
                f"the traffic plan of {model!r} is at revision {actual}, which If-Match does not name: look at it "
                "again, then repeat the change"
            )


def idempotency_key(header: str) -> str:
    """The key, empty if there is none. Raises ControlRefused."""
    if header and not _KEY.fullmatch(header):
        raise ControlRefused("Idempotency-Key: expected 1 to 128 printable ASCII characters without spaces")
    return header


def digest_of(route: str, of: str, body: msgspec.Struct | None) -> str:
    """SHA-256 of what is asked, 64 hex digits; the same for the same JSON however it is written.

    `If-Match` is no part of it: a job that is run again has seen a newer plan, and wants the same.
    """
    told = [route, of, msgspec.to_builtins(body)]
    return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()
