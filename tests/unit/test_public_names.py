"""What `import reeltint` gives."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reeltint
from scene_films import Shot, pan, photographs, render, write_film


def test_every_public_name_is_there() -> None:
    assert {name for name in reeltint.__all__ if not hasattr(reeltint, name)} == set()
    assert reeltint.__all__ == sorted(reeltint.__all__)
    assert set(reeltint._LATER) <= set(reeltint.__all__)
    with pytest.raises(AttributeError, match="module 'reeltint' has no attribute 'colourise'"):
        reeltint.colourise  # type: ignore[attr-defined]  # noqa: B018 # there is none


def test_import_is_light() -> None:
    """Neither FFmpeg's libraries nor a database before something asks for them, never a network."""
    code = """
import sys, reeltint
heavy = {"av", "sqlite3", "typer", "rich", "torch", "onnxruntime", "PIL"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
from reeltint import *
assert find_scenes and Library and not (heavy - {"av", "sqlite3"}) & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_scenes_of_a_film_by_public_names(tmp_path: Path) -> None:
    moves = [(k / 100, 0.4, 1.3) for k in range(60)]
    shots = {name: np.stack(list(pan(photographs()[name], 90, 160, moves))) for name in ("astronaut", "coffee")}
    film = [Shot(clip="astronaut", first=0, count=50), Shot(clip="coffee", first=0, count=60)]
    write_film(tmp_path / "film.mp4", render(shots, film))
    truth = [reeltint.Scene(start=0, end=50, transition="start"), reeltint.Scene(start=50, end=110)]
    for detector in (None, reeltint.SceneDetector(min_scene=5), reeltint.PaperDetector()):
        with reeltint.FilmReader(tmp_path / "film.mp4") as reader:
            assert reeltint.find_scenes(reader, detector) == truth
