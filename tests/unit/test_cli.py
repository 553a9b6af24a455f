"""The `reeltint` command without a server."""

import re
import sys
from pathlib import Path

import pytest
import typer
from reeltint._cli import main, orderly
from reeltint._cli.colorize import _stills, references, seconds
from reeltint._errors import InvalidRequest
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


def test_no_server_is_try_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    still = ROOT / "docs/demo.png"
    assert _run(monkeypatch, "colorize", still, tmp_path / "out.png", "--server", "127.0.0.1:9") == 3
