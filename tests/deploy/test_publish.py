"""What runs in a container before Triton starts, on the repository that is shipped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from manifests import DEPLOY
from reeltint_local import default_models

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def _publish(*arguments: str | Path, models: Path) -> "subprocess.CompletedProcess[str]":
    command = ["sh", DEPLOY / "export/publish.sh", *arguments]
    variables = {**os.environ, "PATH": PATH, "MODELS": str(models)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped repository without its largest models: the check reads every byte."""
    folder = tmp_path_factory.mktemp("image") / "models"
    small = ("lab_split", "lab_merge", "chroma_merge")
    for name in small:
        shutil.copytree(default_models() / name, folder / name)
    return folder


def test_a_folder_is_filled_once(models: Path, tmp_path: Path) -> None:
    first = _publish(tmp_path / "models", models=models)
    assert first.returncode == 0, first.stdout + first.stderr
    copied = {path.relative_to(tmp_path / "models") for path in (tmp_path / "models").rglob("*.onnx")}
    assert copied == {path.relative_to(models) for path in models.rglob("*.onnx")}
    engine = tmp_path / "models/lab_split/1/model.plan.log"
    engine.write_text("what an earlier run built")
    again = _publish(tmp_path / "models", models=models)
    assert again.returncode == 0, again.stdout + again.stderr
    assert engine.exists()


def test_a_new_image_replaces_what_the_old_one_left(models: Path, tmp_path: Path) -> None:
    other = tmp_path / "newer image"
    shutil.copytree(models, other)
    shutil.rmtree(other / "lab_merge")
    target = tmp_path / "models"
    assert _publish(target, models=models).returncode == 0
    assert (target / "lab_merge").is_dir()
    done = _publish(target, models=other)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (target / "lab_merge").exists()


def test_what_does_not_fit_ends_here(models: Path, tmp_path: Path) -> None:
    target = tmp_path / "models"
    shutil.copytree(models, target)
    config = target / "lab_split/config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_UINT8", "TYPE_FP32"))
    done = _publish("--check-only", target, models=models)
    assert done.returncode == 1
    assert "lab_split" in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [(), ("--engines",), ("a", "b")])
def test_wrong_use(models: Path, arguments: tuple[str, ...]) -> None:
    done = _publish(*arguments, models=models)
    assert done.returncode == 2
    assert done.stderr == "reeltint-publish [--engines | --check-only] FOLDER\n"
