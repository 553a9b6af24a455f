"""The colour of a film scene by scene, at the network's resolution.

Frames are coloured by their scene's reference, smoothed and saturated; where two scenes dissolve into each other both
colour the frame and the results are cross-faded. In a fade a frame shows one scene alone, and that one colours it. What
the network is sent is a reduced frame; `Colorizer.merge` gives the colour to the whole one.
"""

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reeltint._codec import ColorBatch, Frames, Reference
from reeltint._colorizer import Colorizer
from reeltint._errors import FilmError
from reeltint._film import FilmFrame
from reeltint._scene_signals import HEIGHT, WIDTH
from reeltint._smoothing import Smoother
from reeltint._thumbnail import resized

if TYPE_CHECKING:
    from reeltint._project import PlannedScene

logger = logging.getLogger("reeltint")

Plane = NDArray[np.float32]
_USUAL_SIDE = 256
_RISEN = 1.5  # times the least contrast of a fade so far, and a grey level: flicker stays below, the new scene comes up
_SHARED = 1e-6  # weight of a transition's frames in their scene's confidence: they tell where there are no others


@dataclass(slots=True, kw_only=True, eq=False)
class Coloured:
    """A frame and its colour.

    Attributes:
        frame: As it was read.
        grey: [H, W], what `Colorizer.merge` takes; None, as `ab`, for a frame that is not to be coloured.
        ab: [2, s, s], once all of its scenes have coloured it.
    """

    frame: FilmFrame
    grey: Frames | None = None
    ab: Plane | None = None
    missing: int = 0  # scenes that have still to colour it

    def add(self, ab: Plane, weight: float) -> None:
        """Take the colour that one of its scenes gives it; the weights of all add up to 1."""
        part = ab if weight == 1 else np.float32(weight) * ab
        self.ab = part if self.ab is None else self.ab + part
        self.missing -= 1


@dataclass(slots=True, eq=False)
class _Part:
    """A frame for one of its scenes to colour."""

    coloured: Coloured
    small: Frames  # reduced
    weight: float  # of this scene's colour in it
    alone: bool  # it is of no other scene


@dataclass(slots=True, eq=False)
class _Run:
    """Frames of one scene that are coloured one after another: all of it, or the part that is wanted."""

    number: int  # of the scene, from 1
    start: int
    end: int
    smoother: Smoother
    reference: Reference | None = None
    batch: list[_Part] = field(default_factory=list)  # to be sent; the last frame that came is always here
    smoothed: deque[_Part] = field(default_factory=deque)  # in the smoother
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=3))  # contrasts in the fade into it
    least: float = np.inf  # of three that follow each other, so far: a flash or a lost frame is no black


class SceneColours:
    """Colours a film by the plan of its scenes, once.

    At most `in_flight` batches of the colorizer are under way; besides these only frames that the smoother looks ahead
    to are kept, so memory does not grow with the film.

    Args:
        colorizer: The server.
        scenes: All scenes of the film in order, as a project has them.
        load: Makes the reference of a scene by its number, from 1. It is called once for each stretch of a scene that
            is coloured, in a thread, ahead of time; after an error or an interruption nobody waits for it.
        batch: Frames a request.
        only: Numbers of the scenes to colour; empty: all. Frames in none of them pass without colour.
        first: Index in the film of the first frame that comes.
    """

    def __init__(
        self,
        colorizer: Colorizer,
        scenes: "Sequence[PlannedScene]",
        load: Callable[[int], Reference],
        *,
        batch: int,
        only: Iterable[int] = (),
        first: int = 0,
    ) -> None:
        self._colorizer, self._scenes, self._load, self._batch, self._first = colorizer, scenes, load, batch, first
        self._only = set(only)
        self._side = 2 * (colorizer._network_side() or _USUAL_SIDE)
        self._to_come = deque(run for run in _runs(scenes, self._only) if run.end > first)
        self._sent: deque[tuple[_Run, list[_Part], bool]] = deque()  # and whether the smoother is to be emptied then
        self._order: deque[Coloured] = deque()
        self._coming: Future[Reference] | None = None  # the reference of the first run to come
        self._confidence: dict[int, list[float]] = {}  # sum and weight
        self.next = first
        """Index of the frame after the last that came."""

    @property
    def confidences(self) -> dict[int, float]:
        """Mean confidence of each scene that was to be coloured, by its number.

        Frames of a transition show another scene, or black: they count for a scene that has no others.
        Of a scene that shares only a dissolve with one of `only` nothing is said: those frames are no measure of it.
        """
        return {
            number: total / weight
            for number, (total, weight) in sorted(self._confidence.items())
            if not self._only or number in self._only
        }

    def iterate(self, frames: Iterable[FilmFrame], film: Path) -> Iterator[Coloured]:
        """Colour frames, in order.

        Args:
            frames: As the film gives them.
            film: Its path, for messages.

        Raises:
            ReeltintError: As `Colorizer.colorize`, or as `load`.
            FilmError: The film has more frames than its scenes. This, and a FilmError that `frames` raises, comes
                after all frames before it.
        """
        if left := _left_behind(self._scenes, self._only):
            numbers = ", ".join(map(str, left))
            said = "%s: scenes not coloured anew share a reference with one that is: %s; if it changed, name them too"
            logger.warning(said, film, numbers)
        failure: FilmError | None = None
        loader = ThreadPoolExecutor(1, thread_name_prefix="reference")
        try:
            self._ask(loader)
            for answer in self._colorizer._in_order(self._calls(frames, film, loader)):
                if answer is not None:
                    self._take(answer)
                yield from self._done()
        except FilmError as error:
            failure = error
        finally:
            loader.shutdown(wait=False, cancel_futures=True)
        if failure is not None:
            raise failure

    def _calls(
        self, frames: Iterable[FilmFrame], film: Path, loader: ThreadPoolExecutor
    ) -> Iterator[Coroutine[Any, Any, ColorBatch | None]]:
        """Requests in the order of the frames, each with frames of one scene; None for a frame of no wanted scene."""
        failure: FilmError | None = None
        here: list[_Run] = []
        try:
            for index, frame in enumerate(frames, self._first):
                last = self._scenes[-1].scene.end
                if index >= last:
                    raise FilmError(film, f"it has more frames than the {last} of its scenes", frame.time_s)
                for run in here:
                    if run.end == index and run.batch:
                        yield self._send(run, ends=True)
                here = [run for run in here if run.end > index] + self._begin(index, loader)
                coloured = Coloured(frame=frame)
                if here:
                    coloured.grey = frame.grey()
                    small = reduced(coloured.grey, self._side)
                    takers = self._takers(here, small, index)
                    for run in here:
                        if run.batch and (run not in takers or len(run.batch) == self._batch):
                            yield self._send(run, ends=run not in takers)
                    for run in takers:
                        weight = _weight(self._scenes, run.number, index) if len(takers) > 1 else 1.0
                        run.batch.append(_Part(coloured, small, weight, len(here) == 1))
                    coloured.missing = len(takers)
                self._order.append(coloured)
                self.next = index + 1
                if not here:
                    yield _nothing()  # or the frame would wait for the next scene's first answer
        except FilmError as error:
            failure = error
        for run in here:
            if run.batch:
                yield self._send(run, ends=True)
        if failure is not None:
            raise failure

    def _begin(self, index: int, loader: ThreadPoolExecutor) -> list[_Run]:
        """Open the runs that begin with this frame, and have the reference of the next one made."""
        begun = []
        while self._to_come and self._to_come[0].start <= index:
            run, reference = self._to_come.popleft(), self._coming
            self._ask(loader)
            assert reference is not None
            run.reference = reference.result()
            begun.append(run)
        return begun

    def _takers(self, here: list[_Run], small: Frames, index: int) -> list[_Run]:
        """Those of a frame's scenes that colour it: all, but in a fade the first until light returns, then the second.

        Light is taken by its contrast, which tells black from a dark picture however grey it is, and white as well. Of
        a fade whose beginning is not seen the second half is the second's.
        """
        if len(here) == 1 or self._scenes[here[1].number - 1].scene.transition != "fade":
            return here
        first, second = here
        if second.start < self._first:
            return [second if 2 * index >= second.start + first.end else first]
        contrast = float(resized(small, HEIGHT, WIDTH).std())
        second.recent.append(contrast)
        second.least = min(second.least, max(second.recent))
        return [second if contrast > _RISEN * second.least + 1 else first]

    def _ask(self, loader: ThreadPoolExecutor) -> None:
        if self._to_come:
            self._coming = loader.submit(self._load, self._to_come[0].number)

    def _send(self, run: _Run, *, ends: bool) -> Coroutine[Any, Any, ColorBatch]:
        self._sent.append((run, run.batch, ends))
        small = np.stack([part.small for part in run.batch])
        run.batch = []
        return self._colorizer._colorizer.colorize(small, output="ab", reference=run.reference)

    def _take(self, answer: ColorBatch) -> None:
        """Put a batch's ab through its scene's smoothing."""
        run, batch, ends = self._sent.popleft()
        assert answer.ab is not None
        sure = [None] * len(batch) if answer.confidence is None else answer.confidence[:, 0]
        for part, plane, confidence in zip(batch, answer.ab, sure, strict=True):
            if confidence is not None:
                weight = part.weight * (1 if part.alone else _SHARED)
                total = self._confidence.setdefault(run.number, [0.0, 0.0])
                total[0] += weight * float(confidence.mean(dtype=np.float64))
                total[1] += weight
            run.smoothed.append(part)
            lightness = lightness_of(part.small, plane.shape[1:]) if run.smoother.strength else plane[0]
            self._hand_on(run, run.smoother.push(plane, lightness, confidence))
        if ends:
            self._hand_on(run, run.smoother.finish())

    def _hand_on(self, run: _Run, planes: Iterable[Plane]) -> None:
        saturation = np.float32(self._scenes[run.number - 1].saturation)
        for plane in planes:
            part = run.smoothed.popleft()
            part.coloured.add(plane if saturation == 1 else saturation * plane, part.weight)

    def _done(self) -> Iterator[Coloured]:
        while self._order and not self._order[0].missing:
            yield self._order.popleft()


def _runs(scenes: "Sequence[PlannedScene]", only: set[int]) -> list[_Run]:
    """What is to be coloured, in order: the frames of `only`, in every scene that they are in; empty: all frames."""
    wanted = [each.scene for number, each in enumerate(scenes, 1) if not only or number in only]
    runs = []
    for number, planned in enumerate(scenes, 1):
        parts: list[tuple[int, int]] = []
        for other in wanted:
            start, end = max(planned.scene.start, other.start), min(planned.scene.end, other.end)
            if parts and start <= parts[-1][1] and start < end:
                parts[-1] = (parts[-1][0], max(parts[-1][1], end))
            elif start < end:
                parts.append((start, end))
        runs += [_Run(number, start, end, Smoother(planned.smoothing)) for start, end in parts]
    return sorted(runs, key=lambda run: (run.start, run.number))


def _left_behind(scenes: "Sequence[PlannedScene]", only: set[int]) -> list[int]:
    """Scenes that are not of `only` but take the reference of one that is."""
    taking = set(only)
    for number, planned in enumerate(scenes, 1):
        if planned.reference.scene in taking:
            taking.add(number)
    return sorted(taking - only)


def _weight(scenes: "Sequence[PlannedScene]", number: int, index: int) -> float:
    """How much of a frame's colour is this scene's: of n frames of a dissolve the new scene has 1/(n+1) … n/(n+1)."""
    scene = scenes[number - 1].scene
    if number > 1 and index < (end := scenes[number - 2].scene.end):
        return (index - scene.start + 1) / (end - scene.start + 1)
    if number < len(scenes) and index >= (start := scenes[number].scene.start):
        return 1 - (index - start + 1) / (scene.end - start + 1)
    return 1.0


def reduced(grey: Frames, side: int) -> Frames:
    """Shrink a frame [H, W] by a whole number, averaging, so that its short side stays `side` or more.

    The network looks at a square of half that side; it does not see the difference, the connection does.
    """
    factor = max(1, min(grey.shape) // side)
    return resized(grey, grey.shape[0] // factor, grey.shape[1] // factor)


def lightness_of(grey: Frames, size: tuple[int, ...]) -> Plane:
    """L* of a frame [h, w], averaged down to `size` for the smoother: [*size], 0..100, to about a fifth of a unit."""
    height, width = size
    return _lightness()[resized(grey, height, width)]


@cache
def _lightness() -> Plane:
    """L* of grey sRGB codes, (256,)."""
    codes = np.arange(256) / 255
    luminance = np.where(codes > 0.04045, ((codes + 0.055) / 1.055) ** 2.4, codes / 12.92)
    table: Plane = np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * (24389 / 27))
    table = table.astype(np.float32)
    table.flags.writeable = False
    return table


async def _nothing() -> None:
    """The answer about a frame that nobody is asked about."""
