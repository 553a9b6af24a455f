"""Engines, as far as a machine without a GPU can prove them: TensorRT for RTX parses and builds every graph."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import typer
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from reeltint_export import build_engines
from reeltint_export._cli import app
from reeltint_export.build_engines import parse_batch, parse_sizes
from reeltint_export.chain import Chain, fitted
from reeltint_export.check import problems
from reeltint_export.engines import Engine, EngineError, EngineOptions, build, deserialise, lint
from reeltint_export.half import to_half
from reeltint_export.host import compute_capability
from reeltint_export.pictures import photographs
from reeltint_export.precision import LIMITS, Limits, gpu_limits
from reeltint_export.profiles import BATCH, FRAMES, Profile, profiles
from reeltint_export.publish import promote, publish
from reeltint_export.repository import MODELS, repository_files
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
RTX = EngineOptions(targets=("SM89",))


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx_bindings")  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def models() -> dict[str, onnx.ModelProto]:
    return graphs.all_models()


def engines(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["engines", *map(str, arguments)])


def test_every_graph_of_the_shipped_repository_builds(rtx: ModuleType, tmp_path: Path) -> None:
    done = engines(ROOT / "model_repository", "--for", "SM89", "--for", "SM120", "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    built = {engine["model"]: engine for engine in json.loads(done.stdout)["engines"]}
    assert set(built) == {path.parts[-3] for path in (ROOT / "model_repository").glob("*/1/model.onnx")}
    for name, engine in built.items():
        plan = (tmp_path / f"{name}.SM89-SM120.plan").read_bytes()
        assert len(plan) == engine["bytes"]
        assert "[INFO]" in (tmp_path / f"{name}.SM89-SM120.log").read_text()
        assert engine["built_for"] == ["SM89", "SM120"]
        assert engine["tensorrt"] == rtx.__version__
    assert built["colorizer"]["precision"] == "float16"
    assert built["lab_merge"]["precision"] == "float32"
    largest = [profile["frames"][2] for profile in built["chroma_merge"]["profiles"]]
    assert largest == [[32, 576, 1024], [32, 1556, 2048]]


def test_every_graph_of_the_contract_builds(rtx: ModuleType, models: dict[str, onnx.ModelProto]) -> None:
    assert set(models) == set(MODELS)
    for name in ("reference_encoder", "exemplar_colorizer", "scene_embedder"):
        assert build(models[name], profiles(name, models), RTX, rtx).plan


def test_options_reach_the_builder(rtx: ModuleType, models: dict[str, onnx.ModelProto]) -> None:
    """A version-compatible engine brings a runtime of its own, which the wheel lacks: the builder asks for it."""
    shapes = profiles("colorizer", models)
    options = EngineOptions(targets=("SM86",), workspace_mib=64, version_compatible=True)
    with pytest.raises(EngineError, match=r"colorizer: TensorRT builds no engine: .*lean"):
        build(models["colorizer"], shapes, options, rtx)
    backwards: list[Profile] = [{"lightness": (shape, shape, (0,))} for shape in ((1, 1, 32, 32),)]
    with pytest.raises(EngineError, match="refuses the profile"):
        build(models["colorizer"], backwards, RTX, rtx)


def test_without_a_gpu_an_engine_does_not_load_and_says_so(rtx: ModuleType, models: dict[str, onnx.ModelProto]) -> None:
    if compute_capability() is not None:
        pytest.skip("there is a GPU")
    plan = build(models["colorizer"], profiles("colorizer", models), RTX, rtx).plan
    assert "CUDA driver" in str(deserialise(plan, rtx))


RESIZE = """<ir_version: 8, opset_import: ["": 18]> g (float[n, 1, 8, 8] x) => (float[n, 1, 4, 4] y) {
    sizes = Constant <value_ints = [1, 1, 4, 4]> ()
    y = Resize <mode = "%s", antialias = %d> (x, , , sizes)
}"""


def test_the_lint_names_what_tensorrt_refuses(rtx: ModuleType) -> None:
    shapes: list[Profile] = [{"x": ((1, 1, 8, 8),) * 3}]
    model = onnx.parser.parse_model(RESIZE % ("linear", 1))
    model.graph.node[1].name = "shrink"
    assert lint(model) == ["shrink (Resize): antialias is not known; write the resize as matrix products"]
    with pytest.raises(EngineError, match=r"parser refuses shrink: .*[Aa]ntialias"):
        build(model, shapes, RTX, rtx)
    for mode in ("linear", "cubic"):
        fine = onnx.parser.parse_model(RESIZE % (mode, 0))
        assert lint(fine) == []
        assert build(fine, shapes, RTX, rtx).plan


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(uint8[4] x) => (uint8[4] y) { y = Add (x, x) }", "computes on uint8 ('x'), which only Cast may"),
        ("(float[4] x) => (float[k] y, int64[k] i, int64[4] j, int64[k] c) { y, i, j, c = Unique (x) }", "no such op"),
        ("(string[4] x) => (string[4] y) { y = Identity (x) }", "'x' is text"),
        (
            "(float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y, int64[1, 1, 2, 2] i) "
            "{ y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) }",
            "second output (indices)",
        ),
        (
            "(float[4] x, int64[1] k) => (float[m] y, int64[m] i) { y, i = TopK (x, k) }",
            "input 1 ('k') must be a const",
        ),
    ],
)
def test_the_lint(text: str, problem: str) -> None:
    header = '<ir_version: 8, opset_import: ["": 18]> g '
    found = lint(onnx.parser.parse_model(header + text))
    assert any(problem in line for line in found), found


def test_indices_of_int32_are_found() -> None:
    """Indexing a table by a tensor of int32: a GatherND that no runtime takes."""
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[8, 2] table, int32[3, 1] i) => (float[3, 2] y) {
        y = GatherND (table, i)
    }"""
    [problem] = lint(onnx.parser.parse_model(text))
    assert problem == "node 0 (GatherND): its indices are int32"


def test_a_graph_that_is_refused_stops_the_command_before_any_build(
    rtx: ModuleType, models: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    bad = graphs.colorizer()
    bad.graph.node.insert(0, onnx.helper.make_node("Det", ["lightness"], ["nothing"], "determinant"))
    publish(tmp_path / "models", repository_files(models | {"colorizer": bad}))
    done = engines(tmp_path / "models", "--for", "SM89", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "colorizer: determinant (Det): TensorRT has no such operator" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_overflowing_layer_is_named_before_any_build(models: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> colorizer
        (float[batch, 1, 32, 32] lightness) => (float[batch, 2, 8, 8] ab) {
        loud = Conv <kernel_shape = [4, 4], strides = [4, 4]> (lightness, first)
        ab = Conv <kernel_shape = [1, 1]> (loud, second)
    }"""
    model = onnx.parser.parse_model(text)
    weights: dict[str, NDArray[np.float32]] = {
        "first.weight": np.full((4, 1, 4, 4), 3e4, np.float32), "second.weight": np.full((2, 4, 1, 1), 1e-4, np.float32)
    }  # fmt: skip
    for node, name in zip(model.graph.node, weights, strict=True):
        node.input[1] = name
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    publish(tmp_path, repository_files(models | {"colorizer": model}))
    done = engines(tmp_path, "--for", "SM89", "--only", "colorizer")
    assert done.exit_code == 1
    assert "colorizer overflows float16 (65504): first (Conv) reaches" in done.stderr


def test_every_model_is_fed_by_those_before_it(models: dict[str, onnx.ModelProto]) -> None:
    pictures = [np.full((20, 30, 3), value, np.uint8) for value in (60, 200)]
    chain = Chain(models, pictures)
    for name, model in models.items():
        requests = list(chain.requests(name, 2))
        assert [profile for profile, _ in requests] == [0, 1]
        for _, feeds in requests:
            assert set(feeds) == {value.name for value in model.graph.input}
    (_, small), (_, large) = chain.requests("chroma_merge", 2)
    assert (small["frames"].shape, large["frames"].shape) == ((1, 20, 30), (4, 20, 30))
    (_, one), (_, _) = chain.requests("exemplar_colorizer", 1)
    assert np.allclose(one["reference_keys"], 60)


def test_every_profile_is_run_within_its_shapes() -> None:
    shipped = {path.parts[-3]: onnx.load(path) for path in sorted((ROOT / "model_repository").glob("*/1/model.onnx"))}
    chain = Chain(shipped, fitted(photographs(color=True), [best for best, _ in FRAMES]), len(FRAMES))
    for name in shipped:
        shapes = profiles(name, shipped)
        run = set()
        for profile, feeds in chain.requests(name, len(shapes)):
            run.add((profile, len(feeds["frames"]) if "frames" in feeds else None))
            for tensor, array in feeds.items():
                smallest, _, largest = shapes[profile][tensor]
                assert all(a <= b <= c for a, b, c in zip(smallest, array.shape, largest, strict=True)), (name, tensor)
        if len(shapes) > 1:
            assert run == {(profile, batch) for profile in range(len(shapes)) for batch in (1, 4)}


def test_many_pictures_are_thinned_out_and_one_serves_all_sizes() -> None:
    one = np.zeros((30, 20, 3), np.uint8)
    assert [picture.shape[:2] for picture in fitted([one], [(10, 20), (40, 30)])] == [(10, 20), (40, 30)] * 2
    many = [np.full((4, 4, 3), value, np.uint8) for value in range(100)]
    assert len(fitted(many, [(4, 4)])) <= 16


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """TensorRT whose engines are their profiles' count, and whose outputs are off by what this says, by model."""
    wrong: dict[str, float] = {}

    def build_fake(graph: onnx.ModelProto, shapes: list[Profile], *_: object) -> Engine:
        return Engine(plan=f"{graph.graph.name} {len(shapes)}".encode(), log="", seconds=0.0, version="10.13.2.6")

    def compare_fake(plan: bytes, graph: onnx.ModelProto, *_: object) -> dict[str, dict[str, float]]:
        error = wrong.get(graph.graph.name, 0.0)
        figures = {"mean_error": error, "error_99_9": error, "max_error": error}
        return {value.name: figures for value in graph.graph.output}

    monkeypatch.setattr(build_engines, "load_tensorrt", lambda **_: ModuleType("tensorrt"))
    monkeypatch.setattr(build_engines, "build", build_fake)
    monkeypatch.setattr(build_engines, "compare", compare_fake)
    return wrong


def test_one_bad_engine_and_none_is_published(
    fake: dict[str, float], models: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    publish(tmp_path, repository_files(models))
    fake["scene_embedder"] = 1.0  # the last to be built
    done = engines(tmp_path)
    assert done.exit_code == 1
    assert "scene_embedder: its engine is past the tolerance: embedding mean 1, at most 0.002" in done.stderr
    assert not list(tmp_path.rglob("model.plan"))
    assert problems(tmp_path) == []


def test_configs_follow_the_profiles_of_their_engines(
    fake: dict[str, float], models: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    publish(tmp_path, repository_files(models))
    promote(tmp_path, "colorizer", 1)
    for sizes in (["--sizes", "480x854-576x1024"], ["--sizes", "1x1-2x2,3x3-4x4,5x5-6x6"], []):
        assert engines(tmp_path, *sizes).exit_code == 0
        assert problems(tmp_path, "tensorrt") == []
    assert (tmp_path / "chroma_merge/1/model.plan").read_bytes() == b"chroma_merge 2"
    config = tmp_path / "chroma_merge/configs/tensorrt.pbtxt"
    config.write_text(config.read_text().replace('profile: [ "0", "1" ]', 'profile: [ "0" ]'))
    label = "chroma_merge: configs/tensorrt.pbtxt: 1/model.plan"
    assert problems(tmp_path) == [f"{label}: profile 1 of the engine is used by no instance"]


def test_a_truncated_graph_is_named_ahead_of_time_too(models: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    publish(tmp_path, repository_files(models))
    path = tmp_path / "lab_merge/1/model.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    done = engines(tmp_path, "--for", "SM89")
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert "lab_merge 1: model.onnx has" in done.stderr


def test_what_ab_may_be_off_is_the_networks_own() -> None:
    assert gpu_limits("colorizer", {})["ab"] == LIMITS["float16"]["ab"]
    strict = Limits(unit="Lab units", mean=0.1, most=1.0)
    own = {"half_limits": {"ab": {"unit": "Lab units", "mean": 0.1, "most": 1.0}}}
    assert gpu_limits("exemplar_colorizer", own)["ab"] == strict
    assert set(gpu_limits("chroma_merge", own)) == {"lightness", "rgb", "chroma"}
    for figures in ((0.2, 0.5, 0.5), (0.05, 1.5, 1.5), (float("nan"),) * 3, (0.0, 0.0, float("inf"))):
        assert strict.exceeded(*figures)
    assert strict.exceeded(0.1, 1.0, 9.0) is None


def test_profiles_cover_what_clients_send(models: dict[str, onnx.ModelProto]) -> None:
    standard, high = profiles("lab_merge", models)
    assert standard["frames"] == ((1, 1, 1), (8, 480, 854), (32, 576, 1024))
    assert high["frames"] == ((1, 1, 1), (2, 1080, 1920), (32, 1556, 2048))
    assert profiles("lab_merge", models, BATCH, FRAMES) == [standard, high]
    assert high["ab"] == ((1, 2, 8, 8), (2, 2, 8, 8), (32, 2, 8, 8))
    [exemplar] = profiles("exemplar_colorizer", models)
    assert exemplar["lightness"] == ((1, 1, 32, 32), (8, 1, 32, 32), (32, 1, 32, 32))
    assert exemplar["reference_ab"] == ((2, graphs.KEYS),) * 3
    with pytest.raises(ValueError, match="do not grow"):
        profiles("colorizer", models, (8, 4, 32))
    odd = onnx.ModelProto.FromString(models["colorizer"].SerializeToString())
    odd.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "side"
    with pytest.raises(ValueError, match="no sizes are known for input 'lightness'"):
        profiles("colorizer", {"colorizer": odd})


def _parameters(command: str) -> list[Any]:
    group = typer.main.get_command(app)
    assert hasattr(group, "commands")
    return list(group.commands[command].params)


def test_options_are_read() -> None:
    assert parse_batch("1, 4,16") == (1, 4, 16)
    assert parse_sizes("480x854-576x1024") == [((480, 854), (576, 1024))]
    [default] = [each.default for each in _parameters("engines") if each.name == "sizes"]
    assert tuple(parse_sizes(default)) == FRAMES
    for text in ("1,2", "a,b,c"):
        with pytest.raises(ValueError, match="three numbers"):
            parse_batch(text)
    with pytest.raises(ValueError, match="best and largest"):
        parse_sizes("480p")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such folder"),
        ([ROOT / "model_repository", "--for", "SM1"], "--for SM1: one of SM80"),
        ([ROOT / "model_repository", "--out", "x"], "--out goes with --for"),
        ([ROOT / "model_repository", "--for", "SM89", "--batch", "8"], "three numbers"),
        ([ROOT / "model_repository", "--for", "SM89", "--batch", "1,2,4"], "ends at a batch of 4"),
        ([ROOT / "model_repository", "--for", "SM89", "--only", "painter"], "has no ONNX model 'painter'"),
        ([ROOT / "tests", "--for", "SM89"], "serves no ONNX model"),
    ],
)
def test_wrong_use(arguments: list[object], message: str) -> None:
    done = engines(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr


WITHOUT = """
import sys
for name in ("tensorrt", "tensorrt_rtx_bindings", "torch"):  # NVIDIA's container has no torch
    sys.modules[name] = None
from reeltint_export import build_engines
from reeltint_export._cli import app
from reeltint_export.check import problems
app(["engines", *sys.argv[1:]])
"""


@pytest.mark.parametrize(("arguments", "extra"), [([], "tensorrt"), (["--for", "SM89"], "tensorrt-rtx")])
def test_without_tensorrt_the_command_says_what_to_install(
    models: dict[str, onnx.ModelProto], tmp_path: Path, arguments: list[str], extra: str
) -> None:
    publish(tmp_path, repository_files({"lab_split": models["lab_split"]}))
    command = [sys.executable, "-c", WITHOUT, str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f'pip install "reeltint[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_half_graphs_reach_tensorrt_with_their_types(rtx: ModuleType, models: dict[str, onnx.ModelProto]) -> None:
    half = to_half(onnx.load(ROOT / "model_repository/colorizer/1/model.onnx"))
    whole = {"colorizer": half}
    assert any(tensor.data_type == TensorProto.FLOAT16 for tensor in half.graph.initializer)
    engine = build(half, profiles("colorizer", whole), RTX, rtx)
    full = build(onnx.load(ROOT / "model_repository/colorizer/1/model.onnx"), profiles("colorizer", whole), RTX, rtx)
    assert len(engine.plan) < 0.7 * len(full.plan)
