"""Colour held still in time: each place of a frame is averaged with the same place of the frames around it.

A running average of earlier frames against flicker is paper 5's idea. Here it looks forwards as well as backwards,
stays inside the scene, and stops for each place where the luma changes, so that nothing that moves leaves its colour
behind. Frames that are surer of a place's colour count for more: a hand that the network lost for a moment keeps its
colour.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reeltint._errors import InvalidRequest

Plane = NDArray[np.float32]

REACH = 6  # frames before and after that count
_LUMA_GATE = 2.0  # a change of this many L* at a place leaves a frame 1/e of its weight
_COLOUR_GATE = 8.0  # and so does one of as many units of ab: what is this far is another thing, not flicker
_DOUBT = 100.0  # by so many units a colour of no confidence widens its gate
_TRUST = 16  # power of the confidence that a frame counts by
_LEAST = np.float32(1e-3)  # confidence


class Smoother:
    """Smooths the ab of one scene, frame by frame, with a look-ahead of `reach` frames.

    A frame counts for a place by exp(-(d/2)²), d being the largest change of L* there on the way to it, each averaged
    over 3 x 3 places; by exp(-(c/g)²), c being the distance of its ab and g = 8 + 100 (1 - p), p being the place's own
    confidence; and by (q/p)^16, q being its confidence, q/p at most 10 and both at least 0.001.

    Args:
        strength: 0 leaves every frame as it is, 1 takes the average alone, between them both are mixed.
        reach: Frames before and after that are averaged; bounds memory and delay.

    Raises:
        InvalidRequest: An option is out of range.
    """

    def __init__(self, strength: float, *, reach: int = REACH) -> None:
        if not 0 <= strength <= 1:
            raise InvalidRequest(f"smoothing: 0 to 1, not {strength}")
        if reach < 1:
            raise InvalidRequest(f"reach: at least 1, not {reach}")
        self.strength, self.reach = strength, reach
        self._ab: deque[Plane] = deque()
        self._lightness: deque[Plane] = deque()
        self._confidence: deque[Plane] = deque()
        self._steps: deque[Plane] = deque()  # of L*, from each frame to the next
        self._next = 0  # index in these of the next frame to hand out

    def push(self, ab: Plane, lightness: Plane, confidence: Plane | None = None) -> list[Plane]:
        """Take the scene's next frame.

        Args:
            ab: [2, s, s], a* and b*.
            lightness: [s, s], L* of the same frame, 0..100, averaged down to that size.
            confidence: [s, s], 0 to 1, how sure the network is of `ab`; None: of all of it.

        Returns:
            The ab of the frames that are done, in order: at most one.

        Raises:
            InvalidRequest: The shapes do not agree with each other or with the frame before.
        """
        if ab.ndim != 3 or ab.shape[1:] != lightness.shape or (self._ab and ab.shape != self._ab[-1].shape):
            raise InvalidRequest(f"smoothing: ab {list(ab.shape)} and lightness {list(lightness.shape)} do not agree")
        if confidence is not None and confidence.shape != lightness.shape:
            raise InvalidRequest(f"smoothing: confidence {list(confidence.shape)} and lightness do not agree")
        if self.strength == 0:
            return [ab]
        if self._lightness:
            self._steps.append(_blur(np.abs(lightness - self._lightness[-1])))
        self._ab.append(ab)
        self._lightness.append(lightness)
        self._confidence.append(np.ones_like(lightness) if confidence is None else np.maximum(confidence, _LEAST))
        return [self._hand_out()] if len(self._ab) > self._next + self.reach else []

    def finish(self) -> list[Plane]:
        """The ab of the frames that are left, in order; the next frame begins another scene."""
        rest = [self._hand_out() for _ in range(len(self._ab) - self._next)]
        self._ab.clear()
        self._lightness.clear()
        self._confidence.clear()
        self._steps.clear()
        self._next = 0
        return rest

    def _hand_out(self) -> Plane:
        here, last = self._next, min(len(self._ab), self._next + self.reach + 1)
        window = np.stack([self._ab[k] for k in range(last)])
        lightness = np.stack([self._lightness[k] for k in range(last)])
        change = _blur(np.abs(lightness - lightness[here]))
        steps = list(self._steps)
        change[:here] = np.maximum(change[:here], _largest(steps[here - 1 :: -1] if here else [])[::-1])
        change[here + 1 :] = np.maximum(change[here + 1 :], _largest(steps[here : last - 1]))
        distance = np.square(window - window[here]).sum(1)
        confidence = np.stack([self._confidence[k] for k in range(last)])
        gate = _COLOUR_GATE + _DOUBT * (1 - confidence[here])
        trust = np.minimum(confidence / confidence[here], 10) ** _TRUST  # 1e16 is as good as alone
        weights = (trust * np.exp(-np.square(change / _LUMA_GATE) - distance / gate**2))[:, None]
        smooth = (weights * window).sum(0) / weights.sum(0)
        if here == self.reach:
            for store in (self._ab, self._lightness, self._confidence, self._steps):
                store.popleft()
        else:
            self._next += 1
        mixed: Plane = (window[here] + np.float32(self.strength) * (smooth - window[here])).astype(np.float32)
        return mixed


def _largest(steps: Sequence[Plane]) -> Plane:
    """The largest of the first, the first two, the first three … steps."""
    return np.maximum.accumulate(np.stack(steps)) if steps else np.empty((0, 1, 1), np.float32)


def _blur(planes: Plane) -> Plane:
    """Mean of 3 x 3 places, the edge repeated; [..., s, s]."""
    padded = np.pad(planes, [(0, 0)] * (planes.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    whole: Plane = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / np.float32(9)
    return whole
