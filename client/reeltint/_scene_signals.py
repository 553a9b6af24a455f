"""What the scene detector measures on thumbnails: likeness of frames, how well a blend of two explains a third.

Everything is normalised so that a change of exposure means little, and taken at a resolution at which grain, dust and
a jumping gate mean little: thumbnails of 64 x 36, cells of 20 pixels and less in a film of 720 lines.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

HEIGHT, WIDTH = 36, 64
DISSOLVE_LENGTHS = (1, 2, 4, 6, 8, 10, 13, 17, 22, 28, 36, 47)  # frames that are looked for
REACH = DISSOLVE_LENGTHS[-1]  # frames before and after a dissolve's middle that its features read
_GAP = 4  # frames of a flash or a blotch that a cut's score looks across
_NOISE = 2.0  # grey levels
_WEIGHTS = Path(__file__).with_name("_dissolves.json")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Signals:
    """What is kept of n frames."""

    look: Array  # (n, 5054): three views of the frame, each of length 1/sqrt(3): a product is their mean likeness
    fine: Array  # (n, 576): 32 x 18 cells less their mean, so scaled that a squared length is a variance
    coarse: Array  # (n, 144): 16 x 9 cells alike
    detail: Array  # (n, 36, 64): less its surroundings of 13 x 13 cells
    level: Array  # (n,): mean grey

    def __len__(self) -> int:
        return len(self.level)

    def __getitem__(self, part: slice) -> "Signals":
        return Signals(**{name: getattr(self, name)[part] for name in self.__slots__})

    def __add__(self, other: "Signals") -> "Signals":
        return Signals(**{n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in self.__slots__})

    @property
    def contrast(self) -> Array:
        """Standard deviation of grey, (n,)."""
        return _lengths(self.fine)


def _lengths(rows: Array) -> Array:
    lengths: Array = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return lengths


def measure(thumbnails: NDArray[np.uint8]) -> Signals:
    """Signals of thumbnails (n, 36, 64)."""
    full = thumbnails.astype(np.float32)
    half = _pooled(full)
    edges = np.hypot(np.diff(full, axis=1)[:, :, 1:], np.diff(full, axis=2)[:, 1:])
    views = [_unit(full, 5), _unit(half - _blurred(half, 7), 4), _unit(edges, 4)]
    return Signals(
        look=np.concatenate(views, 1) / np.float32(np.sqrt(len(views))),
        fine=_centred(half),
        coarse=_centred(_pooled(half)),
        detail=full - _blurred(full, 13),
        level=full.mean((1, 2)),
    )


def _pooled(frames: Array) -> Array:
    count, height, width = frames.shape
    pooled: Array = frames.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))
    return pooled


def _blurred(frames: Array, size: int) -> Array:
    """Mean over size x size cells, the edge repeated."""
    margin = size // 2
    for axis in (1, 2):
        padding = [(margin + 1, margin) if other == axis else (0, 0) for other in range(3)]
        sums = np.cumsum(np.pad(frames, padding, "edge"), axis, dtype=np.float64)
        upper, lower = np.moveaxis(sums, axis, 0)[size:], np.moveaxis(sums, axis, 0)[:-size]
        frames = (np.moveaxis(upper - lower, 0, axis) / size).astype(np.float32)
    return frames


def _centred(frames: Array) -> Array:
    rows = frames.reshape(len(frames), -1)
    centred: Array = (rows - rows.mean(1, keepdims=True)) / np.float32(np.sqrt(rows.shape[1]))
    return centred


def _unit(frames: Array, floor: float) -> Array:
    """Rows less their mean, and a constant of `floor` grey levels, scaled to length 1: frames of no contrast agree."""
    rows = _centred(frames)
    rows = np.concatenate([rows, np.full((len(rows), 1), floor, np.float32)], 1)
    rows /= _lengths(rows)[:, None]
    return rows


def distance(one: Signals, other: Signals) -> Array:
    """How unlike frames are, pairwise: 0 the same, 1 nothing in common; exposure does not count."""
    apart: Array = 1 - np.einsum("ij,ij->i", one.look, other.look)
    return apart


def cut_scores(signals: Signals) -> Array:
    """How much frame t looks like the first of another shot, (n,); frame 0 has 0.

    The least distance of any frame before t to any from t on, as far as 4 frames lie between them: what comes back
    after a flash is no other shot. Less the pace of what goes on around, which is motion.
    """
    count = len(signals)
    scores = np.full(count, np.inf, np.float32)
    pace = np.zeros(count, np.float32)
    for gap in range(1, min(_GAP, count - 1) + 1):
        apart = distance(signals[:-gap], signals[gap:])
        if gap == 1:
            pace[1:] = apart
        for after in range(gap):  # frames s and s + gap, with `after` frames from the boundary to the second
            first = gap - after
            scores[first : count - after] = np.minimum(scores[first : count - after], apart)
    scores[0] = 0
    around = np.pad(pace, 6, "edge")
    others = np.stack([around[k : k + count] for k in range(13) if k != 6])
    calm: Array = np.where(np.isfinite(scores), scores, 0) - np.float32(0.3) * np.median(others, 0)
    return calm


def shifted_likeness(one: Array, other: Array) -> float:
    """Best correlation of two `detail` pictures over all shifts that leave half of them: 1 for a pan however fast."""
    shape = (2 * one.shape[0], 2 * one.shape[1])
    pictures = [np.ones_like(one), one, one * one, other, other * other]
    whole, a, a2, b, b2 = (np.fft.rfft2(picture, shape) for picture in pictures)

    def sums(left: NDArray[np.complex128], right: NDArray[np.complex128]) -> NDArray[np.float64]:
        return np.fft.irfft2(left * np.conj(right), shape)

    area = np.maximum(sums(whole, whole), 1)
    mean_a, mean_b = sums(a, whole) / area, sums(whole, b) / area
    covariance = sums(a, b) / area - mean_a * mean_b
    variances = [sums(a2, whole) / area - mean_a**2, sums(whole, b2) / area - mean_b**2]
    scale = np.sqrt((np.maximum(variances[0], 0) + _NOISE**2) * (np.maximum(variances[1], 0) + _NOISE**2))
    return float(np.where(area < one.size / 2, -1, covariance / scale).max())


def dissolve_features(signals: Signals, starts: NDArray[np.intp], length: int, grams: tuple[Array, Array]) -> Array:
    """What speaks for a dissolve in frames s up to s + length, for each start s >= 1, (len(starts), 35).

    With A the frame before and B the frame after, x in between: how much of x is left when the best blend of A and B
    is taken off, what B's share in it is (it rises evenly in a dissolve), how far A and B lie apart, how straight the
    way from A to B is (motion wanders), how much contrast falls in the middle (two pictures overlaid have less), and
    how much happens outside. Products of frames are all that is needed: `grams` has those of `fine` and `coarse`.
    """
    groups = [_blend_features(gram, starts, length) for gram in grams]
    return np.concatenate([*groups, np.full((len(starts), 1), np.log(length / 20), np.float32)], 1)


def gram_matrices(signals: Signals) -> tuple[Array, Array]:
    """Products of all frames with one another."""
    return signals.fine @ signals.fine.T, signals.coarse @ signals.coarse.T


_PLACES = np.array([0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875])  # where blends are looked at, in dissolve lengths


def _blend_features(gram: Array, starts: NDArray[np.intp], length: int) -> Array:
    noise = _NOISE**2
    last = len(gram) - 1
    before, after = starts - 1, starts + length
    diagonal = np.diagonal(gram)
    aa, bb, ab = diagonal[before], diagonal[after], gram[before, after]
    steps = np.clip(np.rint(_PLACES * (length + 1)).astype(np.intp) - 1, 0, length - 1)
    times = starts + steps[:, None]  # (7, n)
    xx, xa, xb = diagonal[times], gram[times, before], gram[times, after]

    # x = from_a A + from_b B, least squares, neither negative
    sa, sb = aa + noise / 2, bb + noise / 2
    determinant = np.maximum(sa * sb - ab * ab, 1e-3)
    from_a, from_b = (xa * sb - xb * ab) / determinant, (xb * sa - xa * ab) / determinant
    only_a, only_b = np.maximum(xa, 0) / sa, np.maximum(xb, 0) / sb
    neither_a, neither_b = from_a <= 0, from_b <= 0
    from_a = np.where(neither_a, 0, np.where(neither_b, only_a, from_a))
    from_b = np.where(neither_b, 0, np.where(neither_a, only_b, from_b))
    left = xx - 2 * from_a * xa - 2 * from_b * xb + from_a**2 * aa + from_b**2 * bb + 2 * from_a * from_b * ab
    left = np.maximum(left, 0) / (xx + noise)
    single = np.maximum(np.maximum(xa, 0) ** 2 / sa, np.maximum(xb, 0) ** 2 / sb) / (xx + noise)
    gain = 1 - left - single  # what two explain and one does not
    share = from_b / (from_a + from_b + 1e-3)
    due = ((steps + 1) / (length + 1))[:, None]
    fixed = (xx - 2 * (1 - due) * xa - 2 * due * xb + (1 - due) ** 2 * aa + due**2 * bb + 2 * due * (1 - due) * ab) / (
        (aa + bb) / 2 + noise
    )
    growth = np.diff(share, axis=0)

    def apart(i: NDArray[np.intp], j: NDArray[np.intp]) -> Array:
        squared: Array = np.maximum(diagonal[i] + diagonal[j] - 2 * gram[i, j], 0)
        return squared

    way = [before + round((length + 1) * quarter / 4) for quarter in range(5)]
    whole = apart(before, after)
    in_four = sum(apart(way[k], way[k + 1]) for k in range(4))
    in_two = apart(way[0], way[2]) + apart(way[2], way[4])
    beyond = max(4, length // 2)
    early, late = np.maximum(before - beyond, 0), np.minimum(after + beyond, last)
    earlier = apart(early, before) / ((diagonal[early] + aa) / 2 + noise)
    later = apart(after, late) / ((bb + diagonal[late]) / 2 + noise)
    logarithms = [
        np.median(left, 0), whole / (4 * in_four + noise), whole / (2 * in_two + noise),
        diagonal[way[2]] / ((aa + bb) / 2 + noise), np.median(fixed, 0), np.sort(fixed, 0)[2],
        np.minimum(earlier, later), np.maximum(earlier, later), whole / ((aa + bb) / 2 + noise),
    ]  # fmt: skip
    features = [
        ab / np.sqrt((aa + noise) * (bb + noise)), gain[2:5].mean(0), gain.mean(0), np.abs(share - due).mean(0),
        np.minimum(growth, 0).sum(0), growth.max(0), np.log(np.sqrt(np.minimum(aa, bb)) + _NOISE),
        np.abs(np.log((aa + noise) / (bb + noise))), *(np.log(np.maximum(value, 1e-3)) for value in logarithms),
    ]  # fmt: skip
    stacked: Array = np.stack(features, 1).astype(np.float32)
    return stacked


@cache
def _weights() -> dict[str, Array]:
    stored = json.loads(_WEIGHTS.read_text())
    return {name: np.array(values, np.float32) for name, values in stored.items()}


def dissolve_scores(features: Array) -> Array:
    """Logarithm of the odds that there is a dissolve, (n,), from `dissolve_features`.

    A network of 16 hidden units with weights from `benchmarks/fit_dissolves.py`.
    """
    weights = _weights()
    inputs = np.clip((features - weights["mean"]) / weights["scale"], -5, 5)
    scores: Array = np.tanh(inputs @ weights["hidden"] + weights["hidden_bias"]) @ weights["out"] + weights["out_bias"]
    return scores
