"""The shipped model repository, and the check that reads it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from reeltint_export.check import RepositoryError, problems, require_sound
from reeltint_export.colour_graphs import chroma_merge, lab_merge, lab_split
from reeltint_export.onnx_export import export_network
from reeltint_export.repository import repository_files, write_files
from reeltint_training.networks import NETWORKS

SHIPPED = Path(__file__).parents[2] / "model_repository"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    models = {
        "colorizer": export_network(NETWORKS["resnet18"].build().eval(), 32),
        "lab_split": lab_split(32),
        "lab_merge": lab_merge(),
        "chroma_merge": chroma_merge(),
    }
    folder = tmp_path_factory.mktemp("sound")
    write_files(folder, repository_files(models))
    return folder


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "models"))


def test_the_shipped_repository_is_sound() -> None:
    assert problems(SHIPPED) == []


def test_the_shipped_configs_and_colour_graphs_are_what_the_export_writes() -> None:
    models = {
        name: onnx.load(SHIPPED / name / "1" / "model.onnx")
        for name in ("lab_split", "colorizer", "lab_merge", "chroma_merge")
    }
    size = models["colorizer"].graph.input[0].type.tensor_type.shape.dim[2].dim_value
    written = {"lab_split": lab_split(size), "lab_merge": lab_merge(), "chroma_merge": chroma_merge()}
    for name, content in repository_files(models | written).items():
        assert (SHIPPED / name).read_bytes() == content, name


def test_the_shipped_repository_promises_the_public_contract() -> None:
    text = {path.parent.name: path.read_text() for path in SHIPPED.glob("*/config.pbtxt")}
    assert sorted(text) == ["chroma_merge", "colorize", "colorize_chroma", "colorizer", "lab_merge", "lab_split"]
    for name, config in text.items():
        assert config.startswith("# "), name
        assert "max_batch_size: 32" in config
        assert ("intra_op_thread_count" in config) == ("platform" not in config)


def test_a_sound_repository_has_no_problems(sound: Path) -> None:
    assert problems(sound) == []
    require_sound(sound)


@pytest.mark.parametrize(
    ("model", "old", "new", "problem"),
    [
        ("lab_merge", 'name: "lab_merge"', 'name: "merge"', "is called 'merge'"),
        ("lab_merge", "TYPE_UINT8 dims: [ -1, -1, 3 ]", "TYPE_INT8 dims: [ -1, -1, 3 ]", "the config says TYPE_INT8"),
        ("lab_merge", "[ -1, -1, 3 ]", "[ -1, -1, 4 ]", "the config says [-1, -1, 4]"),
        ("lab_split", "[ 1, 32, 32 ]", "[ 1, -1, -1 ]", "the config says [1, -1, -1]"),
        ("lab_split", "[ -1, -1 ]", "[ -1, -1, -1 ]", "the config says [-1, -1, -1]"),
        ("lab_split", "max_batch_size: 32", "max_batch_size: 0 dynamic_batching { }", "dynamic_batching without"),
        ("colorizer", 'name: "ab"', 'name: "colour"', "'colour' is in the config only"),
        ("colorizer", 'name: "ab"', 'name: "colour"', "'ab' is not in the config"),
        ("colorizer", "intra_op_thread_count", "intra_op_threads", "'intra_op_threads' is none"),
        ("colorizer", 'string_value: "1"', 'string_value: "one"', "is 'one', not a number"),
        ("colorizer", "count: 2", "count: 2 kind: KIND_GPU", "KIND_GPU"),
        ("colorizer", 'backend: "onnxruntime"', 'backend: "onnx"', "backend is 'onnx'"),
        ("colorizer", "dims:", "dimensions:", "does not parse"),
        ("colorize", 'model_name: "colorizer"', 'model_name: "colouriser"', "'colouriser' is no model"),
        ("colorize", 'input_map { key: "ab" value: "ab" }', "", "gets no 'ab'"),
        ("colorize", 'input_map { key: "ab"', 'input_map { key: "chroma"', "has no input 'chroma'"),
        ("colorize", 'output_map { key: "ab" value: "ab" }', 'output_map { key: "ab" value: "xy" }', "waits for ab"),
        ("colorize", 'output_map { key: "rgb" value: "rgb" }', "", "output 'rgb' is given by no step"),
        ("colorize", "[ -1, -1, 3 ]", "[ -1, -1, 1 ]", "the config says TYPE_UINT8 [-1, -1, 1]"),
        ("colorize", "TYPE_UINT8 dims: [ -1, -1 ]", "TYPE_FP32 dims: [ -1, -1 ]", "but gets TYPE_FP32"),
        ("colorize", "max_batch_size: 32", "max_batch_size: 64", "the ensemble promises 64"),
        ("colorize_chroma", 'input_map { key: "frames" value: "frames" }', "", "gets no 'frames'"),
    ],
)
def test_a_damaged_config_is_found(copy: Path, model: str, old: str, new: str, problem: str) -> None:
    path = copy / model / "config.pbtxt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    found = problems(copy)
    assert any(problem in line and line.startswith(f"{model}:") for line in found), found
    with pytest.raises(RepositoryError, match="models:"):
        require_sound(copy)


def test_missing_parts_are_found(copy: Path) -> None:
    (copy / "lab_merge" / "config.pbtxt").unlink()
    (copy / "lab_split" / "1" / "model.onnx").unlink()
    (copy / "colorize_chroma" / "1" / ".gitkeep").unlink()
    (copy / "colorize_chroma" / "1").rmdir()
    found = problems(copy)
    assert "lab_merge: no config.pbtxt" in found
    assert "lab_split: 1/model.onnx is missing" in found
    assert "colorize_chroma: no version folder (1/)" in found
    assert problems(copy / "nowhere") == ["no such folder"]
    assert problems(copy / "lab_merge" / "1") == ["no model in it"]


def change_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 22


def change_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 11


def fix_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def use_external_data(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")


def lose_an_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type = "Colourise"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (change_opset, "opset 22"),
        (change_ir, "IR 11"),
        (fix_batch, "no dynamic batch"),
        (use_external_data, "weights in another file"),
        (lose_an_operator, "not sound ONNX"),
    ],
)
def test_a_damaged_graph_is_found(copy: Path, damage: Callable[[onnx.ModelProto], None], problem: str) -> None:
    path = copy / "lab_split" / "1" / "model.onnx"
    model = onnx.load(path)
    damage(model)
    path.write_bytes(model.SerializeToString())
    assert any(problem in line and line.startswith("lab_split:") for line in problems(copy)), problems(copy)


def test_large_and_unreadable_files_are_found(copy: Path) -> None:
    path = copy / "colorizer" / "1" / "model.onnx"
    path.write_bytes(b"\xff" * 25_000_001)
    found = problems(copy)
    assert any("25000001 bytes" in line for line in found)
    assert any("colorizer: 1/model.onnx is not sound ONNX" in line for line in found)
