"""A film, a still or a folder of stills: read, coloured by a server, written."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from numpy.typing import NDArray

from reeltint._codec import ColorBatch, Frames
from reeltint._colorizer import Colorizer
from reeltint._errors import FilmError, InvalidRequest, ModelNotFound, ReeltintError, ServerBusy, ServerUnreachable
from reeltint._film import FilmFrame, FilmReader, FilmWriter, read_still, write_still
from reeltint._film_chroma import ChromaReader
from reeltint._film_still import STILL_SUFFIXES
from reeltint._library import read_colours
from reeltint._scene_colour import SceneColours

if TYPE_CHECKING:
    from reeltint._project import Project

logger = logging.getLogger("reeltint")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneReport:
    """How one scene was coloured.

    Attributes:
        number: From 1.
        start: Its first frame.
        end: The frame after its last.
        transition: How it begins.
        origin: Where its reference is from: "given", "earlier", "library" or "automatic".
        path: The photograph, where it is one.
        scene: The earlier scene whose reference it takes, where it does.
        frame: Its key frame, where that is the reference.
        similarity: Of the reference to the scene, where they were compared: cosine, at most 1.
        confidence: How well the reference answered, mean over its frames and places, 0..1; those of a transition count
            only where it has no others. None where not coloured.
    """

    number: int
    start: int
    end: int
    transition: str
    origin: str
    path: Path | None
    scene: int | None
    frame: int | None
    similarity: float | None
    confidence: float | None

    @property
    def reference(self) -> str:
        """The reference in words."""
        words = f"scene {self.scene}" if self.scene is not None else f"frame {self.frame}"
        return words if self.path is None else str(self.path)


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
        plan_s: Before it, the pass over the film that found its scenes and references.
        warnings: What was concealed or left out: corrupt frames, streams that the container cannot hold.
        scenes: How each scene was coloured; empty where every frame was coloured for itself.
        needs_person: Scenes that a person should look at, by number, and why.
    """

    source: Path
    target: Path
    frames: int
    elapsed_s: float
    decode_s: float
    colour_s: float
    encode_s: float
    plan_s: float = 0.0
    warnings: list[str] = field(default_factory=list)
    scenes: list[SceneReport] = field(default_factory=list)
    needs_person: dict[int, str] = field(default_factory=dict)


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
    """Frames of this size that make a good request: as many as fit into 8 MiB, 1 to 8."""
    return max(1, min(8, 2**23 // (height * width)))


def colorize_film(
    source: Path | str,
    target: Path | str,
    colorizer: Colorizer,
    *,
    project: "Project | None" = None,
    project_of_range: bool = False,
    only: Collection[int] = (),
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
        project: The film's scenes and their references, from `read_project` or `plan`; None colours every frame for
            itself, by the automatic network.
        project_of_range: The project was planned from `start_s` on: its frame 0 is the first one there.
        only: Numbers of the scenes to colour anew. `target` is there already: the other frames take its chroma, and
            all of the film is encoded again, with the luma of `source`. A lossy encoder costs that chroma a second
            generation.
        start_s: Colour only from here on, seconds from the film's start.
        end_s: Colour only up to here.
        side_by_side: Grey and colour beside each other.
        encoder: FFmpeg's name of a video encoder.
        quality: Its constant quality (CRF, CQ or qscale): smaller is better.
        preset: Its speed preset; None is `FilmWriter`'s choice.
        pixel_format: None is 4:2:0 at the source's bit depth.
        batch: Frames a request; None takes as many as fit into 8 MiB, 1 to 8.
        tolerate_damage: Go on where the decoder refuses a packet, a checksum is wrong or the file is cut off, with a
            warning.
        on_frame: Called after each frame with the number of frames written and the time stamp in seconds.

    Raises:
        InvalidRequest: `only` does not go with the other options, names a scene that there is not, or `encoder` would
            make another codec of `target`; the film cannot be written with these options, see `FilmWriter`.
        FilmError: The film cannot be read or written, or is not the project's; what was written is kept as a partial
            file that it names.
        ReeltintError: The server refused or did not answer; the partial file is kept as well.
    """
    if batch is not None and batch < 1:
        raise InvalidRequest(f"batch: at least 1, not {batch}")
    _check_only(only, project, whole=start_s is None and end_s is None, side_by_side=side_by_side)
    begun = time.perf_counter()
    decoding, encoding = _Stopwatch(), _Stopwatch()
    count = 0
    with (
        FilmReader(source, start_s=start_s, end_s=end_s, strict=not tolerate_damage) as reader,
        contextlib.ExitStack() as opened,
    ):
        size = min(batch or default_batch(reader.info.height, reader.info.width), colorizer.max_batch())
        frames = decoding.iterate(reader)
        colours: SceneColours | None = None
        if project is None:
            coloured = _automatic(frames, colorizer, size)
        else:
            from reeltint._references import ReferenceLoader

            origin_s = start_s if project_of_range else None
            loader = opened.enter_context(ReferenceLoader(project, source, colorizer, start_s=origin_s))
            first = 0 if project_of_range else _frames_before(reader)
            colours = SceneColours(colorizer, project.scenes, loader.load, batch=size, only=only, first=first)
            existing = opened.enter_context(_existing(target, reader, encoder)) if only else None
            coloured = _by_scene(frames, colorizer, size, colours, existing, Path(source))
        with FilmWriter(
            target,
            reader,
            encoder=encoder,
            quality=quality,
            preset=preset,
            pixel_format=pixel_format,
            side_by_side=side_by_side,
        ) as writer:
            for frame, chroma in coloured:
                with encoding:
                    writer.write(frame, chroma)
                count += 1
                if on_frame:
                    on_frame(count, frame.time_s)
            with encoding:
                writer.close()
    elapsed = time.perf_counter() - begun
    warnings = [*reader.warnings, *writer.warnings]
    if project is not None and end_s is None and colours is not None and colours.next < project.frames:
        warnings.append(f"the film ends with frame {colours.next - 1}, its scenes with frame {project.frames - 1}")
        logger.warning("%s: %s", source, warnings[-1])
    confidences = {} if colours is None else colours.confidences
    return Report(
        source=Path(source),
        target=Path(target),
        frames=count,
        elapsed_s=elapsed,
        decode_s=decoding.seconds,
        colour_s=elapsed - decoding.seconds - encoding.seconds,
        encode_s=encoding.seconds,
        warnings=warnings,
        scenes=[] if project is None else _scene_reports(project, confidences),
        needs_person=_needs_person(project, confidences),
    )


def _check_only(only: Collection[int], project: "Project | None", *, whole: bool, side_by_side: bool) -> None:
    if not only:
        return
    if project is None:
        raise InvalidRequest("only: scenes are coloured anew by the film's project, which is missing")
    if not whole or side_by_side:
        raise InvalidRequest("only: scenes are coloured anew in a whole film, not in a part or beside the grey one")
    there = len(project.scenes)
    for number in only:
        if not 1 <= number <= there:
            raise InvalidRequest(f"only: there is no scene {number}, the film has scenes 1 to {there}")


def check_target(target: Path, reader: FilmReader, *, recoloured: bool, encoder: str, **options: Any) -> None:
    """Find out what speaks against writing a film, before the work is done; leaves nothing behind.

    Args:
        target: The film to write.
        reader: Its source.
        recoloured: Only some scenes of it, so that it is there already.
        encoder: As for `FilmWriter`.
        **options: The others of `FilmWriter`.

    Raises:
        InvalidRequest: `encoder` would make another codec of a film that is there already, or the film cannot be
            written with these options.
        FilmError: The film cannot be written there, or is not the source's.
    """
    if recoloured:
        _existing(target, reader, encoder).close()
    FilmWriter(target, reader, encoder=encoder, **options).abandon()


def _existing(target: Path | str, reader: FilmReader, encoder: str) -> ChromaReader:
    film = ChromaReader(target, reader)
    with contextlib.suppress(UnknownCodecError):  # the writer tells
        was, would_be = film.codec, av.Codec(encoder, "w").canonical_name
        if was != would_be:
            film.close()
            problem = f"{target} is {was}, and encoder {encoder} would make it {would_be}"
            raise InvalidRequest(f"only: {problem}; choose an encoder of {was} (--encoder)")
    return film


def check_project(project: "Project", file: Path, reader: FilmReader) -> None:
    """Warn of scenes that were written down for another film.

    Args:
        project: The scenes.
        file: Where they are from, for messages.
        reader: The film that is to be coloured by them.

    Raises:
        InvalidRequest: They are for another film, of another length.
    """
    if Path(project.film).resolve() == reader.path.resolve():
        return
    frames = reader._video(reader._container).frames  # 0 where the container does not state them
    if frames and frames != project.frames:
        raise InvalidRequest(
            f"{file}: is for {project.film} with {project.frames} frames, {reader.path} has {frames}; "
            'if it is that film, name it there as "film"'
        )
    logger.warning("%s: the scenes file names %s", file, project.film)


def _automatic(
    frames: Iterable[FilmFrame], colorizer: Colorizer, size: int
) -> Iterator[tuple[FilmFrame, NDArray[np.uint8]]]:
    """Each frame with its chroma, every one coloured for itself."""
    sent: deque[list[FilmFrame]] = deque()

    def greys() -> Iterator[Frames]:
        for batch in _batches(frames, size):
            sent.append(batch)
            yield np.stack([frame.grey() for frame in batch])

    for answer in colorizer.stream(greys()):
        assert answer.chroma is not None
        yield from zip(sent.popleft(), answer.chroma, strict=True)


def _by_scene(
    frames: Iterable[FilmFrame],
    colorizer: Colorizer,
    size: int,
    colours: SceneColours,
    existing: ChromaReader | None,
    film: Path,
) -> Iterator[tuple[FilmFrame, NDArray[np.uint8]]]:
    """Each frame with its chroma: that of its scenes, or where it is not coloured anew, that which it has."""
    sent: deque[list[FilmFrame]] = deque()
    kept: deque[NDArray[np.uint8]] = deque()

    def beside(frames: Iterable[FilmFrame], existing: ChromaReader) -> Iterator[FilmFrame]:
        for frame, chroma in existing.beside(frames):
            kept.append(chroma)
            yield frame

    def merges() -> Iterator[Coroutine[Any, Any, ColorBatch]]:
        source = frames if existing is None else beside(frames, existing)
        for batch in _batches(colours.iterate(source, film), size, lambda one: one.ab is None):
            sent.append([one.frame for one in batch])
            old = [kept.popleft() for _ in batch] if existing else []
            new = [(one.grey, one.ab) for one in batch if one.grey is not None and one.ab is not None]
            if new:
                greys, ab = (np.stack(arrays) for arrays in zip(*new, strict=True))
                yield colorizer._colorizer.merge(greys, ab)
            else:
                yield _as_it_is(np.stack(old))

    for answer in colorizer._in_order(merges()):
        assert answer.chroma is not None
        yield from zip(sent.popleft(), answer.chroma, strict=True)


async def _as_it_is(chroma: NDArray[np.uint8]) -> ColorBatch:
    """An answer that nobody was asked for, to stand in line with the others."""
    return ColorBatch(frames=np.empty((len(chroma), 0, 0), np.uint8), chroma=chroma)


def _frames_before(reader: FilmReader) -> int:
    """Number of the first frame of the range that is read: how many frames come before it."""
    if reader.start_s is None:
        return 0
    with reader._open() as container:
        video = reader._video(container)
        times = (packet.pts for packet in container.demux(video) if packet.size and not packet.is_discard)
        return sum(pts is not None and pts < reader._first_pts for pts in times)


def _scene_reports(project: "Project", confidences: dict[int, float]) -> list[SceneReport]:
    reports = []
    for number, planned in enumerate(project.scenes, 1):
        choice, scene = planned.reference, planned.scene
        reports.append(
            SceneReport(
                number=number,
                start=scene.start,
                end=scene.end,
                transition=scene.transition,
                origin=choice.origin,
                path=choice.path,
                scene=choice.scene,
                frame=choice.frame,
                similarity=choice.similarity,
                confidence=confidences.get(number),
            )
        )
    return reports


def _needs_person(project: "Project | None", confidences: dict[int, float]) -> dict[int, str]:
    if project is None:
        return {}
    from reeltint._references import wants_a_person

    return wants_a_person(project, confidences)


def _batches(frames: Iterable[_T], size: int, kind: Callable[[_T], object] = lambda _: None) -> Iterator[list[_T]]:
    """Up to `size` items of one kind at a time; what came before an error of the film is handed out first."""
    batch: list[_T] = []
    try:
        for frame in frames:
            if batch and kind(frame) != kind(batch[0]):
                yield batch
                batch = []
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
    reference: Path | str | None = None,
    side_by_side: bool = False,
    on_still: Callable[[int], None] | None = None,
) -> tuple[list[Report], list[FilmError]]:
    """Colour photographs, each on its own; one that cannot be read or written does not stop the others.

    Args:
        stills: What to read, and where to write it (PNG or JPEG by suffix).
        colorizer: The server.
        reference: A photograph whose colours they all take.
        side_by_side: Grey and colour beside each other.
        on_still: Called after each with how many are done.

    Returns:
        A report of each still that was coloured, and the errors of those that were not.

    Raises:
        InvalidRequest: A still would be written over one of them or a folder, or its suffix is unknown.
        FilmError: The reference cannot be read, or is grey.
        ReeltintError: The server has not got the model, is busy or not reachable, or refuses the reference.
    """
    check_stills(stills)
    colours = None if reference is None else colorizer.reference(read_colours(reference), origin=str(reference))
    reports: list[Report] = []
    failures: list[FilmError] = []
    for done, (source, target) in enumerate(stills.items(), 1):
        begun = time.perf_counter()
        try:
            grey = read_still(source)
            decoded = time.perf_counter()
            rgb = colorizer.colorize(grey[None], output="rgb", reference=colours).rgb
            assert rgb is not None
            coloured = time.perf_counter()
            picture = np.concatenate([np.repeat(grey[..., None], 3, 2), rgb[0]], 1) if side_by_side else rgb[0]
            _make_folder(target.parent)
            write_still(target, picture)
        except (InvalidRequest, ModelNotFound, ServerBusy, ServerUnreachable):
            raise  # the others would meet it as well
        except ReeltintError as error:
            failures.append(error if isinstance(error, FilmError) else _named(source, error))
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


def check_stills(stills: dict[Path, Path]) -> None:
    """Refuse to write a still over one that is to be read, or where none can be.

    Args:
        stills: What to read, and where to write it.

    Raises:
        InvalidRequest: A target is one of the sources, a folder, or its suffix is unknown.
    """
    sources = {source.resolve() for source in stills}
    for target in stills.values():
        if target.is_dir():
            raise InvalidRequest(f"{target}: it is a folder")
        if target.suffix.lower() not in STILL_SUFFIXES:
            raise InvalidRequest(f"{target}: the suffix is none of {', '.join(sorted(STILL_SUFFIXES))}")
        if target.resolve() in sources:
            raise InvalidRequest(f"{target}: is a still to be coloured, and would be overwritten by one in colour")


def _named(still: Path, error: ReeltintError) -> FilmError:
    named = FilmError(still, f"not coloured: {error}")
    named.__cause__ = error
    return named


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FilmError(folder, f"the folder cannot be made: {error.strerror}") from error
