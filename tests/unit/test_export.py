"""`reeltint-export` from the command line: what it writes, what it refuses."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from reeltint_export._cli import app
from reeltint_export.check import problems
from reeltint_export.onnx_export import export_network
from reeltint_export.parity import compare
from reeltint_export.pictures import photographs
from reeltint_export.publish import promote
from reeltint_training.checkpoints import save_checkpoint
from reeltint_training.networks import NETWORKS
from skimage import data
from torch import nn
from typer.testing import CliRunner

RESNET = NETWORKS["resnet18"]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return RESNET.build().eval()


@pytest.fixture(scope="module")
def checkpoint(resnet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "resnet18.safetensors"
    save_checkpoint(path, resnet.state_dict(), {"network": "resnet18"})
    return path


def export(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small crops of photographs: enough to compare on, and quick."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, photo in (("astronaut", data.astronaut()), ("coffee", data.coffee())):
        Image.fromarray(photo[50:171, 150:301]).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("export") / "models"
    result = export(checkpoint, "--size", 64, "--to", folder, "--json", "--frames", pictures)
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_a_fresh_folder_becomes_a_whole_repository(exported: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = exported
    assert problems(folder) == []
    models = sorted(path.name for path in folder.iterdir() if path.is_dir())
    ensembles = ["colorize", "colorize_ab", "colorize_chroma"]
    assert models == ["chroma_merge", *ensembles, "colorizer", "lab_merge", "lab_split"]
    assert not list(folder.rglob(".*[!p]"))  # nothing hidden but .gitkeep


def test_the_manifests_say_what_was_exported_and_how_close_it_is(
    exported: tuple[Path, dict[str, Any]], checkpoint: Path
) -> None:
    folder, report = exported
    assert report["passed"]
    for name, manifest in report["models"].items():
        assert manifest == json.loads((folder / name / "1" / "manifest.json").read_text())
        assert (manifest["model"], manifest["version"]) == (name, 1)
        assert (manifest["network"], manifest["size"], manifest["precision"]) == ("resnet18", 64, "float32")
        assert manifest["checkpoint"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        content = (folder / name / "1" / "model.onnx").read_bytes()
        assert manifest["files"] == {
            "model.onnx": {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        }
        assert manifest["graph"]["opset"] <= 21
        assert manifest["graph"]["ir_version"] <= 10
        [parity] = manifest["parity"].values()
        assert 0 <= parity["error_99_9"] <= parity["max_error"] <= parity["limits"]["largest"]
    assert report["models"]["colorizer"]["storage"] == "float16"
    half = {"mean": RESNET.half_mean_ab_error, "most": RESNET.half_ab_error_99_9}
    assert report["models"]["colorizer"]["half_limits"]["ab"].items() >= half.items()
    assert report["models"]["colorizer"]["parity"]["ab"]["max_error"] > 0
    assert report["models"]["colorizer"]["graph"]["outputs"] == [
        {"name": "ab", "type": "TYPE_FP32", "dims": [-1, 2, 64, 64]}
    ]


def test_an_existing_repository_is_updated_to_the_same_bytes_and_other_models_stay(
    checkpoint: Path, exported: tuple[Path, dict[str, Any]], pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "other" / "1").mkdir(parents=True)
    ours = (exported[0] / "colorize_ab/config.pbtxt").read_text().replace("colorize_ab", "other")
    (tmp_path / "other" / "config.pbtxt").write_text(ours)
    (tmp_path / "colorizer").mkdir()
    (tmp_path / "colorizer" / "config.pbtxt").write_text("stale")
    result = export(checkpoint, "--size", 64, "--to", tmp_path, "--frames", pictures)
    assert result.exit_code == 0, result.output
    assert result.stderr.endswith(f"version 1 is in {tmp_path}\n")
    assert problems(tmp_path) == []
    assert (tmp_path / "other" / "config.pbtxt").read_text() == ours
    for path in exported[0].rglob("*"):
        if path.is_file() and path.name != "manifest.json":  # which tells the time
            assert path.read_bytes() == (tmp_path / path.relative_to(exported[0])).read_bytes(), path


def _state(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_ino, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_what_does_not_fit_beside_the_models_there_changes_nothing(
    checkpoint: Path, exported: tuple[Path, dict[str, Any]], pictures: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported[0], tmp_path / "models"))
    config = folder / "colorize_ab/config.pbtxt"
    config.write_text(config.read_text().replace("colorize_ab", "colorise").replace("colorizer", "colourizer"))
    config.parent.rename(folder / "colorise")
    before = _state(folder)
    result = export(checkpoint, "--size", 32, "--to", folder, "--frames", pictures)
    assert result.exit_code == 1
    assert "the repository would be unfit, nothing was changed:\n  colorise: " in result.stderr
    assert _state(folder) == before


def test_a_pinned_version_stays_and_the_command_says_so(
    checkpoint: Path, exported: tuple[Path, dict[str, Any]], pictures: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported[0], tmp_path / "models"))
    promote(folder, "colorizer", 1)
    arguments = (checkpoint, "--size", 64, "--to", folder, "--frames", pictures, "--version", "new")
    result = export(*arguments)
    assert result.exit_code == 0, result.output
    said = f"version 2 is in {folder}; colorizer stays at 1: reeltint-export promote\n"
    assert result.stderr.endswith(said)


def test_a_version_that_another_export_took_meanwhile(
    checkpoint: Path,
    exported: tuple[Path, dict[str, Any]],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(exported[0], tmp_path / "models"))
    before = _state(folder)
    monkeypatch.setattr("reeltint_export._cli._version", lambda *_: 1)  # as it was before the other began
    result = export(checkpoint, "--size", 64, "--to", folder, "--frames", pictures, "--version", "new")
    assert result.exit_code == 3
    assert "version 1 of colorizer was written by another export meanwhile: try again" in result.stderr
    assert _state(folder) == before


def test_a_report_that_cannot_be_written_changes_nothing(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = tmp_path / "file/report.json"
    result = export(checkpoint, "--size", 32, "--to", tmp_path / "models", "--frames", pictures, "--report", report)
    assert result.exit_code == 2
    assert result.stderr.endswith("models is as it was\n")
    assert not (tmp_path / "models").exists()


def test_the_graph_tells_nothing_of_the_machine(exported: tuple[Path, dict[str, Any]]) -> None:
    content = (exported[0] / "colorizer/1/model.onnx").read_bytes()
    assert b".py" not in content
    assert b"torch" not in content


def test_the_network_runs_at_any_batch_and_weights_are_stored_in_half_the_space(
    resnet: nn.Module, exported: tuple[Path, dict[str, Any]]
) -> None:
    half = (exported[0] / "colorizer/1/model.onnx").read_bytes()
    full = export_network(resnet, 64, "float32").SerializeToString()
    assert len(half) < 0.55 * len(full)
    x = np.random.default_rng(0).random((7, 1, 64, 64), np.float32)
    with torch.inference_mode():
        expected = resnet(torch.from_numpy(x)).numpy()
    for model, tolerance in ((full, RESNET.max_ab_error), (half, 0.2)):
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        assert np.abs(session.run(None, {"lightness": x})[0] - expected).max() < tolerance
        assert session.run(None, {"lightness": x[:1]})[0].shape == (1, 2, 64, 64)


def test_the_default_network_fits_its_limit() -> None:
    torch.manual_seed(0)
    network = NETWORKS["huenet"].build().eval()
    nn.init.normal_(network.get_buffer("log_weight"))
    model = export_network(network, 160)
    assert model.ByteSize() <= 25_000_000
    onnx.checker.check_model(model)
    lightness = np.random.default_rng(0).random((2, 1, 160, 160), np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = network(torch.from_numpy(lightness)).numpy()
    assert np.abs(session.run(None, {"lightness": lightness})[0] - expected).max() < 0.25


def test_in_half_precision_layers_that_overflow_are_named(pictures: Path, tmp_path: Path) -> None:
    """Two convolutions far too loud, and the next one so much quieter: the same colours in float32."""
    torch.manual_seed(0)
    state = RESNET.build().state_dict()
    for name in ("upsample.5.weight", "upsample.5.bias", "upsample.8.weight", "upsample.8.bias"):
        state[name] *= 5e3
    state["upsample.11.weight"] /= 2.5e7
    broken = tmp_path / "loud.safetensors"
    save_checkpoint(broken, state, {"network": "resnet18"})
    result = export(broken, "--size", 32, "--to", tmp_path / "models", "--frames", pictures, "--precision", "float16")
    assert result.exit_code == 1, result.output
    assert "colorizer overflows float16 (65504): upsample.7 (Conv) reaches" in result.stderr
    assert not (tmp_path / "models").exists()


def test_half_precision_keeps_float32_at_the_door(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    result = export(
        checkpoint, "--size", 32, "--to", tmp_path, "--frames", pictures, "--precision", "float16", "--json"
    )
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)["models"]["colorizer"]
    assert (manifest["precision"], manifest["storage"]) == ("float16", "float16")
    assert [tensor["type"] for tensor in manifest["graph"]["inputs"] + manifest["graph"]["outputs"]] == [
        "TYPE_FP32"
    ] * 2
    parity = manifest["parity"]["ab"]
    assert 0 < parity["mean_error"] <= parity["limits"]["mean"] == 0.3
    assert parity["error_99_9"] <= parity["limits"]["most"] == 2.0
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "colorizer/1/model.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds


def test_a_graph_that_is_not_the_network_is_past_the_tolerance(
    exported: tuple[Path, dict[str, Any]], pictures: Path
) -> None:
    torch.manual_seed(1)
    stranger = RESNET.build().eval()
    models = {
        name: onnx.load(exported[0] / name / "1" / "model.onnx")
        for name in ("colorizer", "lab_split", "lab_merge", "chroma_merge")
    }
    figures = compare(models, stranger, RESNET, 64, "float16", photographs(pictures))
    failed = [name for name, outputs in figures.items() if not all(figure.passed for figure in outputs.values())]
    assert failed == ["colorizer"]


def test_past_the_tolerance_nothing_is_replaced(pictures: Path, tmp_path: Path) -> None:
    """Weights so large that rounding them to float16 shows."""
    state = RESNET.build().state_dict()
    state["upsample.14.weight"] *= 1000
    broken = tmp_path / "loud.safetensors"
    save_checkpoint(broken, state, {"network": "resnet18"})
    folder = tmp_path / "models"
    result = export(broken, "--size", 32, "--to", folder, "--frames", pictures)
    assert result.exit_code == 1, result.output
    assert "past the tolerance" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["export.failed.json"]
    assert json.loads((folder / "export.failed.json").read_text())["passed"] is False


def test_pictures_to_compare_on(checkpoint: Path, tmp_path: Path) -> None:
    assert len(photographs()) == 5
    Image.effect_noise((50, 41), 60).save(tmp_path / "noise.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [picture.shape for picture in photographs(tmp_path)] == [(41, 50)]
    result = export(checkpoint, "--to", tmp_path / "models", "--frames", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "readable images" in result.stderr


class _Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path, how: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / "weights.pth"
    if how == "torch":
        torch.save({"weight": torch.zeros(1), "more": _Malicious(trap)}, path)
    else:
        path.write_bytes(pickle.dumps(_Malicious(trap)))
    result = export(path, "--network", "resnet18", "--to", tmp_path / "models")
    assert result.exit_code == 2
    assert "refused" in result.stderr
    assert not trap.exists()
    assert not (tmp_path / "models").exists()


def test_what_does_not_fit_is_listed(resnet: nn.Module, tmp_path: Path) -> None:
    state = dict(resnet.state_dict())
    del state["upsample.0.bias"]
    state["extra"] = torch.zeros(1)
    state["upsample.0.weight"] = torch.zeros(3)
    path = tmp_path / "odd.safetensors"
    save_checkpoint(path, state, {})
    result = export(path, "--network", "resnet18", "--to", tmp_path / "models")
    assert result.exit_code == 2
    for part in ("missing: upsample.0.bias", "unknown: extra", "shape of upsample.0.weight"):
        assert part in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "60"], "multiple of 8"),
        (["--size", "0"], "Invalid value"),
        (["--network", "huenet"], "holds a resnet18"),
        (["--network", "nothing"], "nothing"),
        (["--storage", "int4"], "Invalid value"),
        (["--to"], "requires an argument"),
    ],
)
def test_wrong_use_is_exit_code_2(checkpoint: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = export(checkpoint, "--to", tmp_path / "models", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "models").exists()


def test_a_target_that_is_no_folder(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file stands here")
    result = export(checkpoint, "--to", tmp_path / "models")
    assert result.exit_code == 2
    assert "no folder" in result.stderr
