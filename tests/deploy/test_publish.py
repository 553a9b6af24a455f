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
# Stands for `engines`, which takes a GPU, and for `check` after it: an engine is a file, and fits if it is not empty.
FAKE = """#!/bin/sh
echo "$*" >>"$CALLS"
case $1 in
  engines) printf "$ENGINE" >"$2/lab_split/1/model.plan" || exit 1; [ -n "$ENGINE" ] ;;
  check) [ -s "$2/lab_split/1/model.plan" ] ;;
esac
"""


def _publish(*arguments: str | Path, models: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = ["sh", DEPLOY / "export/publish.sh", *arguments]
    environment = {**os.environ, "PATH": PATH, "MODELS": str(models), **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped repository without its largest models: the check reads every byte."""
    folder = tmp_path_factory.mktemp("image") / "models"
    small = ("lab_split", "lab_merge", "chroma_merge")
    for name in small:
        shutil.copytree(default_models() / name, folder / name)
    return folder


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, str]:
    """Variables with which `reeltint-export` is the one above; what it was called with is in $CALLS."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/reeltint-export").write_text(FAKE)
    (tmp_path / "bin/reeltint-export").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "CALLS": str(tmp_path / "calls"), "ENGINE": "an engine"}


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_is_filled_once(models: Path, tmp_path: Path) -> None:
    first = _publish(tmp_path / "models", models=models)
    assert first.returncode == 0, first.stdout + first.stderr
    copied = {path.relative_to(tmp_path / "models") for path in (tmp_path / "models").rglob("*.onnx")}
    assert copied == {path.relative_to(models) for path in models.rglob("*.onnx")}
    before = _files(tmp_path / "models")
    again = _publish(tmp_path / "models", models=models)
    assert again.returncode == 0, again.stdout + again.stderr
    assert _files(tmp_path / "models") == before


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


def test_engines_are_built_aside_and_only_when_they_are_needed(
    models: Path, tmp_path: Path, fake: dict[str, str]
) -> None:
    target, calls = tmp_path / "volume/models", tmp_path / "calls"
    assert _publish("--engines", target, models=models, **fake).returncode == 0
    assert calls.read_text().splitlines() == [f"engines {target}.next", f"check {target}.next --config-name tensorrt"]
    calls.unlink()
    assert _publish("--engines", target, models=models, **fake).returncode == 0
    assert calls.read_text().splitlines() == [f"check {target} --config-name tensorrt"]
    calls.unlink()
    (target / "lab_split/1/model.plan").write_text("")  # as one of another GPU
    options = {"ENGINE_OPTIONS": "--batch 1,2,32 --timing-cache /tmp/cache"}
    assert _publish("--engines", target, models=models, **fake, **options).returncode == 0
    assert calls.read_text().splitlines()[0] == f"engines {target}.next --batch 1,2,32 --timing-cache /tmp/cache"
    assert (target / "lab_split/1/model.plan").read_text() == "an engine"
    assert [path.name for path in target.parent.iterdir()] == ["models"]


def test_what_fails_leaves_what_is_served(models: Path, tmp_path: Path, fake: dict[str, str]) -> None:
    target, newer = tmp_path / "volume/models", tmp_path / "newer"
    assert _publish("--engines", target, models=models, **fake).returncode == 0
    before = _files(target)
    shutil.copytree(models, newer)
    (newer / "lab_merge/config.pbtxt").write_text("new")
    assert _publish("--engines", target, models=newer, **fake | {"ENGINE": ""}).returncode == 1
    assert _files(target) == before
    target.rename(target.with_name("models.old"))  # killed between two renames
    assert _publish("--engines", target, models=newer, **fake | {"ENGINE": ""}).returncode == 1
    assert _files(target) == before
    assert _publish("--engines", target, models=newer, **fake).returncode == 0
    assert (target / "lab_merge/config.pbtxt").read_text() == "new"


def test_what_does_not_fit_ends_here(models: Path, tmp_path: Path) -> None:
    target = tmp_path / "models"
    shutil.copytree(models, target)
    engines = _publish("--check-only", target, models=models, MODEL_CONFIG_NAME="tensorrt")
    assert engines.returncode == 1
    assert "model.plan is missing" in engines.stderr
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
