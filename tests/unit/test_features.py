"""ResNet-50 and VGG-19 with torchvision's names, and `scene_embedder` made from a network's features.

torchvision is not needed: names and shapes are written down here, from its published state dicts, and the numbers of
parameters are those of its documentation.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from reeltint_export.embedder_export import embedder_model, resnet50_embedder
from reeltint_export.onnx_export import ExportError
from reeltint_training.checkpoints import CheckpointError, save_checkpoint
from reeltint_training.networks.features import ResNet50Features, VGG19Features, imagenet_input, load_features
from skimage import color, data
from torch import Tensor, nn
from torch.nn import functional

State = dict[str, Tensor]
_Array = NDArray[Any]


def _norm(name: str, channels: int) -> State:
    return {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": 0.1 * torch.randn(channels),
        f"{name}.running_mean": 0.1 * torch.randn(channels),
        f"{name}.running_var": torch.rand(channels) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(0),
    }


def _kernel(outputs: int, inputs: int, side: int) -> Tensor:
    kernel: Tensor = torch.randn(outputs, inputs, side, side) / (inputs * side * side) ** 0.5
    return kernel


@pytest.fixture(scope="module")
def resnet50() -> State:
    """Random weights by the names of torchvision's resnet50."""
    torch.manual_seed(0)
    state = {"conv1.weight": _kernel(64, 3, 7), **_norm("bn1", 64)}
    inputs = 64
    for layer, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            kernels = ((width, inputs, 1), (width, width, 3), (4 * width, width, 1))
            for number, kernel in enumerate(kernels, 1):
                state[f"{name}.conv{number}.weight"] = _kernel(*kernel)
                state |= _norm(f"{name}.bn{number}", kernel[0])
            if block == 0:
                state[f"{name}.downsample.0.weight"] = _kernel(4 * width, inputs, 1)
                state |= _norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    return state | {"fc.weight": torch.randn(1000, 2048), "fc.bias": torch.randn(1000)}


@pytest.fixture(scope="module")
def vgg19() -> State:
    """Random weights by the names of torchvision's vgg19, its classifier cut to one tensor."""
    torch.manual_seed(0)
    indices = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    widths = (3, 64, 64, 128, 128, *(256,) * 4, *(512,) * 8)
    state = {}
    for index, inputs, outputs in zip(indices, widths, widths[1:], strict=False):
        state[f"features.{index}.weight"] = 1.4 * _kernel(outputs, inputs, 3)
        state[f"features.{index}.bias"] = 0.1 * torch.randn(outputs)
    return state | {"classifier.6.bias": torch.zeros(1000)}


def _count(state: State) -> int:
    return sum(t.numel() for name, t in state.items() if not name.endswith(("_mean", "_var", "_tracked")))


def _resnet50_by_hand(state: State, x: Tensor) -> Tensor:
    """He et al.'s table 1 written out, stride in the 3x3 convolution."""

    def normed(name: str, y: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (variance + 1e-5).sqrt() * weight + bias

    x = functional.conv2d(x, state["conv1.weight"], stride=2, padding=3)
    x = functional.max_pool2d(normed("bn1", x).relu(), 3, 2, 1)
    for layer, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(blocks):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            shortcut = x
            if block == 0:
                shortcut = functional.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                shortcut = normed(f"{name}.downsample.1", shortcut)
            y = normed(f"{name}.bn1", functional.conv2d(x, state[f"{name}.conv1.weight"])).relu()
            y = functional.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
            y = functional.conv2d(normed(f"{name}.bn2", y).relu(), state[f"{name}.conv3.weight"])
            x = (normed(f"{name}.bn3", y) + shortcut).relu()
    return x.mean((2, 3))


def test_the_sizes_are_those_torchvision_states(resnet50: State) -> None:
    assert _count(resnet50) == 25_557_032
    assert sum(p.numel() for p in ResNet50Features().parameters()) == 25_557_032 - 2048 * 1000 - 1000
    classifier = 25_088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert sum(p.numel() for p in VGG19Features().parameters()) == 143_667_240 - classifier


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_resnet50_loads_by_name_and_computes_what_the_paper_says(resnet50: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"resnet50{suffix}"
    if suffix == ".pth":  # as torchvision's oldest file: without the counters
        torch.save({name: value for name, value in resnet50.items() if "num_batches" not in name}, path)
    else:
        save_checkpoint(path, resnet50, {})
    network = load_features(path, "resnet50")
    rgb = torch.rand(2, 3, 96, 64)
    with torch.inference_mode():
        features = network(rgb)
        expected = _resnet50_by_hand(resnet50, imagenet_input(rgb))
    assert features.shape == (2, 2048)
    assert torch.allclose(features, expected, rtol=1e-3, atol=1e-4)


def test_vgg19_gives_the_named_activations(vgg19: State, tmp_path: Path) -> None:
    torch.save(vgg19, tmp_path / "vgg19.pth")
    network = load_features(tmp_path / "vgg19.pth", "vgg19")
    grey = torch.rand(1, 1, 48, 64)
    with torch.inference_mode():
        features = network(grey)
        x = imagenet_input(grey)
        expected = {}
        for block, convolutions in enumerate(((0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28, 30)), 1):
            for number, index in enumerate(convolutions, 1):
                weight, bias = (vgg19[f"features.{index}.{part}"] for part in ("weight", "bias"))
                x = functional.conv2d(x, weight, bias, padding=1).relu()
                expected[f"relu{block}_{number}"] = x
            x = functional.max_pool2d(x, 2)
    shapes = {"relu2_2": (128, 24, 32), "relu3_2": (256, 12, 16), "relu4_2": (512, 6, 8), "relu5_2": (512, 3, 4)}
    assert {name: tuple(value.shape[1:]) for name, value in features.items()} == shapes
    for name, value in features.items():
        assert value.std() > 0
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-5), name


def test_grey_is_the_same_as_lightness_or_as_rgb() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(1, 256).repeat(3, 0)
    lightness = color.rgb2lab(np.stack([codes] * 3, -1))[..., 0] / 100
    by_lightness = imagenet_input(torch.from_numpy(lightness).float()[None, None])
    by_rgb = imagenet_input(torch.from_numpy(codes / 255).float()[None, None].repeat(1, 3, 1, 1))
    assert (by_lightness - by_rgb).abs().max() < 0.01  # 0.5 of 255
    assert by_rgb[0, :, 0, 0].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])


def test_what_does_not_fit_is_listed(resnet50: State, vgg19: State, tmp_path: Path) -> None:
    state = {name: value for name, value in resnet50.items() if name != "layer3.5.conv2.weight"}
    state |= {"layer9.weight": torch.zeros(1), "bn1.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError) as caught:
        load_features(tmp_path / "odd.pth", "resnet50")
    for part in ("odd.pth", "missing: layer3.5.conv2.weight", "unknown: layer9.weight", "shape of bn1.weight: (3,)"):
        assert part in str(caught.value)
    assert "fc" not in str(caught.value)
    torch.save(vgg19, tmp_path / "vgg19.pth")
    with pytest.raises(CheckpointError, match=r"missing: conv1\.weight"):
        load_features(tmp_path / "vgg19.pth", "resnet50")
    with pytest.raises(CheckpointError, match="resnet50 or vgg19"):
        load_features(tmp_path / "vgg19.pth", "alexnet")  # type: ignore[arg-type]


class _Features(nn.Module):
    """A few convolutions of lightness, pooled; its scale is not 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 32, 3, 2), nn.ReLU(), nn.Conv2d(32, 48, 3, 2), nn.ReLU())

    def forward(self, lightness: Tensor) -> Tensor:
        x: Tensor = self.layers(lightness)
        return 7 * x.mean((2, 3))


def _embed(model: bytes, frames: _Array) -> _Array:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (embedding,) = session.run(["embedding"], {"frames": frames})
    assert embedding.dtype == np.float32
    return np.asarray(embedding)


def _expected(features: nn.Module, frames: _Array, size: int) -> _Array:
    """PyTorch's resize, scikit-image's Lab, the network, and a division by the length."""
    resized = functional.interpolate(
        torch.from_numpy(frames).double()[:, None], (size, size), mode="bilinear", antialias=True
    )
    grey = resized[:, 0].numpy() / 255
    lightness = np.stack([color.rgb2lab(np.stack([each] * 3, -1))[..., 0] for each in grey]) / 100
    with torch.inference_mode():
        found = features(torch.from_numpy(lightness).float()[:, None]).numpy()
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def test_the_embedder_is_resize_lightness_features_and_unit_length() -> None:
    torch.manual_seed(0)
    features = _Features().eval()
    model = embedder_model(features, 64)
    assert model.SerializeToString(deterministic=True) == embedder_model(features, 64).SerializeToString(
        deterministic=True
    )
    content = model.SerializeToString(deterministic=True)
    assert (model.ir_version, [(item.domain, item.version) for item in model.opset_import]) == (8, [("", 18)])
    assert b"torch" not in content
    assert b".py" not in content
    for shape in ((1, 1, 1), (3, 97, 131), (5, 240, 320)):
        frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        embedding = _embed(content, frames)
        assert embedding.shape == (shape[0], 48)
        assert np.linalg.norm(embedding, axis=1) == pytest.approx(1, abs=1e-5)
        away = np.linalg.norm(embedding - _expected(features, frames, 64), axis=1)
        assert away.max() < 2e-3


def test_paper_3s_embedder_is_made_from_a_resnet50_file(resnet50: State, tmp_path: Path) -> None:
    torch.save(resnet50, tmp_path / "resnet50.pth")
    model = resnet50_embedder(tmp_path / "resnet50.pth").SerializeToString(deterministic=True)
    frames = np.stack([data.camera(), data.astronaut().mean(-1).astype(np.uint8)])
    embedding = _embed(model, frames)
    assert embedding.shape == (2, 2048)
    expected = _expected(load_features(tmp_path / "resnet50.pth", "resnet50"), frames, 224)
    assert np.linalg.norm(embedding - expected, axis=1).max() < 2e-3
    assert np.linalg.norm(expected[0] - expected[1]) > 0.05


def test_features_that_are_no_vector_or_a_size_that_does_not_fit_are_refused() -> None:
    with pytest.raises(ExportError, match=r"\[2, 1, 64, 64\]"):
        embedder_model(nn.Identity(), 64)
    with pytest.raises(ExportError, match="multiple of 8"):
        embedder_model(_Features(), 60)
