"""The scenes of a film."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from reeltint._film_read import FilmReader, Luma, code_table
from reeltint._scene_detectors import Detector, PaperDetector, Scene, SceneDetector, Transition
from reeltint._scene_signals import HEIGHT, WIDTH
from reeltint._thumbnail import resized

__all__ = ["Detector", "PaperDetector", "Scene", "SceneDetector", "Transition", "find_scenes", "luma_thumbnail"]


def luma_thumbnail(luma: Luma, *, bit_depth: int = 8, full_range: bool = True) -> NDArray[np.uint8]:
    """Reduce a picture to what scene detectors take: the mean over areas, whatever its shape, as full-range grey.

    Args:
        luma: (H, W) codes.
        bit_depth: Of the codes, 8 to 16.
        full_range: As in `FilmFrame`.

    Returns:
        (36, 64), 0..255.
    """
    if bit_depth > 8:
        luma = np.right_shift(luma, bit_depth - 8).astype(np.uint8)
    small = resized(np.asarray(luma, np.uint8), HEIGHT, WIDTH)
    return small if full_range else np.asarray(code_table(8, False, 8, True)[small], np.uint8)


def find_scenes(
    film: FilmReader, detector: Detector | None = None, on_frame: Callable[[int], None] | None = None
) -> list[Scene]:
    """Find the scenes of a film, in one pass over it.

    Args:
        film: Opened, and read from its start here.
        detector: Default: `SceneDetector()`.
        on_frame: Called with the number of frames read so far.

    Returns:
        In order; every frame is in at least one scene, and only neighbours overlap.

    Raises:
        FilmError: damaged or truncated film.
    """
    detector = detector or SceneDetector()
    scenes = []
    for number, frame in enumerate(film, 1):
        thumbnail = luma_thumbnail(frame.luma, bit_depth=frame.bit_depth, full_range=frame.full_range)
        scenes += detector.push(thumbnail)
        if on_frame is not None:
            on_frame(number)
    return scenes + detector.finish()
