"""Every graph of a network with references, exported by one command."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image
from reeltint_export._cli import app
from reeltint_export.check import problems
from reeltint_export.engines import lint
from reeltint_export.half import half_tensors, to_half
from reeltint_training.checkpoints import save_checkpoint
from reeltint_training.networks import NETWORKS
from reeltint_training.networks.exemplar import KEYS
from skimage import data
from torch import nn
from typer.testing import CliRunner

EXEMPLAR = ["colorizer", "exemplar_colorizer", "reference_encoder"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = NETWORKS["exemplar"].build()
    nn.init.normal_(network.correct.weight, std=0.02)  # type: ignore[union-attr, arg-type]
    path = tmp_path_factory.mktemp("checkpoint") / "exemplar.safetensors"
    save_checkpoint(path, network.state_dict(), {"network": "exemplar"})
    return path


def test_one_checkpoint_becomes_every_model(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(data.astronaut()[50:171, 150:301]).save(tmp_path / "pictures/astronaut.png")
    arguments = ["--size", "32", "--frames", str(tmp_path / "pictures"), "--embedder", "none", "--json"]
    done = CliRunner().invoke(app, [str(checkpoint), "--to", str(tmp_path / "models"), *arguments])
    assert done.exit_code == 0, done.output
    assert problems(tmp_path / "models") == []
    manifests = json.loads(done.stdout)["models"]
    assert sorted(set(manifests) - {"lab_split", "lab_merge", "chroma_merge"}) == EXEMPLAR
    assert (tmp_path / "models/colorize_chroma_by_reference/config.pbtxt").is_file()
    for name in EXEMPLAR:
        half = to_half(onnx.load(tmp_path / "models" / name / "1/model.onnx"))
        assert half_tensors(half)
        assert lint(half) == []
    assert set(manifests["exemplar_colorizer"]["parity"]) == {"ab", "confidence"}
    assert all(output["passed"] for manifest in manifests.values() for output in manifest["parity"].values())
    assert manifests["reference_encoder"]["graph"]["outputs"][0]["dims"] == [KEYS, (32 // 4) ** 2]


def test_an_embedder_that_is_not_there(checkpoint: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [str(checkpoint), "--to", str(tmp_path / "models"), "--embedder", "nowhere.pth"])
    assert done.exit_code == 2
    assert "nowhere.pth: no such file" in done.stderr
