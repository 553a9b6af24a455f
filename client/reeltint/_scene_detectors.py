"""Scene detectors: streams of thumbnails in, scenes out as soon as they are sure."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from reeltint import _scene_signals as signal
from reeltint._errors import InvalidRequest
from reeltint._scene_signals import HEIGHT, WIDTH, Array, Signals

Transition = Literal["start", "cut", "dissolve", "fade"]
Thumbnail = NDArray[np.uint8]

_CORE, _CONTEXT = 256, 112  # frames that are decided at a time, and those before and after that are looked at
_SETTLED = 64  # a transition this far behind is not touched any more by what comes
_CUT = 0.6
_DISSOLVE = 1.0  # logarithm of the odds
_PAN = 0.65  # likeness of shifted pictures, cuts reach 0.53
_SHIFTED = 0.8  # likeness to both ends, shifted, of the middle of a pan; that of a dissolve has 0.71
_BESIDE = 4  # frames from the end of a dissolve to where no flash at its end reaches
_SAME = 0.5  # distance below which what comes after black is what was before
_COVERED = 32  # frames for which a hand may lie over the lens
_DARK = 6  # frames of a fade, one way, that may count as black
_FLAT = 3  # contrast of black at most; dust and grain on it reach 2.9
_LONGEST_RAMP = 48  # frames of a fade, one way


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Frames `start` up to, not including, `end`; the frames of a dissolve belong to both its scenes."""

    start: int
    end: int
    transition: Transition = "cut"  # how it begins; the transition's frames are [start, the previous scene's end)


class Detector(Protocol):
    """Takes the thumbnails of a film one after another; scenes come in order, some time after their end."""

    def push(self, thumbnail: Thumbnail) -> list[Scene]:
        """Take the next frame's thumbnail, (36, 64); return the scenes that are sure now.

        Raises:
            InvalidRequest: The thumbnail has another shape or type.
        """
        ...

    def finish(self) -> list[Scene]:
        """Return the remaining scenes; the detector can take another film then."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Join:
    """Where two scenes meet: frames `start` up to `end` are of both."""

    start: int
    end: int
    kind: Transition
    strength: float


class _Assembler:
    """Makes scenes of joins; of a scene that is too short the weaker of its two joins is dropped."""

    def __init__(self, min_scene: int) -> None:
        if min_scene < 1:
            raise InvalidRequest(f"the shortest scene has at least 1 frame, not {min_scene}")
        self._min = min_scene
        self._joins: list[_Join] = []
        self._begin = _Join(start=0, end=0, kind="start", strength=np.inf)

    def add(self, join: _Join) -> None:
        """Take the next join; they come in order of `start`."""
        while True:
            before = self._joins[-1] if self._joins else self._begin
            if join.start - before.end >= self._min or (
                join.start - before.start >= self._min and join.start > before.end
            ):
                break
            if not self._joins or before.strength >= join.strength:
                return
            self._joins.pop()
        self._joins.append(join)

    def settled(self) -> list[Scene]:
        """Scenes that no later join can change."""
        scenes = []
        while len(self._joins) > 1:
            scenes.append(self._pop(self._joins[0].end))
        return scenes

    def finish(self, frames: int) -> list[Scene]:
        """All scenes that are left of a film of `frames`."""
        while self._joins and frames - self._joins[-1].start < self._min:
            self._joins.pop()
        if self._joins and self._joins[-1].end >= frames:
            self._joins[-1] = replace(self._joins[-1], end=frames - 1)
        scenes = self.settled()
        while self._joins:
            scenes.append(self._pop(self._joins[0].end))
        if frames:
            scenes.append(Scene(start=self._begin.start, end=frames, transition=self._begin.kind))
        return scenes

    def _pop(self, end: int) -> Scene:
        scene = Scene(start=self._begin.start, end=end, transition=self._begin.kind)
        self._begin = self._joins.pop(0)
        return scene


def _checked(thumbnail: Thumbnail) -> Thumbnail:
    if thumbnail.shape != (HEIGHT, WIDTH) or thumbnail.dtype != np.uint8:
        raise InvalidRequest(f"a thumbnail is uint8 ({HEIGHT}, {WIDTH}), not {thumbnail.dtype} {thumbnail.shape}")
    return thumbnail


class PaperDetector:
    """Scene detection by frame differences as paper 3 writes it, equations 1 to 3: the baseline.

    d(t) is the mean absolute difference of frames t - 1 and t. In each window of 30 differences the largest is a
    candidate if it is above 3 times the window's mean, and a cut if it is above 2 times the mean of the 10 before and
    the 10 after it.

    It must fail where a window has two cuts (one of them is lost, and each hides the other in the mean), in motion
    that makes the mean large, in dissolves and fades (no single difference is large), and in flashes and flicker (the
    differences are those of exposure).
    """

    _WINDOW, _AROUND = 30, 10

    def __init__(self, *, min_scene: int = 1) -> None:
        """Set the shortest scene, frames; the paper has none.

        Raises:
            InvalidRequest: `min_scene` is below 1.
        """
        self._min = min_scene
        self._reset()

    def _reset(self) -> None:
        self._previous: Array | None = None
        self._assembler = _Assembler(self._min)
        self._frames = 0
        self._first = 1  # frame of the first difference that is kept
        self._open = 1  # frame of the first difference that is not decided
        self._differences: list[float] = []

    def push(self, thumbnail: Thumbnail) -> list[Scene]:
        """Take the next frame's thumbnail; see `Detector`."""
        frame = _checked(thumbnail).astype(np.float32)
        if self._previous is not None:
            self._differences.append(float(np.abs(frame - self._previous).mean()))
        self._previous = frame
        self._frames += 1
        if self._frames - self._open < self._WINDOW + self._AROUND:
            return []
        self._decide(self._open + self._WINDOW)
        return self._assembler.settled()

    def finish(self) -> list[Scene]:
        """Return the remaining scenes; see `Detector`."""
        while self._open < self._frames:
            self._decide(min(self._open + self._WINDOW, self._frames))
        scenes = self._assembler.finish(self._frames)
        self._reset()
        return scenes

    def _decide(self, end: int) -> None:
        window = np.array(self._differences[self._open - self._first : end - self._first])
        place = self._open - self._first + int(window.argmax())
        largest = self._differences[place]
        around = [
            *self._differences[max(0, place - self._AROUND) : place],
            *self._differences[place + 1 : place + 1 + self._AROUND],
        ]
        if largest > 3 * window.mean() and around and largest > 2 * np.mean(around):
            frame = self._first + place
            self._assembler.add(_Join(start=frame, end=frame, kind="cut", strength=largest))
        self._open = end
        passed = max(0, end - self._AROUND - self._first)
        del self._differences[:passed]
        self._first += passed


@dataclass(slots=True, kw_only=True)
class _Black:
    """A run of black frames whose end has not come."""

    start: int  # where the fade to it begins
    before: Signals | None  # the last whole frame; None: the film begins black


class SceneDetector:
    """Finds cuts however close together, dissolves of up to some 50 frames, and fades to and from black.

    Exposure, grain, dust, a jumping gate, flashes, a hand over the lens and pans make no scene (`_scene_signals`). A
    dissolve of 1 to 3 frames counts as a cut. A fade lasts from the first frame that darkens to the last before the
    new scene is in full light, the black between included; black before the first picture or after the last is
    part of that scene, and so is black after which the same picture comes back.

    Some 400 frames are kept, however long the film.
    """

    def __init__(self, *, min_scene: int = 3) -> None:
        """Set the shortest scene, in frames; shorter ones are joined to a neighbour.

        Raises:
            InvalidRequest: `min_scene` is below 1.
        """
        self._min = min_scene
        self._reset()

    def _reset(self) -> None:
        self._assembler = _Assembler(self._min)
        self._thumbnails: list[Thumbnail] = []
        self._signals: Signals | None = None
        self._first = 0  # frame number of the first of `_signals`
        self._core = 0  # frame from which on nothing is decided
        self._frames = 0
        self._joins: list[_Join] = []  # decided, not handed over
        self._black: _Black | None = None

    def push(self, thumbnail: Thumbnail) -> list[Scene]:
        """Take the next frame's thumbnail; see `Detector`."""
        self._thumbnails.append(_checked(thumbnail).copy())
        self._frames += 1
        if self._frames < self._core + _CORE + _CONTEXT:
            return []
        self._decide(self._core + _CORE)
        return self._assembler.settled()

    def finish(self) -> list[Scene]:
        """Return the remaining scenes; see `Detector`."""
        if self._frames > self._core:
            self._decide(self._frames)
        scenes = self._assembler.finish(self._frames)
        self._reset()
        return scenes

    def _decide(self, end: int) -> None:
        """Decide frames from `_core` up to `end`, and hand over what is settled."""
        new = signal.measure(np.stack(self._thumbnails))
        seen = self._signals = new if self._signals is None else self._signals + new
        self._thumbnails.clear()
        core = slice(self._core - self._first, end - self._first)
        cuts = self._cuts(seen)
        fades, closed = self._fades(seen, core, cuts)
        taken = [(join.start - self._first, join.end - self._first) for join in self._joins]
        dissolves = self._dissolves(seen, core, cuts, [*fades, *taken])
        found = [
            _Join(start=t, end=t, kind="cut", strength=score)
            for t, score in cuts.items()
            if core.start <= t < core.stop
            and not any(a <= t <= b for a, b in [*fades, *((d.start, d.end) for d in dissolves)])
        ]
        moved = [
            _Join(start=j.start + self._first, end=j.end + self._first, kind=j.kind, strength=j.strength)
            for j in [*found, *closed, *dissolves]
        ]
        whole = [join for join in moved if join.kind == "fade"]
        self._joins = sorted(
            [
                j
                for j in [*self._joins, *moved]
                if j in whole or not any(f.start <= j.end and j.start <= f.end for f in whole)
            ],
            key=lambda join: (join.start, join.end),
        )
        self._core = end
        horizon = end - _SETTLED if self._black is None else min(end - _SETTLED, self._black.start)
        if end == self._frames:
            horizon = end + 1
        while self._joins and self._joins[0].end < horizon:
            self._assembler.add(self._joins.pop(0))
        keep = max(0, end - _CONTEXT - self._first)
        self._signals, self._first = seen[keep:], self._first + keep

    def _cuts(self, seen: Signals) -> dict[int, float]:
        """First frames of shots and how sure they are."""
        scores = signal.cut_scores(seen)
        found = {}
        for place in np.flatnonzero(scores > _CUT):
            t = int(place)
            if signal.shifted_likeness(seen.detail[t - 1], seen.detail[t]) < _PAN:
                found[t] = float(scores[t])
        return self._without_covers(seen, found)

    def _without_covers(self, seen: Signals, cuts: dict[int, float]) -> dict[int, float]:
        """Drop pairs of cuts between which there is hardly a picture, and after which the one before comes back."""
        places = sorted(cuts)
        dropped: set[int] = set()
        contrast = seen.contrast
        for index, first in enumerate(places):
            for second in places[index + 1 :]:
                if second - first > _COVERED or {first, second} & dropped:
                    continue
                blank = np.median(contrast[first:second]) < 0.35 * min(contrast[first - 1], contrast[second])
                if blank and _same(seen, first - 1, seen, second):
                    dropped.update(place for place in places if first <= place <= second)
        return {place: score for place, score in cuts.items() if place not in dropped}

    def _fades(self, seen: Signals, core: slice, cuts: dict[int, float]) -> tuple[list[tuple[int, int]], list[_Join]]:
        """All that goes to black and back, frames [start, end), and the joins among them that end in the core."""
        contrast = seen.contrast
        black = (contrast < 2 * _FLAT) & (seen.level < 40)
        for start, end in _stretches(black):
            if end - start > 2 * _DARK:  # a scene at night lasts; the darkest of a fade is soon over, or flat
                black[start:end] &= contrast[start:end] < _FLAT
        runs: list[list[int]] = []
        for start, end in _stretches(black):
            if runs and start - runs[-1][1] <= 3:
                runs[-1][1] = end
            else:
                runs.append([start, end])
        spans, joins = [], []
        for start, end in runs:
            at_end = end == len(seen)
            known = self._black if start < core.start <= end else None
            if known is not None:
                begin, before = known.start - self._first, known.before
            else:
                scene = max((t for t in cuts if t < start - 2), default=0)
                begin = start - _ramp(contrast[scene:start][::-1])
                before = seen[begin - 1 : begin] if begin > 0 else None
            scene = min((t for t in cuts if t > end + 2), default=len(seen))
            finish = len(seen) if at_end else end + _ramp(contrast[end:scene])
            spans.append((begin, finish))
            if end < core.start:
                continue
            if at_end or end >= core.stop:
                if start < core.stop:
                    self._black = _Black(start=begin + self._first, before=before)
                continue
            self._black = None
            after = min(finish, len(seen) - 1)
            if before is not None and not _same(before, 0, seen, after):
                joins.append(_Join(start=begin, end=finish, kind="fade", strength=np.inf))
        return spans, joins

    def _dissolves(
        self, seen: Signals, core: slice, cuts: dict[int, float], taken: list[tuple[int, int]]
    ) -> list[_Join]:
        """Dissolves whose middle lies in the core, the surest first, none over another or over what is taken."""
        count = len(seen)
        barrier = np.zeros(count + 1, np.intp)
        barrier[list(cuts)] = 1
        for begin, end in taken:
            barrier[max(0, begin) : max(0, end) + 1] = 1
        blocked = np.concatenate([[0], np.cumsum(barrier)])
        grams = signal.gram_matrices(seen)
        candidates: list[tuple[float, int, int]] = []
        for length in signal.DISSOLVE_LENGTHS:
            starts = np.arange(max(1, core.start - length // 2), min(count - length, core.stop - length // 2))
            if len(starts):
                starts = starts[blocked[starts + length + 1] == blocked[starts]]
            if len(starts):
                scores = signal.dissolve_scores(signal.dissolve_features(seen, starts, length, grams))
                sure = scores > _DISSOLVE
                pairs = zip(scores[sure].tolist(), starts[sure].tolist(), strict=True)
                candidates += [(score, start, start + length) for score, start in pairs]
        chosen: list[_Join] = []
        refused: list[tuple[int, int]] = []
        for score, start, end in sorted(candidates, reverse=True):
            if any(end >= other.start and start <= other.end for other in chosen):
                continue
            if any(_overlap(start, end, *other) > 0.5 for other in refused):
                continue
            if _moves(seen, start - 1, end):
                refused.append((start, end))
                continue
            near = [(s, a, b) for s, a, b in candidates if s > score - 3 and _overlap(start, end, a, b) > 0.5]
            weights = np.exp([s - score for s, _, _ in near])
            start, end = (
                int(np.rint(np.average(ends, weights=weights))) for ends in zip(*(n[1:] for n in near), strict=True)
            )
            short = end - start < 4
            middle = (start + end) // 2
            chosen.append(
                _Join(
                    start=middle if short else start,
                    end=middle if short else end,
                    kind="cut" if short else "dissolve",
                    strength=float(score),
                )
            )
        return chosen


def _same(one: Signals, i: int, other: Signals, j: int) -> bool:
    """Tell whether two frames show the same, shifted or not."""
    apart = float(signal.distance(one[i : i + 1], other[j : j + 1])[0])
    return apart < _SAME or signal.shifted_likeness(one.detail[i], other.detail[j]) > _PAN


def _moves(seen: Signals, first: int, last: int) -> bool:
    """Tell what is no dissolve between two frames: a pan, or light that goes and comes back.

    A shift undoes a pan, and its middle is like both ends; a dissolve's is half of what goes and half of what comes.
    Frames a little before and after are looked at too, as a flash may stand at the end.
    """
    early, late, middle = max(0, first - _BESIDE), min(len(seen) - 1, last + _BESIDE), (first + last) // 2
    if any(_same(seen, one, seen, other) for one, other in ((first, last), (early, last), (first, late))):
        return True
    return min(signal.shifted_likeness(seen.detail[t], seen.detail[middle]) for t in (first, last)) > _SHIFTED


def _overlap(start: int, end: int, other_start: int, other_end: int) -> float:
    """Frames in common to frames of either."""
    common = min(end, other_end) - max(start, other_start)
    return max(0, common) / (max(end, other_end) - min(start, other_start))


def _stretches(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where it holds, [start, end) each."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _ramp(contrast: Array) -> int:
    """How many frames, away from black, contrast takes to rise to that of the scene; 0 when it is there at once.

    The length of a line from 0 up to a constant that fits best, deviations counted in parts of what is expected.
    """
    contrast = contrast[: _LONGEST_RAMP + 16].astype(np.float32)
    if len(contrast) < 2:
        return 0
    lengths = np.arange(1, min(_LONGEST_RAMP, len(contrast) - 1) + 1)
    times = np.arange(1, len(contrast) + 1) + np.arange(_DARK)[:, None, None]  # the first of them are still black
    shape = np.minimum(1, times / (lengths[:, None] + np.arange(_DARK)[:, None, None]))
    weight = 1 / (shape + 0.1) ** 2
    scale = (weight * shape * contrast).sum(2) / (weight * shape * shape).sum(2)
    wrong = (weight * (contrast - scale[..., None] * shape) ** 2).sum(2) / (scale**2 + 1)
    length = int(lengths[wrong.min(0).argmin()])
    return 0 if length <= 2 else length - 1
