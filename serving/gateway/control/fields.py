"""What bodies of control requests have in common."""

from typing import Annotated

import msgspec

Why = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, description="The reason, in words.")]


Share = Annotated[int, msgspec.Meta(ge=0, le=1000, description="In steps of 0.1 %.")]


Version = Annotated[int, msgspec.Meta(ge=1)]


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


Rate = Annotated[float, msgspec.Meta(ge=0, le=1e9, description="A second; 0: the platform's default for keys.")]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all bodies have in common: a field that is not known is refused, not passed over."""


class WhyBody(Body, frozen=True):
    """Of changes that need no more."""

    why: Why
