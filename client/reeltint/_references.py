"""Which reference each scene of a film is coloured by, and the making of it.

Paper 3 takes for each scene the photograph nearest to it by the Euclidean distance of pooled features (Eq. 4), however
far that is. Here the order of choice is: what a person gave; the reference of an earlier scene that looks like this
one (shot and reverse shot), so that a face keeps its colour across cuts; the library's nearest photograph, if it is
near; else the scene's own key frame coloured by the automatic network, so that a scene keeps one palette.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from threading import Event, Lock

import numpy as np
from numpy.typing import NDArray

from reeltint._closing import Closing
from reeltint._codec import Reference
from reeltint._colorizer import Colorizer
from reeltint._errors import FilmError, InvalidRequest
from reeltint._film_read import FilmFrame, FilmReader, code_table
from reeltint._library import Library, Match, check_colours, embed_still, read_colours
from reeltint._project import DEFAULT_SMOOTHING, PlannedScene, Project, ReferenceChoice
from reeltint._scenes import Detector, Scene, SceneDetector, luma_thumbnail
from reeltint._thumbnail import at_most, embedding_frame

logger = logging.getLogger("reeltint")

SAME_SCENE = 0.75
"""Largest embedding distance of two scenes that share a reference.

By the shipped `scene_embedder` on five frames of each of 32 clips (three clips of one room counted as one): the nearest
frames of different clips are 0.84 apart, 0.82 under heavy grain, the median of frames of one clip is 0.57. In a film of
24 clips, each cut in two with another between, 20 of 26 second halves found the first, 18 under film damage, and none
another clip's.
"""
NEAR_PHOTOGRAPH = 0.85
"""Largest embedding distance of a photograph that is taken from the library.

Of 3,000 photographs of objects, those up to 0.9 from their nearest neighbour share its kind in 82 %, those beyond in
64 %. Of 32 clips' nearest photographs the eight within 0.85 show the same subject (a bedroom a bedroom, a car a car),
of those beyond half do.
"""
DOUBTFUL_PHOTOGRAPH = 0.75
"""From here on a photograph is taken, and a person is asked to look."""
LOW_CONFIDENCE = 0.65
"""A scene whose mean confidence stays below wants a person's look.

With the shipped `exemplar_colorizer` 44 of 50 references from another clip stay below this, two of 25 from the same
clip's first frame, and no key frame that was coloured automatically (benchmarks/references.py).
"""

_EMBED_BATCH = 16
_EDGE = 0.1  # share of a scene at either end that is passed over when there is enough of it
_STEP = 3  # every third frame may become a key frame, so that the shortest scenes have one
_RECENT = 480  # frames in which candidates are not thinned out: `SceneDetector` is less far behind
_KEPT = 12  # older candidates of a scene, at least
_LONGEST_PICTURE = 1024  # pixels: the network looks at a few hundred
_LONGEST_KEY_FRAME = 640
_MOST_REFERENCES = 128  # kept for later scenes, 0.2 MB each


def plan(
    film: Path | str,
    colorizer: Colorizer | None,
    *,
    scenes: Sequence[Scene] | None = None,
    detector: Detector | None = None,
    given: Path | None = None,
    given_by_scene: Mapping[int, Path] | None = None,
    library: Library | None = None,
    saturation: float = 1.0,
    smoothing: float = DEFAULT_SMOOTHING,
    same_scene: float = SAME_SCENE,
    near_photograph: float = NEAR_PHOTOGRAPH,
    start_s: float | None = None,
    end_s: float | None = None,
    strict: bool = True,
    on_frame: Callable[[int], None] | None = None,
) -> Project:
    """Find a film's scenes and choose the reference of each; the film is decoded once, memory does not grow with it.

    Args:
        film: The film.
        colorizer: The server, for embeddings. None: nothing is compared, every scene that was given nothing is
            coloured by its own key frame.
        scenes: Its scenes, where they are known.
        detector: What finds them otherwise; None is `SceneDetector` with its defaults.
        given: A still for every scene.
        given_by_scene: A still for single scenes, by number from 1; comes before `given`.
        library: Photographs to search.
        saturation: Of every scene, 0 to 2.
        smoothing: Of every scene, 0 to 1.
        same_scene: Largest embedding distance at which an earlier scene's reference is taken again; 0: never.
        near_photograph: Largest embedding distance at which a photograph of the library is taken.
        start_s: Plan only from here on; frame 0 of the project is then the first from here.
        end_s: Plan only up to here.
        strict: As for `FilmReader`.
        on_frame: Called after each frame with how many have been read.

    Raises:
        InvalidRequest: A scene that is not there, a library without a server, a number out of range.
        FilmError: The film or a given still cannot be read, or the still is grey.
        ReeltintError: The server or the library failed.
    """
    stills = dict(given_by_scene or {})
    if library is not None and colorizer is None:
        raise InvalidRequest("library: searching it needs a server")
    for name, value, most in (("saturation", saturation, 2), ("smoothing", smoothing, 1)):
        if not 0 <= value <= most:
            raise InvalidRequest(f"{name}: from 0 to {most}, not {value}")
    for path in {*stills.values(), *([given] if given else [])}:
        check_colours(path)  # before the long part: a wrong file is told at once

    shots: list[Scene] = []
    frames: list[int] = []
    embedded: list[NDArray[np.float32]] = []
    waiting: list[_Candidate] = []

    def embed_waiting() -> None:
        if colorizer is not None and waiting:
            embedded.append(colorizer.embed(np.stack([each.picture for each in waiting])))
        waiting.clear()

    with FilmReader(film, start_s=start_s, end_s=end_s, strict=strict) as reader:
        for scene, candidate in _key_frames(_counted(reader, on_frame), scenes, detector):
            shots.append(scene)
            frames.append(candidate.frame)
            if colorizer is not None:
                waiting.append(candidate)
                if len(waiting) == _EMBED_BATCH:
                    embed_waiting()
        embed_waiting()
        total, rate = reader.frames_read, reader.info.frame_rate
    for number in stills:
        if not 1 <= number <= len(shots):
            raise InvalidRequest(f"reference: there is no scene {number}; the film has {len(shots)}")

    embeddings = np.concatenate(embedded) if embedded else None
    similarity = _Similarities(colorizer)
    choices: list[ReferenceChoice] = []
    for number, frame in enumerate(frames, 1):
        embedding = None if embeddings is None else embeddings[number - 1]
        if (still := stills.get(number, given)) is not None:
            choice = ReferenceChoice(origin="given", path=still, similarity=similarity(still, embedding))
        else:
            choice = (
                _earlier(embeddings, choices, same_scene)
                or _photograph(embedding, library, near_photograph)
                or ReferenceChoice(origin="automatic", frame=frame)
            )
        choices.append(choice)
    return Project(
        film=str(film),
        frames=total,
        frame_rate=rate,
        scenes=tuple(
            PlannedScene(scene=scene, reference=choice, saturation=saturation, smoothing=smoothing)
            for scene, choice in zip(shots, choices, strict=True)
        ),
    )


def wants_a_person(project: Project, confidence: Mapping[int, float] | None = None) -> dict[int, str]:
    """Scenes whose colours somebody should look at, by number, and why.

    Args:
        project: The film's scenes.
        confidence: Mean confidence of scenes that have been coloured, 0 to 1, by number: only these are looked at;
            None: all, before any is coloured.
    """
    found: dict[int, str] = {}
    doubtful, unlike = _similarity(DOUBTFUL_PHOTOGRAPH), _similarity(NEAR_PHOTOGRAPH)
    for number, planned in enumerate(project.scenes, 1):
        if confidence is not None and number not in confidence:
            continue
        choice, sure = planned.reference, 1.0 if confidence is None else confidence[number]
        if choice.origin == "library" and choice.similarity is not None and choice.similarity < doubtful:
            found[number] = f"the nearest photograph is not near (similarity {choice.similarity:.2f})"
        elif choice.origin == "given" and choice.similarity is not None and choice.similarity < unlike:
            found[number] = f"the given still does not look like the scene (similarity {choice.similarity:.2f})"
        if sure < LOW_CONFIDENCE:
            low = f"little of it is found in its reference (confidence {sure:.2f})"
            found[number] = f"{found[number]}; {low}" if number in found else low
    return found


class ReferenceLoader(Closing):
    """Makes the references of a project's scenes, one at a time, in the order of the film.

    Use as a context manager. Key frames are read in one pass over the film beside the main one; a reference that a
    later scene takes again is kept until then. Of more than 128 the one that was used longest ago is dropped, and made
    anew when its scene comes: memory does not grow with the film.

    Args:
        project: The scenes.
        film: The film that they are of.
        colorizer: The server.
        start_s: Where the project's frame 0 is, for one that was planned from there on.

    Raises:
        FilmError: A still cannot be read, or is grey: told now, not when its scene is reached.
    """

    def __init__(
        self, project: Project, film: Path | str, colorizer: Colorizer, *, start_s: float | None = None
    ) -> None:
        for path in {planned.reference.path for planned in project.scenes}:
            if path is not None:
                check_colours(path)
        self._project, self._film, self._colorizer, self._start_s = project, Path(film), colorizer, start_s
        self._made: dict[int, Reference] = {}
        self._last_use = {_root(project, number): number for number in range(1, len(project.scenes) + 1)}
        self._reader: FilmReader | None = None
        self._frames: Iterator[tuple[int, FilmFrame]] = iter(())
        self._next_frame = 0
        self._places: dict[int, tuple[int, float]] = {}  # of key frames that were read: time stamp, seconds
        self._closed, self._loading = Event(), Lock()

    def close(self) -> None:
        """Close the film; what another thread is loading ends with the frame that it is at."""
        self._closed.set()
        with self._loading:
            self._rewind()

    def _rewind(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._next_frame = 0

    def load(self, number: int) -> Reference:
        """The reference of scene `number`, from 1; quickest in ascending order.

        Raises:
            InvalidRequest: There is no such scene, or this was closed.
            FilmError: The still or the key frame cannot be read.
            ReeltintError: As `Colorizer.reference`.
        """
        if not 1 <= number <= len(self._project.scenes):
            raise InvalidRequest(f"there is no scene {number}; the project has {len(self._project.scenes)}")
        root = _root(self._project, number)
        with self._loading:
            self._check_open()
            reference = self._made.pop(root, None)
            if reference is None:
                picture, origin = self._picture(root)
                reference = self._colorizer.reference(picture, origin=origin)
            self._made[root] = reference  # behind those that were used before
            for each in [each for each in self._made if self._last_use[each] <= number]:
                del self._made[each]
            if len(self._made) > _MOST_REFERENCES:
                del self._made[next(iter(self._made))]
        return reference

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise InvalidRequest("this ReferenceLoader is closed")

    def _picture(self, number: int) -> tuple[NDArray[np.uint8], str]:
        choice = self._project.scenes[number - 1].reference
        if choice.path is not None:
            return at_most(read_colours(choice.path), _LONGEST_PICTURE), f"{choice.origin} {choice.path}"
        assert choice.frame is not None
        grey = at_most(self._key_frame(choice.frame), _LONGEST_KEY_FRAME)
        rgb = self._colorizer.colorize(grey[None], output="rgb").rgb
        assert rgb is not None
        return rgb[0], f"automatic, frame {choice.frame}"

    def _key_frame(self, wanted: int) -> NDArray[np.uint8]:
        if self._reader is None or wanted < self._next_frame:
            if (known := self._sought(wanted)) is not None:
                return known
            self._rewind()
            self._reader = FilmReader(self._film, start_s=self._start_s, strict=False)
            self._frames = enumerate(self._reader)
        for index, frame in self._frames:
            self._check_open()
            self._next_frame = index + 1
            if index == wanted:
                self._places[wanted] = frame.pts, self._reader._seconds(frame.pts * frame.time_base)
                return frame.grey()
        raise FilmError(self._film, f"it has no frame {wanted}, which the project names: was it made for another film?")

    def _sought(self, wanted: int) -> NDArray[np.uint8] | None:
        """A key frame that was read before, without reading the film up to it; None where that does not find it."""
        if wanted not in self._places:
            return None
        pts, time_s = self._places[wanted]
        start_s = max(0.0, time_s - 2e-6)  # a reader's range is exact to a microsecond
        with contextlib.suppress(FilmError), FilmReader(self._film, start_s=start_s, strict=False) as reader:
            frame = next(iter(reader))
            if frame.pts == pts:
                return frame.grey()
        return None


def load_reference(choice: ReferenceChoice, project: Project, film: Path | str, colorizer: Colorizer) -> Reference:
    """The reference of a single choice of `project`; for one scene after the other use a `ReferenceLoader`.

    Raises:
        ReeltintError: As `ReferenceLoader.load`.
    """
    number = next((n for n, planned in enumerate(project.scenes, 1) if planned.reference == choice), 0)
    with ReferenceLoader(project, film, colorizer) as loader:
        return loader.load(number)


def _root(project: Project, number: int) -> int:
    """The scene whose reference scene `number` takes: its own number, or that of an earlier one."""
    while (earlier := project.scenes[number - 1].reference.scene) is not None:
        if not 1 <= earlier < number:
            raise InvalidRequest(f"scene {number}: an earlier scene was expected for its reference, not {earlier}")
        number = earlier
    return number


def _similarity(distance: float) -> float:
    """Cosine of two vectors of length 1 whose distance is known."""
    return 1 - distance**2 / 2


class _Similarities:
    """How much stills look like key frames; each still is embedded once."""

    def __init__(self, colorizer: Colorizer | None) -> None:
        self._colorizer = colorizer
        self._known: dict[Path, NDArray[np.float32]] = {}

    def __call__(self, still: Path, embedding: NDArray[np.float32] | None) -> float | None:
        if self._colorizer is None or embedding is None:
            return None
        if still not in self._known:
            self._known[still] = embed_still(still, self._colorizer.embed)
        return _similarity(float(np.linalg.norm(self._known[still] - embedding)))


def _earlier(
    embeddings: NDArray[np.float32] | None, choices: Sequence[ReferenceChoice], furthest: float
) -> ReferenceChoice | None:
    """For the scene after those of `choices`, the reference of the one that looks most like it, if any does.

    Scenes that took another's are passed over: step by step a chain of them would lead to a picture unlike this one.
    """
    own = [place for place, choice in enumerate(choices) if choice.scene is None]
    if embeddings is None or not own or furthest <= 0:
        return None
    distances = np.linalg.norm(embeddings[own] - embeddings[len(choices)], axis=1)
    nearest = int(np.argmin(distances))
    if distances[nearest] > furthest:
        return None
    similarity = _similarity(float(distances[nearest]))
    return ReferenceChoice(origin="earlier", scene=own[nearest] + 1, similarity=similarity)


def _photograph(
    embedding: NDArray[np.float32] | None, library: Library | None, furthest: float
) -> ReferenceChoice | None:
    """The nearest photograph of the library that is near enough and still has colours to give."""
    if embedding is None or library is None:
        return None
    near: Iterable[Match] = (match for match in library.search(embedding, 8) if match.distance <= furthest)
    for match in near:
        path = match.photograph.path
        try:
            check_colours(path)
        except FilmError as error:
            logger.warning("photograph %d of the library is passed over: %s", match.photograph.id, error)
            continue
        return ReferenceChoice(origin="library", path=path, similarity=match.similarity)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A frame that may become its scene's key frame."""

    frame: int
    quality: float
    picture: NDArray[np.uint8]  # as `embedding_frame` makes it


class _Candidates:
    """Frames of the current scenes that may become key frames; how many are kept does not depend on the film."""

    def __init__(self) -> None:
        self._kept: list[_Candidate] = []

    def push(self, index: int, frame: FilmFrame) -> None:
        picture = _small(frame)
        self._kept.append(_Candidate(index, _quality(picture), picture))
        old = sum(each.frame < index - _RECENT for each in self._kept)
        if old > 2 * _KEPT:  # a long scene: the best of each of its parts stays
            first, end = self._kept[0].frame, self._kept[old].frame
            parts: dict[int, _Candidate] = {}
            for each in self._kept[:old]:
                part = (each.frame - first) * _KEPT // (end - first)
                if part not in parts or each.quality > parts[part].quality:
                    parts[part] = each
            self._kept[:old] = parts.values()

    def release(self, end: int) -> list[_Candidate]:
        """What lies before `end`; it is forgotten here."""
        before = [each for each in self._kept if each.frame < end]
        self._kept = self._kept[len(before) :]
        return before


def _best(candidates: Sequence[_Candidate], scene: Scene, low: int, high: int) -> _Candidate:
    """The best frame of [low, high), which the transitions leave of the scene, away from its ends; else of the scene.

    A scene of one frame may have no candidate: it takes its neighbour's picture.
    """
    edge = round(_EDGE * (high - low))
    for first, end in ((low + edge, high - edge), (low, high), (scene.start, scene.end)):
        inside = [each for each in candidates if first <= each.frame < end]
        if inside:
            return max(inside, key=lambda each: each.quality)
    return _Candidate(scene.start, 0.0, min(candidates, key=lambda each: abs(each.frame - scene.start)).picture)


def _small(frame: FilmFrame) -> NDArray[np.uint8]:
    if frame.bit_depth != 8:
        return embedding_frame(frame.grey())
    small = embedding_frame(np.asarray(frame.luma, np.uint8))
    return small if frame.full_range else np.asarray(code_table(8, False, 8, True)[small], np.uint8)


def _quality(picture: NDArray[np.uint8]) -> float:
    """How sharp and well exposed a frame is: its mean gradient at half size, less what is black or burnt out."""
    rows = picture[::2].astype(np.int16) + picture[1::2]
    fourfold = rows[:, ::2] + rows[:, 1::2]
    gradient = np.abs(np.diff(fourfold, axis=0)).mean() + np.abs(np.diff(fourfold, axis=1)).mean()
    lost = float(((fourfold < 4 * 6) | (fourfold > 4 * 249)).mean())
    return float(gradient) * (1 - lost)


def _counted(frames: Iterable[FilmFrame], on_frame: Callable[[int], None] | None) -> Iterator[FilmFrame]:
    for count, frame in enumerate(frames, 1):
        yield frame
        if on_frame:
            on_frame(count)


def _key_frames(
    frames: Iterable[FilmFrame], scenes: Sequence[Scene] | None, detector: Detector | None
) -> Iterator[tuple[Scene, _Candidate]]:
    """Each scene and its key frame, as soon as the next scene is known: the transition between them is passed over."""
    candidates = _Candidates()
    found = _known(frames, scenes, candidates) if scenes else _detected(frames, detector or SceneDetector(), candidates)
    scene, low, own = None, 0, list[_Candidate]()
    for following in found:
        if scene is not None:
            yield scene, _best(own, scene, low, min(scene.end, following.start))
            low = scene.end
        scene, own = following, own[-1:] + candidates.release(following.end)
    if scene is not None:
        yield scene, _best(own, scene, low, scene.end)


def _detected(frames: Iterable[FilmFrame], detector: Detector, candidates: _Candidates) -> Iterator[Scene]:
    for index, frame in enumerate(frames):
        if index % _STEP == 0:
            candidates.push(index, frame)
        yield from detector.push(luma_thumbnail(frame.luma, bit_depth=frame.bit_depth, full_range=frame.full_range))
    yield from detector.finish()


def _known(frames: Iterable[FilmFrame], scenes: Sequence[Scene], candidates: _Candidates) -> Iterator[Scene]:
    """The scenes as the film reaches them: each at its last frame."""
    for number, (scene, following) in enumerate(pairwise(scenes), 2):
        if not scene.start < following.start <= scene.end < following.end:
            raise InvalidRequest(f"scene {number}: {following.start} to {following.end} does not follow {scene.end}")
    coming = list(scenes)
    starts = {scene.start for scene in scenes}
    count = 0
    for index, frame in enumerate(frames):
        if index % _STEP == 0 or index in starts:
            candidates.push(index, frame)
        while coming and coming[0].end == index + 1:
            yield coming.pop(0)
        count = index + 1
    if coming or scenes[0].start or scenes[-1].end != count:
        raise InvalidRequest(f"scenes: they are frames {scenes[0].start} to {scenes[-1].end}, the film has {count}")
