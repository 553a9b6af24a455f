"""Reference colouring measured on colour clips: each is made grey and coloured by its first true frame.

The true L* is kept and ab is resized as in `evaluate`. Closeness is judged at full size, steadiness at the network's
output size and, for CDC, at a quarter of the pixels.
"""

import logging
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional

from reeltint_training.data import SMALLEST, TAR_ERRORS, DataError, Photo, has_colour, to_lab
from reeltint_training.evaluate import picture
from reeltint_training.figures import colourfulness
from reeltint_training.guided import guided_ab
from reeltint_training.networks.exemplar import ExemplarNet

log = logging.getLogger(__name__)

ROWS = ("grey", "automatic", "Reinhard", "copy only", "fed back", "exemplar")
SUFFIXES = {".mp4", ".mov", ".mkv", ".avi", ".webm"}
_FEWEST = 3  # frames: the reference, and two to compare
_LOUDEST = 110.0  # Lab units
_SAME_LIGHT = 2.0  # L*: below it a pixel has not changed, and its colour should not


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFigures:
    """One way of colouring one clip; the first frame, the reference, is not counted.

    Attributes:
        psnr: dB over R, G and B, mean over frames.
        ssim: Wang et al. 2004, mean over channels and frames.
        ab_distance: Mean Euclidean distance of (a*, b*), Lab units, before colours outside sRGB are clipped
            (`figures.Figures` measures after it).
        colourfulness: Hasler & Süsstrunk 2003, mean over frames.
        cdc: Colour distribution consistency: mean, over R, G, B and all pairs of frames 1, 2 and 4 apart, of the
            Jensen-Shannon divergence (natural logarithm) of their 256-bin histograms (Liu et al. 2021, Eq. 10, 11).
        flicker: Mean distance of (a*, b*) from frame to frame where L* differs by less than 2, Lab units.
        growth: PSNR of the first tenth of the frames less that of the last tenth, dB: above 0 error grows.
    """

    psnr: float
    ssim: float
    ab_distance: float
    colourfulness: float
    cdc: float
    flicker: float
    growth: float


def clips_of(source: Path) -> Iterator[tuple[str, list[Photo]]]:
    """Name and frames [H, W, 3] of each clip of a folder or a .tar file, by name; what cannot be used is named.

    Raises:
        DataError: No clip there, or none with colour.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = source
        if source.is_file() and tarfile.is_tarfile(source):
            folder = Path(temporary)
            with tarfile.open(source) as tar:
                try:
                    tar.extractall(folder, filter="data")
                except TAR_ERRORS as error:
                    log.warning("the rest of %s cannot be read: %s; left out", source, error)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise DataError(f"{source}: no clips ({', '.join(sorted(SUFFIXES))})")
        left_out = 0
        for path in paths:
            frames, problem = _decode(path)
            if problem:
                log.warning("%s %s; left out", path.relative_to(folder), problem)
                left_out += 1
            else:
                yield path.stem, frames
        if left_out == len(paths):
            raise DataError(f"{source}: no colour clip ({left_out} left out)")


def _decode(path: Path) -> tuple[list[Photo], str]:
    """The frames of a clip, and why it cannot be used, or nothing."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return [], "has no video"
            frames = [
                frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False) for frame in container.decode(video=0)
            ]
    except (av.FFmpegError, OSError) as error:
        return [], f"cannot be read: {error.strerror}"
    if len(frames) < _FEWEST:
        return [], f"has {len(frames)} frames, {_FEWEST} are needed"
    if min(frames[0].shape[:2]) < SMALLEST:
        return [], f"is smaller than {SMALLEST} x {SMALLEST} pixels"
    return frames, "" if any(map(has_colour, frames)) else "has no colour"


def colour_clip(network: ExemplarNet, lab: Tensor) -> dict[str, Tensor]:
    """Colour a clip in every way that is compared.

    Args:
        network: In evaluation mode.
        lab: [N, 3, S, S]: the true frames at the network's size; the first is the reference.

    Returns:
        ab [N, 2, S/4, S/4] for each of `ROWS`.
    """
    found: dict[str, list[Tensor]] = {row: [] for row in ROWS}
    before: tuple[Tensor, Tensor] | None = None
    with torch.inference_mode():
        keys, ab = network.remember(lab[:1, :1] / 100, lab[:1, 1:])
        coarse_keys = _coarse(network.base.encoder(lab[:1, :1] / 100))
        coarse_ab = functional.avg_pool2d(lab[:1, 1:], 8).flatten(2)
        mean, deviation = ab.mean(2), ab.std(2)
        for frame in lab.split(1):
            lightness = frame[:, :1] / 100
            queries, fine = network.encode(lightness)
            automatic = network.base.decode(network.base.classify(fine))
            by_reference, _ = network.blend(
                lightness, fine, automatic, *network.carry(network.seek(queries, keys), keys, ab)
            )
            known = before or (keys, ab)
            fed_back, _ = network.blend(
                lightness, fine, automatic, *network.carry(network.seek(queries, known[0]), *known)
            )
            fed_back = fed_back.clamp(-_LOUDEST, _LOUDEST)  # or it grows without bounds
            before = queries.flatten(2), fed_back.flatten(2)
            flat = automatic.flatten(2)
            shifted = (flat - flat.mean(2, keepdim=True)) / flat.std(2, keepdim=True).clamp(min=1e-3)
            weight = torch.softmax(60 * _coarse(network.base.encoder(lightness)).transpose(1, 2) @ coarse_keys, -1)
            copied = (weight @ coarse_ab.transpose(1, 2)).transpose(1, 2)
            size = automatic.shape[-2:]
            found["grey"].append(torch.zeros_like(automatic))
            found["automatic"].append(automatic)
            found["Reinhard"].append((shifted * deviation[..., None] + mean[..., None]).unflatten(2, size))
            copied = copied.unflatten(2, (size[0] // 2, size[1] // 2))
            found["copy only"].append(functional.interpolate(copied, size, mode="bilinear"))
            found["fed back"].append(fed_back)
            found["exemplar"].append(by_reference)
    return {row: torch.cat(parts) for row, parts in found.items()}


def _coarse(encoded: list[Tensor]) -> Tensor:
    """The encoder's features at 1/8 and 1/16 as keys at 1/8, [1, C, K]: correspondence without training for it."""
    _, _, eighth, sixteenth, _ = encoded
    sixteenth = functional.interpolate(sixteenth, eighth.shape[-2:], mode="bilinear")
    both = torch.cat([functional.normalize(eighth, dim=1), functional.normalize(sixteenth, dim=1)], 1)
    return functional.normalize(both, dim=1).flatten(2)


def measure_clip(network: ExemplarNet, frames: Sequence[Photo], size: int, every: int = 5) -> dict[str, ClipFigures]:
    """Figures of each of `ROWS`, and of the truth, on one clip.

    Args:
        network: In evaluation mode.
        frames: [H, W, 3] sRGB, at least 3; the first is the reference.
        size: S the network runs at.
        every: PSNR, SSIM, distance and colourfulness on every so many frames; growth on every frame of the first and
            the last tenth; the rest on all frames but the first.
    """
    tenth = max(1, len(frames) // 10)
    sample = range(1, len(frames), every)
    first, last = range(1, tenth + 1), range(len(frames) - tenth, len(frames))
    judged = sorted({*sample, *first, *last})
    parts, half, labs = [], [], {}
    for k, frame in enumerate(frames):
        lab = to_lab(frame[None])
        parts.append(functional.interpolate(lab, (size, size), mode="bilinear", antialias=True))
        half.append(functional.avg_pool2d(lab, 2))
        if k in judged:
            labs[k] = lab
    small = torch.cat(parts)
    found = colour_clip(network, small)
    stride = network.output_stride
    found["truth"] = functional.avg_pool2d(small[:, 1:], stride)
    lightness = functional.avg_pool2d(small[:, :1], stride)
    figures = {}
    for row, ab in found.items():

        def score(k: int, row: str = row, ab: Tensor = ab) -> tuple[float, float, float, float]:
            full = guided_ab(labs[k][:, :1], ab[k : k + 1], frames[k].shape[:2])
            coloured = frames[k] if row == "truth" else picture(labs[k][:, :1], full)
            error = np.mean((coloured.astype(np.float32) - frames[k]) ** 2)
            distance = (full - labs[k][:, 1:]).norm(dim=1).mean()
            similar = structural_similarity(frames[k], coloured, channel_axis=2)
            psnr = 10 * np.log10(255**2 / max(error, 1e-4))
            return float(psnr), float(similar), float(distance), colourfulness(coloured)

        def histogram(k: int, row: str = row, ab: Tensor = ab) -> NDArray[np.float64]:
            light, true_ab = half[k].split((1, 2), 1)
            full = true_ab if row == "truth" else guided_ab(light, ab[k : k + 1], light.shape[2:])
            return _histograms(picture(light, full))

        with ThreadPoolExecutor(2) as pool:
            scores = dict(zip(judged, pool.map(score, judged), strict=True))
            histograms = np.stack(list(pool.map(histogram, range(1, len(frames)))))
        psnr, similar, distance, colour = np.mean([scores[k] for k in sample], 0)
        figures[row] = ClipFigures(
            psnr=float(psnr),
            ssim=float(similar),
            ab_distance=float(distance),
            colourfulness=float(colour),
            cdc=cdc(histograms),
            flicker=flicker(lightness[1:], ab[1:]),
            growth=float(np.mean([scores[k][0] for k in first]) - np.mean([scores[k][0] for k in last])),
        )
    return figures


def summary(clips: Sequence[dict[str, ClipFigures]], label: str = "") -> str:
    """Means over clips as a Markdown table; `label` says which clips."""
    columns = (label, "PSNR dB", "SSIM", "ab distance", "colourfulness", "CDC", "flicker")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in clips[0]:
        psnr, ssim, distance, colour, change, flickers = (
            float(np.mean([getattr(clip[row], name) for clip in clips]))
            for name in ("psnr", "ssim", "ab_distance", "colourfulness", "cdc", "flicker")
        )
        lines.append(
            f"| {row} | {psnr:.2f} | {ssim:.4f} | {distance:.2f} | {colour:.1f} | {change:.5f} | {flickers:.2f} |"
        )
    return "\n".join(lines)


def flicker(lightness: Tensor, ab: Tensor) -> float:
    """Mean distance of ab [N, 2, s, s] from frame to frame where `lightness` [N, 1, s, s], L*, hardly changes."""
    total, count = 0.0, 0
    for (light, colour), (next_light, next_colour) in pairwise(zip(lightness, ab, strict=True)):
        same = (light - next_light).abs()[0] < _SAME_LIGHT
        total += float((colour - next_colour).norm(dim=0)[same].sum())
        count += int(same.sum())
    return total / max(count, 1)


def cdc(histograms: NDArray[np.float64]) -> float:
    """Colour distribution consistency of `histograms` [N, 3, 256], each summing to 1; see `ClipFigures`."""
    distances = [d for d in (1, 2, 4) if d < len(histograms)]
    return float(np.mean([_jensen_shannon(histograms[:-d], histograms[d:]).mean() for d in distances]))


def _jensen_shannon(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = (p + q) / 2

    def to_middle(each: NDArray[np.float64]) -> NDArray[np.float64]:
        ratio = np.divide(each, middle, out=np.ones_like(each), where=each > 0)
        return np.asarray((each * np.log(ratio)).sum(-1))

    return (to_middle(p) + to_middle(q)) / 2


def _histograms(picture: Photo) -> NDArray[np.float64]:
    planes = picture.reshape(-1, 3).T
    return np.stack([np.bincount(plane, minlength=256) / plane.size for plane in planes])
