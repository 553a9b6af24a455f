"""ResNet-50 and VGG-19 as feature extractors, for those who have torchvision's ImageNet weights.

He et al. (CVPR 2016), table 1, with the stride in the 3x3 convolution as torchvision has it; Simonyan & Zisserman
(ICLR 2015), table 1, column E. Paper 3 finds references by ResNet-50's pooled features and compares by VGG-19's.
Parameter names are torchvision's, so that its files load unchanged; their classifiers are left out.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reeltint_training.checkpoints import CheckpointError, load_state, read_checkpoint
from reeltint_training.color import CIE_KAPPA, linear_to_srgb

Backbone = Literal["resnet50", "vgg19"]

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's R, G, B
_VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0)  # 0: pooling


def imagenet_input(picture: Tensor) -> Tensor:
    """What networks trained on ImageNet take.

    Args:
        picture: [B, 1, H, W], L*/100, or [B, 3, H, W], gamma-encoded sRGB 0..1.

    Returns:
        [B, 3, H, W]: sRGB, less ImageNet's mean, in units of its deviation; grey is the sRGB grey of that L*.
    """
    if picture.shape[1] == 1:
        f = (100 * picture + 16) / 116
        grey = linear_to_srgb(torch.where(f > 0.2068966, f**3, (f - 16 / 116) / CIE_KAPPA))
        picture = torch.cat([grey, grey, grey], 1)
    mean, deviation = (torch.tensor(values, device=picture.device)[:, None, None] for values in (_MEAN, _DEVIATION))
    return (picture - mean) / deviation


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut (He et al. 2016, figure 5)."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + shortcut)


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(4 * width, width) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(inputs, width, stride), *rest)


class ResNet50Features(nn.Module):
    """ResNet-50 up to its pooled features: [B, 1 or 3, H, W], see `imagenet_input`, to [B, 2048]."""

    size = 224
    """Height and width that the published weights were trained at."""
    classifier = ("fc.",)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 3, 1)
        self.layer2 = _stage(256, 128, 4, 2)
        self.layer3 = _stage(512, 256, 6, 2)
        self.layer4 = _stage(1024, 512, 3, 2)

    def forward(self, picture: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(imagenet_input(picture))))
        x = functional.max_pool2d(x, 3, 2, 1)
        pooled: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return pooled


class VGG19Features(nn.Module):
    """VGG-19's convolutions: [B, 1 or 3, H, W], see `imagenet_input`, to its features by name.

    relu2_2 [B, 128, H/2, W/2], relu3_2 [B, 256, H/4, W/4], relu4_2 [B, 512, H/8, W/8], relu5_2 [B, 512, H/16, W/16].
    """

    size = 224
    classifier = ("classifier.",)
    taps = ("relu2_2", "relu3_2", "relu4_2", "relu5_2")

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self._names: dict[int, str] = {}  # index of an activation in `features`: its name
        inputs, block, number = 3, 1, 1
        for outputs in _VGG19:
            if outputs:
                layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU()]
                self._names[len(layers) - 1] = f"relu{block}_{number}"
                inputs, number = outputs, number + 1
            else:
                layers.append(nn.MaxPool2d(2, 2))
                block, number = block + 1, 1
        self.features = nn.Sequential(*layers)

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        x, found = imagenet_input(picture), {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            name = self._names.get(index)
            if name in self.taps:
                found[name] = x
            if name == self.taps[-1]:
                break
        return found


def load_features(path: Path, backbone: Backbone) -> ResNet50Features | VGG19Features:
    """Build a backbone and load torchvision's weights for it.

    Args:
        path: torchvision's file (`resnet50-0676ba61.pth`, `vgg19-dcbb9e9d.pth`, …), a pickle read by PyTorch's
            `weights_only` loader, or the same tensors as .safetensors; with the classifier or without.
        backbone: Which network the file is of.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: Unreadable, unsafe, or weights of another network: every name that is missing, unknown or
            of another shape.
    """
    if backbone not in BACKBONES:
        raise CheckpointError(f"backbone: {' or '.join(BACKBONES)}, not {backbone!r}")
    network = BACKBONES[backbone]()
    state, _ = read_checkpoint(path)
    own = {name: tensor for name, tensor in state.items() if not name.startswith(network.classifier)}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):  # torchvision's oldest files have none, and it does not count here
            own.setdefault(name, tensor)
    load_state(network, own, path)
    return network.eval()


BACKBONES: dict[str, type[ResNet50Features] | type[VGG19Features]] = {
    "resnet50": ResNet50Features,
    "vgg19": VGG19Features,
}
