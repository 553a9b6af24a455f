"""Which reference each scene gets; the embedder is the shipped one, run in this process."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any, cast

import av
import numpy as np
import onnxruntime
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from films import make_film
from numpy.typing import NDArray
from PIL import Image
from reeltint import Colorizer, Reference
from reeltint._codec import ColorBatch
from reeltint._errors import FilmError, InvalidRequest
from reeltint._film_read import FilmFrame, FilmReader
from reeltint._library import Library
from reeltint._project import PlannedScene, Project, ReferenceChoice, read_project, write_project
from reeltint._references import (
    NEAR_PHOTOGRAPH,
    SAME_SCENE,
    ReferenceLoader,
    _Candidates,
    plan,
    wants_a_person,
)
from reeltint._scenes import Scene
from reeltint._thumbnail import embedding_frame
from reeltint_local import default_models
from skimage import color, data, filters, transform

Frames = NDArray[np.uint8]
HEIGHT, WIDTH = 120, 160


class InProcess:
    """`Colorizer.embed` by ONNX Runtime, on the graph that the server loads."""

    def __init__(self) -> None:
        path = default_models() / "scene_embedder" / "1" / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.frames = 0

    def embed(self, frames: Frames) -> NDArray[np.float32]:
        self.frames += len(frames)
        (found,) = self._session.run(["embedding"], {"frames": frames})
        return np.asarray(found, np.float32)


@pytest.fixture(scope="module")
def server() -> InProcess:
    return InProcess()


def _colorizer(server: InProcess) -> Colorizer:
    return cast(Colorizer, server)  # a plan only embeds


def _shot(name: str, count: int, *, left: float = 0.0, zoom: float = 1.3) -> list[Frames]:
    """Move over a photograph, from `left` on (in parts of what is free)."""
    photograph = color.rgb2gray(getattr(data, name)())
    height = round(min(photograph.shape[0], photograph.shape[1] * HEIGHT / WIDTH) / zoom)
    width = round(height * WIDTH / HEIGHT)
    top, free = (photograph.shape[0] - height) // 2, photograph.shape[1] - width
    windows = (photograph[top : top + height, x : x + width] for x in (round(left * free) + k for k in range(count)))
    return [(255 * transform.resize(each, (HEIGHT, WIDTH), anti_aliasing=True)).astype(np.uint8) for each in windows]


def _write(path: Path, frames: Sequence[Frames]) -> None:
    with av.open(str(path), "w") as film:
        stream = film.add_stream("ffv1", rate=24, width=WIDTH, height=HEIGHT)
        assert isinstance(stream, VideoStream)
        stream.pix_fmt = "gray"
        for frame in frames:
            film.mux(stream.encode(VideoFrame.from_ndarray(frame, "gray")))
        film.mux(stream.encode(None))


def _film(path: Path, shots: Sequence[Sequence[Frames]]) -> list[Scene]:
    """Write shots joined by cuts; returns the scenes."""
    _write(path, [frame for shot in shots for frame in shot])
    ends = np.cumsum([len(shot) for shot in shots]).tolist()
    starts = [0, *ends[:-1]]
    first = Scene(start=0, end=ends[0], transition="start")
    return [first, *(Scene(start=a, end=b, transition="cut") for a, b in zip(starts[1:], ends[1:], strict=True))]


def test_the_shipped_embedder_knows_a_picture_again(server: InProcess) -> None:
    """Parts of one photograph lie near to each other, one of them darker; those of two photographs do not."""
    grey = [
        (255 * color.rgb2gray(getattr(data, n)())).astype(np.uint8) for n in ("coffee", "cat", "astronaut", "rocket")
    ]
    first = server.embed(np.stack([embedding_frame(picture[20:270, 20:370]) for picture in grey]))
    darker = [(picture[40:290, 60:410] * 0.8).astype(np.uint8) for picture in grey]
    second = server.embed(np.stack([embedding_frame(picture) for picture in darker]))
    distance = np.linalg.norm(first[:, None] - second[None], axis=-1)
    assert np.linalg.norm(first, axis=1) == pytest.approx(1, abs=1e-4)
    assert np.diag(distance).max() < SAME_SCENE < NEAR_PHOTOGRAPH < distance[~np.eye(4, dtype=bool)].min()


def test_the_order_of_choice(server: InProcess, tmp_path: Path) -> None:
    """A given still, then an earlier scene that looks alike, then a near photograph, then the key frame."""
    shots = [
        _shot("coffee", 12),
        _shot("astronaut", 12),
        _shot("coffee", 12, left=0.4, zoom=1.5),
        _shot("rocket", 12),
        _shot("chelsea", 12),
        _shot("coffee", 12, left=0.2),
        _shot("astronaut", 12, left=0.3),
    ]
    scenes = _film(tmp_path / "film.mkv", shots)
    Image.fromarray(data.chelsea()[20:, 30:]).save(tmp_path / "cat.jpg", quality=90)
    Image.fromarray(data.immunohistochemistry()).save(tmp_path / "cells.png")
    Image.fromarray(data.astronaut()).save(tmp_path / "given.png")
    with Library(tmp_path / "library", server.embed, create=True) as library:
        library.add([tmp_path / "cat.jpg", tmp_path / "cells.png"])
        project = plan(
            tmp_path / "film.mkv",
            _colorizer(server),
            scenes=scenes,
            given_by_scene={2: tmp_path / "given.png"},
            library=library,
            saturation=0.7,
            smoothing=0.3,
        )
    choices = [planned.reference for planned in project.scenes]
    origins = ["automatic", "given", "earlier", "automatic", "library", "earlier", "earlier"]
    assert [choice.origin for choice in choices] == origins
    assert [choice.scene for choice in choices] == [
        None,
        None,
        1,
        None,
        None,
        1,
        2,
    ]  # never a scene that took another's
    assert (choices[1].path, choices[4].path) == (tmp_path / "given.png", tmp_path / "cat.jpg")
    assert [choice.similarity is None for choice in choices] == [True, False, False, True, False, False, False]
    assert all(choice.similarity is None or 0.5 < choice.similarity <= 1 for choice in choices)
    assert 0 <= (choices[0].frame or -1) < 12
    assert 36 <= (choices[3].frame or -1) < 48
    assert [planned.scene for planned in project.scenes] == scenes
    assert {(planned.saturation, planned.smoothing) for planned in project.scenes} == {(0.7, 0.3)}
    assert (project.film, project.frames, project.frame_rate) == (str(tmp_path / "film.mkv"), 84, Fraction(24))
    write_project(tmp_path / "film.scenes.json", project)
    again = read_project(tmp_path / "film.scenes.json")
    assert [planned.reference.path for planned in again.scenes] == [choice.path for choice in choices]


class ByLevel:
    """Embeds flat pictures: their grey level in degrees, as a direction; colours and encodes them as they are."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def embed(self, frames: Frames) -> NDArray[np.float32]:
        angle = np.radians(frames.mean((1, 2)))
        return np.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), np.float32)

    def colorize(self, frames: Frames, *, output: str) -> ColorBatch:
        return ColorBatch(frames=frames, rgb=np.repeat(frames[..., None], 3, -1))

    def reference(self, picture: Frames, *, origin: str) -> Reference:
        self.made.append(origin)
        keys = picture[..., 0].astype(np.float32)
        return Reference(keys=keys, ab=np.zeros((2, keys.shape[1]), np.float32), origin=origin)


def test_likeness_does_not_go_from_scene_to_scene(tmp_path: Path) -> None:
    """The second looks like the first, the third like the second but not like the first: it has its own reference."""
    levels = (10, 50, 90, 52, 45)
    scenes = _film(tmp_path / "film.mkv", [[np.full((HEIGHT, WIDTH), level, np.uint8)] * 6 for level in levels])
    project = plan(tmp_path / "film.mkv", cast(Colorizer, ByLevel()), scenes=scenes)
    choices = [planned.reference for planned in project.scenes]
    assert [choice.scene for choice in choices] == [None, 1, None, 3, 1]
    found = [choice.similarity for choice in choices if choice.similarity is not None]
    assert found == pytest.approx(np.cos(np.radians([40, 38, 35])), abs=1e-3)  # to the scene that is named


@pytest.mark.parametrize("encoder", ["libx264", "ffv1"])
def test_references_that_are_kept_are_few_and_come_back_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    """Those of photographs are made from these, the others from their key frames, which are sought in the film."""
    monkeypatch.setattr("reeltint._references._MOST_REFERENCES", 2)
    film, count = tmp_path / "film.mkv", 6
    make_film(film, encoder=encoder, width=WIDTH, height=HEIGHT, pts=range(240), gop=100)
    Image.fromarray(data.coffee()).save(tmp_path / "still.png")
    own = [ReferenceChoice(origin="automatic", frame=30 * n + 7) for n in range(count)]
    own[2] = ReferenceChoice(origin="given", path=tmp_path / "still.png")
    project = _project(*own, *(ReferenceChoice(origin="earlier", scene=n + 1) for n in range(count)))
    server = ByLevel()
    with ReferenceLoader(project, film, cast(Colorizer, server)) as loader:
        first = []
        for number in range(1, 2 * count + 1):
            first.append(loader.load(number))
            assert len(loader._made) <= 2
        assert loader._next_frame == 30 * count - 22  # nothing was read from the start again
        assert len(server.made) == 2 * count - 2
        loader._places = {frame: (-1, time_s) for frame, (_, time_s) in loader._places.items()}
        first.append(loader.load(count + 4))  # what is found is not that frame: the film is read from the start
        assert loader._next_frame == 98
    for one, again in zip([*first[:count], first[3]], first[count:], strict=True):
        assert one.origin == again.origin
        assert np.array_equal(one.keys, again.keys)
    assert len({reference.keys.tobytes() for reference in first}) == count


@pytest.mark.parametrize("harm", ["gone", "torn", "grey"])
def test_a_photograph_that_gives_no_colour_any_more_is_passed_over(
    harm: str, server: InProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenes = _film(tmp_path / "film.mkv", [_shot("chelsea", 9)])
    Image.fromarray(data.chelsea()).save(tmp_path / "cat.png")
    with Library(tmp_path / "library", server.embed, create=True) as library:
        library.add([tmp_path / "cat.png"])
        if harm == "gone":
            (tmp_path / "cat.png").unlink()
        elif harm == "torn":
            (tmp_path / "cat.png").write_bytes((tmp_path / "cat.png").read_bytes()[:40])
        else:
            Image.fromarray(data.camera()).save(tmp_path / "cat.png")
        project = plan(tmp_path / "film.mkv", _colorizer(server), scenes=scenes, library=library)
    assert project.scenes[0].reference.origin == "automatic"
    assert "photograph 1 of the library is passed over" in caplog.text
    assert "cat.png" in caplog.text


def test_a_still_for_the_film_and_another_for_one_scene(server: InProcess, tmp_path: Path) -> None:
    scenes = _film(tmp_path / "film.mkv", [_shot("coffee", 6), _shot("rocket", 6), _shot("coffee", 6)])
    for name in ("coffee", "rocket"):
        Image.fromarray(getattr(data, name)()).save(tmp_path / f"{name}.png")
    film, one = tmp_path / "coffee.png", tmp_path / "rocket.png"
    project = plan(tmp_path / "film.mkv", _colorizer(server), scenes=scenes, given=film, given_by_scene={3: one})
    assert [planned.reference.path for planned in project.scenes] == [film, film, one]
    assert {planned.reference.origin for planned in project.scenes} == {"given"}
    assert list(wants_a_person(project)) == [2, 3]  # a still that does not look like its scene


def test_without_a_server_every_scene_has_its_own_key_frame(tmp_path: Path) -> None:
    scenes = _film(tmp_path / "film.mkv", [_shot("coffee", 7), _shot("coffee", 1), _shot("rocket", 2)])
    frames: list[int] = []
    project = plan(tmp_path / "film.mkv", None, scenes=scenes, on_frame=frames.append)
    for planned in project.scenes:
        assert planned.reference.origin == "automatic"
        assert planned.reference.frame is not None
        assert planned.scene.start <= planned.reference.frame < planned.scene.end
    assert frames == list(range(1, 11))
    assert wants_a_person(project) == {}


def test_scenes_are_found_where_none_are_told(server: InProcess, tmp_path: Path) -> None:
    scenes = _film(tmp_path / "film.mkv", [_shot("coffee", 40), _shot("rocket", 40), _shot("coffee", 40, left=0.3)])
    project = plan(tmp_path / "film.mkv", _colorizer(server))
    assert [planned.scene for planned in project.scenes] == scenes
    assert [planned.reference.origin for planned in project.scenes] == ["automatic", "automatic", "earlier"]


def test_the_key_frame_is_sharp_well_exposed_and_outside_the_transitions(tmp_path: Path) -> None:
    sharp = _shot("coffee", 90)
    soft = [(filters.gaussian(frame, 2.5) * 255).astype(np.uint8) for frame in sharp]
    bright = [np.clip(frame.astype(int) + 150, 0, 255).astype(np.uint8) for frame in sharp]
    one = [*soft[:30], *sharp[30:42], *bright[42:60], *soft[60:90]]
    two = [*sharp[:30], *soft[30:90]]  # sharp only while it dissolves
    mixed = [((x.astype(int) + y) // 2).astype(np.uint8) for x, y in zip(one[60:], two[:30], strict=True)]
    _write(tmp_path / "film.mkv", [*one[:60], *mixed, *two[30:]])
    scenes = [Scene(start=0, end=90, transition="start"), Scene(start=60, end=150, transition="dissolve")]
    first, second = plan(tmp_path / "film.mkv", None, scenes=scenes).scenes
    assert 30 <= (first.reference.frame or 0) < 42
    assert 90 <= (second.reference.frame or 0) < 150


def test_memory_does_not_grow_with_the_length_of_a_scene() -> None:
    candidates, most = _Candidates(), 0
    frame = FilmFrame(
        luma=_shot("coffee", 1)[0], bit_depth=8, full_range=True, pts=0, duration=1, time_base=Fraction(1, 25)
    )
    for index in range(0, 9000, 3):
        candidates.push(index, frame)
        most = max(most, len(candidates._kept))
    kept = [each.frame for each in candidates.release(9000)]
    assert most < 200
    assert kept[0] < 500  # spread over all of the scene
    assert max(np.diff(kept)) < 2000
    assert candidates._kept == []


def _project(*choices: ReferenceChoice) -> Project:
    scenes = [Scene(start=10 * n, end=10 * n + 10, transition="cut" if n else "start") for n in range(len(choices))]
    planned = tuple(PlannedScene(scene=s, reference=c) for s, c in zip(scenes, choices, strict=True))
    return Project(film="film.mkv", frames=10 * len(choices), frame_rate=None, scenes=planned)


def test_a_still_that_gives_no_colour_is_told_before_its_scene_is_reached(server: InProcess, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    Image.fromarray(data.camera()).save(tmp_path / "grey.png")
    for name, problem in (("torn.png", "not a picture"), ("grey.png", "it has no colour to give")):
        project = _project(
            ReferenceChoice(origin="automatic", frame=0), ReferenceChoice(origin="library", path=tmp_path / name)
        )
        with pytest.raises(FilmError, match=f"{name}: {problem}"):
            ReferenceLoader(project, "film.mkv", _colorizer(server))


def test_closing_ends_the_search_for_a_key_frame(
    server: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _film(tmp_path / "film.mkv", [_shot("coffee", 2)])
    searching, closing = Event(), Event()

    def frames(_: FilmReader) -> Iterator[None]:
        while True:
            yield None
            searching.set()
            assert closing.wait(10)

    monkeypatch.setattr(FilmReader, "__iter__", frames)
    project = _project(ReferenceChoice(origin="automatic", frame=10**9))
    loader = ReferenceLoader(project, tmp_path / "film.mkv", _colorizer(server))
    with ThreadPoolExecutor(2) as threads:
        loading = threads.submit(loader.load, 1)
        assert searching.wait(10)
        closed = threads.submit(loader.close)
        assert loader._closed.wait(10)
        closing.set()
        closed.result(10)
        with pytest.raises(InvalidRequest, match="closed"):
            loading.result(10)


def test_what_wants_a_person() -> None:
    path = Path("a.png")
    project = _project(
        ReferenceChoice(origin="automatic", frame=0),
        ReferenceChoice(origin="library", path=path, similarity=0.9),
        ReferenceChoice(origin="library", path=path, similarity=0.65),
        ReferenceChoice(origin="given", path=path, similarity=0.2),
        ReferenceChoice(origin="given", path=path),
        ReferenceChoice(origin="earlier", scene=2, similarity=0.8),
    )
    assert list(wants_a_person(project)) == [3, 4]
    found = wants_a_person(project, {1: 0.98, 2: 0.1, 3: 0.1, 6: 0.05})
    assert list(found) == [2, 3, 6]  # of those that were coloured
    assert "confidence 0.10" in found[2]
    assert "similarity 0.65" in found[3]
    assert "confidence 0.10" in found[3]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"given_by_scene": {3: "still.png"}}, InvalidRequest, "there is no scene 3; the film has 2"),
        ({"given_by_scene": {0: "still.png"}}, InvalidRequest, "there is no scene 0"),
        ({"given": "nothing.png"}, FilmError, r"nothing\.png"),
        ({"given_by_scene": {1: "grey.png"}}, FilmError, r"grey\.png: it has no colour to give"),
        ({"saturation": 3.0}, InvalidRequest, "saturation: from 0 to 2, not 3"),
        ({"smoothing": -1.0}, InvalidRequest, "smoothing: from 0 to 1, not -1"),
        ({"scenes": [Scene(start=0, end=5, transition="start")]}, InvalidRequest, "frames 0 to 5, the film has 12"),
        ({"scenes": [Scene(start=0, end=50, transition="start")]}, InvalidRequest, "frames 0 to 50, the film has 12"),
        (
            {"scenes": [Scene(start=0, end=5, transition="start"), Scene(start=7, end=12, transition="cut")]},
            InvalidRequest,
            "scene 2: 7 to 12 does not follow 5",
        ),
    ],
)
def test_what_cannot_be_planned(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    scenes = _film(tmp_path / "film.mkv", [_shot("coffee", 6), _shot("rocket", 6)])
    Image.fromarray(data.coffee()).save(tmp_path / "still.png")
    Image.fromarray(data.camera()).save(tmp_path / "grey.png")
    if "given" in options:
        options = {"given": tmp_path / options["given"]}
    if "given_by_scene" in options:
        options = {"given_by_scene": {n: tmp_path / name for n, name in options["given_by_scene"].items()}}
    with pytest.raises(error, match=message):
        plan(tmp_path / "film.mkv", None, **({"scenes": scenes} | options))


def test_a_library_needs_a_server(tmp_path: Path) -> None:
    with Library(tmp_path / "library", create=True) as library, pytest.raises(InvalidRequest, match="needs a server"):
        plan(tmp_path / "film.mkv", None, library=library)
