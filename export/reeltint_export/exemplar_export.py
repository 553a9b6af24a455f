"""`reference_encoder` and `exemplar_colorizer`: the two graphs of an `ExemplarNet`, one set of weights."""

import onnx
import torch
from onnx import TensorProto, compose, helper
from reeltint_training.color import srgb_to_lab
from reeltint_training.networks.exemplar import ExemplarNet, ReferenceEncoder
from torch import Tensor, nn

from reeltint_export.colour_graphs import (
    IR_VERSION,
    OPSET,
    _band_weights,
    _centres_and_support,
    _Graph,
    _triangle,
)
from reeltint_export.onnx_export import ExportError, Storage, graph_of


class _FromPicture(nn.Module):
    """A resized reference, sRGB codes [1, 3, S, S], to the reference's state."""

    def __init__(self, network: ExemplarNet) -> None:
        super().__init__()
        self.encoder = ReferenceEncoder(network)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        lab = srgb_to_lab(picture / 255)
        return self.encoder(lab[:, :1] / 100, lab[:, 1:])  # type: ignore[no-any-return]


def exemplar_models(network: ExemplarNet, size: int, storage: Storage = "float16") -> dict[str, onnx.ModelProto]:
    """Turn an `ExemplarNet` into the two graphs that Triton serves.

    Args:
        network: In evaluation mode, weights on the CPU.
        size: Input size S of both.
        storage: How large weights are stored; arithmetic is float32 either way.

    Returns:
        `reference_encoder`: `reference` u8 [h, w, 3] to `reference_keys` f32 [C, K] and `reference_ab` f32 [2, K];
        `exemplar_colorizer`: `lightness` f32 [batch, 1, S, S] and those two to `ab` f32 [batch, 2, s, s] and
        `confidence` f32 [batch, 1, s, s].

    Raises:
        ExportError: `size` is not a positive multiple of the network's stride.
    """
    if size < network.stride or size % network.stride:
        raise ExportError(
            f"input size {size} is not a positive multiple of {network.stride}, the stride of this network"
        )
    keys, ab = ReferenceEncoder(network)(torch.zeros(1, 1, size, size), torch.zeros(1, 2, size, size))
    colorizer = graph_of(
        network,
        {"lightness": torch.zeros(2, 1, size, size), "reference_keys": keys.detach(), "reference_ab": ab},
        ("ab", "confidence"),
        storage,
        batched=("lightness",),
    )
    encoder = graph_of(
        _FromPicture(network), {"picture": torch.zeros(1, 3, size, size)}, ("reference_keys", "reference_ab"), storage
    )
    encoder.ir_version = IR_VERSION
    whole = compose.merge_models(
        compose.add_prefix(_resize(size), "resize/", rename_inputs=False, rename_outputs=False),
        compose.add_prefix(encoder, "network/", rename_inputs=False, rename_outputs=False),
        io_map=[("picture", "picture")],
    )
    return {
        "reference_encoder": finished(whole.graph, "reference_encoder"),
        "exemplar_colorizer": finished(colorizer.graph, "exemplar_colorizer"),
    }


def finished(graph: onnx.GraphProto, name: str) -> onnx.ModelProto:
    """A checked model of `graph`, with nothing in it that changes from run to run."""
    graph.name = name
    del graph.value_info[:]
    model = helper.make_model(
        graph, producer_name="reeltint", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _resize(size: int) -> onnx.ModelProto:
    """`reference` u8 [h, w, 3] to `picture` f32 [1, 3, size, size], code values, resized as `lab_split` does."""
    graph = _Graph()
    planes = graph.op("Transpose", graph.float("reference"), perm=[2, 0, 1])
    bands, rows = _band_weights(graph, graph.size(planes, 1), size)
    x = graph.op("MatMul", rows, graph.op("Gather", planes, bands, axis=1))
    x = graph.op("Reshape", x, graph.constant([3, size, -1]))
    width = graph.size(planes, 2)
    centres, support = _centres_and_support(graph, width, size, (1, size))
    columns = graph.unsqueeze(graph.float(graph.range(width)), 1)
    x = graph.op("MatMul", x, _triangle(graph, columns, centres, support, axis=0))
    graph.op("Reshape", x, graph.constant([1, 3, size, size]), name="picture")
    reference = ("reference", TensorProto.UINT8, ("height", "width", 3))
    return graph.model("resize", [reference], ("picture", TensorProto.FLOAT, (1, 3, size, size)))
