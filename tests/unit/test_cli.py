"""The `reeltint` command without a server."""

import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from films import hurt, make_film
from numpy.typing import NDArray
from reeltint._cli import main, orderly
from reeltint._cli.colorize import _stills, _tell, check_free, references, seconds
from reeltint._colorize import check_project, colorize_stills
from reeltint._errors import DeadlineExceeded, FilmError, InvalidRequest, ServerUnreachable
from reeltint._film import FilmReader, write_still
from reeltint._project import PlannedScene, Project, ReferenceChoice, write_project
from reeltint._scenes import Scene
from reeltint_export._cli import app as export_app
from reeltint_training._cli import app as train_app
from support import ROOT
from typer.main import get_command


@pytest.mark.parametrize(
    ("command", "tool"), [("reeltint", main), ("reeltint-train", train_app), ("reeltint-export", export_app)]
)
def test_every_command_has_help_and_is_in_the_readme(command: str, tool: typer.Typer) -> None:
    readme = (ROOT / "README.md").read_text()
    group = get_command(tool)
    for name, sub in getattr(group, "commands", {"": group}).items():
        assert sub.help, name
        assert f"{command} {name}".strip() in readme
        for parameter in sub.params:
            if parameter.param_type_name == "option" and command == "reeltint":
                assert getattr(parameter, "help", None), f"{name} {parameter.name}"


@pytest.mark.parametrize(("text", "expected"), [("90.5", 90.5), ("1:30.5", 90.5), ("1:00:00", 3600), ("0", 0)])
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "a", "1:2:3:4", "-3", "1:-3", "nan", "inf"])
def test_no_times(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        seconds(text)


def test_folders_of_stills_do_not_collide(tmp_path: Path) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("a.jpg", "a.png", "sub/a.jpg", "readme.txt"):
        (tmp_path / "in" / name).touch()
    targets = _stills(tmp_path / "in", tmp_path / "out")
    assert len(targets) == len(set(targets.values())) == 3
    assert targets[tmp_path / "in/sub/a.jpg"] == tmp_path / "out/sub/a.png"
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidRequest, match="no stills"):
        _stills(tmp_path / "out", tmp_path)


def test_stills_are_not_written_over(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "in/coloured"
    (out / "sub").mkdir(parents=True)
    (folder / "new").mkdir()
    for name in ("a.png", "new/a.jpg", "coloured/a.png", "coloured/sub/b.png"):
        (folder / name).touch()
    (tmp_path / "link").symlink_to(folder)
    assert sorted(_stills(folder, out)) == [folder / "a.png", folder / "new/a.jpg"]
    assert _stills(folder / "new", tmp_path / "other") == {folder / "new/a.jpg": tmp_path / "other/a.png"}
    (folder / "new/a.png").touch()
    (folder / "new/new").mkdir()
    (folder / "new/new/a.png").touch()
    for source, target in (
        (folder, folder),
        (folder, tmp_path / "link"),
        (folder / "a.png", tmp_path / "link/a.png"),
        (folder / "new", folder),
    ):
        with pytest.raises(InvalidRequest, match=r"OUT is IN|would be overwritten"):
            _stills(source, target)


class _Fake:
    """A server that cannot colour stills of some sizes."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors

    def colorize(self, frames: NDArray[np.uint8], **_: Any) -> Any:
        if error := self.errors.get(f"w{frames.shape[2]}"):
            raise error
        return SimpleNamespace(rgb=np.repeat(frames[..., None], 3, 3))


def test_a_still_that_the_server_refuses_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for width in (4, 5, 6):
        write_still(tmp_path / f"{width}[wide].png", np.zeros((3, width, 3), np.uint8))
    stills = {path: tmp_path / "out" / path.name for path in sorted(tmp_path.glob("*.png"))}
    server: Any = _Fake(w5=DeadlineExceeded("no answer in 60 s"))

    reports, failures = colorize_stills(stills, server)

    assert [report.source.name for report in reports] == ["4[wide].png", "6[wide].png"]
    assert [str(error) for error in failures] == [f"{tmp_path}/5[wide].png: not coloured: no answer in 60 s"]
    assert isinstance(failures[0].__cause__, DeadlineExceeded)
    _tell(reports, [*failures, FilmError("a[/b].png", "no")], tmp_path / "[out]", as_json=False)
    said = capsys.readouterr().err
    assert "5[wide].png" in said
    assert "[out]: 2 frames" in said
    server = _Fake(w5=ServerUnreachable("nothing answers"))
    with pytest.raises(ServerUnreachable):
        colorize_stills(stills, server)
    with pytest.raises(InvalidRequest, match="would be overwritten"):
        colorize_stills({path: path for path in stills}, server)


def test_stills_that_are_there_are_not_replaced(tmp_path: Path) -> None:
    there = [tmp_path / name for name in ("a.png", "b.png")]
    check_free([*there, tmp_path / "c.png"], overwrite=False)
    for path in there:
        path.touch()
    with pytest.raises(InvalidRequest, match=r"b.png: is there already; --overwrite replaces it"):
        check_free([tmp_path / "c.png", there[1]], overwrite=False)
    with pytest.raises(InvalidRequest, match=r"a.png: is there already, and 1 more like it; --overwrite replaces them"):
        check_free(there, overwrite=False)
    check_free(there, overwrite=True)
    for target, said in ((tmp_path, "it is a folder"), (tmp_path / "a.doc", "a.doc: the suffix is none of")):
        with pytest.raises(InvalidRequest, match=said):
            _stills(there[0], target)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"reeltint {version('reeltint')}\n"


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["reeltint", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.mp4").write_text("no film")
    (tmp_path / "still.png").write_text("no still")
    colorize = ("colorize", tmp_path / "no.mp4", tmp_path / "out.mp4")
    assert _run(monkeypatch, "colorize", tmp_path / "absent.mp4", tmp_path / "out.mp4") == 2
    assert "absent.mp4: no such file" in capsys.readouterr().err
    assert _run(monkeypatch, *colorize) == 1
    assert "no.mp4" in capsys.readouterr().err
    assert _run(monkeypatch, *colorize, "--start", "x") == 2
    assert _run(monkeypatch, "colorize", tmp_path / "still.png", tmp_path / "o.png", "--start", "1") == 2
    assert "--start" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


def test_options_of_scenes_that_do_not_go_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused with one sentence before a server is started."""
    for name in ("reel.mkv", "still.png", "3=still.png"):
        (tmp_path / name).touch()
    plan, still = tmp_path / "reel.scenes.json", tmp_path / "still.png"
    choice = ReferenceChoice(origin="automatic", frame=3)
    scene = PlannedScene(scene=Scene(start=0, end=9, transition="start"), reference=choice)
    write_project(plan, Project(film=str(tmp_path / "reel.mkv"), frames=9, frame_rate=None, scenes=(scene,)))
    wrong: dict[tuple[object, ...], str] = {
        ("--only", "1"): "no .*out.mkv whose other scenes",
        ("--only", "1,x"): "--only 1,x: numbers of scenes",
        ("--only", "0"): "--only 0: numbers",
        ("--only", ""): "--only : numbers",
        ("--only", "1", "--side-by-side"): "--only does not go with --side-by-side",
        ("--only", "1", "--end", "3"): "--only does not go with --end",
        ("--reference", tmp_path / "absent.png"): "absent.png: no such file",
        ("--reference", f"0={still}"): "counted from 1",
        ("--reference", still, "--reference", still): "the film has one already",
        ("--reference", f"2={still}", "--reference", f"2={still}"): "scene 2 has one already",
        ("--scenes", plan, "--reference", f"2={still}"): "has 1 scene",
        ("--scenes", plan, "--reference", still): "--reference STILL does not go with --scenes",
        ("--scenes", plan, "--library", tmp_path): "--library does not go with --scenes",
        ("--scenes", plan, "--min-scene", "4"): "--min-scene does not go",
        ("--scenes", still): "still.png, line 1: not JSON",
        ("--no-scenes", "--smoothing", "1"): "--smoothing does not go with --no-scenes",
        ("--no-scenes", "--reference", still): "--reference does not go with --no-scenes",
        ("--saturation", "2.5"): "saturation",
        ("--smoothing", "-1"): "smoothing",
    }
    for options, said in wrong.items():
        assert _run(monkeypatch, "colorize", tmp_path / "reel.mkv", tmp_path / "out.mkv", *options) == 2, options
        assert re.search(said, capsys.readouterr().err), options
    assert _run(monkeypatch, "colorize", still, tmp_path / "out.png", "--only", "1") == 2
    assert "--only is for films" in capsys.readouterr().err


NOWHERE = ("--server", "127.0.0.1:9")


def test_what_is_wrong_with_the_output_is_told_before_a_server_is_asked(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    film, out, lossless = (tmp_path / name for name in ("reel.avi", "out.mkv", "lossless.mkv"))
    plan, shorter = tmp_path / "reel.scenes.json", tmp_path / "shorter.json"
    make_film(film)
    make_film(lossless)
    choice = ReferenceChoice(origin="automatic", frame=3)
    scene = PlannedScene(scene=Scene(start=0, end=20, transition="start"), reference=choice)
    project = Project(film=str(film), frames=20, frame_rate=None, scenes=(scene,))
    write_project(plan, project)
    other = replace(project, film=str(tmp_path / "other.avi"))
    scene = replace(scene, scene=replace(scene.scene, end=19))
    write_project(shorter, replace(other, frames=19, scenes=(scene,)))
    before = sorted(tmp_path.iterdir())
    wrong: dict[tuple[object, ...], str] = {
        (film,): "would overwrite the film",
        (film, "--overwrite"): "would overwrite the film",
        (lossless,): "lossless.mkv: is there already; --overwrite replaces it",
        (tmp_path / "none/out.mkv",): "there is no folder",
        (tmp_path,): "it is a folder",
        (tmp_path / "out",): "names no container",
        (tmp_path / "out.film",): "names no container",
        (out, "--encoder", "libx246"): "no encoder 'libx246'",
        (out, "--preset", "soon"): "libx264 refuses .*preset=soon",
        (out, "--pixel-format", "yuv"): "no pixel format 'yuv'",
        (out, "--start", "3", "--end", "2"): "nothing lies between 3.0 s and 2.0 s",
        (lossless, "--scenes", plan, "--only", "1"): "is ffv1, and encoder libx264 would make it h264",
        (out, "--scenes", shorter): "shorter.json: is for .*other.avi with 19 frames, .*reel.avi has 20",
        (out, "--server", "http://localhost:8000"): 'address: "host:port" was expected, not .http://',
    }
    for arguments, said in wrong.items():
        assert _run(monkeypatch, "colorize", film, *NOWHERE, *arguments) == 2, arguments
        assert re.search(said, capsys.readouterr().err.replace("\n", "")), arguments
        assert sorted(tmp_path.iterdir()) == before
    with FilmReader(film) as reader:
        check_project(project, plan, reader)
        assert not caplog.text
        check_project(other, plan, reader)
    assert f"{plan}: the scenes file names {tmp_path / 'other.avi'}" in caplog.text


def test_damage_in_the_first_packet_can_be_tolerated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, packet = hurt(tmp_path / "reel.mkv", 0)
    data[packet] = bytes(len(data[packet]))
    (tmp_path / "reel.mkv").write_bytes(data)
    command = ("colorize", tmp_path / "reel.mkv", tmp_path / "out.mkv", *NOWHERE)
    assert _run(monkeypatch, *command) == 1
    assert "at 0.000 s: a picture after this cannot be decoded" in capsys.readouterr().err
    assert _run(monkeypatch, *command, "--tolerate-damage") == 3


def test_references_of_the_film_and_of_scenes(tmp_path: Path) -> None:
    film, third = tmp_path / "a.png", tmp_path / "b=c.png"
    film.touch()
    third.touch()
    assert references([]) == (None, {})
    assert references([str(film), f"3={third}", f"12={film}"]) == (film, {3: third, 12: film})
    assert references([str(third)]) == (third, {})


def test_an_interrupt_says_what_was_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        error = KeyboardInterrupt()
        error.add_note("3 pictures are kept")
        raise error

    with pytest.raises(typer.Exit) as end:
        orderly(stop)()
    assert end.value.exit_code == 130
    assert capsys.readouterr().err == "reeltint: interrupted\nreeltint: 3 pictures are kept\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_a_film_that_plays(tmp_path: Path, number: signal.Signals) -> None:
    make_film(tmp_path / "in.mkv", pts=range(60))
    script = textwrap.dedent(f"""
        import time
        import numpy as np
        from reeltint._cli import main, orderly
        from reeltint._film import FilmReader, FilmWriter
        def command():
            with FilmReader({str(tmp_path / "in.mkv")!r}) as film:
                with FilmWriter({str(tmp_path / "out.mp4")!r}, film, preset="ultrafast") as out:
                    for frame in film:
                        out.write(frame, np.full((2, 24, 32), 99, np.uint8))
                    print("written", flush=True)
                    time.sleep(60)
        main.command("wait")(orderly(command))
        main(["wait"])
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    partial = tmp_path / "out.partial.mp4"
    assert said == f"reeltint: interrupted\nreeltint: {tmp_path / 'out.mp4'}: 60 pictures are kept in {partial}\n"
    with FilmReader(partial) as film:
        assert len(list(film)) == 60


def test_no_server_is_try_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    still = ROOT / "docs/demo.png"
    assert _run(monkeypatch, "colorize", still, tmp_path / "out.png", "--server", "127.0.0.1:9") == 3
