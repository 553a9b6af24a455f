"""Chooses how a HueNet decodes its distribution, and the size it is served at, by figures on photographs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from reeltint_training.color import lab_to_srgb
from reeltint_training.data import Photo, to_lab
from reeltint_training.figures import colourfulness
from reeltint_training.networks.huenet import TEMPERATURE, HueNet

REBALANCES = tuple(percent / 100 for percent in range(50, 105, 5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A way to decode, and its mean figures; see `figures.Figures`."""

    size: int
    temperature: float
    rebalance: float
    psnr: float
    ab_distance: float
    colourfulness: float


def tune(
    network: HueNet,
    photos: Iterable[tuple[str, Photo]],
    sizes: Sequence[int],
    temperatures: Sequence[float] = (TEMPERATURE,),
    side: int = 144,
) -> tuple[list[Setting], float]:
    """Measure every setting; the network runs once for each photograph and size.

    Args:
        network: In evaluation mode; its own temperature and rebalance are left as they were.
        photos: Photographs that the network has not seen.
        sizes: Input sizes, multiples of the network's stride.
        temperatures: What to measure, each with every one of `REBALANCES`.
        side: Photographs are compared at this short side in pixels.

    Returns:
        The settings in the order of `sizes`, and the truth's mean colourfulness.
    """
    before = network.temperature, network.rebalance
    figures: dict[tuple[int, float, float], list[tuple[float, float, float]]] = {}
    truths = []
    with torch.inference_mode():
        for _, photo in photos:
            lab = to_lab(photo[None])
            scale = side / min(lab.shape[-2:])
            lab = functional.interpolate(lab, scale_factor=scale, mode="bilinear", antialias=True)
            truth = lab_to_srgb(lab)
            truths.append(_colourfulness(truth))
            for size in sizes:
                lightness = functional.interpolate(lab[:, :1] / 100, (size, size), mode="bilinear", antialias=True)
                logits = network.logits(lightness)
                for setting in ((t, r) for t in temperatures for r in REBALANCES):
                    network.temperature, network.rebalance = setting
                    ab = functional.interpolate(network.decode(logits), lab.shape[-2:], mode="bilinear")
                    rgb = lab_to_srgb(torch.cat([lab[:, :1], ab], 1))
                    psnr = -10 * np.log10(max(1e-9, float(((rgb - truth) ** 2).mean())))
                    distance = float((ab - lab[:, 1:]).norm(dim=1).mean())
                    figures.setdefault((size, *setting), []).append((psnr, distance, _colourfulness(rgb)))
    network.temperature, network.rebalance = before
    settings = []
    for (size, temperature, rebalance), rows in figures.items():
        psnr, distance, colour = (float(value) for value in np.mean(rows, 0))
        settings.append(
            Setting(
                size=size,
                temperature=temperature,
                rebalance=rebalance,
                psnr=psnr,
                ab_distance=distance,
                colourfulness=colour,
            )
        )
    return settings, float(np.mean(truths))


def _colourfulness(rgb: torch.Tensor) -> float:
    return colourfulness((rgb[0].movedim(0, -1) * 255).round().to(torch.uint8).numpy())


def best(settings: Iterable[Setting], least_colourfulness: float) -> Setting:
    """The setting of the highest PSNR among those at least so colourful; the most colourful where none is."""
    settings = list(settings)
    colourful = [s for s in settings if s.colourfulness >= least_colourfulness]
    return max(colourful, key=lambda s: s.psnr) if colourful else max(settings, key=lambda s: s.colourfulness)
