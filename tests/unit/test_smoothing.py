"""Smoothing in time: what it must hold still, and what it must leave alone."""

import numpy as np
import pytest
from numpy.typing import NDArray
from reeltint import InvalidRequest
from reeltint._smoothing import Smoother

Planes = NDArray[np.float32]
SIDE = 20


def smoothed(ab: Planes, lightness: Planes, strength: float = 1.0, reach: int = 6) -> Planes:
    smoother = Smoother(strength, reach=reach)
    done: list[Planes] = []
    for frame, luma in zip(ab, lightness, strict=True):
        done += smoother.push(frame, luma)
    return np.stack([*done, *smoother.finish()])


def noise(count: int, spread: float, seed: int = 0) -> Planes:
    return np.random.default_rng(seed).normal(0, spread, (count, 2, SIDE, SIDE)).astype(np.float32)


def test_flicker_of_a_still_scene_goes() -> None:
    """The mean of 13 independent values has 1 / sqrt(13) = 0.277 of their spread; its gate for colour keeps some."""
    ab = noise(40, 1.0)
    still = np.full((40, SIDE, SIDE), 50, np.float32)
    calm = smoothed(ab, still)[6:-6]
    assert calm.std() == pytest.approx(0.277, abs=0.03)
    half = smoothed(ab, still, 0.5)[6:-6]
    assert np.allclose(half, (ab[6:-6] + calm) / 2, atol=1e-4)


def test_strength_0_changes_no_bit_and_waits_for_nothing() -> None:
    smoother, ab = Smoother(0), noise(5, 9.0)
    for frame in ab:
        (same,) = smoother.push(frame, frame[0])
        assert same is frame
    assert smoother.finish() == []


def test_what_moves_leaves_no_ghost() -> None:
    """A bright red block passes over a dark blue ground, a place a frame: no place takes the other's colour."""
    count = 16
    ab = np.zeros((count, 2, SIDE, SIDE), np.float32)
    ab[:, 1] = -6
    lightness = np.full((count, SIDE, SIDE), 30, np.float32)
    for index in range(count):
        ab[index, :, 6:14, index : index + 4] = np.array([6, 0], np.float32)[:, None, None]
        lightness[index, 6:14, index : index + 4] = 70
    assert np.abs(smoothed(ab, lightness) - ab).max() < 0.1
    alike = np.full_like(lightness, 30)  # where the luma cannot tell them apart there is a ghost: the measure sees it
    assert np.abs(smoothed(ab, alike) - ab).max() > 1


def test_what_the_luma_hides_but_colour_shows_is_kept() -> None:
    ab = np.zeros((12, 2, SIDE, SIDE), np.float32)
    ab[6:, 0] = 40  # a sudden change of 40 units is no flicker
    assert np.abs(smoothed(ab, np.full((12, SIDE, SIDE), 50, np.float32)) - ab).max() < 0.01


def test_a_colour_that_is_lost_for_a_moment_is_kept_by_the_surer_frames() -> None:
    ab = np.zeros((9, 2, SIDE, SIDE), np.float32)
    ab[:, 0] = 30
    ab[4] = 0
    still = np.full((SIDE, SIDE), 50, np.float32)
    for doubt, expected in ((0.0, 0.0), (0.5, 30.0)):
        smoother, done = Smoother(1.0), []
        for index, frame in enumerate(ab):
            done += smoother.push(frame, still, np.full((SIDE, SIDE), 0.97 - doubt * (index == 4), np.float32))
        done += smoother.finish()
        assert np.abs(done[4][0] - expected).max() < 0.5  # as sure as the others it is another thing
        assert np.abs(np.stack(done)[[0, 1, 2, 3, 5, 6, 7, 8], 0] - 30).max() < 0.5
    assert Smoother(1.0, reach=1).push(ab[0], still, np.zeros((SIDE, SIDE), np.float32)) == []
    with pytest.raises(InvalidRequest, match=r"confidence \[2, 2\]"):
        Smoother(1.0).push(ab[0], still, np.ones((2, 2), np.float32))


def test_confidence_that_is_0_everywhere_is_no_confidence_to_choose_by() -> None:
    ab, still, none = noise(12, 1.0), np.full((SIDE, SIDE), 50, np.float32), np.zeros((SIDE, SIDE), np.float32)
    smoother, done = Smoother(1.0), []
    for frame in ab:
        done += smoother.push(frame, still, none)
    done += smoother.finish()
    assert np.isfinite(done).all()
    assert np.std(done) < np.std(ab)


def test_something_that_passes_and_is_gone_divides_time() -> None:
    """Behind a hand that passed the luma is as before; colour must not be taken from the other side of it."""
    ab = np.zeros((9, 2, SIDE, SIDE), np.float32)
    ab[5:] = 3
    lightness = np.full((9, SIDE, SIDE), 50, np.float32)
    lightness[4] = 90
    assert np.abs(smoothed(ab, lightness)[[0, 1, 2, 3, 5, 6, 7, 8]] - ab[[0, 1, 2, 3, 5, 6, 7, 8]]).max() < 1e-3


def test_order_delay_and_memory() -> None:
    """A frame comes out when `reach` more are in, after `finish` a new scene starts from nothing."""
    smoother = Smoother(1.0, reach=3)
    still = np.full((SIDE, SIDE), 50, np.float32)
    first = [np.full((2, SIDE, SIDE), value, np.float32) for value in range(30)]
    came = [len(smoother.push(frame, still)) for frame in first]
    assert came == [0, 0, 0] + [1] * 27
    assert len(smoother._ab) <= 7
    assert len(smoother.finish()) == 3
    other = np.full((2, SIDE, SIDE), 1, np.float32)
    assert smoother.push(other, still) == []
    assert np.array_equal(smoother.finish()[0], other)


def test_one_frame_is_a_scene() -> None:
    ab = noise(1, 5.0)
    assert np.allclose(smoothed(ab, ab[:, 0]), ab)


@pytest.mark.parametrize("options", [{"strength": -0.1}, {"strength": 1.1}, {"strength": 0.5, "reach": 0}])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest):
        Smoother(**options)  # type: ignore[arg-type]


def test_shapes_that_do_not_agree() -> None:
    smoother = Smoother(1.0)
    with pytest.raises(InvalidRequest, match="do not agree"):
        smoother.push(np.zeros((2, 8, 8), np.float32), np.zeros((8, 9), np.float32))
