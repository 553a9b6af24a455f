"""Half precision: what becomes float16, what does not, and that its rounding is that of the hardware."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from reeltint_export.half import HALF_MAX, HalfError, half_tensors, overflows, rounded, session, to_half
from reeltint_export.rewrites import quick_softmax
from torch.nn import functional

SHIPPED = Path(__file__).parents[2] / "model_repository"
HEAD = '<ir_version: 8, opset_import: ["": 18]> g '


def graph(text: str, **weights: NDArray[Any]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEAD + text)
    for node in model.graph.node:  # the parser takes no dots
        node.input[:] = [name.replace("__", ".") for name in node.input]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def run(model: onnx.ModelProto, *, exact: bool = False, **feeds: NDArray[Any]) -> list[NDArray[Any]]:
    return list(session(model, exact=exact).run(None, feeds))


def random(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(len(shape)).standard_normal(shape) * scale).astype(np.float32)


CLASSES = """(float[n, 3, 8, 8] x) => (float[n, 2, 8, 8] ab) {
    y = Conv <kernel_shape = [1, 1]> (x, first__weight)
    z = Relu (y)
    scores = Conv <kernel_shape = [1, 1]> (z, second__weight)
    cooled = Div (scores, temperature)
    p = Softmax <axis = 1> (cooled)
    ab = Conv <kernel_shape = [1, 1]> (p, bins)
}"""


@pytest.fixture
def classes() -> onnx.ModelProto:
    return graph(
        CLASSES,
        **{"first.weight": random(16, 3, 1, 1), "second.weight": random(5, 16, 1, 1)},
        temperature=np.array(0.7, np.float32),
        bins=random(2, 5, 1, 1, scale=50),
    )


def test_convolutions_are_half_and_the_annealed_mean_is_not(classes: onnx.ModelProto) -> None:
    before = classes.SerializeToString()
    half = to_half(classes)
    assert classes.SerializeToString() == before
    assert half_tensors(half) == {"x.half", "y", "z", "scores"}
    kinds = types(half)
    assert kinds["x"] == kinds["ab"] == kinds["p"] == kinds["cooled"] == TensorProto.FLOAT
    stored = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert stored == {
        "first.weight.half": TensorProto.FLOAT16,
        "second.weight.half": TensorProto.FLOAT16,
        "temperature": TensorProto.FLOAT,
        "bins": TensorProto.FLOAT,
    }


def test_a_softmax_that_is_written_out_is_not_half_either(classes: onnx.ModelProto) -> None:
    half = to_half(quick_softmax(classes))
    assert half_tensors(half) == {"x.half", "y", "z", "scores"}
    x = random(1, 3, 8, 8)
    [one], [other] = (run(rounded(to_half(model)), exact=True, x=x) for model in (classes, quick_softmax(classes)))
    assert np.abs(one - other).max() < 1e-3


def test_what_the_mean_is_taken_of_is_not_half_either() -> None:
    """The mean of squares less the square of the mean: in float16 nothing would be left of it."""
    text = """(float[4, 8] q, float[8, 6] k, float[6, 2] ab) => (float[4, 2] spread) {
        scores = MatMul (q, k)
        p = Softmax <axis = -1> (scores)
        squares = Mul (ab, ab)
        mean = MatMul (p, ab)
        square_mean = Mul (mean, mean)
        mean_square = MatMul (p, squares)
        spread = Sub (mean_square, square_mean)
    }"""
    half = to_half(graph(text))
    assert half_tensors(half) == {"q.half", "k.half", "scores"}


def test_a_mean_that_is_given_out_too_is_not_half_where_it_is_used() -> None:
    text = """(float[4, 8] q, float[8, 6] k, float[6, 2] ab, float[2, 2] w) => (float[4, 2] mean, float[4, 2] y) {
        scores = MatMul (q, k)
        p = Softmax <axis = -1> (scores)
        m = MatMul (p, ab)
        mean = Identity (m)
        a = Abs (m)
        b = Sub (a, m)
        c = MatMul (b, w)
        y = Relu (c)
    }"""
    assert half_tensors(to_half(graph(text))) == {"q.half", "k.half", "w.half", "b.half", "scores", "c"}


def test_colour_arithmetic_on_the_way_in_is_not_half() -> None:
    text = """(float[n, 3] codes, float[3, 3] matrix, float[3, 4] w, float[4, 4] v) => (float[n, 4] y) {
        linear = Pow (codes, gamma)
        xyz = MatMul (linear, matrix)
        f = Pow (xyz, third)
        lab = Mul (f, scale)
        a = MatMul (lab, w)
        b = Mul (a, a)
        c = MatMul (b, v)
        y = Relu (c)
    }"""
    constants = {
        name: np.array(value, np.float32) for name, value in (("gamma", 2.4), ("third", 1 / 3), ("scale", 116))
    }
    assert half_tensors(to_half(graph(text, **constants))) == {"lab.half", "w.half", "a", "b", "v.half", "c"}


def test_a_length_does_not_round_to_nothing() -> None:
    """x / max(|x|, 1e-12): in float16 that is 0 / 0 where x is 0."""
    text = """(float[n, 8] x, float[8, 8] w) => (float[n, 8] y) {
        a = MatMul (x, w)
        b = Relu (a)
        squares = ReduceL2 <axes = [1]> (b)
        length = Max (squares, tiny)
        unit = Div (b, length)
        c = MatMul (unit, w)
        y = Relu (c)
    }"""
    model = graph(text.replace("ReduceL2 <axes = [1]> (b)", "ReduceL2 (b, axes)"), tiny=np.array(1e-12, np.float32),
                  axes=np.array([1]))  # fmt: skip
    half = to_half(model)
    assert half_tensors(half) == {"x.half", "w.half", "a", "b", "unit.half", "c"}
    [got] = run(rounded(half), exact=True, x=np.zeros((1, 8), np.float32), w=random(8, 8))
    assert (got == 0).all()


def test_what_decides_an_index_is_not_half() -> None:
    text = """(float[n, 8] codes, float[8, 8] w) => (float[n, 8] y) {
        sums = MatMul (codes, w)
        index = Cast <to = 7> (sums)
        picked = GatherElements <axis = 0> (codes, index)
        y0 = MatMul (picked, w)
        y = Relu (y0)
    }"""
    half = to_half(graph(text))
    kinds = types(half)
    assert kinds["sums"] == TensorProto.FLOAT
    assert kinds["picked"] == TensorProto.FLOAT16
    assert kinds["y"] == TensorProto.FLOAT


def test_batch_norm_is_folded_and_stored_weights_are_taken_as_they_are() -> None:
    text = """(float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y) {
        w = Cast <to = 1> (w16)
        a = Conv <kernel_shape = [1, 1]> (x, w)
        b = BatchNormalization <epsilon = 0.001> (a, scale, bias, mean, variance)
        y = Conv <kernel_shape = [1, 1]> (b, v)
    }"""
    weights: dict[str, NDArray[Any]] = {
        "w16": random(4, 3, 1, 1).astype(np.float16), "scale": random(4), "bias": random(4), "mean": random(4),
        "variance": np.abs(random(4)) + 0.5, "v": random(4, 4, 1, 1),
    }  # fmt: skip
    model = graph(text, **weights)
    half = to_half(model)
    assert {node.op_type for node in half.graph.node} == {"Cast", "Conv", "Mul", "Add"}
    kept = next(tensor for tensor in half.graph.initializer if tensor.name == "w.half")
    assert (numpy_helper.to_array(kept) == weights["w16"]).all()
    x = random(2, 3, 8, 8)
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in weights.items()}
    a = functional.conv2d(torch.from_numpy(x), tensors["w16"])
    b = functional.batch_norm(
        a, tensors["mean"], tensors["variance"], tensors["scale"], tensors["bias"], False, 0.1, 0.001
    )
    expected = functional.conv2d(b, tensors["v"]).numpy()
    [got] = run(rounded(half), exact=True, x=x)
    assert 0 < np.abs(got - expected).max() < 0.02


def test_rounding_is_that_of_torch_in_half() -> None:
    """Torch's own float16 convolution on the CPU sums in float32 and rounds once, as tensor cores do."""
    text = """(float[n, 8, 12, 12] x) => (float[n, 4, 12, 12] y) {
        a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, v)
        b = Relu (a)
        y = Conv <kernel_shape = [1, 1]> (b, w)
    }"""
    v, w, x = random(8, 8, 3, 3), random(4, 8, 1, 1), random(2, 8, 12, 12)
    [got] = run(rounded(to_half(graph(text, v=v, w=w))), exact=True, x=x)
    torch_v, torch_w, torch_x = (torch.from_numpy(array).half() for array in (v, w, x))
    expected = functional.conv2d(functional.relu(functional.conv2d(torch_x, torch_v, padding=1)), torch_w).float()
    assert (got == got.astype(np.float16)).all()
    assert np.abs(got - expected.numpy()).max() <= np.abs(got).max() / 1024  # one step of float16
    [exact] = run(graph(text, v=v, w=w), x=x)
    assert np.abs(exact - got).mean() > np.abs(expected.numpy() - got).mean()


def test_layers_that_overflow_are_named_and_a_weight_that_does(classes: onnx.ModelProto) -> None:
    x = random(1, 3, 8, 8)
    assert overflows(classes, [{"x": x}]) == {}
    past = overflows(classes, [{"x": x}, {"x": x * 1e5}])
    assert list(past) == ["first (Conv)", "z (Relu)", "second (Conv)"]
    assert min(past.values()) > HALF_MAX
    assert not np.isfinite(run(rounded(to_half(classes)), exact=True, x=x * 1e5)[0]).all()
    classes.graph.initializer[0].CopyFrom(numpy_helper.from_array(random(16, 3, 1, 1, scale=1e5), "first.weight"))
    with pytest.raises(HalfError, match=r"weight first\.weight reaches .* beyond"):
        to_half(classes)


def test_types_that_do_not_agree_are_refused(classes: onnx.ModelProto) -> None:
    classes.graph.node.insert(1, helper.make_node("Cast", ["y"], ["narrow"], to=TensorProto.FLOAT16))
    classes.graph.node[2].input[0] = "narrow"
    with pytest.raises(HalfError, match="do not agree"):
        to_half(classes)


def test_the_shipped_network_in_half() -> None:
    model = onnx.load(SHIPPED / "colorizer/1/model.onnx")
    side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    x = np.random.default_rng(0).random((2, 1, side, side), np.float32)
    assert overflows(model, [{"lightness": x}]) == {}
    half = to_half(model)
    [expected], [got] = run(model, lightness=x), run(rounded(half), exact=True, lightness=x)
    assert 0 < np.abs(got - expected).mean() < 0.05
    assert {types(half)[value.name] for value in (*half.graph.input, *half.graph.output)} == {TensorProto.FLOAT}
    assert len(half_tensors(half)) > 100
