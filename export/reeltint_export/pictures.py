"""Pictures to compare on: a folder of photographs and films, or the photographs that scikit-image ships."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pictures = list[NDArray[np.uint8]]

FILMS = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".mxf", ".ts", ".m4v"}
FRAMES_A_FILM = 3
"""Taken from each film: its first frame, and others evenly spread."""

_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina")


class PictureError(ValueError):
    """There is nothing to compare on."""


def photographs(folder: Path | None = None, *, color: bool = False) -> Pictures:
    """Pictures [H, W], grey, or with `color` [H, W, 3]; all of `folder` and below, or five of scikit-image's.

    Raises:
        PictureError: The folder holds nothing readable, or there is none and scikit-image is not installed.
    """
    from PIL import Image

    mode = "RGB" if color else "L"
    if folder is None:
        try:
            from skimage import data
        except ImportError as error:
            raise PictureError("comparing needs pictures: install scikit-image, or name a folder (--frames)") from error
        return [np.array(Image.fromarray(getattr(data, name)()).convert(mode)) for name in _PHOTOGRAPHS]
    pictures = list(_read(folder, mode)) if folder.is_dir() else []
    if not pictures:
        raise PictureError(f"{folder}: no folder with readable images or films")
    return pictures


def _read(folder: Path, mode: str) -> Iterator[NDArray[np.uint8]]:
    from PIL import Image, UnidentifiedImageError

    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix.lower() in FILMS:
            yield from _frames(path, "rgb24" if mode == "RGB" else "gray")
            continue
        try:
            with Image.open(path) as image:
                yield np.array(image.convert(mode))
        except (UnidentifiedImageError, OSError):
            continue


def _frames(path: Path, pixel_format: str) -> Iterator[NDArray[np.uint8]]:
    import av

    try:
        with av.open(str(path)) as film:
            stream = film.streams.video[0]
            for index in range(FRAMES_A_FILM):
                if index and stream.duration:
                    film.seek((stream.start_time or 0) + stream.duration * index // FRAMES_A_FILM, stream=stream)
                elif index:
                    return
                frame = next(film.decode(stream), None)
                if frame is not None:
                    yield np.asarray(frame.to_ndarray(format=pixel_format), np.uint8)
    except (av.FFmpegError, IndexError):
        return
