"""Who asks, once that is proven: by an API key or by a token, it makes no difference afterwards."""

import msgspec

from registry.roles import Role


class Principal(msgspec.Struct, frozen=True):
    """Somebody who proved who it is.

    id: of the key, or made of a token's issuer and subject; at most 64 characters. models: that it may ask about;
    empty: all. until_ms: when the proof ends, None: when it is taken back. requests_per_s, candidates_per_s: its
    quota, 0: the platform's default. line: whose quota its queries draw on, empty: see `doorkeeper`.
    """

    id: str
    name: str
    role: Role
    models: tuple[str, ...] = ()
    until_ms: int | None = None
    requests_per_s: float = 0.0
    candidates_per_s: float = 0.0
    line: str = ""

    def covers(self, model: str) -> bool:
        """Whether it may ask about the model."""
        return not self.models or model in self.models
