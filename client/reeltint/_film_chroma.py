"""The colour of a film that was written before: its chroma planes as `FilmWriter.write` takes them."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from reeltint._closing import Closing
from reeltint._errors import FilmError
from reeltint._film_read import FilmFrame, FilmReader

Chroma = NDArray[np.uint8]


class ChromaReader(Closing):
    """Reads the chroma of a coloured film beside its source, frame by frame.

    Values that `FilmWriter` stored without loss come back as they were given to it; those of a lossy encoder are what
    it made of them.

    Args:
        path: The coloured film.
        source: The film that it is the colour of, whole.

    Raises:
        FilmError: The coloured film cannot be read, or is no copy of the source: other size, side by side, RGB.
    """

    def __init__(self, path: Path | str, source: FilmReader) -> None:
        self.path, self._source = Path(path), source
        self._film = FilmReader(path)
        width, height = source.info.width, source.info.height
        form = self._film._first_picture.format
        if (self._film.info.width, self._film.info.height) != (width, height):
            size = f"{self._film.info.width}x{self._film.info.height}"
            self._refuse(f"its pictures are {size}, not {width}x{height}")
        if form.is_rgb or [part.plane for part in form.components] != [0, 1, 2] or form.is_big_endian:
            self._refuse(f"its pixel format {form.name} is not planar YUV")
        self._shape = ((height + 1) // 2, (width + 1) // 2)

    @property
    def codec(self) -> str:
        """FFmpeg's name of the coloured film's codec, such as h264."""
        return self._film._video(self._film._container).codec_context.codec.canonical_name

    def close(self) -> None:
        """Close the film."""
        self._film.close()

    def _refuse(self, problem: str, time_s: float | None = None) -> None:
        self._film.close()
        raise FilmError(self.path, f"it is no coloured {self._source.path}: {problem}", time_s)

    def beside(self, frames: Iterable[FilmFrame]) -> Iterator[tuple[FilmFrame, Chroma]]:
        """Each frame of the source with its chroma.

        Raises:
            FilmError: The coloured film is damaged, has another picture count, or other times than the source.
        """
        rate = self._source.info.frame_rate
        tolerance_s = 0.5 / float(rate) if rate else 0.02
        with self._film._open() as container:
            base = self._film._time_base(container)
            pictures = self._film._pictures(container)
            first: float | None = None
            for count, frame in enumerate(frames):
                found = next(pictures, None)
                if found is None:
                    self._refuse(f"it has {count} pictures, the source goes on", frame.time_s)
                    return
                picture, pts = found
                moved = float(pts * base) - frame.time_s
                first = moved if first is None else first
                if abs(moved - first) > tolerance_s:
                    self._refuse("its times are others", frame.time_s)
                yield frame, self._chroma(picture)
            if next(pictures, None) is not None:
                self._refuse(f"it has more than the source's {self._source.frames_read} pictures")

    def _chroma(self, picture: VideoFrame) -> Chroma:
        bits = picture.format.components[0].bits
        values = [_samples(picture, index, bits) for index in (1, 2)]
        rows, columns = (round(size / wanted) for size, wanted in zip(values[0].shape, self._shape, strict=True))
        planes = np.stack([plane[:: max(1, rows), :: max(1, columns)] for plane in values])
        if planes.shape[1:] != self._shape:
            self._refuse(f"its pixel format is {picture.format.name}")
        chroma: Chroma = _table(bits, picture.color_range == ColorRange.JPEG)[planes]
        return chroma


def _samples(picture: VideoFrame, index: int, bits: int) -> NDArray[Any]:
    plane = picture.planes[index]
    kind = np.dtype(np.uint8 if bits == 8 else "<u2")
    view: NDArray[Any] = np.ndarray(
        (plane.height, plane.width), kind, buffer=plane, strides=(plane.line_size, kind.itemsize)  # type: ignore[arg-type]
    )  # fmt: skip
    return view


@cache
def _table(bits: int, full_range: bool) -> Chroma:
    """Table from chroma codes of a depth and range to 8-bit limited ones: `FilmWriter`'s way back."""
    scale = ((1 << bits) - 1) / 224 if full_range else 1 << (bits - 8)
    values = np.floor((np.arange(1 << bits) - (1 << (bits - 1))) / scale + 128.5)
    table: Chroma = np.clip(values, 0, 255).astype(np.uint8)
    return table
