"""Half precision: a float32 graph to one whose types say where float16 is, for runtimes that take types as they are.

Strongly typed TensorRT networks (the one path that TensorRT 10.12 and 11 share) compute in the types of the ONNX file.
So the graph's inputs and outputs stay float32, its convolutions and what lies between them become float16, and what
float16 would spoil stays float32, with a Cast wherever a tensor crosses:

- Softmax or Exp, what makes their scores out of the last convolution or product, and the mean that they are taken for;
- what turns the last convolution or product into an output (scales, offsets, colour arithmetic);
- the curves of colour spaces, and all that leads to them from the input;
- norms, sums and powers, which overflow, and divisors, which vanish; and all that decides an index or a shape.

BatchNormalization becomes a product and a sum, their factors computed in float64.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HALF_MAX = 65504.0
"""The largest float16."""

_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_EXPONENTIALS = {"Exp", "LogSoftmax", "Softmax"}
_WIDE = {
    *_EXPONENTIALS, "GlobalAveragePool", "InstanceNormalization", "LayerNormalization", "Log", "LpNormalization", "Pow",
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Reciprocal",
    "Sqrt",
}  # fmt: skip
_INTEGERS = {
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.UINT16,
    TensorProto.UINT32, TensorProto.UINT64, TensorProto.BOOL,
}  # fmt: skip


class HalfError(ValueError):
    """The graph cannot be turned into half precision, or does not stay finite in it; the message names the layers."""


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with float16 inside; inputs, outputs and the parts named above stay float32.

    Args:
        model: Arithmetic in float32; weights may be stored as float16 with a Cast. It is left as it is.

    Raises:
        HalfError: A weight is beyond the range of float16.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    _fold_constants(half.graph)
    _fold_batch_norm(half.graph)
    types = _types(half)
    wide = _wide_nodes(half.graph, types)
    _retype(half, types, wide)
    half.graph.value_info.clear()
    _types(half)  # every node's input types agree, or this raises
    onnx.checker.check_model(half, full_check=True)
    return half


def half_tensors(half: onnx.ModelProto) -> set[str]:
    """Names of the float16 tensors that nodes of a half graph compute."""
    types = _types(half)
    return {
        name for node in half.graph.node for name in node.output if types.get(name) == TensorProto.FLOAT16
    }  # fmt: skip


def rounded(half: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 graph that computes what a GPU computes from `half`.

    Every tensor that is float16 there is rounded to it here; a product's sum stays float32 until it is done, as in
    tensor cores. It exists because ONNX Runtime's CPU kernels are float32 and round nothing between two nodes.
    """
    types = _types(half)
    model = onnx.ModelProto()
    model.CopyFrom(half)
    graph = model.graph
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT16:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for index, name in enumerate(node.output):
            if types.get(name) == TensorProto.FLOAT16:
                node.output[index] = f"{name}.exact"
                nodes += [
                    helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=TensorProto.FLOAT16),
                    helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT),
                ]
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(copied)
    return model


def session(model: onnx.ModelProto, *, exact: bool = False) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU; `exact` leaves every node as it is written, so that no rounding is optimised away."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others may want the cores
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def overflows(
    model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[np.generic]]], limit: float = HALF_MAX
) -> dict[str, float]:
    """Layers whose activations pass `limit` in float32, and how far; empty if it is safe to compute them in float16.

    Args:
        model: The float32 graph.
        feeds: Real inputs by name, one mapping a run.
        limit: Largest magnitude allowed.

    Returns:
        Largest magnitude by layer, in the order of the graph. A layer is called as its weight is, where it has one.
    """
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    _fold_constants(probe.graph)
    _fold_batch_norm(probe.graph)
    narrow = half_tensors(to_half(model))
    names = {name: layer_name(node, probe.graph) for node in probe.graph.node for name in node.output if name in narrow}
    if not names:
        return {}
    outputs = {value.name for value in probe.graph.output}
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in outputs
    )
    runner = session(probe)
    highest: dict[str, float] = defaultdict(float)
    for feed in feeds:
        for name, value in zip(names, runner.run(list(names), dict(feed)), strict=True):
            top = float(np.nanmax(np.abs(value), initial=0.0)) if not np.isnan(value).all() else float("nan")
            highest[names[name]] = max(highest[names[name]], top)
    return {name: top for name, top in highest.items() if not top <= limit}


def require_finite(name: str, model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[np.generic]]]) -> None:
    """Refuse a network whose activations float16 cannot hold; see `overflows`.

    Raises:
        HalfError: It names the layers.
    """
    past = overflows(model, feeds)
    if past:
        layers = ", ".join(f"{layer} reaches {top:.3g}" for layer, top in list(past.items())[:8])
        more = f" and {len(past) - 8} more" if len(past) > 8 else ""
        raise HalfError(f"{name} overflows float16 ({HALF_MAX:g}): {layers}{more}; --precision float32 goes without it")


def layer_name(node: onnx.NodeProto, graph: onnx.GraphProto) -> str:
    """What a person calls a node: the weight's path without its last part, else the node's own name."""
    weights = {tensor.name for tensor in graph.initializer}
    for name in node.input:
        if name in weights and name.endswith(".weight"):
            return f"{name.removesuffix('.weight')} ({node.op_type})"
    return f"{node.name or node.output[0]} ({node.op_type})"


def _fold_constants(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes, and Casts of weights, into weights."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        array: NDArray[Any] | None = None
        if node.op_type == "Constant":
            kind, value = next(iter(attributes.items()))
            if kind == "value":
                array = numpy_helper.to_array(value)
            elif kind in ("value_float", "value_floats"):
                array = np.asarray(value, np.float32)
            elif kind in ("value_int", "value_ints"):
                array = np.asarray(value, np.int64)
        elif node.op_type == "Cast" and node.input[0] in weights and attributes["to"] == TensorProto.FLOAT:
            array = numpy_helper.to_array(weights[node.input[0]]).astype(np.float32)
        if array is None:
            kept.append(node)
        else:
            weights[node.output[0]] = numpy_helper.from_array(array, node.output[0])
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for n, t in weights.items() if n in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


def _fold_batch_norm(graph: onnx.GraphProto) -> None:
    """Turn each BatchNormalization with constant statistics into Mul and Add."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "BatchNormalization" or not all(name in weights for name in node.input[1:]):
            nodes.append(node)
            continue
        epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
        scale, bias, mean, variance = (numpy_helper.to_array(weights[n]).astype(np.float64) for n in node.input[1:])
        factor = scale / np.sqrt(variance + epsilon)
        stem, result = node.input[1].removesuffix(".weight"), node.output[0]
        for suffix, value in (("factor", factor), ("offset", bias - mean * factor)):
            array = value.astype(np.float32)[:, None, None]
            graph.initializer.append(numpy_helper.from_array(array, f"{result}.{suffix}"))
        nodes += [
            helper.make_node("Mul", [node.input[0], f"{result}.factor"], [f"{result}.scaled"], f"{stem}/Mul"),
            helper.make_node("Add", [f"{result}.scaled", f"{result}.offset"], [result], f"{stem}/Add"),
        ]
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    used = {name for node in copied for name in node.input}
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copied)
    graph.initializer.extend(tensors)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor; raises where a node's inputs do not agree."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise HalfError(f"the types of the graph do not agree: {str(error).splitlines()[0]}") from error
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = int(value.type.tensor_type.elem_type)
    return types


def _wide_nodes(graph: onnx.GraphProto, types: Mapping[str, int]) -> set[int]:
    """Indices of the nodes that stay float32."""
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    users: dict[str, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.node):
        for name in node.input:
            users[name].append(index)

    def product(index: int) -> bool:
        return graph.node[index].op_type in _PRODUCTS

    weights = {tensor.name: tensor for tensor in graph.initializer}

    def back(names: Iterable[str], *, through: bool = False, past_wide: bool = True) -> set[int]:
        """Nodes that these tensors are made by, up to the nearest products; with `through` all there are."""
        found: set[int] = set()
        pending = [maker[name] for name in names if name in maker]
        while pending:
            index = pending.pop()
            if index not in found and (through or not product(index)):
                found.add(index)
                if not past_wide and graph.node[index].op_type in _WIDE:
                    continue
                pending += [maker[name] for name in graph.node[index].input if name in maker]
        return found

    wide = {index for index, node in enumerate(graph.node) if node.op_type in _WIDE}
    wide |= back(value.name for value in graph.output)

    def forwards(names: Iterable[str], *, passed: bool) -> None:
        """Add what uses these tensors, past one product unless it is `passed` already, up to the next."""
        pending = [(user, passed) for name in names for user in users[name]]
        seen: set[tuple[int, bool]] = set()
        while pending:
            user, passed = pending.pop()
            if (user, passed) in seen or (product(user) and passed):
                continue
            seen.add((user, passed))
            wide.add(user)
            if product(user):
                passed = True
                wide.update(back(graph.node[user].input))  # what it takes the mean of
            pending += [(after, passed) for name in graph.node[user].output for after in users[name]]

    for index, node in enumerate(graph.node):
        if node.op_type == "Div" and node.input[1] not in weights:  # by a length, say, that must not round to 0
            wide |= {index} | back(node.input[1:], past_wide=False)
        if node.op_type in _EXPONENTIALS:
            wide |= back(node.input)
            forwards(node.output, passed=False)
        if node.op_type == "Pow" and _is_curve(weights.get(node.input[1])):
            wide |= back(node.input, through=True)
            forwards(node.output, passed=True)
        decides = node.op_type == "Cast" and types.get(node.output[0]) in _INTEGERS
        if decides and types.get(node.input[0]) == TensorProto.FLOAT:
            wide |= back(node.input, through=True)
    return wide


def _is_curve(exponent: onnx.TensorProto | None) -> bool:
    """Whether a power is one of colour's (2.4, 1/3): its exponent is a constant and no whole number."""
    return exponent is not None and bool((numpy_helper.to_array(exponent) % 1 != 0).any())


def _accepts_half(node: onnx.NodeProto, opset: int) -> tuple[list[bool], list[bool]]:
    """Whether each input and each output of a node may be float16, by the operator's definition."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    allowed = {item.type_param_str: set(item.allowed_type_strs) for item in schema.type_constraints}

    def accepts(formals: Sequence[Any], index: int) -> bool:
        formal = formals[min(index, len(formals) - 1)]
        return "tensor(float16)" in allowed.get(formal.type_str, {formal.type_str})

    return (
        [accepts(schema.inputs, index) for index in range(len(node.input))],
        [accepts(schema.outputs, index) for index in range(len(node.output))],
    )


def _retype(model: onnx.ModelProto, types: Mapping[str, int], wide: set[int]) -> None:
    """Make float tensors of all other nodes float16, with Casts where they meet the wide ones."""
    graph = model.graph
    opset = max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    weights = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    held = {value.name: TensorProto.FLOAT for value in graph.input if types[value.name] == TensorProto.FLOAT}
    nodes: list[onnx.NodeProto] = []
    made: dict[tuple[str, int], str] = {}

    def as_type(name: str, kind: int) -> str:
        """Name of the tensor `name` as float16 or float32."""
        if (name, kind) in made:
            return made[name, kind]
        if name in weights:
            if kind == TensorProto.FLOAT:
                return name
            array = numpy_helper.to_array(weights[name])
            top = float(np.abs(array).max(initial=0.0))
            if top > HALF_MAX:
                raise HalfError(f"weight {name} reaches {top:.3g}, beyond float16's {HALF_MAX:g}")
            made[name, kind] = f"{name}.half"
            graph.initializer.append(numpy_helper.from_array(array.astype(np.float16), made[name, kind]))
        elif held[name] == kind:
            return name
        else:
            made[name, kind] = f"{name}.{'half' if kind == TensorProto.FLOAT16 else 'float'}"
            nodes.append(helper.make_node("Cast", [name], [made[name, kind]], f"{made[name, kind]}/Cast", to=kind))
        return made[name, kind]

    for index, original in enumerate(graph.node):
        node = onnx.NodeProto.FromString(original.SerializeToString())
        takes, gives = _accepts_half(node, opset)
        kind = TensorProto.FLOAT if index in wide else TensorProto.FLOAT16
        if node.op_type == "Cast":
            target = next(item for item in node.attribute if item.name == "to")
            if target.i == TensorProto.FLOAT and kind == TensorProto.FLOAT16 and node.output[0] not in outputs:
                target.i = TensorProto.FLOAT16
            if types.get(node.output[0]) == TensorProto.FLOAT:
                held[node.output[0]] = target.i
            if types.get(node.input[0]) == TensorProto.FLOAT:
                node.input[0] = as_type(node.input[0], TensorProto.FLOAT if target.i in _INTEGERS else kind)
            nodes.append(node)
            continue
        for slot, name in enumerate(node.input):
            if name and types.get(name) == TensorProto.FLOAT:
                node.input[slot] = as_type(name, kind if takes[slot] else TensorProto.FLOAT)
        late = []
        for slot, name in enumerate(node.output):
            if not name or types.get(name) != TensorProto.FLOAT:
                continue
            held[name] = kind if gives[slot] else TensorProto.FLOAT
            if name in outputs and held[name] == TensorProto.FLOAT16:
                node.output[slot], held[name] = f"{name}.half", TensorProto.FLOAT
                late.append(helper.make_node("Cast", [f"{name}.half"], [name], f"{name}/Cast", to=TensorProto.FLOAT))
        nodes += [node, *late]
    used = {name for node in nodes for name in node.input} | outputs
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if t.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
