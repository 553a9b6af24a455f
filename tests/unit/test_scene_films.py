"""Films for the scene detector, where the colour clips are absent."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scene_films
from scene_films import draw_shots, joins, render


@pytest.mark.parametrize("half", [None, 0, 1])
def test_pans_over_photographs_are_long_enough_for_any_film(
    half: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_films, "CLIPS", tmp_path / "none.tar")
    sources = scene_films.clips(36, 64, half=half)
    assert len(sources) >= 4
    for frames in sources.values():
        assert frames.shape == (150, 36, 64)
        assert np.mean([(one != other).any() for one, other in pairwise(frames)]) > 0.8  # it moves
    for seed in range(5):
        shots = draw_shots(sources, 60, seed=seed, gradual=0.9)
        assert len(joins(shots)) == 60
        assert sum(shot.kind == "dissolve" for shot in shots) > 20
    assert sum(1 for _ in render(sources, shots)) == joins(shots)[-1].start + shots[-1].count
