"""The quantised ab plane of Zhang et al., "Colorful Image Colorization" (ECCV 2016), section 2.2 and 2.3."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from reeltint_training.color import srgb_to_lab

_OFFSET = 128  # tables below are indexed by round(a*) + 128, round(b*) + 128
_NEIGHBOURS = 5
_SIGMA = 5.0


@cache
def gamut_bins(step: int = 10) -> Tensor:
    """Centres of the ab grid cells that some sRGB colour falls into.

    Args:
        step: Width of a cell in Lab units.

    Returns:
        [Q, 2] float32, a* and b*; Q is 261 at step 10, counted over 64 levels of each of R, G and B.
    """
    levels = torch.linspace(0, 1, 64)
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).reshape(3, 64, -1)
    ab = srgb_to_lab(cube)[1:].reshape(2, -1).T
    cells: Tensor = torch.unique((ab / step).round().long(), dim=0)
    return cells.float() * step


class SoftEncoder:
    """Soft class targets: the five nearest bins, weighted by a Gaussian of sigma 5 (Zhang et al., section 2.2).

    Lab colours are rounded to whole units and looked up, which is exact to half a unit and needs no search.

    Args:
        bins: [Q, 2] bin centres.
        weights: [Q] class weights; a pixel's weight is that of its nearest bin (Eq. 3).
    """

    def __init__(self, bins: Tensor, weights: Tensor) -> None:
        grid = torch.arange(-_OFFSET, _OFFSET, dtype=torch.float32)
        ab = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
        squared = torch.cdist(ab, bins.cpu().float()) ** 2
        nearest, self._index = squared.topk(_NEIGHBOURS, largest=False)
        self._share = functional.normalize(torch.exp(-(nearest - nearest[:, :1]) / (2 * _SIGMA**2)), p=1, dim=1)
        self._weight = weights.cpu().float()[self._index[:, 0]]

    def __call__(self, ab: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode colours.

        Args:
            ab: [B, 2, h, w] in Lab units.

        Returns:
            Indices [B, 5, h, w] int64 and shares [B, 5, h, w] (sum 1) of the bins, and pixel weights [B, h, w].
        """
        a, b = (ab.round().long() + _OFFSET).clamp(0, 2 * _OFFSET - 1).unbind(1)
        flat = a * 2 * _OFFSET + b
        self._index, self._share, self._weight = (t.to(ab.device) for t in (self._index, self._share, self._weight))
        return self._index[flat].movedim(-1, 1), self._share[flat].movedim(-1, 1), self._weight[flat]


def class_weights(prior: Tensor, mix: float = 0.5) -> Tensor:
    """Rebalancing weights w ~ ((1 - mix) p + mix / Q)^-1 with E_p[w] = 1 (Zhang et al., Eq. 4).

    Args:
        prior: [Q] empirical probability of each bin in the training data, summing to 1.
        mix: Zhang's lambda: share of the uniform distribution; 0.5 in the paper.
    """
    weights = 1 / ((1 - mix) * prior + mix / len(prior))
    return weights / (prior * weights).sum()


def smooth_prior(counts: Tensor, bins: Tensor, sigma: float = 5.0) -> Tensor:
    """Turn bin counts [Q] into a probability, smoothed over the ab plane by a Gaussian of `sigma` Lab units."""
    kernel = torch.exp(-(torch.cdist(bins, bins) ** 2) / (2 * sigma**2))
    smoothed = (kernel / kernel.sum(0)) @ counts.float()
    return smoothed / smoothed.sum()
