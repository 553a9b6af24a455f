"""`reeltint scenes`; what stands in for the server finds all scenes alike."""

import contextlib
import csv
import errno
import io
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from reeltint._cli import main
from reeltint._cli.scenes import timecode
from reeltint._errors import FilmError
from reeltint._film import FilmReader, read_still
from reeltint._film_still import read_still_rgb
from reeltint._library import Library, NewPhotograph, default_folder
from reeltint._project import read_project
from reeltint._scene_sheet import contact_sheet
from reeltint._scenes import Scene
from scene_films import Shot, joins, pan, photographs, render, write_film

scenes_command = sys.modules["reeltint._cli.scenes"]  # the package has the function under that name
NAMES = ("astronaut", "coffee", "chelsea")
SHOTS = (
    Shot(clip="astronaut", first=0, count=40),
    Shot(clip="coffee", first=0, count=70),
    Shot(clip="chelsea", first=0, count=70, kind="dissolve", length=20),
)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shots, a cut and a dissolve: 160 frames."""
    path = tmp_path_factory.mktemp("film") / "reel.mp4"
    moves = [(k / 100, 0.4, 1.3) for k in range(80)]
    shots = {name: np.stack(list(pan(photographs()[name], 180, 320, moves))) for name in NAMES}
    write_film(path, render(shots, SHOTS), rate=Fraction(24000, 1001))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["reeltint", "scenes", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_json(film: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, film, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames"], told["frame_rate"]) == (160, "24000/1001")
    first, second, third = told["scenes"]
    assert first == {
        "scene": 1, "start": 0, "end": 40, "start_time": "00:00:00:00", "end_time": "00:00:01:16",
        "transition": "start", "transition_frames": 0,
    }  # fmt: skip
    assert (second["start"], second["transition"]) == (40, "cut")
    assert (third["scene"], third["transition"], third["end"]) == (3, "dissolve", 160)
    assert third["transition_frames"] == second["end"] - third["start"]
    (_, truth) = joins(SHOTS)
    assert abs(third["start"] - truth.start) <= 8
    assert abs(second["end"] - truth.end) <= 8


def test_csv_and_text_say_the_same(
    film: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, film, "--csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["transition"] for row in rows] == ["start", "cut", "dissolve"]
    assert run(monkeypatch, film) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, row in zip(lines[1:], rows, strict=True):
        last = int(row["end"]) - 1  # a person is told the last frame
        assert line.split()[:3] == [row["scene"], row["start_time"], timecode(last, Fraction(24000, 1001))]
        assert f" {row['start']}..{last} " in line
        assert row["transition"] in line


def test_sheet_shows_one_frame_a_scene(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sheet.png").touch()
    assert run(monkeypatch, film, "--sheet", tmp_path / "sheet.png", "--overwrite") == 0
    sheet = read_still(tmp_path / "sheet.png")
    assert sheet.shape == (2 * 135 + 3 * 6, 2 * 240 + 3 * 6)
    middle = next(pan(photographs()["astronaut"], 180, 320, [(0.2, 0.4, 1.3)]))
    cell = sheet[6 + 30 : 6 + 135, 6 + 30 : 6 + 240].astype(float)
    expected = middle[::4, ::4][10:33, 10:]
    assert np.corrcoef(cell[::3, ::3][:23, :70].ravel(), expected[:23, :70].ravel())[0, 1] > 0.8
    assert (sheet[147:, 252:] == 32).all()  # three scenes leave the fourth place empty
    assert np.ptp(read_still_rgb(tmp_path / "sheet.png"), axis=2).max() <= 1


def test_sheet_of_a_colour_film_is_in_colour(tmp_path: Path) -> None:
    colours = np.array([[200, 40, 30], [40, 60, 190]], np.uint8)
    with av.open(str(tmp_path / "colour.mkv"), "w") as film:
        stream = film.add_stream("ffv1", rate=24, width=64, height=48)
        stream.pix_fmt = "yuv444p"
        for index in range(20):
            frame = np.broadcast_to(colours[index // 10], (48, 64, 3))
            film.mux(stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        film.mux(stream.encode(None))
    with FilmReader(tmp_path / "colour.mkv") as reader:
        sheet = contact_sheet(reader, [Scene(start=0, end=10), Scene(start=10, end=20, transition="cut")])
    for cell, colour in zip((sheet[100, 120], sheet[100, 366]), colours.astype(int), strict=True):
        assert np.abs(cell - colour).max() <= 4, cell


class Alike:
    def embed(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full((len(frames), 4), 0.5, np.float32)


def test_out_compares_scenes(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `colorize` does without a scenes file: by a local server when none is named."""
    asked: list[tuple[object, ...]] = []

    @contextlib.contextmanager
    def connect(*arguments: object) -> Iterator[Alike]:
        asked.append(arguments)
        yield Alike()

    monkeypatch.setattr(scenes_command, "connect", connect)
    assert run(monkeypatch, film, "--sheet", tmp_path / "sheet.png") == 0
    assert asked == []
    assert run(monkeypatch, film, "--out", tmp_path / "a.json") == 0
    assert run(monkeypatch, film, "--out", tmp_path / "b.json", "--server", "triton:8001", "--models", tmp_path) == 0
    assert asked == [(None, None), ("triton:8001", tmp_path)]
    for name in ("a.json", "b.json"):
        project = read_project(tmp_path / name)
        assert [(p.reference.origin, p.reference.scene) for p in project.scenes] == [
            ("automatic", None),
            ("earlier", 1),
            ("earlier", 1),
        ]


def test_a_library_that_nobody_names_is_told(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a scene is left to automatic colour; it is not searched."""
    alike = Alike()
    monkeypatch.setattr(scenes_command, "connect", lambda *_: contextlib.nullcontext(alike))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def told(*arguments: object) -> bool:
        (tmp_path / "reel.json").unlink(missing_ok=True)
        assert run(monkeypatch, film, "--out", tmp_path / "reel.json", *arguments) == 0
        origins = [planned.reference.origin for planned in read_project(tmp_path / "reel.json").scenes]
        assert origins[0] == "automatic"
        err = capsys.readouterr().err
        line = f"--library {default_folder()} would search your library, photographs in it: 1\n"
        assert ("library" in err) == (line in err)
        return line in err

    assert not told()
    with Library(default_folder(), alike.embed, create=True) as library:
        assert not told()
        vector = np.array([1, 0, 0, 0], np.float32)
        library.insert([NewPhotograph(path=tmp_path / "a.png", digest=b"a", width=1, height=1, embedding=vector)])
    assert told()
    assert not told("--library", default_folder())
    assert not told("--no-server")


def test_what_cannot_be_written_is_told_before_the_pass(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = tmp_path / "reel.scenes.json"
    edited.write_text("hours of work")
    (tmp_path / "still.png").write_text("an original")
    monkeypatch.setattr(scenes_command, "FilmReader", None)
    for option, path, code, said in (
        ("--out", edited, 2, "reel.scenes.json: is there already"),
        ("--out", tmp_path / "nowhere" / "reel.json", 2, "there is no folder"),
        ("--out", tmp_path / ("x" * 300), 1, "cannot be written there"),
        ("--sheet", tmp_path / "nowhere" / "sheet.png", 2, "there is no folder"),
        ("--sheet", tmp_path / "still.png", 2, "still.png: is there already; --overwrite replaces it"),
        ("--sheet", tmp_path / "sheet.xyz", 2, "sheet.xyz: the suffix is none of"),
    ):
        assert run(monkeypatch, film, option, path) == code
        assert said in capsys.readouterr().err
    assert edited.read_text() == "hours of work"
    assert sorted(tmp_path.iterdir()) == [edited, tmp_path / "still.png"]
    assert run(monkeypatch, film, "--out", edited, "--overwrite") == 2
    assert "--overwrite is for --sheet" in capsys.readouterr().err


def test_the_listing_is_told_although_a_file_cannot_be_written(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, _: object) -> None:
        raise FilmError(path, "cannot be written (no space left on device)")

    monkeypatch.setattr(scenes_command, "write_project", full)
    assert run(monkeypatch, film, "--no-server", "--out", tmp_path / "reel.scenes.json", "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["scenes"]) == 3


def test_files_are_written_although_nobody_reads_the_listing(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "broken pipe")

    monkeypatch.setattr(scenes_command, "_tell", gone)
    files = ("--out", tmp_path / "reel.scenes.json", "--sheet", tmp_path / "sheet.png")
    assert run(monkeypatch, film, "--no-server", *files) == 1
    assert len(read_project(tmp_path / "reel.scenes.json").scenes) == 3
    assert read_still(tmp_path / "sheet.png").size


def test_out_without_a_server(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, film, "--no-server", "--out", tmp_path / "reel.scenes.json", "--json") == 0
    told = json.loads(capsys.readouterr().out)["scenes"]
    project = read_project(tmp_path / "reel.scenes.json")
    assert [(p.scene.start, p.scene.end, p.scene.transition) for p in project.scenes] == [
        (row["start"], row["end"], row["transition"]) for row in told
    ]
    assert {planned.reference.origin for planned in project.scenes} == {"automatic"}
    for planned in project.scenes:
        assert planned.reference.frame is not None
        assert planned.scene.start <= planned.reference.frame < planned.scene.end


def test_shortest_scene(film: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, film, "--json", "--min-scene", 60) == 0
    assert len(json.loads(capsys.readouterr().out)["scenes"]) == 2


def test_wrong_use(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "absent.mp4") == 2
    assert "absent.mp4: no such file" in capsys.readouterr().err
    assert run(monkeypatch, film, "--json", "--csv") == 2
    assert "--json and --csv" in capsys.readouterr().err
    assert run(monkeypatch, film, "--min-scene", 0) == 2
    for option in (["--server", "127.0.0.1:9"], ["--models", "m"], ["--library", "l"], ["--no-server"]):
        assert run(monkeypatch, film, *option) == 2
        assert f"{option[0]} is for --out" in capsys.readouterr().err
    assert run(monkeypatch, film, "--out", tmp_path / "a.json", "--no-server", "--server", "127.0.0.1:9") == 2
    assert "--server does not go with --no-server" in capsys.readouterr().err
    (tmp_path / "text.mp4").write_text("no film")
    assert run(monkeypatch, tmp_path / "text.mp4") == 1
    assert "text.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("frame", "rate", "expected"),
    [
        (0, Fraction(25), "00:00:00:00"),
        (24 * 3600 * 2 + 24 * 61 + 3, Fraction(24), "02:01:01:03"),
        (30 * 10 + 29, Fraction(30000, 1001), "00:00:10:29"),
        (3, Fraction(1, 2), "00:00:03:00"),
    ],
)
def test_timecodes(frame: int, rate: Fraction, expected: str) -> None:
    assert timecode(frame, rate) == expected
