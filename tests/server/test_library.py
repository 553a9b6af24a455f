"""`reeltint library` and the references of scenes, through the real server."""

import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image
from reeltint import Colorizer, FilmError, InvalidRequest
from reeltint._cli import main
from reeltint._library import Library
from reeltint._project import PlannedScene, Project, ReferenceChoice
from reeltint._references import ReferenceLoader, load_reference, plan
from reeltint._scenes import Scene
from reeltint._thumbnail import embedding_frame
from skimage import color, data
from typer.testing import CliRunner

Frames = NDArray[np.uint8]


def _run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["library", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut", "coffee", "chelsea"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.jpg", quality=92)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    return folder


def test_a_library_from_the_command_line(triton: str, photos: Path, tmp_path: Path) -> None:
    where = ("--library", tmp_path / "library")
    code, out, err = _run("add", photos, *where, "--server", triton, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["added"], told["known"], told["photographs"]) == (3, 0, 3)
    assert len(told["failures"]) == 1
    assert "broken.png" in err
    code, out, err = _run("add", photos, *where, "--server", triton)
    assert (code, out) == (0, "")
    assert "0 added, 3 there already, 1 left out; 3 photographs in" in err.replace("\n", " ")

    code, out, _ = _run("list", *where)
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()] == [
        str(photos / f"{name}.jpg") for name in ("astronaut", "chelsea", "coffee")
    ]
    code, out, _ = _run("list", *where, "--json")
    assert [(each["id"], each["width"]) for each in json.loads(out)["photographs"]] == [(1, 512), (2, 451), (3, 600)]

    grey = tmp_path / "frame.png"  # the middle of a photograph, in grey, as a film would show it
    Image.fromarray(data.chelsea()[30:270, 60:400]).convert("L").save(grey)
    code, out, _ = _run("search", grey, *where, "--server", triton, "--json")
    first, *others = json.loads(out)["matches"]
    assert code == 0
    assert first["path"] == str(photos / "chelsea.jpg")
    assert first["distance"] < 0.7 < min(each["distance"] for each in others)
    assert first["similarity"] == pytest.approx(1 - first["distance"] ** 2 / 2)
    assert _run("remove", 2, *where)[0] == 0
    code, out, _ = _run("search", grey, *where, "--server", triton, "--count", 1)
    assert (code, len(out.splitlines()), "chelsea" in out) == (0, 1, False)


def test_wrong_use_of_the_command(triton: str, tmp_path: Path) -> None:
    where = ("--library", tmp_path / "library")
    code, _, err = _run("add", tmp_path / "nowhere", *where, "--server", triton)
    assert (code, "no such file or folder" in err) == (2, True)
    assert not (tmp_path / "library").exists()
    code, _, err = _run("list", *where)
    assert (code, "there is no library here" in err) == (2, True)
    code, _, err = _run("search", tmp_path / "nowhere.png", *where, "--server", triton)
    assert (code, "no such file" in err) == (2, True)
    Library(tmp_path / "library", create=True).close()
    code, _, err = _run("remove", 7, *where)
    assert (code, "there is no photograph 7" in err) == (2, True)


def test_a_library_of_another_embedder_is_refused(triton: str, tmp_path: Path) -> None:
    def other(frames: Frames) -> NDArray[np.float32]:
        values = frames.reshape(len(frames), -1)[:, :320].astype(np.float32) + 1
        return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))

    Library(tmp_path / "library", other, create=True).close()
    still = tmp_path / "still.png"
    Image.fromarray(data.coffee()).save(still)
    code, _, err = _run("search", still, "--library", tmp_path / "library", "--server", triton)
    assert code == 1
    assert "made with another scene_embedder" in err.replace("\n", " ")


def test_embeddings_do_not_depend_on_the_batch_and_have_length_1(triton: str) -> None:
    pictures = [data.coffee(), data.astronaut(), data.chelsea()]
    frames = np.stack([embedding_frame(picture) for picture in pictures])
    with Colorizer(triton) as colorizer:
        together = colorizer.embed(frames)
        alone = np.concatenate([colorizer.embed(frame[None]) for frame in frames])
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-4)
    assert np.linalg.norm(together - alone, axis=1).max() < 1e-3


def _film(path: Path, shots: Sequence[tuple[str, int, int]]) -> list[Scene]:
    """A film that pans over photographs, each from a column on for some frames, joined by cuts."""
    scenes: list[Scene] = []
    with av.open(str(path), "w") as film:
        stream = film.add_stream("ffv1", rate=24, width=320, height=240)
        assert isinstance(stream, VideoStream)
        stream.pix_fmt = "gray"
        for name, left, count in shots:
            grey = (255 * color.rgb2gray(getattr(data, name)())).astype(np.uint8)
            for index in range(count):
                window = np.ascontiguousarray(grey[20:260, left + index : left + index + 320])
                film.mux(stream.encode(VideoFrame.from_ndarray(window, "gray")))
            start = scenes[-1].end if scenes else 0
            scenes.append(Scene(start=start, end=start + count, transition="cut" if scenes else "start"))
        film.mux(stream.encode(None))
    return scenes


def test_a_film_is_planned_and_its_references_are_made(triton: str, photos: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    scenes = _film(
        film, [("coffee", 0, 10), ("rocket", 10, 10), ("coffee", 60, 10), ("chelsea", 40, 10), ("coffee", 30, 6)]
    )
    (photos / "coffee.jpg").rename(tmp_path / "still.jpg")
    with Colorizer(triton) as colorizer:
        with Library(tmp_path / "library", colorizer.embed, create=True) as library:
            library.add(sorted(photos.glob("*.jpg")))
            project = plan(film, colorizer, scenes=scenes, given_by_scene={1: tmp_path / "still.jpg"}, library=library)
        origins = [planned.reference.origin for planned in project.scenes]
        assert origins == ["given", "automatic", "earlier", "library", "earlier"]
        assert [planned.reference.scene for planned in project.scenes] == [None, None, 1, None, 1]
        with ReferenceLoader(project, film, colorizer) as loader:
            made = [loader.load(number) for number in range(1, 6)]
            assert loader._made == {}  # what no later scene needs is not kept
        assert made[2] is made[0]
        assert made[4] is made[0]
        assert made[0].origin == f"given {tmp_path / 'still.jpg'}"
        assert made[3].origin == f"library {photos / 'chelsea.jpg'}"
        frame = project.scenes[1].reference.frame
        assert made[1].origin == f"automatic, frame {frame}"
        assert frame is not None

        # the same from the outside: the frame that the project names, coloured, read as a reference
        grey = (255 * color.rgb2gray(data.rocket())).astype(np.uint8)[20:260, frame : frame + 320]
        coloured = colorizer.colorize(np.ascontiguousarray(grey)[None], output="rgb").rgb
        assert coloured is not None
        expected = colorizer.reference(coloured[0])
        assert np.abs(made[1].ab - expected.ab).max() < 1e-3
        single = load_reference(project.scenes[3].reference, project, film, colorizer)
        assert np.array_equal(single.ab, made[3].ab)
        with ReferenceLoader(project, film, colorizer) as loader:  # backwards, as --only might ask
            again = [loader.load(number) for number in (5, 2, 1)]
        assert np.array_equal(again[0].ab, made[0].ab)
        assert np.array_equal(again[1].ab, made[1].ab)


def test_a_project_of_another_film_is_told(triton: str, tmp_path: Path) -> None:
    film = tmp_path / "film.mkv"
    _film(film, [("coffee", 0, 4)])
    choice = ReferenceChoice(origin="automatic", frame=9)
    scene = PlannedScene(scene=Scene(start=0, end=10, transition="start"), reference=choice)
    project = Project(film=str(film), frames=10, frame_rate=None, scenes=(scene,))
    with Colorizer(triton) as colorizer, ReferenceLoader(project, film, colorizer) as loader:
        with pytest.raises(FilmError, match="it has no frame 9"):
            loader.load(1)
        with pytest.raises(InvalidRequest, match="no scene 2"):
            loader.load(2)
