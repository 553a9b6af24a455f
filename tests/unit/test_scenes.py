"""Scene detection on joined shots: what every detector owes, and the cases that ours is there for."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from films import make_film
from reeltint import FilmError, InvalidRequest
from reeltint._film import FilmReader
from reeltint._scenes import Detector, PaperDetector, Scene, SceneDetector, find_scenes, luma_thumbnail
from scene_films import Frames, Shot, cover, damage, joins, pan, photographs, render, write_film

SHAPE = (180, 320)
DETECTORS: list[Callable[[], Detector]] = [PaperDetector, SceneDetector]
either = pytest.mark.parametrize("detector", DETECTORS)


@cache
def panned(name: str, frames: int = 120) -> Frames:
    """A slow pan over one of scikit-image's photographs."""
    path = [(k / 200, 0.4 + k / 600, 1.3) for k in range(frames)]
    return np.stack(list(pan(photographs()[name], *SHAPE, path)))


def still(name: str, frames: int) -> Iterator[Frames]:
    return itertools.repeat(panned(name, 120)[0], frames)


def detect(frames: Iterable[Frames], detector: Detector | None = None) -> list[Scene]:
    detector = detector or SceneDetector()
    found = [scene for frame in frames for scene in detector.push(luma_thumbnail(frame))]
    return found + detector.finish()


def joined(*shots: Shot) -> Iterator[Frames]:
    return render({shot.clip: panned(shot.clip) for shot in shots}, shots)


def shot(clip: str, count: int, kind: str = "cut", length: int = 0, first: int = 0) -> Shot:
    return Shot(clip=clip, first=first, count=count, kind=kind, length=length)  # type: ignore[arg-type]


THREE = (shot("astronaut", 40), shot("coffee", 35), shot("chelsea", 50))
CUTS = [Scene(start=0, end=40, transition="start"), Scene(start=40, end=75), Scene(start=75, end=125)]


@either
def test_cuts_between_shots(detector: Callable[[], Detector]) -> None:
    assert detect(joined(*THREE), detector()) == CUTS


@either
def test_scenes_cover_the_film_in_order(detector: Callable[[], Detector]) -> None:
    shots = [*THREE, shot("rocket", 90, "dissolve", 24), shot("camera", 80, "fade", 30), shot("coins", 60)]
    frames = list(damage(joined(*shots)))
    for length in (len(frames), 3, 2, 1):
        scenes = detect(frames[:length], detector())
        assert scenes[0].start == 0
        assert scenes[0].transition == "start"
        assert scenes[-1].end == length
        assert all(scene.start < scene.end for scene in scenes)
        for one, other in itertools.pairwise(scenes):
            assert one.start < other.start <= one.end < other.end
        for one, third in zip(scenes, scenes[2:], strict=False):
            assert one.end <= third.start


@either
def test_a_detector_takes_one_film_after_another(detector: Callable[[], Detector]) -> None:
    taken = detector()
    assert taken.finish() == []
    assert detect(joined(*THREE), taken) == CUTS
    assert detect(joined(*THREE), taken) == CUTS


@either
@pytest.mark.parametrize("level", [0, 16, 128, 255])
def test_a_film_of_one_tone_is_one_scene(detector: Callable[[], Detector], level: int) -> None:
    frames = itertools.repeat(np.full(SHAPE, level, np.uint8), 400)
    assert detect(frames, detector()) == [Scene(start=0, end=400, transition="start")]


@either
@pytest.mark.parametrize(
    "thumbnail",
    [np.zeros((36, 63), np.uint8), np.zeros((36, 64), np.float32), np.zeros((36, 64, 3), np.uint8)],
    ids=["shape", "type", "colour"],
)
def test_only_thumbnails_are_taken(detector: Callable[[], Detector], thumbnail: Frames) -> None:
    with pytest.raises(InvalidRequest, match="a thumbnail is uint8"):
        detector().push(thumbnail)


@pytest.mark.parametrize("kind", [PaperDetector, SceneDetector])
def test_the_shortest_scene_has_a_frame(kind: type[PaperDetector] | type[SceneDetector]) -> None:
    with pytest.raises(InvalidRequest, match="not 0"):
        kind(min_scene=0)


@either
def test_scenes_are_told_while_the_film_goes_on(detector: Callable[[], Detector]) -> None:
    """The look-ahead is bounded: a scene is out at most 500 frames after its end."""
    taken, end = detector(), 0
    names = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins")
    for index, name in enumerate(itertools.islice(itertools.cycle(names), 30)):
        for frame in panned(name)[:50]:
            for scene in taken.push(luma_thumbnail(frame)):
                end = scene.end
        assert (index + 1) * 50 - end <= 500


def test_what_is_kept_does_not_grow() -> None:
    detector = SceneDetector()
    thumbnails = [luma_thumbnail(frame) for frame in panned("coins")]
    most = 0
    for thumbnail in itertools.islice(itertools.cycle(thumbnails), 3000):
        detector.push(thumbnail)
        kept = len(detector._thumbnails) + (0 if detector._signals is None else len(detector._signals))
        most = max(most, kept)
    assert most <= 600


def test_two_cuts_in_30_frames_are_what_the_paper_misses() -> None:
    film = [shot("astronaut", 40), shot("coffee", 8), shot("chelsea", 60)]
    assert [scene.start for scene in detect(joined(*film), PaperDetector())] != [0, 40, 48]
    assert [scene.start for scene in detect(joined(*film))] == [0, 40, 48]


@pytest.mark.parametrize("apart", [3, 4, 7])
def test_cuts_close_together(apart: int) -> None:
    names = ("coffee", "chelsea", "rocket", "camera")
    film = [shot("astronaut", 40), *(shot(name, apart) for name in names), shot("coins", 40)]
    expected = [0, *range(40, 40 + 4 * apart + 1, apart)]
    assert [scene.start for scene in detect(joined(*film))] == expected
    assert [scene.start for scene in detect(damage(joined(*film), flashes=0))] == expected


@pytest.mark.parametrize("length", [8, 12, 24, 36, 48])
def test_dissolves_are_intervals(length: int) -> None:
    film = [shot("coffee", 100), shot("chelsea", 100, "dissolve", length)]
    (join,) = joins(film)
    for frames in (joined(*film), damage(joined(*film))):
        first, second = detect(frames)
        assert second.transition == "dissolve"
        common = min(join.end, first.end) - max(join.start, second.start)
        assert common / (max(join.end, first.end) - min(join.start, second.start)) >= 0.5


@pytest.mark.parametrize("length", [16, 30, 54])
def test_fades_are_intervals(length: int) -> None:
    film = [shot("coffee", 90), shot("chelsea", 90, "fade", length)]
    (join,) = joins(film)
    for frames in (joined(*film), damage(joined(*film))):
        first, second = detect(frames)
        assert second.transition == "fade"
        common = min(join.end, first.end) - max(join.start, second.start)
        assert common / (max(join.end, first.end) - min(join.start, second.start)) >= 0.5


@pytest.mark.parametrize("black", [30, 700])
def test_black_between_scenes_is_of_both(black: int) -> None:
    """Longer than all that the detector keeps, too."""
    film = [*panned("coffee")[:60], *itertools.repeat(np.zeros(SHAPE, np.uint8), black), *panned("coins")[:60]]
    first, second = detect(film)
    assert second.transition == "fade"
    assert (abs(second.start - 60), abs(first.end - 60 - black)) <= (1, 1)


@pytest.mark.parametrize("length", [20, 200, 700])
def test_a_scene_at_night_is_no_fade(length: int) -> None:
    """Dark, and of little contrast (3.9 of 255), between two cuts."""
    night = (10 + panned("camera")[0] * (14 / 255)).astype(np.uint8)
    film = [*panned("coffee")[:60], *itertools.repeat(night, length), *panned("coins")[:60]]
    assert [(scene.start, scene.transition) for scene in detect(film)] == [
        (0, "start"),
        (60, "cut"),
        (60 + length, "cut"),
    ]


@pytest.mark.parametrize("count", [20, 500])
def test_black_at_the_ends_is_of_the_first_and_last_scene(count: int) -> None:
    black = list(itertools.repeat(np.zeros(SHAPE, np.uint8), count))
    scenes = detect([*black, *joined(*THREE), *black])
    joins = [(0, "start"), (count + 40, "cut"), (count + 75, "cut")]
    assert [(scene.start, scene.transition) for scene in scenes] == joins
    assert scenes[-1].end == 2 * count + 125


def test_a_film_that_ends_in_a_transition_keeps_its_last_scene() -> None:
    film = list(joined(shot("coffee", 90), shot("chelsea", 90, "fade", 40)))
    for length in range(90, 112, 3):
        scenes = detect(film[:length])
        assert scenes[-1].end == length
        assert all(one.end < other.end for one, other in itertools.pairwise(scenes))


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("gain", [1.6, 2.5, 20])
def test_a_flash_is_no_scene(length: int, gain: float) -> None:
    film = panned("rocket")[:100].copy()
    film[50 : 50 + length] = np.clip(film[50 : 50 + length] * gain + 30, 0, 255).astype(np.uint8)
    assert len(detect(film)) == 1


@pytest.mark.parametrize("length", [2, 10, 25])
@pytest.mark.parametrize("moving", [2, 6, 15])
def test_a_hand_over_the_lens_is_no_scene(length: int, moving: int) -> None:
    assert len(detect(cover(still("chelsea", 120), 50, length, moving))) == 1


@pytest.mark.parametrize("step", [8, 20, 40], ids=lambda step: f"{step} of 320 pixels a frame")
@pytest.mark.parametrize("name", ["astronaut", "coins", "rocket"])
def test_a_fast_pan_is_no_scene(step: int, name: str) -> None:
    """Of 40 frames, to and fro, from and to rest."""
    photograph = photographs()[name]
    free = photograph.shape[1] * (1 - 1 / 2.5)
    speed = step * (photograph.shape[1] / 2.5 / SHAPE[1]) / free
    place = np.cumsum(np.r_[np.zeros(30), np.full(40, speed), np.zeros(30)])
    path = [(1 - abs(1 - x % 2), 0.5, 2.5) for x in place.tolist()]
    assert len(detect(pan(photograph, *SHAPE, path))) == 1


def test_flicker_grain_and_a_jumping_gate_are_no_scene() -> None:
    film = itertools.islice(itertools.cycle([*panned("chelsea"), *panned("chelsea")[::-1]]), 500)
    assert len(detect(damage(film, flicker=0.12, grain=14, jitter=3, seed=5))) == 1


def test_short_scenes_are_joined_to_a_neighbour() -> None:
    film = [shot("astronaut", 40), shot("coffee", 6), shot("chelsea", 50)]
    assert [s.start for s in detect(joined(*film), SceneDetector(min_scene=6))] == [0, 40, 46]
    assert len(detect(joined(*film), SceneDetector(min_scene=7))) == 2
    assert len(detect(joined(*film), SceneDetector(min_scene=60))) == 1
    ends = [shot("astronaut", 5), shot("coffee", 50), shot("chelsea", 5)]
    assert detect(joined(*ends), SceneDetector(min_scene=6)) == [Scene(start=0, end=60, transition="start")]


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (36, 64), (101, 77), (1080, 1920)])
def test_thumbnails_of_any_shape(shape: tuple[int, int]) -> None:
    small = luma_thumbnail(np.full(shape, 77, np.uint8))
    assert small.shape == (36, 64)
    assert (small == 77).all()


def test_thumbnails_are_means_over_areas() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (360, 640), np.uint8)
    expected = picture.reshape(36, 10, 64, 10).mean((1, 3))
    assert np.abs(luma_thumbnail(picture) - expected).max() <= 1


def test_thumbnails_are_full_range_whatever_the_film_is() -> None:
    ten_bit = np.full((36, 64), 940, np.uint16)
    assert (luma_thumbnail(ten_bit, bit_depth=10, full_range=False) == 255).all()
    assert (luma_thumbnail(np.full((36, 64), 16, np.uint8), full_range=False) == 0).all()


def test_scenes_of_a_film(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", joined(*THREE), rate=Fraction(24000, 1001))
    seen: list[int] = []
    with FilmReader(tmp_path / "film.mp4") as film:
        assert find_scenes(film, on_frame=seen.append) == CUTS
        assert find_scenes(film, PaperDetector()) == CUTS
    assert seen == list(range(1, 126))


def test_a_film_of_one_frame_is_one_scene(tmp_path: Path) -> None:
    make_film(tmp_path / "one.mkv", pts=[0])
    with FilmReader(tmp_path / "one.mkv") as film:
        assert find_scenes(film) == [Scene(start=0, end=1, transition="start")]


def test_damage_is_told_not_swallowed(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", joined(*THREE))
    whole = (tmp_path / "film.mp4").read_bytes()
    place = whole.index(b"mdat") + 3 * len(whole) // 4
    (tmp_path / "film.mp4").write_bytes(whole[:place] + bytes(2000) + whole[place + 2000 :])
    with FilmReader(tmp_path / "film.mp4") as film, pytest.raises(FilmError, match=r"film\.mp4"):
        find_scenes(film)
