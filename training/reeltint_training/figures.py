"""How close colours are to the truth: the figures by which colouring networks are compared."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

Picture = NDArray[np.uint8]  # [H, W, 3] sRGB


def colourfulness(picture: Picture) -> float:
    """Hasler & Süsstrunk, "Measuring colourfulness in natural images" (2003), section 7, signed opponents.

    0 is grey; the paper calls 33 moderately and 59 quite colourful.
    """
    red, green, blue = np.moveaxis(picture.astype(np.float32), -1, 0)
    rg, yb = red - green, 0.5 * (red + green) - blue
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One picture against its truth.

    Attributes:
        psnr: dB over R, G and B, peak 255.
        ssim: Wang et al. 2004, 7x7 windows, mean of the three channels.
        ciede2000: Mean colour difference (CIE 142-2001), every second pixel of every second row.
        ab_distance: Mean Euclidean distance of (a*, b*), Lab units, after colours outside sRGB have been clipped; every
            second pixel of every second row.
        colourfulness: Of the picture alone; see `colourfulness`.
    """

    psnr: float
    ssim: float
    ciede2000: float
    ab_distance: float
    colourfulness: float


def compare(picture: Picture, truth: Picture) -> Figures:
    """Measure `picture` against `truth`, both [H, W, 3] sRGB u8."""
    error = np.mean((picture.astype(np.float32) - truth) ** 2)
    lab, true_lab = (rgb2lab(p[::2, ::2].astype(np.float32) / 255) for p in (picture, truth))
    return Figures(
        psnr=float(10 * np.log10(255**2 / max(error, 1e-4))),
        ssim=float(structural_similarity(truth, picture, channel_axis=2)),
        ciede2000=float(deltaE_ciede2000(true_lab, lab).mean()),
        ab_distance=float(np.linalg.norm(lab[..., 1:] - true_lab[..., 1:], axis=-1).mean()),
        colourfulness=colourfulness(picture),
    )


def mean(figures: list[Figures]) -> Figures:
    """The mean of each figure."""
    return Figures(**{name: float(np.mean([getattr(f, name) for f in figures])) for name in Figures.__slots__})
