"""Frames made small for the network, and which scenes colour which frames."""

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import make_film
from reeltint import Colorizer, Reference
from reeltint._codec import ColorBatch, Frames
from reeltint._colorize import _frames_before
from reeltint._film import FilmFrame, FilmReader
from reeltint._project import PlannedScene, ReferenceChoice
from reeltint._scene_colour import SceneColours, _left_behind, _runs, _weight, lightness_of, reduced
from reeltint._scenes import Scene
from skimage import color, data, measure


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


def test_from_the_middle_of_a_fade_the_second_half_is_the_second_scenes(colorizer: Colorizer) -> None:
    one, two = scenes((0, 40), (20, 60))
    planned = [one, replace(two, scene=replace(two.scene, transition="fade"))]
    film = Film(60, lambda index: data.camera()[::8, ::8][:36, :64])
    coming = (frame for frame in film if frame.pts >= 25)
    colours = SceneColours(colorizer, planned, colour_of, batch=8, first=25)
    found = [float(each.ab.mean()) for each in colours.iterate(coming, Path("film")) if each.ab is not None]
    assert found == pytest.approx([10.0] * 5 + [20.0] * 30)


def test_shares_of_a_cross_fade() -> None:
    planned = scenes((0, 10), (7, 20), (20, 30))
    assert [_weight(planned, 2, index) for index in (7, 8, 9, 10, 19)] == [0.25, 0.5, 0.75, 1, 1]
    assert [_weight(planned, 1, index) for index in (0, 6, 7, 8, 9)] == [1, 1, 0.75, 0.5, 0.25]
    assert _weight(planned, 3, 20) == 1


@pytest.fixture
def colorizer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Colorizer]:
    """It answers the reference's one colour, and is sure of it, without a server."""

    async def plain(frames: Any, *, reference: Reference, **_: Any) -> ColorBatch:
        ab = np.full((len(frames), 2, 40, 40), reference.ab[0, 0], np.float32)
        return ColorBatch(frames=frames, ab=ab, confidence=np.ones((len(frames), 1, 40, 40), np.float32))

    with Colorizer("127.0.0.1:1") as colorizer:
        monkeypatch.setattr(colorizer._colorizer, "colorize", plain)
        monkeypatch.setattr(colorizer, "_network_side", lambda: 160)
        yield colorizer


REFERENCE = Reference(keys=np.zeros((1, 1), np.float32), ab=np.zeros((2, 1), np.float32))


def colour_of(number: int) -> Reference:
    """A reference that colours everything alike: a* and b* are ten times the scene's number."""
    return Reference(keys=np.zeros((1, 1), np.float32), ab=np.full((2, 1), 10 * number, np.float32))


class Film:
    """Small frames, black where nothing else is asked for; counts how many were read."""

    def __init__(self, count: int, picture: Callable[[int], Frames] | None = None) -> None:
        self.count, self.read = count, 0
        self.picture = picture or (lambda _: np.zeros((36, 64), np.uint8))

    def __iter__(self) -> Iterator[FilmFrame]:
        for pts in range(self.count):
            self.read = pts + 1
            luma = self.picture(pts)
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


DARK, OUT, IN = [0.0] * 3, [0.8, 0.6, 0.4, 0.2], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.mark.parametrize(
    ("fade", "black", "switch"),
    [
        pytest.param([*OUT, *DARK, *IN], 0, 7, id="out and in"),
        pytest.param([*OUT, *DARK, *IN], 30, 7, id="grey black"),
        pytest.param([*OUT, *DARK, *IN], 255, 7, id="through white"),
        pytest.param([*OUT, *DARK, 0, 0, 0], 0, 10, id="out, then a cut"),
        pytest.param([*DARK, *IN], 0, 3, id="in after a cut"),
        pytest.param([1, *OUT, *DARK, 1, 1], 0, 8, id="entered too long"),
        pytest.param([0.9, 0.8, 0.0, 0.7, *OUT, *DARK, *IN], 0, 11, id="a lost frame"),
    ],
)
@pytest.mark.parametrize("only", [[], [1], [2]])
def test_a_fade_shows_one_scene_at_a_time(
    colorizer: Colorizer, fade: list[float], black: int, switch: int, only: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to its darkest frame the first, then the second; the server sees each frame once."""
    flicker = np.random.default_rng(0).uniform(0.9, 1.1, 40 + len(fade))
    photograph = data.camera()[::8, ::8][:36, :64].astype(float)

    def picture(index: int) -> Frames:
        light = fade[index - 20] if 20 <= index < 20 + len(fade) else 1.0
        grey = black + (photograph * flicker[index] - black) * light
        return np.asarray(np.clip(grey, 0, 255), np.uint8)

    sent = list[int]()
    plain: Any = colorizer._colorizer.colorize

    def counted(frames: Frames, **options: Any) -> Any:
        sent.append(len(frames))
        return plain(frames, **options)

    monkeypatch.setattr(colorizer._colorizer, "colorize", counted)
    one, two = scenes((0, 20 + len(fade)), (20, 40 + len(fade)))
    planned = [one, replace(two, scene=replace(two.scene, transition="fade"))]
    film = Film(40 + len(fade), picture)
    found = list(SceneColours(colorizer, planned, colour_of, batch=8, only=only).iterate(film, Path("film")))
    assert [each.frame.pts for each in found] == list(range(film.count))
    colours = [None if each.ab is None else float(each.ab.mean()) for each in found]
    expected = [10.0] * (20 + switch) + [20.0] * (20 + len(fade) - switch)
    wanted = range(0 if only != [2] else 20, film.count if only != [1] else 20 + len(fade))
    assert [index for index, colour in enumerate(colours) if colour is not None] == list(wanted)
    assert [colours[index] for index in wanted] == pytest.approx([expected[index] for index in wanted])
    assert sum(sent) == len(wanted)


@pytest.mark.parametrize("smoothing", [0.0, 0.8])
def test_saturation_comes_after_smoothing(
    colorizer: Colorizer, monkeypatch: pytest.MonkeyPatch, smoothing: float
) -> None:
    """What the smoother takes for flicker does not depend on how strong the colours are to be."""
    results = []
    for saturation in (1.0, 2.0, 0.0):
        rng = np.random.default_rng(0)

        async def flickering(frames: Any, *, rng: np.random.Generator = rng, **_: Any) -> ColorBatch:
            return ColorBatch(frames=frames, ab=rng.normal(20, 3, (len(frames), 2, 40, 40)).astype(np.float32))

        monkeypatch.setattr(colorizer._colorizer, "colorize", flickering)
        (scene,) = scenes((0, 20))
        planned = [replace(scene, saturation=saturation, smoothing=smoothing)]
        found = SceneColours(colorizer, planned, lambda _: REFERENCE, batch=8).iterate(Film(20), Path("film"))
        results.append(np.stack([each.ab for each in found if each.ab is not None]))
    usual, strong, none = results
    assert np.allclose(strong, 2 * usual, atol=1e-4)
    assert not none.any()
    assert (np.diff(usual, axis=0).std() < 3.5) == (smoothing > 0)  # 4.2 as it came


def test_confidence_is_that_of_the_frames_of_one_scene(colorizer: Colorizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scene 2 has 3 frames between long dissolves, scene 3 nothing but dissolves, scene 5 comes up from black."""
    planned = scenes((0, 40), (20, 63), (43, 80), (63, 100), (90, 110))
    planned[4] = replace(planned[4], scene=replace(planned[4].scene, transition="fade"))
    alone = [*range(20), *range(40, 43), *range(80, 90), *range(100, 110)]

    async def answer(frames: Any, **_: Any) -> ColorBatch:
        ab = np.zeros((len(frames), 2, 40, 40), np.float32)
        sure = frames.max((1, 2)).astype(np.float32) / 100
        return ColorBatch(frames=frames, ab=ab, confidence=np.tile(sure[:, None, None, None], (1, 1, 40, 40)))

    monkeypatch.setattr(colorizer._colorizer, "colorize", answer)
    film = Film(110, lambda index: np.full((36, 64), 90 if index in alone else 30, np.uint8))
    colours = SceneColours(colorizer, planned, lambda _: REFERENCE, batch=8)
    list(colours.iterate(film, Path("film")))
    assert colours.confidences == pytest.approx({1: 0.9, 2: 0.9, 3: 0.3, 4: 0.9, 5: 0.9}, abs=1e-3)


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
