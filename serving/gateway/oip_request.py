"""From an inference request's body to a query: pure, and on the hot path.

Binary tensors are views of the body. What a client claims about sizes is compared with what is
there; nothing is allocated for a claim.

Source: Open Inference Protocol v2 with the extensions that `infer_head` names.
"""

import functools
import math
from dataclasses import dataclass

import msgspec

from registry.contracts.errors import InvalidName
from registry.contracts.ids import check_id
from serving.errors import QueryRefused
from serving.gateway.infer_head import InputHead, InputParameters, OutputHead, RequestParameters, read_head
from serving.gateway.json_tensors import tensor_of_json
from serving.infer import InferQuery
from serving.priority import check_priority
from serving.regions import REGIONS_OFF, Regions, RegionSlice
from serving.settings import GatewaySettings
from serving.tensors import DATATYPES, DTYPES, MAX_DIMENSIONS, Tensor, check_tensor

MAX_SIZE = (1 << 31) - 1
MAX_TENSORS = 64
_REMEMBERED_BYTES = 2048
_ITEM_BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items() if name != "BOOL"}
_US_IN_MS = 1000


@dataclass(frozen=True, slots=True)
class OutputWish:
    """How one output is wanted: as JSON, binary, so many classes, or in shared memory."""

    name: str
    binary: bool = False
    classes: int = 0
    place: RegionSlice | None = None


class ParsedInfer(msgspec.Struct):
    """wishes: by output, in the order of the answer; empty: all outputs, binary or not. all_binary: each is wanted as
    binary data in the answer, whole."""

    query: InferQuery
    wishes: tuple[OutputWish, ...]
    binary: bool
    all_binary: bool = False

    @property
    def classes(self) -> bool:
        """Whether some output is wanted as classes."""
        return not self.all_binary and any(wish.classes for wish in self.wishes)


def read_infer(
    model: str,
    version: int | None,
    body: bytes | memoryview,
    header_length: int | None,
    settings: GatewaySettings,
    regions: Regions | None = None,
) -> ParsedInfer:
    """The query in a body; views of it are the query's data.

    header_length: bytes of JSON before the binary data, as the header Inference-Header-Content-Length
    says; None where all is JSON. regions: None where shared memory is off.
    Raises QueryRefused, naming the tensor or field and the rule.
    """
    if header_length is None:
        head = read_head(bytes(body), settings.max_json_bytes)
        at = len(body)
    elif 0 < header_length <= len(body):
        text = bytes(body[:header_length])
        if header_length <= _REMEMBERED_BYTES:
            layout = _layout_of(text)
            if layout is not None and layout.end == len(body) - header_length:
                return _by_layout(layout, model, version, memoryview(body)[header_length:], settings)
        head = read_head(text, settings.max_json_bytes)
        at = header_length
    else:
        raise QueryRefused(
            f"Inference-Header-Content-Length={header_length}: expected the bytes of JSON, 1 to {len(body)} here"
        )
    if len(head.inputs) > MAX_TENSORS or len(head.outputs) > MAX_TENSORS:
        raise QueryRefused(f"inputs and outputs: expected at most {MAX_TENSORS} each")
    inputs: list[Tensor] = []
    view = memoryview(body)
    for given in head.inputs:
        parameters = given.parameters
        if parameters is None or (size := parameters.binary_data_size) is None:
            inputs.append(_elsewhere(given, regions))
            continue
        if size < 0 or size > len(body) - at:
            raise _cut_short(given, size, len(body) - at, header_length)
        if given.data is not None or parameters.shared_memory_region is not None:
            raise _two_places(given)
        shape = tuple(given.shape)
        tensor = Tensor(given.name, given.datatype, shape, view[at : at + size])
        if not (
            size
            and len(shape) <= MAX_DIMENSIONS
            and size == math.prod(shape) * _ITEM_BYTES.get(given.datatype, 0)
            and (not shape or min(shape) > 0)
        ):
            check_shape(tensor)
            check_tensor(tensor)
        at += size
        inputs.append(tensor)
    if at != len(body):
        raise QueryRefused(
            f"body: {len(body) - at} bytes after the last tensor; "
            "inputs' binary_data_size and Inference-Header-Content-Length do not add up to the body"
        )
    if len(inputs) > 1:
        check_distinct("input", [tensor.name for tensor in inputs])
    query = InferQuery(model, inputs, version=version, id=head.id, deadline_ms=settings.default_deadline_ms)
    binary = False
    if head.parameters is not None:
        binary = head.parameters.binary_data_output
        apply_parameters(head.parameters, query, settings)
    wishes: tuple[OutputWish, ...] = ()
    if head.outputs:
        wishes = tuple([wish_of(output, binary, regions) for output in head.outputs])
        query.outputs = tuple([wish.name for wish in wishes])
        check_distinct("output", query.outputs)
    return ParsedInfer(query, wishes, binary)


def read_binary(
    model: str, body: bytes | memoryview, header_length: int, settings: GatewaySettings
) -> ParsedInfer | None:
    """The query of a request that is plainly binary both ways, without parameters; None for any other."""
    if not 0 < header_length <= min(_REMEMBERED_BYTES, len(body)):
        return None
    layout = _layout_of(bytes(body[:header_length]))
    if layout is None or layout.end != len(body) - header_length or layout.parameters is not None:
        return None
    if not layout.wishes or not layout.all_binary:
        return None
    return _by_layout(layout, model, None, memoryview(body)[header_length:], settings)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a head says, if its inputs are all binary and of fixed datatypes and its outputs are answered
    in the body: name, datatype, shape, start and end of each input."""

    inputs: tuple[tuple[str, str, tuple[int, ...], int, int], ...]
    end: int
    id: str
    parameters: RequestParameters | None
    binary: bool
    wishes: tuple[OutputWish, ...]
    outputs: tuple[str, ...]
    all_binary: bool


@functools.lru_cache(maxsize=256)
def _layout_of(text: bytes) -> _Layout | None:
    """The layout in a head, None if it needs a closer look: clients repeat heads byte for byte."""
    try:
        head = read_head(text, len(text))
        binary = head.parameters is not None and head.parameters.binary_data_output
        wishes = tuple([wish_of(output, binary, None) for output in head.outputs])
        names = [given.name for given in head.inputs]
        check_distinct("input", names)
        check_distinct("output", [wish.name for wish in wishes])
    except QueryRefused:
        return None
    inputs, at = [], 0
    for given in head.inputs:
        parameters, shape = given.parameters, tuple(given.shape)
        if parameters is None or given.data is not None or parameters.shared_memory_region is not None:
            return None
        size = parameters.binary_data_size or 0
        fits = len(shape) <= MAX_DIMENSIONS and (not shape or min(shape) > 0)
        if not fits or size != math.prod(shape) * _ITEM_BYTES.get(given.datatype, 0) or not size:
            return None
        inputs.append((given.name, given.datatype, shape, at, at + size))
        at += size
    if not 1 <= len(inputs) <= MAX_TENSORS or len(wishes) > MAX_TENSORS:
        return None
    outputs = tuple([wish.name for wish in wishes])
    all_binary = all(wish.binary and not wish.classes for wish in wishes) if wishes else binary
    return _Layout(tuple(inputs), at, head.id, head.parameters, binary, wishes, outputs, all_binary)


def _by_layout(
    layout: _Layout, model: str, version: int | None, data: memoryview, settings: GatewaySettings
) -> ParsedInfer:
    inputs = [Tensor(name, kind, shape, data[start:end]) for name, kind, shape, start, end in layout.inputs]
    query = InferQuery(model, inputs, layout.outputs, version, layout.id, deadline_ms=settings.default_deadline_ms)
    if layout.parameters is not None:
        apply_parameters(layout.parameters, query, settings)
    return ParsedInfer(query, layout.wishes, layout.binary, layout.all_binary)


def _elsewhere(given: InputHead, regions: Regions | None) -> Tensor:
    """An input whose data is JSON or in shared memory."""
    tensor = Tensor(given.name, given.datatype, tuple(given.shape), b"")
    check_shape(tensor)
    parameters = given.parameters
    if parameters is None or parameters.shared_memory_region is None:
        if given.data is None:
            raise QueryRefused(
                f"input {given.name!r}: no data, expected data, binary_data_size or a shared memory region"
            )
        return tensor_of_json(given.name, given.datatype, tensor.shape, given.data)
    if given.data is not None:
        raise _two_places(given)
    return tensor_of_region(tensor, parameters, regions)


def tensor_of_region(tensor: Tensor, parameters: InputParameters, regions: Regions | None) -> Tensor:
    """The tensor with its data from the shared memory region that it names. Raises QueryRefused."""
    place = region_slice(
        f"input {tensor.name!r}",
        parameters.shared_memory_region or "",
        parameters.shared_memory_offset,
        parameters.shared_memory_byte_size,
        regions,
    )
    fixed = tensor.datatype in DTYPES
    expected = tensor.elements * DTYPES[tensor.datatype].itemsize if fixed else place.byte_size
    if place.byte_size != expected:
        raise QueryRefused(
            f"input {tensor.name!r}: shared_memory_byte_size={place.byte_size}, "
            f"expected {expected} for {tensor.datatype} of shape {list(tensor.shape)}"
        )
    tensor.data = place.read()
    check_tensor(tensor)
    return tensor


def wish_of(output: OutputHead, binary: bool, regions: Regions | None) -> OutputWish:
    """How the output is wanted. binary: unless it says otherwise. Raises QueryRefused."""
    parameters = output.parameters
    if parameters is None:
        return OutputWish(output.name, binary)
    if parameters.classification < 0:
        raise QueryRefused(f"output {output.name!r}: classification={parameters.classification}, expected at least 1")
    place = None
    if parameters.shared_memory_region is not None:
        if parameters.classification:
            raise QueryRefused(f"output {output.name!r}: classes are not written into shared memory")
        place = region_slice(
            f"output {output.name!r}",
            parameters.shared_memory_region,
            parameters.shared_memory_offset,
            parameters.shared_memory_byte_size,
            regions,
        )
    wanted = binary if parameters.binary_data is None else parameters.binary_data
    return OutputWish(output.name, wanted, parameters.classification, place)


def region_slice(field: str, name: str, offset: int, byte_size: int | None, regions: Regions | None) -> RegionSlice:
    """The part of a region that an input or output names. Raises QueryRefused."""
    if regions is None:
        raise QueryRefused(f"{field}: shared_memory_region={name!r}: {REGIONS_OFF}")
    if byte_size is None:
        raise QueryRefused(f"{field}: shared_memory_byte_size is missing")
    return regions.slice(field, name, offset, byte_size)


def apply_parameters(parameters: RequestParameters, query: InferQuery, settings: GatewaySettings) -> None:
    """The request's parameters. A timeout beyond what a query may ask for becomes the most it may."""
    if parameters.sequence_id:
        raise QueryRefused("parameters.sequence_id: models here keep no state between requests: leave it out")
    if parameters.timeout < 0:
        raise QueryRefused(f"parameters.timeout={parameters.timeout}: expected microseconds, 0 for the default")
    query.priority = check_priority("parameters.priority", parameters.priority)
    if parameters.timeout:
        query.deadline_ms = min(-(-parameters.timeout // _US_IN_MS), settings.max_deadline_ms)
    if parameters.unit:
        try:
            check_id("parameters.unit", parameters.unit)
        except InvalidName as error:
            raise QueryRefused(str(error)) from error
        query.unit = parameters.unit


def check_shape(tensor: Tensor) -> None:
    """What a shape of no elements could still claim; and the datatype, before data is read as such."""
    name, shape = tensor.name, list(tensor.shape)
    if tensor.datatype not in DATATYPES:
        raise QueryRefused(f"input {name!r}: datatype {tensor.datatype[:32]!r}, expected one of {', '.join(DATATYPES)}")
    if len(shape) > MAX_DIMENSIONS:
        raise QueryRefused(f"input {name!r}: {len(shape)} dimensions, expected at most {MAX_DIMENSIONS}")
    if any(not 0 <= size <= MAX_SIZE for size in shape) or math.prod(size or 1 for size in shape) > MAX_SIZE:
        raise QueryRefused(
            f"input {name!r}: shape {str(shape)[:200]}, expected sizes of 0 or more, of at most {MAX_SIZE} elements"
        )


def check_distinct(kind: str, names: "list[str] | tuple[str, ...]") -> None:
    """Raises QueryRefused for a name that is there twice."""
    if len(set(names)) < len(names):
        repeated = next(name for at, name in enumerate(names) if name in names[:at])
        raise QueryRefused(f"{kind} {repeated!r}: given twice")


def _cut_short(given: InputHead, size: int, left: int, header_length: int | None) -> QueryRefused:
    if header_length is None:
        return QueryRefused(f"input {given.name!r}: binary data needs the header Inference-Header-Content-Length")
    return QueryRefused(f"input {given.name!r}: binary_data_size={size}, but {left} bytes are left of the body")


def _two_places(given: InputHead) -> QueryRefused:
    return QueryRefused(f"input {given.name!r}: expected one of data, binary_data_size and shared_memory_region")
