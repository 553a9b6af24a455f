"""A picture with one frame a scene."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from reeltint._film_read import FilmFrame
from reeltint._scene_detectors import Scene
from reeltint._thumbnail import resized

_WIDTH, _GAP, _ZOOM = 240, 6, 3
_COLUMNS = 8
# 3 x 5 dots a digit, a row after another
_SHAPES = {
    "0": "111101101101111", "1": "010110010010111", "2": "111001111100111", "3": "111001111001111",
    "4": "101101111001001", "5": "111100111001111", "6": "111100111101111", "7": "111001001001001",
    "8": "111101111101111", "9": "111101111001111",
}  # fmt: skip


def contact_sheet(film: Iterable[FilmFrame], scenes: Sequence[Scene]) -> NDArray[np.uint8]:
    """Lay out the middle frame of each scene, numbered, in rows.

    Args:
        film: All frames, from the start.
        scenes: In order.

    Returns:
        sRGB, (H, W, 3).

    Raises:
        FilmError: damaged or truncated film.
    """
    wanted: dict[int, list[int]] = {}
    for number, scene in enumerate(scenes):
        before = scenes[number - 1].end if number else 0
        after = scenes[number + 1].start if number + 1 < len(scenes) else scene.end
        first, last = max(scene.start, before), min(scene.end, after)  # the frames of this scene alone
        wanted.setdefault((first + last) // 2 if first < last else (scene.start + scene.end) // 2, []).append(number)
    pictures: dict[int, NDArray[np.uint8]] = {}
    for index, frame in enumerate(film):
        for number in wanted.pop(index, []):
            height = max(5 * _ZOOM + 4, round(frame.luma.shape[0] * _WIDTH / frame.luma.shape[1]))
            pictures[number] = _numbered(resized(frame.grey(), min(height, 2 * _WIDTH), _WIDTH), number + 1)
        if not wanted:
            break
    columns = min(_COLUMNS, max(1, math.ceil(math.sqrt(len(pictures)))))
    rows = math.ceil(len(pictures) / columns)
    tall = next(iter(pictures.values())).shape[0] if pictures else 1
    sheet = np.full((rows * (tall + _GAP) + _GAP, columns * (_WIDTH + _GAP) + _GAP), 32, np.uint8)
    for place, number in enumerate(sorted(pictures)):
        top, left = (_GAP + k * (size + _GAP) for k, size in zip(divmod(place, columns), (tall, _WIDTH), strict=True))
        sheet[top : top + tall, left : left + _WIDTH] = pictures[number]
    return np.repeat(sheet[..., None], 3, 2)


def _numbered(picture: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """The picture with a number in its upper left corner, white on black."""
    dots = np.zeros((7, 4 * len(str(number)) + 1), np.uint8)
    for place, digit in enumerate(str(number)):
        shape = np.array([int(dot) for dot in _SHAPES[digit]], np.uint8).reshape(5, 3)
        dots[1:6, 4 * place + 1 : 4 * place + 4] = shape * 255
    label = np.kron(dots, np.ones((_ZOOM, _ZOOM), np.uint8))
    picture = picture.copy()
    picture[: label.shape[0], : label.shape[1]] = label[: picture.shape[0], : picture.shape[1]]
    return picture
