"""`reeltint colorize` by scenes, from file to file through the real server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from reeltint import Colorizer, FilmError, InvalidRequest
from reeltint._colorize import colorize_film
from reeltint._film import FilmReader, write_still
from reeltint._film_chroma import ChromaReader
from reeltint._library import Library, default_folder
from reeltint._project import PlannedScene, Project, ReferenceChoice, write_project
from reeltint._scenes import Scene, Transition
from skimage import data

COMMAND = [sys.executable, "-c", "from reeltint._cli import main; main()", "colorize"]
CUT, DISSOLVE, FRAMES = 12, (22, 27), 34
Array = NDArray[Any]


def run(*arguments: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def pan(photograph: Array, index: int) -> Array:
    """A window of 240 x 160 that glides over a photograph."""
    window: Array = photograph[60:220, 40 + 2 * index : 280 + 2 * index].astype(np.float64)
    return window


def frames() -> Iterator[Array]:
    """A cup, a cut, a cat, a dissolve of five frames, the cup again: in colour, [160, 240, 3]."""
    cup, cat = data.coffee(), data.chelsea()
    for index in range(FRAMES):
        share = float(np.clip((index - DISSOLVE[0] + 1) / (DISSOLVE[1] - DISSOLVE[0] + 1), 0, 1))
        picture = pan(cup, index) if index < CUT else (1 - share) * pan(cat, index - CUT) + share * pan(cup, index)
        yield picture.round().astype(np.uint8)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "reel.mkv"
    with av.open(str(path), "w") as output:
        video = output.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 240, 160, "yuv420p"
        for index, picture in enumerate(frames()):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    write_still(path.with_name("cup.png"), data.coffee())
    write_still(path.with_name("cat.png"), data.chelsea())
    return path


def project(film: Path) -> Project:
    def planned(start: int, end: int, transition: Transition, still: str) -> PlannedScene:
        choice = ReferenceChoice(origin="given", path=film.with_name(still))
        return PlannedScene(scene=Scene(start=start, end=end, transition=transition), reference=choice)

    scenes = (
        planned(0, CUT, "start", "cup.png"),
        planned(CUT, DISSOLVE[1], "cut", "cat.png"),
        planned(DISSOLVE[0], FRAMES, "dissolve", "cup.png"),
    )
    return Project(film=str(film), frames=FRAMES, frame_rate=Fraction(25), scenes=scenes)


def read(source: Path, coloured: Path) -> list[tuple[Array, Array]]:
    """Luma and chroma of each frame of the result."""
    with FilmReader(source) as reader, ChromaReader(coloured, reader) as chroma, FilmReader(coloured) as luma:
        planes = [values for _, values in chroma.beside(reader)]
        return [(frame.luma.copy(), values) for frame, values in zip(luma, planes, strict=True)]


def distance(one: Array, other: Array) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def test_scenes_are_found_and_coloured(triton: str, film: Path, tmp_path: Path) -> None:
    target = tmp_path / "color.mkv"
    done = run(
        film, target, "--server", triton, "--encoder", "ffv1", "--json", "--reference", film.with_name("cup.png")
    )
    (report,) = json.loads(done.stdout)["reports"]
    assert report["frames"] == FRAMES
    assert [scene["start"] for scene in report["scenes"]][:2] == [0, CUT]
    assert all(scene["origin"] == "given" and 0 < scene["confidence"] <= 1 for scene in report["scenes"])
    assert report["scenes"][0]["confidence"] > report["scenes"][1]["confidence"]  # a cup is no reference for a cat
    assert f"scene 1, frames 0 to {CUT - 1}: given" in done.stderr
    with FilmReader(film) as reader:
        source = [frame.luma.copy() for frame in reader]
    result = read(film, target)
    assert all(np.array_equal(luma, before) for (luma, _), before in zip(result, source, strict=True))
    assert distance(result[5][1], np.full_like(result[5][1], 128)) > 2


def test_without_references_each_scene_keeps_its_own_colours(
    triton: str, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with Colorizer(triton) as colorizer, Library(default_folder(), colorizer.embed, create=True) as library:
        library.add([film.with_name("cup.png")])
    done = run(film, tmp_path / "color.mp4", "--server", triton, "--json", "--smoothing", 0)
    (report,) = json.loads(done.stdout)["reports"]
    assert {scene["origin"] for scene in report["scenes"]} <= {"automatic", "earlier"}
    assert report["scenes"][0]["origin"] == "automatic"
    assert f"--library {default_folder()} would search your library, photographs in it: 1" in done.stderr


def test_the_dissolve_goes_from_one_reference_to_the_other(triton: str, film: Path, tmp_path: Path) -> None:
    """Near the truth's own cross-fade: nearer than the same frames by one of the two references."""
    target = tmp_path / "color.mkv"
    with Colorizer(triton) as colorizer:
        whole = project(film)
        report = colorize_film(film, target, colorizer, project=whole, encoder="ffv1")
        cup, cat, again = whole.scenes
        only_cat = replace(whole, scenes=(cup, cat, replace(again, reference=cat.reference)))
        colorize_film(film, tmp_path / "cat.mkv", colorizer, project=only_cat, encoder="ffv1")
    assert (report.frames, report.warnings) == (FRAMES, [])
    assert [scene.number for scene in report.scenes] == [1, 2, 3]
    both, other = read(film, target), read(film, tmp_path / "cat.mkv")
    changes = [distance(both[index][1], other[index][1]) for index in range(DISSOLVE[0] - 1, DISSOLVE[1] + 1)]
    assert changes[0] == 0  # before the dissolve nothing of the other scene
    assert changes == sorted(changes)
    assert changes[1] < 0.4 * changes[-1]


def test_single_scenes_are_coloured_anew(triton: str, film: Path, tmp_path: Path) -> None:
    """With a lossless encoder the other frames keep every bit of luma and chroma."""
    target, plan = tmp_path / "color.mkv", tmp_path / "reel.scenes.json"
    write_project(plan, project(film))
    options = ("--server", triton, "--scenes", plan, "--encoder", "ffv1", "--smoothing", 0)
    target.write_bytes(b"an original")
    assert "color.mkv: is there already" in run(film, target, *options, code=2).stderr
    assert target.read_bytes() == b"an original"
    run(film, target, *options, "--overwrite")
    before = read(film, target)
    done = run(film, target, *options, "--only", 1, "--reference", f"1={film.with_name('cat.png')}", "--json")
    (report,) = json.loads(done.stdout)["reports"]
    assert [scene["confidence"] is not None for scene in report["scenes"]] == [True, False, False]
    (first, *_) = report["scenes"]
    assert (first["origin"], first["path"]) == ("given", str(film.with_name("cat.png")))
    assert (first["scene"], first["frame"]) == (None, None)
    after = read(film, target)
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        assert np.array_equal(old[0], new[0])
        assert np.array_equal(old[1], new[1]) == (index >= CUT), index
    # the frames of the dissolve are scene 2's as well
    run(film, target, *options, "--only", "2", "--saturation", 0)
    last = read(film, target)
    changed = [index for index in range(FRAMES) if not np.array_equal(after[index][1], last[index][1])]
    assert changed == list(range(CUT, DISSOLVE[1]))
    assert distance(last[CUT][1], np.full_like(last[CUT][1], 128)) < 0.6  # saturation 0 is grey
    with Colorizer(triton) as colorizer, pytest.raises(InvalidRequest, match="is ffv1, and encoder libx264"):
        colorize_film(film, target, colorizer, project=project(film), only=[1])


def test_saturation_is_part_of_the_plan(triton: str, film: Path, tmp_path: Path) -> None:
    with Colorizer(triton) as colorizer:
        results = []
        for saturation in (0.5, 1.0):
            scenes = tuple(replace(each, saturation=saturation, smoothing=0.0) for each in project(film).scenes)
            target = tmp_path / f"{saturation}.mkv"
            colorize_film(
                film, target, colorizer, project=replace(project(film), scenes=scenes), encoder="ffv1", end_s=0.3
            )
            with FilmReader(film, end_s=0.3) as reader, ChromaReader(target, reader) as chroma:
                results.append(np.stack([values for _, values in chroma.beside(reader)]).astype(int) - 128)
    assert results[0].shape == results[1].shape == (8, 2, 80, 120)
    single, double = (np.abs(result).mean() for result in results)
    assert 1.7 < double / single < 2.1


def test_part_of_a_film_by_its_scenes_file(triton: str, film: Path, tmp_path: Path) -> None:
    """Frame numbers of the file are those of the whole film: the same frames have the same colours."""
    still = replace(project(film), scenes=tuple(replace(each, smoothing=0.0) for each in project(film).scenes))
    with Colorizer(triton) as colorizer:
        colorize_film(film, tmp_path / "whole.mkv", colorizer, project=still, encoder="ffv1")
        colorize_film(film, tmp_path / "part.mkv", colorizer, project=still, encoder="ffv1", start_s=0.8, end_s=1.2)
    whole = read(film, tmp_path / "whole.mkv")
    with FilmReader(film, start_s=0.8, end_s=1.2) as reader, ChromaReader(tmp_path / "part.mkv", reader) as chroma:
        part = [values for _, values in chroma.beside(reader)]
    assert len(part) == 10
    assert max(distance(a, b) for a, (_, b) in zip(part, whole[20:30], strict=True)) < 0.05


def test_a_film_that_is_not_the_projects(
    triton: str, film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = project(film)
    short = replace(short, frames=DISSOLVE[1], scenes=short.scenes[:2])
    with Colorizer(triton) as colorizer:
        with pytest.raises(FilmError, match=r"more frames than the 27 of its scenes; 27 pictures are kept"):
            colorize_film(film, tmp_path / "color.mkv", colorizer, project=short)
        first, second, third = project(film).scenes
        third = replace(third, scene=replace(third.scene, end=40))
        longer = replace(project(film), frames=40, scenes=(first, second, third))
        report = colorize_film(film, tmp_path / "color.mkv", colorizer, project=longer)
    assert any("ends with frame 33" in warning for warning in report.warnings)
    assert f"{film}: the film ends with frame 33, its scenes with frame 39" in caplog.text


def test_only_goes_with_a_whole_film_and_its_project(triton: str, film: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"only": [4], "project": project(film)}, "scenes 1 to 3"),
        ({"only": [1], "project": project(film), "start_s": 1.0}, "whole film"),
        ({"only": [1], "project": project(film), "side_by_side": True}, "whole film"),
        ({"only": [1]}, "project"),
    ]
    with Colorizer(triton) as colorizer:
        for options, said in wrong:
            with pytest.raises(InvalidRequest, match=said):
                colorize_film(film, tmp_path / "color.mkv", colorizer, **options)
    assert not list(tmp_path.iterdir())
