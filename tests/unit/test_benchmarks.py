"""The benchmarks' own code: what they measure against, and the tables of what they keep."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from reeltint_export.colour_graphs import chroma_merge, lab_merge
from reeltint_training.clips import ROWS
from reeltint_training.data import Photo, to_lab
from reeltint_training.evaluate import picture
from skimage import data
from support import ROOT

sys.path.append(str(ROOT / "benchmarks"))
import common
import edges
import run


def _frame_and_ab() -> tuple[Photo, torch.Tensor, torch.Tensor]:
    """A grey frame, its L* and the true ab of 40 x 40 cells."""
    photo = data.astronaut()[:301, :417]
    grey = np.ascontiguousarray(photo[..., 1])
    lightness = to_lab(np.repeat(grey[None, ..., None], 3, -1))[:, :1]
    return grey[None], lightness, torch.nn.functional.adaptive_avg_pool2d(to_lab(photo[None])[:, 1:], edges.CELLS)


@pytest.mark.parametrize("way", ["bilinear", "along edges"])
def test_the_merges_that_are_timed_resize_as_they_say(way: str) -> None:
    frames, lightness, ab = _frame_and_ab()
    expected = picture(lightness, edges.WAYS[way](lightness, ab))
    model = edges.bilinear_merge(lab_merge) if way == "bilinear" else lab_merge()
    (rgb,) = edges._session(model).run(None, {"frames": frames, "ab": ab.numpy()})
    assert np.abs(rgb[0].astype(int) - expected).max() <= 1


def test_the_bilinear_graphs_are_those_that_are_served_less_the_line() -> None:
    for merge in (chroma_merge, lab_merge):
        plain, served = edges.bilinear_merge(merge), merge()
        assert [value.name for value in plain.graph.input] == [value.name for value in served.graph.input]
        kept = {node.op_type for node in served.graph.node}
        assert {node.op_type for node in plain.graph.node} <= kept
        assert len(plain.graph.node) < len(served.graph.node) - 30
    chroma = edges._session(edges.bilinear_merge(chroma_merge))
    assert isinstance(chroma, onnxruntime.InferenceSession)
    given = {"frames": np.full((1, 40, 60), 90, np.uint8), "ab": np.zeros((1, 2, 40, 40), np.float32)}
    assert (chroma.run(None, given)[0] == 128).all()


def test_scores_and_times_of_edges_stand_in_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "SIZES", {"small": (64, 96)})
    photo = data.coffee()[100:260, 100:340]
    scores = edges.scores([("coffee", photo)], lambda lightness: torch.zeros(1, 2, 40, 40))
    times = edges.times(turns=1)
    assert scores["truth"]["along edges"]["psnr"] > scores["truth"]["bilinear"]["psnr"] + 0.1
    assert scores["network"]["along edges"] == scores["network"]["bilinear"]  # it has no colour
    for sizes in times.values():
        assert sizes["small"]["ratio"] == pytest.approx(sizes["small"]["along edges"] / sizes["small"]["bilinear"])
    lines = edges.table({"photographs": 1, "scores": scores, "ms a frame": times}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert any(line.startswith("| true ab of 40 x 40 cells, PSNR dB") for line in lines)
    assert sum("times |" in line for line in lines) == 2


def _clip(psnr: float) -> dict[str, dict[str, float]]:
    names = ("psnr", "ssim", "ab_distance", "colourfulness", "cdc", "flicker", "growth")
    return {row: dict(zip(names, (psnr, 0.9, 3.0, 40.0, 0.001, 0.5, 1.0), strict=True)) for row in (*ROWS, "truth")}


def test_kept_clips_are_printed_by_category_and_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"machine": {}, "size": 160, "clips": {"davis_bmx-trees": _clip(24.25), "sam2_dog": _clip(33.5)}}
    (tmp_path / "clips.json").write_text(json.dumps(result))
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "--kept", "clips", "edges"])
    run.main()
    printed = capsys.readouterr()
    assert "edges: left out" in printed.err
    for line in (
        "| all, 2 clips | PSNR dB | SSIM | ab distance | colourfulness | CDC | flicker |",
        "| exemplar | 28.88 | 0.9000 | 3.00 | 40.0 | 0.00100 | 0.50 |",
        "| people, 1 clips | PSNR dB | SSIM | ab distance | colourfulness | CDC | flicker |",
        "| paper 3, other films | 29.1 to 30.9 | .87 to .93 | | | | |",
        "| sam2_dog | 33.50 | 0.900 | 3.00 | 0.50 | 0.50 | 33.50 | 33.50 | 33.50 | 33.50 | 33.50 |",
    ):
        assert line in printed.out.splitlines()
    assert "vehicles" not in printed.out  # none of them was measured
    assert (tmp_path / "clips.json").read_text() == json.dumps(result)


def test_what_a_benchmark_needs_is_missed_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(run.NEEDS) < set(run.NAMES)
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in run.NAMES)
    assert common.PHOTOS in run.NEEDS["edges"]
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "NEEDS", {"edges": (tmp_path / "photos-val.tar",)})
    monkeypatch.setattr(sys, "argv", ["run.py", "edges"])
    run.main()
    assert f"edges: left out, {tmp_path / 'photos-val.tar'} is not here" in capsys.readouterr().err
