"""HueNet, the default: colour as a distribution over ab bins (Zhang et al. 2016), on a light encoder and decoder.

A mean-squared-error network answers every doubt with the average of all hues, which is sepia. HueNet predicts how
probable each hue is and takes an annealed mean, so that grass is green where grass is likely.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from reeltint_training.bins import gamut_bins
from reeltint_training.networks.efficientnet_lite import EfficientNetLite0
from reeltint_training.networks.resnet18 import BasicBlock

TEMPERATURE = 0.85
"""Chosen by eye: PSNR prefers less, but then neighbours fall on different sides of a doubt, and colour is blotchy."""
REBALANCE = 0.95


class _Fuse(nn.Module):
    """Twice the resolution of `coarse`, plus the encoder's features there, then a residual block."""

    def __init__(self, coarse: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(coarse, outputs, 1, bias=False)
        self.lateral = nn.Conv2d(skip, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.block = BasicBlock(outputs, outputs)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        up = functional.interpolate(self.reduce(coarse), scale_factor=2.0, mode="nearest")
        return self.block(functional.relu(self.norm(up + self.lateral(skip))))  # type: ignore[no-any-return]


class HueNet(nn.Module):
    """Encoder to 1/32, decoder to 1/4, one logit per ab bin, decoded inside the network.

    Args:
        temperature: T of the annealed mean (Zhang et al., Eq. 5); 0.38 there, lower is louder.
        rebalance: gamma: how much of the class rebalancing is taken back before decoding, as gamma * log w is
            subtracted from the logits. 0 keeps all of it (loud), 1 none (dull).
        bin_step: Width of an ab bin in Lab units.
    """

    stride = 32
    output_stride = 4
    decoded = (160, 96)  # channels of the decoder at 1/8 and 1/4

    def __init__(self, temperature: float = TEMPERATURE, rebalance: float = REBALANCE, bin_step: int = 10) -> None:
        super().__init__()
        self.temperature, self.rebalance, self.bin_step = temperature, rebalance, bin_step
        self.bins: Tensor
        self.log_weight: Tensor
        self.register_buffer("bins", gamut_bins(bin_step))
        self.register_buffer("log_weight", torch.zeros(len(self.bins)))
        self.encoder = EfficientNetLite0()
        _, quarter, eighth, sixteenth, deepest = self.encoder.channels
        self.bridge = BasicBlock(deepest, 256)
        self.fuse16 = _Fuse(256, sixteenth, 256)
        coarse, fine = self.decoded
        self.fuse8 = _Fuse(256, eighth, coarse)
        self.fuse4 = _Fuse(coarse, quarter, fine)
        self.classify = nn.Conv2d(fine, len(self.bins), 1)

    def features(self, lightness: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The encoder's five features, and the decoder's at 1/8 and 1/4 of S (`decoded` channels)."""
        encoded = self.encoder(lightness)
        _, quarter, eighth, sixteenth, deepest = encoded
        coarse = self.fuse8(self.fuse16(self.bridge(deepest), sixteenth), eighth)
        return encoded, coarse, self.fuse4(coarse, quarter)

    def logits(self, lightness: Tensor) -> Tensor:
        """Class scores [B, Q, S/4, S/4] of the rebalanced distribution over `bins`."""
        return self.classify(self.features(lightness)[2])  # type: ignore[no-any-return]

    def decode(self, logits: Tensor) -> Tensor:
        """Annealed mean of the distribution, ab [B, 2, h, w] in Lab units, in float32 unless under autocast."""
        scores = logits.float() - self.rebalance * self.log_weight[:, None, None]
        probability = functional.softmax(scores / self.temperature, 1)
        return functional.conv2d(probability, self.bins.T[:, :, None, None])

    def forward(self, lightness: Tensor) -> Tensor:
        """Colour lightness.

        Args:
            lightness: [B, 1, S, S], L*/100, S a multiple of 32.

        Returns:
            ab, [B, 2, S/4, S/4], Lab units, inside the hull of the sRGB gamut.
        """
        return self.decode(self.logits(lightness))

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Start the encoder from published EfficientNet-Lite0 weights."""
        self.encoder.load_imagenet(state)
