"""Small ONNX graphs with the tensors of the served models, quick to make and to run; their arithmetic is made up."""

import onnx

IR_VERSION, OPSET = 8, 18
SIZE, KEYS, CHANNELS = 32, 64, 8


def _model(name: str, nodes: list[str], inputs: str, outputs: str) -> onnx.ModelProto:
    text = f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}]> {name} ({inputs}) => ({outputs}) {{'
    model = onnx.parser.parse_model(text + "\n".join(nodes) + "}")
    onnx.checker.check_model(model, full_check=True)
    return model


def _scalar(name: str, value: float) -> str:
    return f"{name} = Constant <value_float = {value:.1f}> ()"


def colorizer(size: int = SIZE, a: float = 20.0) -> onnx.ModelProto:
    """Give ab = (`a` * L*/100, 2 * a * L*/100) at a quarter of `size`."""
    nodes = [
        "l = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (lightness)",
        _scalar("a", a),
        "al = Mul (a, l)",
        "bl = Add (al, al)",
        "ab = Concat <axis = 1> (al, bl)",
    ]
    side = size // 4
    return _model(
        "colorizer", nodes, f"float[batch, 1, {size}, {size}] lightness", f"float[batch, 2, {side}, {side}] ab"
    )


def reference_encoder() -> onnx.ModelProto:
    """Give keys [CHANNELS, KEYS] and ab [2, KEYS], all the reference's mean."""
    nodes = [
        "x = Cast <to = 1> (reference)",
        "mean = ReduceMean <keepdims = 0> (x)",
        f"keys_shape = Constant <value_ints = [{CHANNELS}, {KEYS}]> ()",
        "reference_keys = Expand (mean, keys_shape)",
        f"ab_shape = Constant <value_ints = [2, {KEYS}]> ()",
        "reference_ab = Expand (mean, ab_shape)",
    ]
    outputs = f"float[{CHANNELS}, {KEYS}] reference_keys, float[2, {KEYS}] reference_ab"
    return _model("reference_encoder", nodes, "uint8[height, width, 3] reference", outputs)


def exemplar_colorizer(size: int = SIZE) -> onnx.ModelProto:
    """Give ab = mean(reference_ab) * L*/100 in both planes, confidence = L*/100 + 0 * mean(reference_keys)."""
    nodes = [
        "l = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (lightness)",
        "mean = ReduceMean <keepdims = 0> (reference_ab)",
        "al = Mul (mean, l)",
        "ab = Concat <axis = 1> (al, al)",
        _scalar("zero", 0.0),
        "key = ReduceMean <keepdims = 0> (reference_keys)",
        "nothing = Mul (key, zero)",
        "confidence = Add (l, nothing)",
    ]
    side = size // 4
    inputs = (
        f"float[batch, 1, {size}, {size}] lightness, float[{CHANNELS}, {KEYS}] reference_keys, "
        f"float[2, {KEYS}] reference_ab"
    )
    outputs = f"float[batch, 2, {side}, {side}] ab, float[batch, 1, {side}, {side}] confidence"
    return _model("exemplar_colorizer", nodes, inputs, outputs)


def scene_embedder() -> onnx.ModelProto:
    """Give [B, 2] of length 1: the sine and cosine of a frame's mean code, 0..1."""
    nodes = [
        "x = Cast <to = 1> (frames)",
        "axes = Constant <value_ints = [1, 2]> ()",
        "mean = ReduceMean <keepdims = 0> (x, axes)",
        _scalar("scale", 255.0),
        "phase = Div (mean, scale)",
        "one = Constant <value_ints = [1]> ()",
        "column = Unsqueeze (phase, one)",
        "s = Sin (column)",
        "c = Cos (column)",
        "embedding = Concat <axis = 1> (s, c)",
    ]
    return _model("scene_embedder", nodes, "uint8[batch, height, width] frames", "float[batch, 2] embedding")


def networks(size: int = SIZE) -> dict[str, onnx.ModelProto]:
    """The models of the contract that stand for trained networks."""
    return {
        "colorizer": colorizer(size),
        "reference_encoder": reference_encoder(),
        "exemplar_colorizer": exemplar_colorizer(size),
        "scene_embedder": scene_embedder(),
    }


def all_models(size: int = SIZE) -> dict[str, onnx.ModelProto]:
    """Every model of the contract; the colour graphs are the real ones."""
    from reeltint_export.colour_graphs import chroma_merge, lab_merge, lab_split  # brings torch

    return networks(size) | {
        "lab_split": lab_split(size),
        "lab_merge": lab_merge(),
        "chroma_merge": chroma_merge(),
    }


def rename_input(model: onnx.ModelProto, old: str, new: str) -> None:
    """Give an input another name, in the nodes that read it as well."""
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    next(value for value in model.graph.input if value.name == old).name = new
