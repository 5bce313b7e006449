"""An exported program as a plain function of its tensors: no pytrees, no guards, no attributes.

`ExportedProgram.module()` flattens its arguments, looks up every weight by name and flattens its
results, at each call: 80 us of Python around a forward pass that takes 80. Here the weights are
bound once and what remains is the graph's own operators.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, SymIntArgument
from torch.export.passes import move_to_device_pass

Size = int | str
_LIFTED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_WRITTEN = ("BUFFER_MUTATION", "PARAMETER_MUTATION")  # not every torch knows the second
_LEAST_BOUND = 3  # torch.export assumes sizes of 2 and more where nobody asked it to: no rule of the model's


class UnfitProgram(ValueError):
    """The version's program cannot be served; the message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One tensor that the program takes. sizes: numbers, or the symbol of a dynamic dimension.

    is_number: the program takes a Python number where a client sends a tensor of one element.
    """

    name: str
    dtype: torch.dtype | None
    sizes: tuple[Size, ...]
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class FlatProgram:
    """bounds: least and most of each symbol, None where there is none. result_names: of a program
    that returns a dictionary, else empty. result_dtypes: None for a number."""

    graph: torch.fx.GraphModule
    lifted: tuple[Any, ...]
    arguments: tuple[Argument, ...]
    bounds: dict[str, tuple[int | None, int | None]]
    result_names: tuple[str, ...]
    result_dtypes: tuple[torch.dtype | None, ...]
    exported: ExportedProgram

    def bind(self) -> Callable[..., Sequence[Any]]:
        """The function: the arguments' tensors in, in their order, the results out."""
        return partial(self.graph.forward, *self.lifted)


def load_flat(program: bytes, device: torch.device) -> FlatProgram:
    """The program of a verified package, its weights on the device.

    Raises UnfitProgram if it changes its own buffers or takes what no tensor can be.
    """
    exported = torch.export.load(io.BytesIO(program))
    if _mutates(exported):
        # a functional graph: what it writes in place becomes a result of its own
        with warnings.catch_warnings():  # torch's own copy of its tree specs warns of its own deprecation
            warnings.simplefilter("ignore", FutureWarning)
            exported = exported.run_decompositions({})
    signature = exported.graph_signature
    changed = [spec.target for spec in signature.output_specs if spec.kind.name in _WRITTEN]
    if changed:
        raise UnfitProgram(
            f"the program writes to its buffer {changed[0]!r}, so that an answer would depend on earlier ones: "
            "export the model with that state as an input, or without it"
        )
    if device.type != "cpu":
        exported = move_to_device_pass(exported, device)
    graph, lifted = _plain_graph(exported), _lifted(exported)
    values = [node.meta.get("val") for node in graph.graph.nodes if node.op == "placeholder"]
    user = [spec for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]
    arguments = tuple(_argument(spec.arg, value) for spec, value in zip(user, values[len(lifted) :], strict=True))
    [output] = [node for node in graph.graph.nodes if node.op == "output"]
    results = [getattr(node, "meta", {}).get("val", node) for node in output.args[0]]
    spec = exported.call_spec.out_spec
    names = tuple(map(str, spec.context)) if spec is not None and spec.type is dict else ()
    return FlatProgram(
        graph=graph,
        lifted=lifted,
        arguments=arguments,
        bounds={str(symbol): (_number(r.lower), _number(r.upper)) for symbol, r in exported.range_constraints.items()},
        result_names=names if len(names) == len(results) else (),
        result_dtypes=tuple(r.dtype if isinstance(r, torch.Tensor) else None for r in results),
        exported=exported,
    )


def shape_refusal(program: FlatProgram, shapes: Sequence[Sequence[int]], names: Sequence[str]) -> str | None:
    """What is wrong with these shapes of the arguments, named so, or None.

    The guards of the exported program, as a message that names the tensor: without them a wrong
    size may be broadcast in silence.
    """
    seen: dict[str, tuple[int, str]] = {}
    for argument, shape, name in zip(program.arguments, shapes, names, strict=True):
        if argument.is_number:
            if any(size != 1 for size in shape):
                return f"input {name!r}: shape {list(shape)}, expected one element"
            continue
        if len(shape) != len(argument.sizes):
            return f"input {name!r}: shape {list(shape)}, expected {len(argument.sizes)} dimensions"
        for place, (given, wanted) in enumerate(zip(shape, argument.sizes, strict=True)):
            if isinstance(wanted, int):
                if given != wanted:
                    return f"input {name!r}: shape {list(shape)}, expected {wanted} in dimension {place}"
                continue
            first, its_name = seen.setdefault(wanted, (given, name))
            if first != given:
                return (
                    f"input {name!r}: shape {list(shape)}, expected {first} in dimension {place}, "
                    f"as many as input {its_name!r} has"
                )
            least, most = program.bounds.get(wanted, (None, None))
            if (least is not None and least >= _LEAST_BOUND and given < least) or (most is not None and given > most):
                return f"input {name!r}: shape {list(shape)}, expected {least or 0} to {most} in dimension {place}"
    return None


def _mutates(exported: ExportedProgram) -> bool:
    """Whether some operator writes in place: to its input, to a weight, or to a value in between."""
    return any(
        node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
        for module in exported.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
    )


def _plain_graph(exported: ExportedProgram) -> torch.fx.GraphModule:
    """The lifted graph without checks of what the manifest and `shape_refusal` check, and with the
    user's results alone."""
    module = torch.fx.GraphModule(exported.graph_module, exported.graph_module.graph)
    asserts = torch.ops.aten._assert_tensor_metadata.default
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is asserts:
            module.graph.erase_node(node)
    [output] = [node for node in module.graph.nodes if node.op == "output"]
    kept = [
        value
        for spec, value in zip(exported.graph_signature.output_specs, output.args[0], strict=True)
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    output.args = (tuple(kept),)
    module.recompile()
    return module


def _lifted(exported: ExportedProgram) -> tuple[Any, ...]:
    lifted = []
    user_began = False
    for spec in exported.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            user_began = True
            continue
        if spec.kind not in _LIFTED or user_began or spec.target is None:
            raise UnfitProgram(
                f"the program holds {spec.target!r}, which is no tensor: keep plain tensors in the model"
            )
        of_state = exported.state_dict if spec.target in exported.state_dict else exported.constants
        lifted.append(of_state[spec.target].detach())
    return tuple(lifted)


def _argument(spec: Any, value: Any) -> Argument:
    if isinstance(spec, ConstantArgument):
        raise UnfitProgram(f"the program takes {spec.name!r}={spec.value!r}, which is no tensor: make it a constant")
    if isinstance(spec, SymIntArgument) or not isinstance(value, torch.Tensor):
        return Argument(spec.name, None, (), is_number=True)
    sizes = tuple(size if isinstance(size, int) else str(size.node.expr) for size in value.shape)
    return Argument(spec.name, value.dtype, sizes)


def _number(bound: Any) -> int | None:
    return int(bound) if bound.is_Integer else None
