"""ExemplarNet: colours a frame by a reference photograph, and by itself where the reference does not speak.

Paper 3 (after He et al., "Deep exemplar-based colorization", 2018) finds similarity and colours with one reference a
scene. Here both pictures pass the same encoder and decoder, HueNet's, whose weights stay as they are: without a
reference the result is HueNet's. A learned projection of its features gives keys at 1/4 of the input; the softmax of
their cosine carries the reference's ab to the frame (Zhang et al., "Deep exemplar-based video colorization", 2019,
Eq. 2). A small network corrects what was carried, by regression, and says how far it is to be believed.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from reeltint_training.networks.huenet import HueNet
from reeltint_training.networks.resnet18 import BasicBlock

KEYS = 32
_AB = 50.0  # Lab units in one unit of the correction network


class ExemplarNet(nn.Module):
    """HueNet, keys at 1/4 of the input, and the correction of what they carry over.

    Args:
        temperature: Of HueNet's annealed mean.
        rebalance: Of HueNet's decoding.
        bin_step: Of HueNet's bins.
    """

    stride = HueNet.stride
    output_stride = HueNet.output_stride

    def __init__(self, temperature: float = 0.85, rebalance: float = 0.95, bin_step: int = 10) -> None:
        super().__init__()
        self.base = HueNet(temperature, rebalance, bin_step)
        _, quarter, eighth, sixteenth, deepest = self.base.encoder.channels
        coarse, fine = self.base.decoded
        groups = (quarter, eighth, sixteenth, deepest, coarse, fine)
        self.project = nn.ModuleList(nn.Conv2d(channels, KEYS, 1, bias=False) for channels in groups)
        self.sharpness = nn.Parameter(torch.tensor(math.log(20.0)))
        self.lift = nn.Conv2d(fine + self.output_stride**2 + 6, 48, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(48)
        self.block = BasicBlock(48, 48)
        self.correct = nn.Conv2d(48, 3, 3, padding=1)
        nn.init.zeros_(self.correct.weight)
        self.correct.bias = nn.Parameter(torch.tensor([0.0, 0.0, 2.0]))  # at first: believe what is carried over
        self.base.requires_grad_(False)

    def train(self, mode: bool = True) -> "ExemplarNet":
        """HueNet inside stays as it was trained, its batch norms too."""
        super().train(mode)
        self.base.eval()
        return self

    def encode(self, lightness: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [B, KEYS, S/4, S/4] of length 1, and the decoder's features there [B, 96, S/4, S/4]."""
        (_, quarter, eighth, sixteenth, deepest), coarse, fine = self.base.features(lightness)
        groups = (quarter, eighth, sixteenth, deepest, coarse, fine)
        parts = [
            project(functional.normalize(group, dim=1)) for project, group in zip(self.project, groups, strict=True)
        ]
        total = parts[0] + parts[5]
        for part in (parts[1] + parts[4], parts[2], parts[3]):
            total = total + functional.interpolate(part, total.shape[-2:], mode="bilinear")
        return functional.normalize(total, dim=1), fine

    def remember(self, lightness: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
        """The state of references.

        Args:
            lightness: [B, 1, S, S], L*/100.
            ab: [B, 2, S, S], Lab units.

        Returns:
            Keys [B, KEYS, K] and ab [B, 2, K] at K = (S/4)^2 places.
        """
        keys, _ = self.encode(lightness)
        return keys.flatten(2), functional.avg_pool2d(ab, self.output_stride).flatten(2)

    def carry(self, queries: Tensor, keys: Tensor, ab: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Carry ab from keys to queries.

        Args:
            queries: [B, KEYS, h, w], length 1.
            keys: [B or 1, KEYS, K], length 1.
            ab: [B or 1, 2, K].

        Returns:
            ab [B, 2, h, w] as carried; how far the carried colours differ among themselves (standard deviation, Lab
            units) [B, 1, h, w]; the largest cosine [B, 1, h, w].
        """
        sharpness = self.sharpness.exp()
        scores = torch.matmul((queries * sharpness).flatten(2).transpose(1, 2), keys)
        weight = functional.softmax(scores, -1)
        values = torch.cat([ab, (ab * ab).sum(1, keepdim=True)], 1).transpose(1, 2)
        carried = torch.matmul(weight, values).transpose(1, 2)
        size, best = queries.shape[-2:], scores.amax(-1) / sharpness
        mean = carried[:, :2]
        spread = (carried[:, 2:] - (mean * mean).sum(1, keepdim=True)).clamp(min=0.01).sqrt()
        return mean.unflatten(2, size), spread.unflatten(2, size), best.unsqueeze(1).unflatten(2, size)

    def blend(
        self, lightness: Tensor, fine: Tensor, automatic: Tensor, carried: Tensor, spread: Tensor, cosine: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Correct the carried colour and fall back to the automatic one where it is not to be believed."""
        detail = functional.pixel_unshuffle(lightness, self.output_stride)
        given = torch.cat([fine, detail, carried / _AB, automatic / _AB, spread / _AB, cosine], 1)
        correction = self.correct(self.block(functional.relu(self.norm(self.lift(given))))).float()
        confidence = torch.sigmoid(correction[:, 2:])
        return automatic + confidence * (carried + _AB * correction[:, :2] - automatic), confidence

    def forward(self, lightness: Tensor, keys: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Colour lightness by one reference.

        Args:
            lightness: [B, 1, S, S], L*/100, S a multiple of 32.
            keys: [KEYS, K], from `remember`.
            ab: [2, K], from `remember`.

        Returns:
            ab [B, 2, S/4, S/4], Lab units, and the confidence in the reference [B, 1, S/4, S/4], 0 to 1: where it is
            0 the colour is HueNet's.
        """
        queries, fine = self.encode(lightness)
        automatic = self.base.decode(self.base.classify(fine))
        return self.blend(lightness, fine, automatic, *self.carry(queries, keys[None], ab[None]))


class ReferenceEncoder(nn.Module):
    """The half of an `ExemplarNet` that runs once a scene.

    Args:
        network: The whole.
    """

    def __init__(self, network: ExemplarNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, lightness: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Reference [1, 1, S, S], L*/100, and its ab [1, 2, S, S] to keys [KEYS, K] and ab [2, K]."""
        keys, colour = self.network.remember(lightness, ab)
        return keys[0], colour[0]
