"""`SLUICE_TRACES`: where traces go and which."""

import re
from dataclasses import dataclass, field

from serving.tracing.rules import TraceRules

_ENDPOINT = re.compile(r"https?://[^\s,/@]+(:\d{1,5})?(/[^\s,@]*)?")
_NUMBERS = {"ratio": float, "slow_ms": float, "a_second": int}


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """endpoint: of an OTLP collector over HTTP, without `/v1/traces`; empty: no traces."""

    endpoint: str = ""
    rules: TraceRules = field(default_factory=TraceRules)


def parse_traces(text: str) -> TraceSettings:
    """Raises ValueError saying what was expected.

    >>> parse_traces("endpoint=http://otel:4318,ratio=0.1").rules.ratio
    0.1
    >>> parse_traces("").endpoint
    ''
    """
    endpoint, told = "", dict[str, float]()
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition("=")
        if name == "endpoint" and not endpoint:
            if not _ENDPOINT.fullmatch(value):
                raise ValueError(f"{part}: expected endpoint=http://host:4318, without a password")
            endpoint = value.rstrip("/")
        elif name in _NUMBERS and name not in told:
            try:
                told[name] = _NUMBERS[name](value)
            except ValueError as error:
                raise ValueError(f"{part}: expected a number") from error
        else:
            raise ValueError(f"{part}: expected each once of endpoint, {', '.join(_NUMBERS)}, with =VALUE")
    if told and not endpoint:
        raise ValueError(f"{text}: expected endpoint=http://host:4318 among them")
    return TraceSettings(endpoint, TraceRules(**told))  # type: ignore[arg-type]
