"""ExemplarNet: colours a frame by a reference photograph, and by itself where the reference does not speak.

Paper 3 (after He et al., "Deep exemplar-based colorization", 2018) finds similarity and colours with one reference a
scene. Here both pictures pass the same encoder and decoder, HueNet's, whose weights stay as they are: without a
reference the result is HueNet's. Its features, the picture's detail and the place in the picture give learned keys at
1/4 of the input. A first match at 1/8 says where each place's neighbours were found, as a cost volume does in optical
flow, and turns the frame's keys there: what moves together is found together. The softmax of the cosine of both
pictures' keys carries the reference's ab to the frame (Zhang et al., "Deep exemplar-based video colorization", 2019,
Eq. 2). A small network, which sees a wider context at 1/8, corrects what was carried, by regression, and says how far
it is to be believed.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from reeltint_training.networks.huenet import REBALANCE, TEMPERATURE, HueNet
from reeltint_training.networks.resnet18 import BasicBlock

KEYS = 32
_AB = 50.0  # Lab units in one unit of the correction network
_WIDTH = 48  # channels of the correction at 1/4
_CONTEXT = 64  # and at 1/8
_VOTES = 32  # channels that look where neighbours were found, at 1/8
_ALIKE = 4.0  # keys of the reference that are usually as near as the nearest
_WAVES = (0.5, 1.0, 2.0, 4.0)  # half turns across the picture
_PLACES = 4 * len(_WAVES)


class ExemplarNet(nn.Module):
    """HueNet, keys at 1/4 of the input, and the correction of what they carry over.

    Args:
        temperature: Of HueNet's annealed mean.
        rebalance: Of HueNet's decoding.
        bin_step: Of HueNet's bins.
    """

    stride = HueNet.stride
    output_stride = HueNet.output_stride

    def __init__(self, temperature: float = TEMPERATURE, rebalance: float = REBALANCE, bin_step: int = 10) -> None:
        super().__init__()
        self.base = HueNet(temperature, rebalance, bin_step)
        _, quarter, eighth, sixteenth, deepest = self.base.encoder.channels
        coarse, fine = self.base.decoded
        groups = (quarter, eighth, sixteenth, deepest, coarse, fine)
        detail = self.output_stride**2
        self.project = nn.ModuleList(nn.Conv2d(channels, KEYS, 1, bias=False) for channels in groups)
        self.place = nn.Conv2d(_PLACES, KEYS, 1, bias=False)
        self.look = nn.Conv2d(KEYS + detail, _WIDTH, 3, padding=1, bias=False)
        self.look_norm = nn.BatchNorm2d(_WIDTH)
        self.refine = nn.Conv2d(_WIDTH, KEYS, 3, padding=1)
        self.sharpness = nn.Parameter(torch.tensor(math.log(20.0)))
        self.coarse_sharpness = nn.Parameter(torch.tensor(math.log(50.0)))
        self.meet = nn.Conv2d(2 * KEYS + 2 * _PLACES + 1, _VOTES, 1, bias=False)
        self.meet_norm = nn.BatchNorm2d(_VOTES)
        self.vote = nn.Sequential(BasicBlock(_VOTES, _VOTES), BasicBlock(_VOTES, _VOTES))
        self.turn = nn.Conv2d(_VOTES + KEYS, KEYS, 1)
        self.lift = nn.Conv2d(detail + 6, _WIDTH, 3, padding=1, bias=False)
        self.lift_fine = nn.Conv2d(fine, _WIDTH, 1, bias=False)
        self.norm = nn.BatchNorm2d(_WIDTH)
        self.context = nn.Sequential(BasicBlock(_WIDTH, _CONTEXT, stride=2), BasicBlock(_CONTEXT, _CONTEXT))
        self.widen = nn.Conv2d(_CONTEXT, _WIDTH, 1)
        self.block = BasicBlock(_WIDTH, _WIDTH)
        self.correct = nn.Conv2d(_WIDTH, 3, 3, padding=1)
        for last in (self.refine, self.turn, self.widen, self.correct):  # at first all these do nothing
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self.correct.bias = nn.Parameter(torch.tensor([0.0, 0.0, 2.0]))  # and what is carried over is believed
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
        detail = functional.pixel_unshuffle(lightness, self.output_stride)
        seen = functional.relu(self.look_norm(self.look(torch.cat([total, detail], 1))))
        return functional.normalize(total + self.refine(seen) + self.place(_places(total)), dim=1), fine

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

    def seek(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Turn queries to where things have moved: a first match at 1/8 says where each place's neighbours came from.

        Args:
            queries: [B, KEYS, h, w], length 1; h and w even.
            keys: [B or 1, KEYS, h * w], length 1, of a reference of the same size.

        Returns:
            Queries [B, KEYS, h, w], length 1.
        """
        here = functional.avg_pool2d(queries, 2)
        size = here.shape[-2:]
        there = functional.avg_pool2d(keys.unflatten(2, queries.shape[-2:]), 2)
        places = _places(here)
        scores = torch.matmul(here.flatten(2).transpose(1, 2), there.flatten(2))
        weight = functional.softmax(scores * self.coarse_sharpness.exp(), -1)
        values = torch.cat([there, places.expand(there.shape[0], -1, -1, -1)], 1).flatten(2).transpose(1, 2)
        found = torch.matmul(weight, values).transpose(1, 2).unflatten(2, size)
        best = scores.amax(-1).unsqueeze(1).unflatten(2, size)
        seen = torch.cat([here, found, places.expand(here.shape[0], -1, -1, -1), best], 1)
        votes = self.vote(functional.relu(self.meet_norm(self.meet(seen))))
        votes = functional.interpolate(votes, queries.shape[-2:], mode="bilinear")
        return functional.normalize(queries + self.turn(torch.cat([votes, queries], 1)), dim=1)

    def carry(self, queries: Tensor, keys: Tensor, ab: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Carry ab from keys to queries.

        Args:
            queries: [B, KEYS, h, w], length 1.
            keys: [B or 1, KEYS, K], length 1.
            ab: [B or 1, 2, K].

        Returns:
            ab [B, 2, h, w] as carried; how far the carried colours differ among themselves (standard deviation, Lab
            units) [B, 1, h, w]; about the largest cosine, log(sum(exp(s cos)) / 4) / s [B, 1, h, w].
        """
        # The softmax is written out, one pass over the scores less: no score is above 0, its sums are a column more.
        sharpness = self.sharpness.exp()
        scaled = sharpness * torch.cat([queries, -torch.ones_like(queries[:, :1])], 1)
        scores = torch.matmul(scaled.flatten(2).transpose(1, 2), torch.cat([keys, torch.ones_like(keys[:, :1])], 1))
        values = torch.cat([ab, (ab * ab).sum(1, keepdim=True), torch.ones_like(ab[:, :1])], 1).transpose(1, 2)
        carried = torch.matmul(scores.exp(), values).transpose(1, 2).unflatten(2, queries.shape[-2:])
        total = carried[:, 3:].clamp(min=1e-30)
        near = (total.detach() / _ALIKE).log() / sharpness.detach() + 1
        mean, square = carried[:, :2] / total, carried[:, 2:3] / total
        spread = (square - (mean * mean).sum(1, keepdim=True)).clamp(min=0.01).sqrt()
        return mean, spread, near

    def blend(
        self, lightness: Tensor, fine: Tensor, automatic: Tensor, carried: Tensor, spread: Tensor, near: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Correct the carried colour and fall back to the automatic one where it is not to be believed."""
        detail = functional.pixel_unshuffle(lightness, self.output_stride)
        given = torch.cat([detail, carried / _AB, automatic / _AB, spread / _AB, near], 1)
        x = functional.relu(self.norm(self.lift(given) + self.lift_fine(fine)))
        x = x + functional.interpolate(self.widen(self.context(x)), x.shape[-2:], mode="bilinear")
        correction = self.correct(self.block(x)).float()
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
        return self.both(lightness, keys, ab)[1:]

    def both(self, lightness: Tensor, keys: Tensor, ab: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """HueNet's ab, and what `forward` returns, which takes the same."""
        queries, fine = self.encode(lightness)
        automatic = self.base.decode(self.base.classify(fine))
        queries = self.seek(queries, keys[None])
        return automatic, *self.blend(lightness, fine, automatic, *self.carry(queries, keys[None], ab[None]))


def _places(like: Tensor) -> Tensor:
    """Sines and cosines of each place of [B, C, h, w], [1, 16, h, w]: of two like places the nearer is the likelier."""
    rows, columns = (torch.linspace(0, math.pi, n, device=like.device) for n in like.shape[-2:])
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    turns = torch.cat([grid * wave for wave in _WAVES])
    return torch.cat([turns.sin(), turns.cos()])[None].to(like.dtype)


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
