"""The network of papers 1 and 4: half a ResNet-18 and an upsampling half, trained by mean squared error.

Parameter names are those of the checkpoint that paper 1's authors published, so that it loads unchanged.
"""

from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 2), with torchvision's parameter names."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + shortcut, inplace=True)


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()]


class ResNet18Half(nn.Module):
    """ResNet-18 conv1 to layer2, its first kernel summed to one channel, then three nearest upsamplings."""

    stride = 8
    output_stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.midlevel_resnet = nn.Sequential(
            nn.Conv2d(1, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
            nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64)),
            nn.Sequential(BasicBlock(64, 128, stride=2), BasicBlock(128, 128)),
        )
        self.upsample = nn.Sequential(
            *_block(128, 128),
            nn.Upsample(scale_factor=2),
            *_block(128, 64),
            *_block(64, 64),
            nn.Upsample(scale_factor=2),
            *_block(64, 32),
            nn.Conv2d(32, 2, 3, 1, 1),
            nn.Upsample(scale_factor=2),
        )

    def scaled_ab(self, lightness: Tensor) -> Tensor:
        """What the papers' loss sees: (ab + 128) / 255, [B, 2, S, S]."""
        return self.upsample(self.midlevel_resnet(lightness))  # type: ignore[no-any-return]

    def forward(self, lightness: Tensor) -> Tensor:
        """Colour lightness.

        Args:
            lightness: [B, 1, S, S], L*/100, S a multiple of 8 (256 in paper 1, 224 in paper 4).

        Returns:
            ab, [B, 2, S, S], Lab units.
        """
        return self.scaled_ab(lightness).float() * 255 - 128

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Start from torchvision's ResNet-18 weights, the first kernel summed over R, G and B.

        Args:
            state: torchvision's `resnet18` state dict; `layer3`, `layer4` and `fc` are left out.
        """
        names = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5"}
        own = {}
        for key, value in state.items():
            stage, _, rest = key.partition(".")
            if stage in names:
                own[f"{names[stage]}.{rest}"] = value.sum(1, keepdim=True) if stage == "conv1" else value
        self.midlevel_resnet.load_state_dict(own)
