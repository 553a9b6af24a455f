"""The project file: what is written is what is read, and what is wrong is named by line and field."""

import json
import os
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reeltint import _project as _project_module
from reeltint._errors import InvalidRequest
from reeltint._film import write_still
from reeltint._project import PlannedScene, Project, ReferenceChoice, read_project, write_project
from reeltint._scenes import Scene
from support import ROOT


def _picture(path: Path) -> None:
    write_still(path, np.full((4, 4, 3), (99, 66, 33), np.uint8))


def _project(folder: Path) -> Project:
    still = folder / "stills" / "hafen ünder.png"
    still.parent.mkdir(exist_ok=True)
    _picture(still)
    return Project(
        film=str(folder / "reel.mov"),
        frames=330,
        frame_rate=Fraction(24000, 1001),
        scenes=(
            PlannedScene(
                scene=Scene(start=0, end=120, transition="start"),
                reference=ReferenceChoice(origin="given", path=still),
                saturation=0.8,
                smoothing=0.0,
            ),
            PlannedScene(
                scene=Scene(start=100, end=250, transition="dissolve"),
                reference=ReferenceChoice(origin="automatic", frame=180),
            ),
            PlannedScene(
                scene=Scene(start=250, end=290, transition="cut"),
                reference=ReferenceChoice(origin="earlier", scene=1, similarity=0.9712),
            ),
            PlannedScene(
                scene=Scene(start=290, end=330, transition="fade"),
                reference=ReferenceChoice(origin="library", path=still, similarity=0.8),
            ),
        ),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    project = _project(tmp_path)
    path = tmp_path / "film.scenes.json"
    write_project(path, project)
    assert read_project(path) == project
    lines = path.read_text().splitlines()
    assert sum('"start"' in line for line in lines) == 4  # one scene a line, for editing by hand
    assert '"stills/hafen ünder.png"' in path.read_text()  # from the file's folder
    assert json.loads(path.read_text())["frame_rate"] == "24000/1001"
    assert [p.name for p in tmp_path.iterdir() if p.name != "stills"] == ["film.scenes.json"]


def test_editors_and_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """A byte order mark is passed over, and the odd bytes of a name come back as they were."""
    project = _project(tmp_path)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    (tmp_path / "stills" / "hafen ünder.png").rename(odd)
    scenes = [replace(p, reference=replace(p.reference, path=p.reference.path and odd)) for p in project.scenes]
    project = replace(project, film=str(odd), scenes=tuple(scenes))
    path = tmp_path / "film.scenes.json"
    write_project(path, project)
    path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert read_project(path) == project


def test_a_project_moves_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_project(tmp_path / "a" / "film.scenes.json", _project(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    moved = read_project(tmp_path / "b" / "film.scenes.json")
    assert moved.film == str(tmp_path / "b" / "reel.mov")
    assert moved.scenes[0].reference.path == tmp_path / "b" / "stills" / "hafen ünder.png"


def test_what_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "film.scenes.json"
    path.write_text(
        '{"reeltint": 1, "film": "reel.mov", "frames": 2, "scenes": ['
        '{"start": 0, "end": 2, "transition": "start", "reference": {"origin": "automatic", "frame": 1}}]}'
    )
    (scene,) = read_project(path).scenes
    assert (scene.saturation, read_project(path).frame_rate) == (1.0, None)
    assert 0 <= scene.smoothing <= 1


def test_an_existing_project_stays_whole_when_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be written"):
        write_project(tmp_path / "nowhere" / "film.scenes.json", _project(tmp_path))


@pytest.mark.parametrize("text", [(ROOT / "docs/scenes.md").read_text(), _project_module.__doc__ or ""])
def test_the_documented_example_is_a_project(tmp_path: Path, text: str) -> None:
    example = re.search(r"\n    \{\n.*?\n    \}\n", text, re.DOTALL)
    assert example
    path = tmp_path / "reel.scenes.json"
    path.write_text(example[0])
    _picture(tmp_path / "harbour.png")
    project = read_project(path)
    assert [planned.reference.origin for planned in project.scenes] == ["given", "automatic", "earlier"]


DROP: Any = object()


@pytest.mark.parametrize(
    ("place", "value", "line", "message"),
    [
        (("frame",), 3, 2, "frame: there is no such field here; there are film,"),
        (("film",), DROP, 1, "film: is missing"),
        (("film",), 3, 2, "film: words in quotes were expected, not 3"),
        (("reeltint",), 2, 2, "reeltint: this is format 2; format 1 can be read"),
        (("frames",), 331, 9, "scene 4, end: the film has 331 frames, the scenes end at 330"),
        (("frames",), 0, 2, "frames: a whole number from 1 on was expected, not 0"),
        (("frames",), True, 2, "frames: a whole number from 1 on was expected, not true"),
        (("frame_rate",), "24,5", 2, "frame_rate: frames a second were expected"),
        (("frame_rate",), "1/0", 2, "frame_rate: frames a second"),
        (("frame_rate",), -25, 2, "frame_rate: frames a second"),
        ((0,), [], 4, "scene 1: an object { … } was expected, not a list"),
        ((0, "start"), 1, 4, "scene 1, start: the first scene starts at frame 0, not 1"),
        ((0, "transition"), "cut", 4, 'scene 1, transition: the first scene\'s is "start"'),
        ((1, "transition"), "start", 5, 'scene 2, transition: only the first scene\'s is "start"'),
        (
            (1, "transition"),
            "wipe",
            5,
            'scene 2, transition: "start" or "cut" or "dissolve" or "fade" was expected, not',
        ),
        ((1, "transition"), "cut", 5, "scene 2, start: overlaps scene 1, which ends at 120; only a dissolve or a fade"),
        ((1, "start"), 121, 5, "scene 2, start: frames 120 to 120 are in no scene"),
        ((1, "start"), 0, 5, "scene 2, start: out of order, scene 1 is 0 to 120"),
        ((1, "start"), 100.0, 5, "scene 2, start: a whole number from 0 on was expected, not 100"),
        ((1, "end"), 90, 5, "scene 2, end: must be after its start (100), not 90"),
        ((1, "end"), 110, 5, "scene 2, start: out of order"),
        ((1, "end"), 400, 5, "scene 2, end: the film has 330 frames, not 400"),
        ((3, "start"), 240, 9, "scene 4, start: out of order, scene 3 is 250 to 290"),
        ((2, "saturation"), 2.5, 8, "scene 3, saturation: a number from 0 to 2 was expected, not 2.5"),
        ((2, "saturation"), "1", 8, 'scene 3, saturation: a number from 0 to 2 was expected, not "1"'),
        ((2, "smoothing"), -0.1, 8, "scene 3, smoothing: a number from 0 to 1 was expected, not -0.1"),
        ((2, "smoothing"), float("nan"), 8, "scene 3, smoothing: a number from 0 to 1 was expected, not nan"),
        ((2, "reference", "origin"), "dream", 7, "scene 3, reference.origin: "),
        ((2, "reference", "scene"), 3, 7, "scene 3, reference.scene: an earlier scene was expected, 1 to 2, not 3"),
        ((2, "reference", "scene"), DROP, 7, "scene 3, reference.scene: is missing"),
        ((2, "reference", "path"), "a.png", 7, "scene 3, reference.path: there is no such field here"),
        ((2, "reference", "similarity"), 1.2, 7, "scene 3, reference.similarity: a number from -1 to 1"),
        ((2, "reference"), "a.png", 7, 'scene 3, reference: an object { … } was expected, not "a.png"'),
        ((1, "reference", "frame"), 250, 6, "scene 2, reference.frame: a frame of the scene was expected, 100 to 249"),
        ((0, "reference", "path"), "b.png", 4, "scene 1, reference.path: {folder}/b.png: not a picture"),
        ((0, "reference", "path"), "stills", 4, "scene 1, reference.path: {folder}/stills: not a picture"),
        ((0, "reference", "path"), "film.scenes.json", 4, "scene 1, reference.path: {folder}/film.scenes.json: not a"),
        ((0, "reference", "path"), "grey.png", 4, "scene 1, reference.path: {folder}/grey.png: it has no colour"),
        ((0, "reference", "path"), "x" * 300, 4, "scene 1, reference.path: {folder}/xxx"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(
    tmp_path: Path, place: tuple[Any, ...], value: Any, line: int, message: str
) -> None:
    path = tmp_path / "film.scenes.json"
    write_project(path, _project(tmp_path))
    write_still(tmp_path / "grey.png", np.full((4, 4, 3), 99, np.uint8))
    content = json.loads(path.read_text())
    field = content if isinstance(place[0], str) else content["scenes"]
    for name in place[:-1]:
        field = field[name]
    if value is DROP:
        del field[place[-1]]
    else:
        field[place[-1]] = value
    # head on line 2, the scenes on lines 4, 5 (its reference on 6), 7 (and 8: its strengths) and 9
    scenes = [json.dumps(scene) for scene in content.pop("scenes")]
    scenes[1] = scenes[1].replace('"reference"', '\n"reference"')
    scenes[2] = scenes[2].replace('"saturation"', '\n"saturation"')
    path.write_text("{\n" + json.dumps(content)[1:-1] + ',\n"scenes": [\n' + ",\n".join(scenes) + "]}")
    with pytest.raises(InvalidRequest) as caught:
        read_project(path)
    assert str(caught.value).startswith(f"{path}, line {line}: {message.replace('{folder}', str(tmp_path))}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: not JSON"),
        ('{"film": "a",\n "frames": }', "line 2: not JSON"),
        ('{"film": "a"\n "frames": 3}', "line 2: not JSON: ',' was expected (column 2)"),
        ('{"film": "a",\n}', "line 2: not JSON: a field's name in double quotes"),
        ('{"film": "a",\n "film": "b"}', "line 2: film: is here twice"),
        ('{"film": "a"}\n\n{}', "line 3: not JSON: something follows"),
        ('\n{"film": "a\n', "line 2: not JSON"),
        ("[" * 9999, "line 1: nothing in a project file is nested this deep"),
        ('{"film": "a", "frames": ' + "9" * 9999 + "}", "line 1: not JSON: "),
        ('{"reeltint": 1, "film": "a", "frames": 3,\n"scenes": []}', "line 2: scenes: at least one scene"),
        (
            '{"reeltint": 1, "film": "a", "frames": 3,\n"scenes": {}}',
            "line 2: scenes: a list [ … ] was expected, not an",
        ),
        ("\n[1]", "line 2: a project file: an object { … } was expected, not a list"),
    ],
)
def test_a_file_that_is_no_json(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "film.scenes.json"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        read_project(path)
    assert str(caught.value).startswith(f"{path}, {message}")


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no such file"):
        read_project(tmp_path / "film.scenes.json")
    (tmp_path / "film.scenes.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        read_project(tmp_path / "film.scenes.json")
