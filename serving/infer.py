"""The use case beside `rank`: tensors in, tensors out, for any model. No HTTP, no sockets, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.tensors import Tensor


@dataclass(slots=True)
class InferQuery:
    """A request whose tensors are what their datatypes and shapes say; the model's own rules come later.

    version: None leaves the choice to the traffic plan. outputs: names wanted; empty means all.
    unit: whose arm is sticky; empty: the champion answers. priority: 0 is normal, lower is sooner.
    """

    model: str
    inputs: list[Tensor]
    outputs: tuple[str, ...] = ()
    version: int | None = None
    id: str = ""
    unit: str = ""
    priority: int = 0
    deadline_ms: int = 1000
    trace_id: str = ""


@dataclass(slots=True)
class InferAnswer:
    """outputs: in the order asked for, or the manifest's. stages_ms: where its time went."""

    model: str
    version: int
    id: str
    outputs: list[Tensor]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    stages_ms: Mapping[str, float] = field(default_factory=dict)
