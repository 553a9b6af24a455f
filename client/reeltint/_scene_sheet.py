"""A picture with one frame a scene."""

import math
from collections.abc import Sequence

import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from reeltint._film_read import FilmReader
from reeltint._scene_detectors import Scene

_WIDTH, _GAP, _ZOOM = 240, 6, 3
_COLUMNS = 8
# 3 x 5 dots a digit, a row after another
_SHAPES = {
    "0": "111101101101111", "1": "010110010010111", "2": "111001111100111", "3": "111001111001111",
    "4": "101101111001001", "5": "111100111001111", "6": "111100111101111", "7": "111001001001001",
    "8": "111101111101111", "9": "111101111001111",
}  # fmt: skip


def contact_sheet(film: FilmReader, scenes: Sequence[Scene]) -> NDArray[np.uint8]:
    """Lay out the middle frame of each scene, numbered, in rows; in colour where the film has it.

    Args:
        film: The film, whole.
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
    height = min(max(5 * _ZOOM + 4, round(film.info.height * _WIDTH / film.info.width)), 2 * _WIDTH)
    with film._open() as container:
        for index, (picture, _) in enumerate(film._pictures(container)):
            if index in wanted:
                small = picture.reformat(_WIDTH, height, "rgb24", interpolation=Interpolation.AREA)
                shown = np.asarray(small.to_ndarray(), np.uint8)
                pictures |= {number: _numbered(shown, number + 1) for number in wanted.pop(index)}
            if not wanted:
                break
    columns = min(_COLUMNS, max(1, math.ceil(math.sqrt(len(pictures)))))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (_WIDTH + _GAP) + _GAP, 3), 32, np.uint8)
    for place, number in enumerate(sorted(pictures)):
        top, left = (_GAP + k * (size + _GAP) for k, size in zip(divmod(place, columns), (height, _WIDTH), strict=True))
        sheet[top : top + height, left : left + _WIDTH] = pictures[number]
    return sheet


def _numbered(picture: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """The picture with a number in its upper left corner, white on black."""
    dots = np.zeros((7, 4 * len(str(number)) + 1), np.uint8)
    for place, digit in enumerate(str(number)):
        shape = np.array([int(dot) for dot in _SHAPES[digit]], np.uint8).reshape(5, 3)
        dots[1:6, 4 * place + 1 : 4 * place + 4] = shape * 255
    label = np.kron(dots, np.ones((_ZOOM, _ZOOM), np.uint8))
    picture = picture.copy()
    picture[: label.shape[0], : label.shape[1]] = label[: picture.shape[0], : picture.shape[1], None]
    return picture
