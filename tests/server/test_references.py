"""Colouring by a reference through the real server: the client's calls, and the scenes of a film."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reeltint import AsyncColorizer, Colorizer, FilmError, InvalidRequest, Reference
from reeltint._film import FilmFrame
from reeltint._project import PlannedScene, ReferenceChoice
from reeltint._scene_colour import SceneColours, reduced
from reeltint._scenes import Scene, Transition
from reeltint_local import LocalTriton
from skimage import color, data

Array = NDArray[Any]


@pytest.fixture(scope="module")
def photograph() -> Array:
    grey: Array = (color.rgb2gray(data.coffee()) * 255).round().astype(np.uint8)
    return grey


@pytest.fixture(scope="module")
def stills(triton: str) -> dict[str, Reference]:
    with Colorizer(triton) as colorizer:
        pictures = {"coffee": data.coffee(), "cat": data.chelsea(), "astronaut": data.astronaut()}
        return {name: colorizer.reference(picture, origin=name) for name, picture in pictures.items()}


def same(one: Array | None, other: Array | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def batches(photograph: Array, count: int, size: int = 3) -> list[Array]:
    return [np.stack([np.roll(photograph, 7 * (size * n + k), 1) for k in range(size)]) for n in range(count)]


def test_what_a_reference_gives(triton: str, photograph: Array, stills: dict[str, Reference]) -> None:
    frames = batches(photograph, 1)[0]
    with Colorizer(triton) as colorizer:
        found = colorizer.colorize(frames, output="ab", reference=stills["coffee"])
        chroma = colorizer.colorize(frames, reference=stills["coffee"])
        rgb = colorizer.colorize(frames, output="rgb", reference=stills["coffee"])
        assert found.ab is not None
        assert found.confidence is not None
        side = found.ab.shape[-1]
        assert found.ab.shape == (3, 2, side, side)
        assert found.confidence.shape == (3, 1, side, side)
        assert 0 <= found.confidence.min() <= found.confidence.max() <= 1
        merged, picture = colorizer.merge(frames, found.ab), colorizer.merge(frames, found.ab, output="rgb")
        assert same(merged.chroma, chroma.chroma)
        assert same(picture.rgb, rgb.rgb)
        assert chroma.confidence is not None
        assert same(chroma.confidence, found.confidence)
        alone = colorizer.colorize(frames, output="ab")
        assert alone.ab is not None
        assert alone.confidence is None
        assert same(colorizer.merge(frames, alone.ab).chroma, colorizer.colorize(frames).chroma)


def test_the_reference_is_read(triton: str, photograph: Array, stills: dict[str, Reference]) -> None:
    """Its own photograph is the better reference: nearer to its true colours, and surer."""
    truth = color.rgb2lab(data.coffee())[..., 1:].reshape(40, 10, 40, 15, 2).mean((1, 3)).transpose(2, 0, 1)
    error, sure = {}, {}
    with Colorizer(triton) as colorizer:
        for name, reference in stills.items():
            found = colorizer.colorize(photograph[None], output="ab", reference=reference)
            assert found.ab is not None
            assert found.confidence is not None
            error[name] = float(np.linalg.norm(found.ab[0] - truth, axis=0).mean())
            sure[name] = float(found.confidence.mean())
        alone = colorizer.colorize(photograph[None], output="ab").ab
    assert alone is not None
    assert min(error, key=lambda name: error[name]) == "coffee"
    assert max(sure, key=lambda name: sure[name]) == "coffee"
    assert error["coffee"] < 0.6 * float(np.linalg.norm(alone[0] - truth, axis=0).mean())


def test_embeddings_have_length_1_and_know_alike_from_unlike(triton: str, photograph: Array) -> None:
    cat = (color.rgb2gray(data.chelsea()) * 255).astype(np.uint8)
    with Colorizer(triton) as colorizer:
        near = colorizer.embed(np.stack([photograph, np.roll(photograph, 9, 1)]))
        far = colorizer.embed(cat[None])
    assert np.allclose(np.linalg.norm(near, axis=1), 1, atol=1e-4)
    assert np.linalg.norm(near[0] - near[1]) < np.linalg.norm(near[0] - far[0])


def test_asyncio_gives_the_same_by_reference(triton: str, photograph: Array, stills: dict[str, Reference]) -> None:
    sent = batches(photograph, 4)

    async def run() -> list[Any]:
        async with AsyncColorizer(triton, in_flight=2) as colorizer:
            reference = await colorizer.reference(data.chelsea())
            assert same(reference.keys, stills["cat"].keys)
            return [batch async for batch in colorizer.stream(sent, reference=reference)]

    with Colorizer(triton) as colorizer:
        for one, other in zip(asyncio.run(run()), colorizer.stream(sent, reference=stills["cat"]), strict=True):
            assert same(one.chroma, other.chroma)
            assert same(one.confidence, other.confidence)


def test_references_and_batches_that_cannot_be_right(
    triton: str, photograph: Array, stills: dict[str, Reference]
) -> None:
    made = stills["cat"]
    other = Reference(keys=made.keys[:, :64].copy(), ab=made.ab[:, :64].copy())
    with Colorizer(triton) as colorizer:
        with pytest.raises(
            InvalidRequest, match=r"another network \(reference_keys is .* colorize_chroma_by_reference"
        ):
            colorizer.colorize(photograph[None], reference=other)
        with pytest.raises(InvalidRequest, match="more than the 32"):
            colorizer.colorize(np.zeros((33, 8, 8), np.uint8), reference=made)
        with pytest.raises(InvalidRequest, match=r"\[h, w, 3\]"):
            colorizer.reference(photograph)


def test_any_replica_serves_any_batch(triton: str, photograph: Array) -> None:
    """Two servers take turns at the batches of one scene; neither keeps anything of it."""
    needed = ["reference_encoder", "colorize_chroma_by_reference"]
    sent = batches(photograph, 4, size=2)
    with LocalTriton(only=needed) as server, Colorizer(triton) as first, Colorizer(server.address) as second:
        reference = first.reference(data.coffee())
        alone = [first.colorize(batch, reference=reference) for batch in sent]
        turns = [each.colorize(batch, reference=reference) for each, batch in zip(cycle([second, first]), sent)]
        again = second.reference(data.coffee())
    for one, other in zip(alone, turns, strict=True):
        assert same(one.chroma, other.chroma)
        assert same(one.confidence, other.confidence)
    assert same(again.keys, reference.keys)


# A film's scenes


def planned(
    start: int, end: int, transition: Transition = "cut", saturation: float = 1.0, smoothing: float = 0.0
) -> PlannedScene:
    choice = ReferenceChoice(origin="automatic", frame=start)
    scene = Scene(start=start, end=end, transition=transition)
    return PlannedScene(scene=scene, reference=choice, saturation=saturation, smoothing=smoothing)


SCENES = (planned(0, 12, "start", 0.5), planned(9, 20, "dissolve"), planned(20, 21), planned(21, 33, smoothing=1.0))


class Film:
    """Frames of the photograph shifted further each time; counts how many were read."""

    def __init__(self, photograph: Array, count: int) -> None:
        self.photograph, self.count, self.read = photograph, count, 0

    def __iter__(self) -> Iterator[FilmFrame]:
        for pts in range(self.count):
            self.read += 1
            luma = np.roll(self.photograph, 3 * pts, 1)
            base = Fraction(1, 25)
            yield FilmFrame(luma=luma, bit_depth=8, full_range=True, pts=pts, duration=1, time_base=base)


@pytest.fixture
def colorizer(triton: str) -> Iterator[Colorizer]:
    with Colorizer(triton, in_flight=3) as colorizer:
        yield colorizer


def test_scenes_are_coloured_saturated_and_cross_faded(
    colorizer: Colorizer, photograph: Array, stills: dict[str, Reference]
) -> None:
    references = [stills["coffee"], stills["cat"]]
    colours = SceneColours(colorizer, SCENES, lambda number: references[number % 2], batch=4)
    film, found, ahead = Film(photograph, 33), [], 0
    for each in colours.iterate(film, Path("film")):
        found.append(each)
        ahead = max(ahead, film.read - len(found))
    assert [each.frame.pts for each in found] == list(range(33))
    assert ahead <= 3 * 4 + 6 + 4  # batches under way, frames that the smoother looks ahead to, one batch at most
    assert sorted(colours.confidences) == [1, 2, 3, 4]
    assert all(0 < value <= 1 for value in colours.confidences.values())

    def alone(index: int, number: int, saturation: float = 1.0) -> Array:
        grey = reduced(found[index].frame.grey(), 320)[None]
        ab = colorizer.colorize(grey, output="ab", reference=references[number % 2]).ab
        assert ab is not None
        plane: Array = ab[0] * np.float32(saturation)
        return plane

    def ab(index: int) -> Array:
        plane = found[index].ab
        assert plane is not None
        return plane

    assert np.allclose(ab(3), alone(3, 1, 0.5), atol=1e-3)
    assert np.allclose(ab(15), alone(15, 2), atol=1e-3)
    for index, share in ((9, 0.25), (10, 0.5), (11, 0.75)):
        assert np.allclose(ab(index), (1 - share) * alone(index, 1, 0.5) + share * alone(index, 2), atol=1e-3)
    assert np.allclose(ab(20), alone(20, 3), atol=1e-3)  # a scene of one frame
    assert not np.allclose(ab(26), alone(26, 4), atol=1e-3)  # smoothed
    quiet = (*SCENES[:3], replace(SCENES[3], smoothing=0.0))
    off = list(
        SceneColours(colorizer, quiet, lambda n: references[n % 2], batch=4).iterate(Film(photograph, 33), Path())
    )
    assert off[26].ab is not None
    assert np.allclose(off[26].ab, alone(26, 4), atol=1e-3)
    assert same(off[15].ab, ab(15))


def test_single_scenes_and_parts_of_a_film(
    colorizer: Colorizer, photograph: Array, stills: dict[str, Reference]
) -> None:
    """Frames of the wanted scenes are as in the whole film, those of a dissolve too; the others pass untouched."""
    made: list[int] = []

    def load(number: int) -> Reference:
        made.append(number)
        return stills["coffee"] if number % 2 else stills["cat"]

    def run(count: int = 33, **options: Any) -> list[Array | None]:
        frames = list(Film(photograph, count))[options.get("first", 0) :]
        return [
            each.ab for each in SceneColours(colorizer, SCENES, load, batch=4, **options).iterate(frames, Path("f"))
        ]

    whole = run()
    assert made == [1, 2, 3, 4]
    made.clear()
    single = run(only=[1, 3])
    assert made == [1, 2, 3]
    assert [index for index, ab in enumerate(single) if ab is not None] == [*range(12), 20]
    assert all(same(single[index], whole[index]) for index in [*range(12), 20])
    part = run(25, first=10)
    assert len(part) == 15
    for one, other in zip(part[:10], whole[10:20], strict=True):
        assert one is not None
        assert other is not None
        assert np.allclose(one, other, atol=1e-3)


def test_what_came_before_an_error_is_coloured(
    colorizer: Colorizer, photograph: Array, stills: dict[str, Reference]
) -> None:
    def torn() -> Iterator[FilmFrame]:
        yield from Film(photograph, 25)
        raise FilmError("reel.mov", "torn")

    def missing(number: int) -> Reference:
        if number == 4:
            raise FilmError("still.png", "not a picture")
        return stills["cat"]

    def count(frames: Any, load: Any, said: str) -> int:
        found = 0
        with pytest.raises(FilmError, match=said):  # noqa: PT012 # what comes before the error is counted
            for _ in SceneColours(colorizer, SCENES, load, batch=4).iterate(frames, Path("reel.mov")):
                found += 1
        return found

    assert count(torn(), lambda _: stills["cat"], "torn") == 25
    assert count(Film(photograph, 33), missing, "still.png: not a picture") == 21
    assert (
        count(Film(photograph, 36), lambda _: stills["cat"], r"reel.mov at 1.320 s: it has more frames than the 33")
        == 33
    )
