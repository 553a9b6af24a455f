"""Frames made small for the network, and which scenes colour which frames."""

import logging
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import make_film
from reeltint import Colorizer, Reference
from reeltint._codec import ColorBatch
from reeltint._colorize import _frames_before
from reeltint._film import FilmFrame, FilmReader
from reeltint._project import PlannedScene, ReferenceChoice
from reeltint._scene_colour import SceneColours, _left_behind, _runs, _weight, lightness_of, reduced
from reeltint._scenes import Scene
from skimage import color, measure


def scenes(*ranges: tuple[int, int]) -> list[PlannedScene]:
    return [
        PlannedScene(scene=Scene(start=start, end=end), reference=ReferenceChoice(origin="automatic", frame=start))
        for start, end in ranges
    ]


@pytest.mark.parametrize(
    ("shape", "side", "wanted"),
    [
        ((1080, 1920), 320, (360, 640)),
        ((2160, 3840), 320, (360, 640)),
        ((480, 854), 320, (480, 854)),
        ((641, 962), 320, (320, 481)),
        ((9000, 50), 320, (9000, 50)),
        ((1, 1), 320, (1, 1)),
        ((6000, 6100), 300, (300, 305)),
    ],
)
def test_reduced_frames_are_means(shape: tuple[int, int], side: int, wanted: tuple[int, int]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    small = reduced(grey, side)
    assert small.shape == wanted
    factor = shape[0] // wanted[0]
    if shape == (wanted[0] * factor, wanted[1] * factor):
        means = measure.block_reduce(grey, (factor, factor), np.mean)
        assert np.abs(small - means).max() <= 1
    assert small.mean() == pytest.approx(grey.mean(), abs=0.5)
    assert reduced(np.full(shape, 255, np.uint8), side).min() == 255


@pytest.mark.parametrize("shape", [(360, 640), (96, 130), (45, 47)])
def test_thumbnails_are_the_lightness_of_means(shape: tuple[int, int]) -> None:
    grey = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    whole = np.repeat(np.repeat(grey.astype(float), 8, 0), 5, 1)  # every pixel 8 x 5: equal parts fall on whole ones
    means = measure.block_reduce(whole, (shape[0], shape[1]), np.mean)
    truth = color.rgb2lab(np.repeat(means[..., None] / 255, 3, 2))[..., 0]
    assert np.abs(lightness_of(grey, (8, 5)) - truth).max() < 1
    dot = color.rgb2lab(np.full((1, 1, 3), grey[0, 0] / 255))[0, 0, 0]
    assert np.abs(lightness_of(grey[:1, :1], (8, 5)) - dot).max() < 0.5


def ranges(planned: list[PlannedScene], *only: int) -> list[tuple[int, int, int]]:
    return [(run.number, run.start, run.end) for run in _runs(planned, set(only))]


def test_frames_of_a_dissolve_belong_to_both_scenes() -> None:
    planned = scenes((0, 10), (7, 20), (20, 30))
    assert ranges(planned) == [(1, 0, 10), (2, 7, 20), (3, 20, 30)]
    assert ranges(planned, 1) == [(1, 0, 10), (2, 7, 10)]
    assert ranges(planned, 2) == [(1, 7, 10), (2, 7, 20)]
    assert ranges(planned, 3) == [(3, 20, 30)]


def test_a_scene_between_two_wanted_ones_is_coloured_where_they_reach_into_it() -> None:
    assert ranges(scenes((0, 10), (8, 30), (27, 40)), 1, 3) == [(1, 0, 10), (2, 8, 10), (2, 27, 30), (3, 27, 40)]


def test_shares_of_a_cross_fade() -> None:
    planned = scenes((0, 10), (7, 20), (20, 30))
    assert [_weight(planned, 2, index) for index in (7, 8, 9, 10, 19)] == [0.25, 0.5, 0.75, 1, 1]
    assert [_weight(planned, 1, index) for index in (0, 6, 7, 8, 9)] == [1, 1, 0.75, 0.5, 0.25]
    assert _weight(planned, 3, 20) == 1


@pytest.fixture
def colorizer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Colorizer]:
    """It answers grey, and is sure of it, without a server."""

    async def grey(frames: Any, **_: Any) -> ColorBatch:
        ab, confidence = (np.full((len(frames), planes, 40, 40), 2 - planes, np.float32) for planes in (2, 1))
        return ColorBatch(frames=frames, ab=ab, confidence=confidence)

    with Colorizer("127.0.0.1:1") as colorizer:
        monkeypatch.setattr(colorizer._colorizer, "colorize", grey)
        monkeypatch.setattr(colorizer, "_network_side", lambda: 160)
        yield colorizer


REFERENCE = Reference(keys=np.zeros((1, 1), np.float32), ab=np.zeros((2, 1), np.float32))


class Film:
    """Small frames; counts how many were read."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __iter__(self) -> Iterator[FilmFrame]:
        luma = np.zeros((36, 64), np.uint8)
        for pts in range(self.count):
            self.read = pts + 1
            yield FilmFrame(luma=luma, bit_depth=8, full_range=True, pts=pts, duration=1, time_base=Fraction(1, 24))


@pytest.mark.parametrize("only", [[], [2], [1, 3]])
def test_frames_that_keep_their_colour_do_not_wait(colorizer: Colorizer, only: list[int]) -> None:
    planned = scenes((0, 300), (300, 330), (330, 700))
    film, count, held = Film(700), 0, 0
    for each in SceneColours(colorizer, planned, lambda _: REFERENCE, batch=8, only=only).iterate(film, Path("film")):
        assert each.frame.pts == count
        count += 1
        held = max(held, film.read - count)
    assert count == 700
    assert held <= 6 * 8 + 6 + 8  # batches under way, frames that the smoother looks ahead to, a batch


def test_confidence_is_told_of_the_scenes_that_are_wanted(colorizer: Colorizer) -> None:
    """Of a scene next to them its dissolve alone is coloured."""
    for only, told in (((), [1, 2, 3]), ((2,), [2]), ((1, 3), [1, 3])):
        colours = SceneColours(colorizer, scenes((0, 10), (7, 20), (20, 30)), lambda _: REFERENCE, batch=8, only=only)
        list(colours.iterate(Film(30), Path("film")))
        assert colours.confidences == dict.fromkeys(told, 1.0)


def test_a_reference_is_made_while_the_film_comes_to_its_scene(colorizer: Colorizer) -> None:
    asked = threading.Event()

    def load(_: int) -> Reference:
        asked.set()
        return REFERENCE

    def frames() -> Iterator[FilmFrame]:
        assert asked.wait(5)
        yield from Film(60)

    colours = SceneColours(colorizer, scenes((0, 30), (30, 60)), load, batch=8, only=[2])
    assert len(list(colours.iterate(frames(), Path("film")))) == 60


def test_nobody_waits_for_a_reference_after_an_interruption(colorizer: Colorizer) -> None:
    end, made = threading.Event(), list[int]()

    def load(number: int) -> Reference:
        if number == 2:
            end.wait(10)
        made.append(number)
        return REFERENCE

    def interrupted() -> Iterator[FilmFrame]:
        yield from Film(20)
        raise KeyboardInterrupt

    colours = SceneColours(colorizer, scenes((0, 30), (30, 60)), load, batch=8)
    with pytest.raises(KeyboardInterrupt):
        list(colours.iterate(interrupted(), Path("film")))
    assert made == [1]
    end.set()


def test_scenes_that_are_left_behind_are_told(colorizer: Colorizer, caplog: pytest.LogCaptureFixture) -> None:
    planned = scenes((0, 10), (10, 20), (20, 30), (30, 40))
    for number, other in ((3, 1), (4, 3)):
        choice = ReferenceChoice(origin="earlier", scene=other)
        planned[number - 1] = PlannedScene(scene=planned[number - 1].scene, reference=choice)
    expected = {(): [], (1,): [3, 4], (1, 3): [4], (1, 3, 4): [], (2,): [], (3,): [4], (4,): []}
    assert {only: _left_behind(planned, set(only)) for only in expected} == expected
    with caplog.at_level(logging.WARNING, "reeltint"):
        list(SceneColours(colorizer, planned, lambda _: REFERENCE, batch=8, only=[1]).iterate(Film(40), Path("a.mkv")))
    assert "a.mkv: scenes not coloured anew share a reference with one that is: 3, 4; if it changed" in caplog.text


@pytest.mark.parametrize(
    ("name", "options"), [("b.mp4", {"encoder": "libx264", "gop": 12}), ("b.mkv", {"encoder": "ffv1"})]
)
def test_frame_numbers_of_a_part_are_those_of_the_whole_film(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    luma = make_film(tmp_path / name, pts=[3 * k + k % 2 for k in range(90)], time_base=Fraction(1, 75), **options)
    with FilmReader(tmp_path / name) as film:
        whole = [frame.luma.copy() for frame in film]
    for start_s in (None, 0.0, 0.3, 1.0, 2.41, 3.3):
        with FilmReader(tmp_path / name, start_s=start_s) as film:
            first = next(iter(film)).luma
            assert np.array_equal(first, whole[_frames_before(film)])
    assert len(whole) == len(luma)
