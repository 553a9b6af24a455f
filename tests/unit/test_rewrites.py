"""Rewritten graphs compute what they did before."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from reeltint_export.onnx_export import export_network
from reeltint_export.rewrites import quick_softmax
from reeltint_training.networks import NETWORKS
from torch import nn

HEAD = """<ir_version: 8, opset_import: ["": 18]> head (float[batch, 3, h, w] x) => ({outputs})
<float[3, 1, 1] taken = {{1.0, -2.0, 0.5}}, float[1] cold = {{0.5}},
 float[2, 3, 1, 1] bins = {{1.0, 2.0, 3.0, -4.0, 5.0, 6.0}}> {{
    scores = Sub (x, taken)
    sharp = Div (scores, cold)
    p = Softmax <axis = {axis}> (sharp)
    ab = Conv <kernel_shape = [1, 1]> (p, bins)
}}"""
AB, P = "float[batch, 2, h, w] ab", "float[batch, 3, h, w] p"


def head(axis: int = 1, outputs: str = AB) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEAD.format(axis=axis, outputs=outputs))


def run(model: onnx.ModelProto, x: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def kinds(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def test_a_mean_by_softmax_is_what_torch_says() -> None:
    x = np.random.default_rng(0).normal(0, 3, (2, 3, 5, 7)).astype(np.float32)
    model = head()
    quick = quick_softmax(model)
    assert kinds(quick) == {"Add", "Mul", "ReduceMax", "Sub", "Exp", "Conv", "Split", "Div"}
    assert "Softmax" in kinds(model)  # which is left as it was
    scores = (torch.from_numpy(x) - torch.tensor([1.0, -2.0, 0.5])[:, None, None]) / 0.5
    bins = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 5.0, 6.0]])
    expected = torch.einsum("kc,bchw->bkhw", bins, torch.softmax(scores, 1)).numpy()
    np.testing.assert_allclose(run(quick, x), expected, atol=1e-5)


def test_scores_that_would_overflow_do_not() -> None:
    x = np.full((1, 3, 2, 2), 3e4, np.float32)
    x[:, 1] = -3e4
    got = run(quick_softmax(head()), x)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, run(head(), x), atol=1e-5)


@pytest.mark.parametrize("model", [head(axis=3), head(outputs=f"{AB}, {P}")], ids=["another axis", "another use"])
def test_another_softmax_is_left_as_it_is(model: onnx.ModelProto) -> None:
    assert "Softmax" in kinds(quick_softmax(model))


def test_the_default_network_computes_the_same() -> None:
    torch.manual_seed(0)
    network = NETWORKS["huenet"].build().eval()
    nn.init.normal_(network.get_buffer("log_weight"))
    model = export_network(network, 64, "float16")
    quick = quick_softmax(model)
    assert "Softmax" not in kinds(quick)
    x = np.random.default_rng(0).random((3, 1, 64, 64), np.float32)
    assert np.abs(run(quick, x) - run(model, x)).max() < 1e-3
