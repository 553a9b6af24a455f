"""The shipped model repository, and the check that reads it."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import onnx
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from reeltint_export._cli import app
from reeltint_export.check import Host, problems, start_problems
from reeltint_export.colour_graphs import chroma_merge, lab_merge, lab_split
from reeltint_export.manifest import file_facts, read_manifest, seal
from reeltint_export.publish import publish
from reeltint_export.repository import repository_files
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "model_repository"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model and ensemble there can be."""
    folder = tmp_path_factory.mktemp("sound")
    publish(folder, repository_files(graphs.all_models()))
    return folder


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "models"))


def reseal(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as the export itself would write it."""
    manifest = read_manifest(folder)
    change(manifest)
    (folder / "manifest.json").write_bytes(seal(manifest))


def test_the_shipped_repository_is_sound() -> None:
    assert problems(SHIPPED) == []
    assert start_problems(SHIPPED) == []


def test_the_shipped_configs_and_colour_graphs_are_what_the_export_writes() -> None:
    models = {path.parts[-3]: onnx.load(path) for path in sorted(SHIPPED.glob("*/1/model.onnx"))}
    size = models["colorizer"].graph.input[0].type.tensor_type.shape.dim[2].dim_value
    written = {"lab_split": lab_split(size), "lab_merge": lab_merge(), "chroma_merge": chroma_merge()}
    files = repository_files(models | written)
    for name, content in files.items():
        if not name.endswith("manifest.json"):  # which tells when
            assert (SHIPPED / name).read_bytes() == content, name
    assert {path.parent.name for path in SHIPPED.glob("*/config.pbtxt")} == {Path(name).parts[0] for name in files}


def test_the_shipped_manifests_name_the_shipped_checkpoint() -> None:
    checkpoints = {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (ROOT / "training/checkpoints").glob("*.safetensors")
    }
    for path in sorted(SHIPPED.glob("*/1/manifest.json")):
        manifest = json.loads(path.read_text())
        if manifest["model"] != "scene_embedder":  # whose weights are ImageNet's
            assert manifest["checkpoint"]["sha256"] in checkpoints, path
        assert all(output["passed"] for output in manifest["parity"].values()), path
        assert str(ROOT) not in path.read_text()


def test_the_shipped_repository_promises_the_public_contract() -> None:
    text = {path.parent.name: path.read_text() for path in SHIPPED.glob("*/config.pbtxt")}
    for name, config in text.items():
        assert config.startswith("# "), name
        whole = name in ("reference_encoder", "exemplar_colorizer") or name.endswith("_by_reference")
        assert f"max_batch_size: {0 if whole else 32}\n" in config, name
        assert ("intra_op_thread_count" in config) == ("platform" not in config), name
    assert set(text) >= {"chroma_merge", "colorize", "colorize_ab", "colorize_chroma", "lab_merge", "lab_split"}


def test_every_model_and_ensemble_of_the_contract(sound: Path) -> None:
    assert problems(sound) == []
    assert problems(sound, host=Host(tensorrt="10.13.2", capability="8.9")) == []
    ensembles = {path.parent.name for path in sound.glob("*/config.pbtxt") if "ensemble" in path.read_text()}
    assert ensembles == {
        f"colorize{kind}{reference}" for kind in ("", "_chroma", "_ab") for reference in ("", "_by_reference")
    }
    config = text_format.Parse(
        (sound / "colorize_chroma_by_reference/config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    assert config.max_batch_size == 0
    assert {tensor.name: list(tensor.dims) for tensor in (*config.input, *config.output)} == {
        "frames": [-1, -1, -1],
        "reference_keys": [graphs.CHANNELS, graphs.KEYS],
        "reference_ab": [2, graphs.KEYS],
        "chroma": [-1, 2, -1, -1],
        "confidence": [-1, 1, 8, 8],
    }


def test_an_ensemble_is_there_when_its_steps_are() -> None:
    names = {Path(name).parts[0] for name in repository_files({"colorizer": graphs.colorizer()})}
    assert names == {"colorizer"}
    with pytest.raises(ValueError, match="no model is called 'painter'"):
        repository_files({"painter": graphs.colorizer()})


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
        ("colorize", "[ -1, -1, 3 ]", "[ -1, -1, 1 ]", "the config says TYPE_UINT8 [-1, -1, -1, 1]"),
        ("colorizer", "[ 2, 8, 8 ]", "[ 2, 8, 9 ]", "the config says [2, 8, 9]"),
        (
            "colorizer",
            "instance_group",
            "version_policy { specific { versions: [ 2 ] } } instance_group",
            "version 2 is",
        ),
        ("reference_encoder", "[ -1, -1, 3 ]", "[ -1, -1, 1 ]", "the config says [-1, -1, 1]"),
        ("colorize_by_reference", "[ -1, -1, -1, 3 ]", "[ -1, -1, 3 ]", "the config says TYPE_UINT8 [-1, -1, 3]"),
        (
            "colorize_by_reference",
            "max_batch_size: 0",
            "max_batch_size: 8",
            "step 'exemplar_colorizer' takes batches up to 0",
        ),
        (
            "colorize_by_reference",
            'output_map { key: "confidence" value: "confidence" }',
            "",
            "'confidence' is given by no",
        ),
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


def test_a_damaged_variant_is_found(copy: Path) -> None:
    path = copy / "colorizer/configs/tensorrt.pbtxt"
    text = path.read_text()
    for old, new, problem in (
        ("max_batch_size: 32", "max_batch_size: 16", "max_batch_size is 16, that of config.pbtxt 32"),
        ("[ 2, 8, 8 ]", "[ 2, 8, 9 ]", "output 'ab' is not as in config.pbtxt"),
        ('name: "colorizer"', 'name: "colourer"', "is called 'colourer'"),
        ("dims:", "dimensions:", "does not parse"),
    ):
        path.write_text(text.replace(old, new))
        assert any(problem in line for line in problems(copy)), problems(copy)
    path.write_text(text + "version_policy { specific { versions: [ 1 ] } }\n")
    assert problems(copy) == ["colorizer: configs/tensorrt.pbtxt: its version_policy is not that of config.pbtxt"]


def test_files_are_compared_with_their_manifest(copy: Path) -> None:
    folder = copy / "colorizer/1"
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[:-100])  # as after a download that broke off
    found = problems(copy)
    assert f"colorizer: 1/model.onnx has {len(content) - 100} bytes, manifest.json says {len(content)}" in found
    assert any("not sound ONNX" in line for line in found)
    (folder / "model.onnx").write_bytes(graphs.colorizer(a=21.0).SerializeToString(deterministic=True))
    assert len(content) == (folder / "model.onnx").stat().st_size
    said = "colorizer: 1/model.onnx is not the file that manifest.json describes: its SHA-256 differs"
    assert problems(copy) == start_problems(copy) == [said]
    assert start_problems(copy, ["scene_embedder"]) == []
    assert start_problems(copy, ["colorize_chroma"]) == [said]
    (folder / "model.onnx").unlink()
    assert problems(copy) == ["colorizer: 1/model.onnx is missing"]


def test_a_manifest_edited_by_hand_is_found(copy: Path) -> None:
    path = copy / "colorizer/1/manifest.json"
    path.write_text(path.read_text().replace('"created": "2', '"created": "1'))
    said = "colorizer: 1/manifest.json was edited after it was written: its own digest does not fit"
    assert problems(copy) == start_problems(copy) == [said]
    path.write_text("{")
    assert problems(copy)[0].startswith("colorizer: 1/manifest.json is not JSON")
    path.write_text('{"format": 9}')
    assert problems(copy) == ["colorizer: 1/manifest.json is not of format 1"]
    path.unlink()
    assert problems(copy) == ["colorizer: 1/manifest.json is missing"]
    assert start_problems(copy) == []  # a server takes what has no manifest at its word


def test_a_folder_of_another_name_is_found(copy: Path) -> None:
    (copy / "colorizer").rename(copy / "painter")
    found = problems(copy)
    assert "painter: is called 'colorizer' in its config" in found
    assert "painter: 1/manifest.json is that of 'colorizer'" in found
    (copy / "painter").rename(copy / "colorizer")
    (copy / "colorizer/1").rename(copy / "colorizer/2")
    assert problems(copy) == ["colorizer: 2/manifest.json is that of version 1"]


def test_an_interrupted_first_export_is_found(copy: Path) -> None:
    (copy / ".publishing").mkdir()
    assert any("an export was interrupted here" in line for line in problems(copy))


def engine(folder: Path, **changes: Any) -> None:
    """Put bytes that stand for an engine into a version folder, as `reeltint-export engines` records them."""
    plan = b"ptrt, built elsewhere"
    (folder / "model.plan").write_bytes(plan)
    tensors = {"lightness": [[1, 1, 32, 32], [8, 1, 32, 32], [32, 1, 32, 32]]}
    record = {
        "onnx_sha256": read_manifest(folder)["files"]["model.onnx"]["sha256"], "tensorrt": "10.13.2.6",
        "compute_capability": "8.9", "version_compatible": False, "hardware_compatible": False, "profiles": [tensors],
    }  # fmt: skip

    def add(manifest: dict[str, Any]) -> None:
        manifest["files"]["model.plan"] = file_facts(plan)
        manifest["engines"] = {"model.plan": record | changes}

    reseal(folder, add)


@pytest.mark.parametrize(
    ("changes", "host", "problem"),
    [
        ({}, Host(tensorrt="10.13.2.6"), None),
        ({}, Host(tensorrt="10.3.0"), "was built by TensorRT 10.13.2.6, here is 10.3.0: build it again"),
        ({"version_compatible": True}, Host(tensorrt="10.14.0"), None),
        ({}, Host(capability="9.0"), "was built for compute capability 8.9, this GPU has 9.0: build it here"),
        ({"hardware_compatible": True}, Host(capability="9.0"), None),
        ({"onnx_sha256": "0" * 64}, None, "was built from another model.onnx: build it again"),
        (
            {"profiles": [{"lightness": [[1, 1, 32, 32], [4, 1, 32, 32], [8, 1, 32, 32]]}]},
            None,
            "profile 0 ends at a batch of 8 ('lightness'), the config promises 32",
        ),
        (
            {"profiles": [{"lightness": [[4, 1, 32, 32], [8, 1, 32, 32], [32, 1, 32, 32]]}]},
            None,
            "profile 0 begins at a batch of 4 ('lightness'), clients may send one",
        ),
        ({"profiles": [{"frames": [[1], [1], [1]]}]}, None, "profile 0 does not know input 'lightness'"),
        ({"profiles": []}, None, "profile 0 is to be used, the engine has 0"),
    ],
)
def test_engines_are_compared_with_their_config_and_this_machine(
    copy: Path, changes: dict[str, Any], host: Host | None, problem: str | None
) -> None:
    engine(copy / "colorizer/1", **changes)
    found = problems(copy, host=host)
    if problem is None:
        assert found == []
    else:
        assert found == [f"colorizer: configs/tensorrt.pbtxt: 1/model.plan{':' * ('profile' in problem)} {problem}"]


def test_engines_that_are_not_there_or_in_no_manifest(copy: Path) -> None:
    engine(copy / "colorizer/1")
    assert problems(copy, "tensorrt")[0] == (
        "chroma_merge: configs/tensorrt.pbtxt: 1/model.plan is missing: build it with reeltint-export engines"
    )
    assert not any(line.startswith("colorizer:") for line in problems(copy, "tensorrt"))
    (copy / "lab_split/1/model.plan").write_bytes(b"from somewhere")
    assert "lab_split: 1/model.plan is not in manifest.json" in problems(copy)


def test_the_check_command(copy: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(copy)])
    assert done.exit_code == 0, done.output
    assert done.stderr.endswith(f"{copy} is fit\n")
    (copy / "lab_merge/1/model.onnx").unlink()
    done = CliRunner().invoke(app, ["check", str(copy), "--json"])
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert (report["repository"], report["fit"]) == (str(copy), False)
    assert report["problems"] == [{"model": "lab_merge", "problem": "1/model.onnx is missing"}]
    assert done.stderr.endswith(f"{copy} is unfit: 1 problem\n")
    assert CliRunner().invoke(app, ["check", str(tmp_path / "nowhere")]).exit_code == 2
    assert CliRunner().invoke(app, ["check"]).exit_code == 2


def test_a_variant_that_there_is_none_of(copy: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(copy), "--config-name", "tensorRT"])
    said = "--config-name tensorRT: no model has such a config, only tensorrt\n"
    assert (done.exit_code, done.stderr) == (2, said)


@pytest.mark.parametrize(
    ("host", "note"),
    [
        (Host(), "no GPU here: engines were not loaded, only compared with their manifests\n"),
        (Host(capability="8.9"), "no TensorRT here: engines were not loaded, only compared with their manifests\n"),
        (Host(capability="8.9", tensorrt="10.13.2.6"), ""),
    ],
)
def test_what_was_not_tried_is_said(copy: Path, host: Host, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reeltint_export.host.this_host", lambda: host)
    done = CliRunner().invoke(app, ["check", str(copy)])
    assert (done.exit_code, done.stderr) == (0, f"{note}{copy} is fit\n")


WITHOUT = """
import sys
from pathlib import Path
for name in ("onnx", "torch", "onnxruntime", "PIL", "skimage"):
    sys.modules[name] = None
from reeltint_export.check import start_problems
print(start_problems(Path(sys.argv[1])))
"""


def test_a_server_checks_without_torch_and_onnx(copy: Path) -> None:
    config = copy / "colorizer/config.pbtxt"
    config.write_text(config.read_text().replace("[ 2, 8, 8 ]", "[ 2, 8, 9 ]"))
    command = [sys.executable, "-c", WITHOUT, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "colorizer: 1/model.onnx output 'ab' is [2, 8, 8], the config says [2, 8, 9]" in done.stdout
