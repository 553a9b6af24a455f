"""A film, a still or a folder of stills: read, coloured by a server, written."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reeltint._codec import Frames
from reeltint._colorizer import Colorizer
from reeltint._errors import FilmError, InvalidRequest
from reeltint._film import FilmFrame, FilmReader, FilmWriter, read_still, write_still

STILL_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did, and where its time went.

    Attributes:
        source: What was read.
        target: What was written.
        frames: Frames (or stills) coloured.
        elapsed_s: Wall-clock time of the run, in seconds.
        decode_s: Of it, reading and decoding.
        colour_s: Of it, waiting for the server's answers.
        encode_s: Of it, encoding and writing.
        warnings: What was concealed or left out: corrupt frames, streams that the container cannot hold.
    """

    source: Path
    target: Path
    frames: int
    elapsed_s: float
    decode_s: float
    colour_s: float
    encode_s: float
    warnings: list[str] = field(default_factory=list)


class _Stopwatch:
    """Seconds spent inside `with`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._begun

    def iterate(self, items: Iterable[FilmFrame]) -> Iterator[FilmFrame]:
        """Pass items on, counting the time until each is there."""
        iterator = iter(items)
        while True:
            with self:
                item = next(iterator, None)
            if item is None:
                return
            yield item


def default_batch(height: int, width: int) -> int:
    """Frames of this size that make a good request: as many as fit into 4 MiB, 1 to 8."""
    return max(1, min(8, 2**22 // (height * width)))


def colorize_film(
    source: Path | str,
    target: Path | str,
    colorizer: Colorizer,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    side_by_side: bool = False,
    encoder: str = "libx264",
    quality: float = 18,
    preset: str | None = None,
    pixel_format: str | None = None,
    batch: int | None = None,
    tolerate_damage: bool = False,
    on_frame: Callable[[int, float], None] | None = None,
) -> Report:
    """Colour a film: its luma plane, sound, subtitles, time stamps and metadata stay as they are.

    Args:
        source: Any video that FFmpeg reads; colour is reduced to luma.
        target: The result; its suffix chooses the container. It appears under its name only when whole.
        colorizer: The server.
        start_s: Colour only from here on, seconds from the film's start.
        end_s: Colour only up to here.
        side_by_side: Grey and colour beside each other.
        encoder: FFmpeg's name of a video encoder.
        quality: Its constant quality (CRF, CQ or qscale): smaller is better.
        preset: Its speed preset; None is `FilmWriter`'s choice.
        pixel_format: None is 4:2:0 at the source's bit depth.
        batch: Frames a request; None takes as many as fit into 4 MiB, 1 to 8.
        tolerate_damage: Go on where the decoder refuses a packet or the file is cut off, with a warning.
        on_frame: Called after each frame with the number of frames written and the time stamp in seconds.

    Raises:
        FilmError: The film cannot be read or written; what was written is kept as a partial file that it names.
        ReeltintError: The server refused or did not answer; the partial file is kept as well.
    """
    if batch is not None and batch < 1:
        raise InvalidRequest(f"batch: at least 1, not {batch}")
    begun = time.perf_counter()
    decoding, encoding = _Stopwatch(), _Stopwatch()
    count = 0
    with FilmReader(source, start_s=start_s, end_s=end_s, strict=not tolerate_damage) as reader:
        size = min(batch or default_batch(reader.info.height, reader.info.width), colorizer.max_batch())
        sent: deque[list[FilmFrame]] = deque()

        def greys() -> Iterator[Frames]:
            for frames in _batches(decoding.iterate(reader), size):
                sent.append(frames)
                yield np.stack([frame.grey() for frame in frames])

        with FilmWriter(
            target,
            reader,
            encoder=encoder,
            quality=quality,
            preset=preset,
            pixel_format=pixel_format,
            side_by_side=side_by_side,
        ) as writer:
            for coloured in colorizer.stream(greys()):
                assert coloured.chroma is not None
                for frame, chroma in zip(sent.popleft(), coloured.chroma, strict=True):
                    with encoding:
                        writer.write(frame, chroma)
                    count += 1
                    if on_frame:
                        on_frame(count, frame.time_s)
            with encoding:
                writer.close()
    elapsed = time.perf_counter() - begun
    return Report(
        source=Path(source),
        target=Path(target),
        frames=count,
        elapsed_s=elapsed,
        decode_s=decoding.seconds,
        colour_s=elapsed - decoding.seconds - encoding.seconds,
        encode_s=encoding.seconds,
        warnings=[*reader.warnings, *writer.warnings],
    )


def _batches(frames: Iterable[FilmFrame], size: int) -> Iterator[list[FilmFrame]]:
    batch: list[FilmFrame] = []
    try:
        for frame in frames:
            batch.append(frame)
            if len(batch) == size:
                yield batch
                batch = []
    except FilmError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def colorize_stills(
    stills: dict[Path, Path],
    colorizer: Colorizer,
    *,
    side_by_side: bool = False,
    on_still: Callable[[int], None] | None = None,
) -> tuple[list[Report], list[FilmError]]:
    """Colour photographs, each on its own; one that cannot be read or written does not stop the others.

    Args:
        stills: What to read, and where to write it (PNG or JPEG by suffix).
        colorizer: The server.
        side_by_side: Grey and colour beside each other.
        on_still: Called after each with how many are done.

    Returns:
        A report of each still that was coloured, and the errors of those that were not.

    Raises:
        ReeltintError: The server refused or did not answer.
    """
    reports: list[Report] = []
    failures: list[FilmError] = []
    for done, (source, target) in enumerate(stills.items(), 1):
        begun = time.perf_counter()
        try:
            grey = read_still(source)
            decoded = time.perf_counter()
            rgb = colorizer.colorize(grey[None], output="rgb").rgb
            assert rgb is not None
            coloured = time.perf_counter()
            picture = np.concatenate([np.repeat(grey[..., None], 3, 2), rgb[0]], 1) if side_by_side else rgb[0]
            _make_folder(target.parent)
            write_still(target, picture)
        except FilmError as error:
            failures.append(error)
        else:
            ended = time.perf_counter()
            reports.append(
                Report(
                    source=source,
                    target=target,
                    frames=1,
                    elapsed_s=ended - begun,
                    decode_s=decoded - begun,
                    colour_s=coloured - decoded,
                    encode_s=ended - coloured,
                )
            )
        if on_still:
            on_still(done)
    return reports, failures


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FilmError(folder, f"the folder cannot be made: {error.strerror}") from error
