"""ab resized along the edges of the lightness: a fast guided filter (He & Sun 2015), as the served merges do it.

Over 3 x 3 cells of ab a line is fitted to L*, and applied to every pixel's own L*. It goes through each cell's own ab,
so that flat areas stay bilinear.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

FLAT = 2.0
"""L* units: what varies less is grain, and guides nothing."""
MAX_SLOPE = 1.0
"""Units of ab for one unit of L*, at most."""


def guided_ab(
    lightness: Tensor, ab: Tensor, size: Sequence[int], *, step: int = 1, phase: tuple[float, float] = (0.5, 0.5)
) -> Tensor:
    """Resize ab [B, 2, s, t] to the points at which `lightness` is given, [B, 2, h, w].

    Args:
        lightness: L*, 0..100, [B, 1, h, w].
        ab: a* and b* of the whole picture.
        size: Height and width of the picture in pixels.
        step: Pixels from one point to the next, down and across.
        phase: Where the first point is, down and across, in pixels from the picture's edge.
    """
    places = [
        ((step * torch.arange(count) + start) * cells / length - 0.5).clamp(0, cells - 1)
        for count, start, cells, length in zip(lightness.shape[2:], phase, ab.shape[2:], size, strict=True)
    ]
    read_rows, read_columns = (_tent(1.0, place, cells) for place, cells in zip(places, ab.shape[2:], strict=True))
    rows, columns = (
        _tent(max(1.0, stride * step * cells / length), place[::stride], cells)
        for stride, place, cells, length in zip((step, 1), places, ab.shape[2:], size, strict=True)
    )
    some = lightness[:, :, ::step]
    mean, square = ((rows / rows.sum(0)).T @ y @ (columns / columns.sum(0)) for y in (some, some * some))
    around, around_square, around_ab, product = (
        functional.avg_pool2d(each, 3, 1, 1, count_include_pad=False) for each in (mean, square, ab, mean * ab)
    )
    slope = (product - around * around_ab) / (around_square - around * around + FLAT**2)
    slope = slope.clamp(-MAX_SLOPE, MAX_SLOPE)
    slope, offset = (read_rows @ each @ read_columns.T for each in (slope, ab - slope * mean))
    return slope * lightness + offset


def _tent(reach: float, places: Tensor, cells: int) -> Tensor:
    """max(reach - |place - cell|, 0), [places, cells]."""
    return (reach - (places[:, None] - torch.arange(cells)).abs()).clamp(min=0)
