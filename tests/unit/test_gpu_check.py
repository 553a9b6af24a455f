"""make gpu-check, as far as a host without a GPU can tell."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
from reeltint_export.precision import LIMITS, NETWORKS_IN_HALF, gpu_limits
from reeltint_local import default_models
from support import ROOT

SCRIPT = ROOT / "deploy/gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.endswith("no GPU: nothing was proved\n")


def test_every_graph_gets_real_inputs_and_agrees_with_itself(gpu_check: ModuleType) -> None:
    graphs = list(gpu_check._on_cpu(default_models()))
    assert {name for name, *_ in graphs} == {path.parts[-3] for path in default_models().glob("*/*/model.onnx")}
    for name, _, given, outputs in graphs:
        assert given
        assert gpu_check._differences(name, outputs, outputs, gpu_limits(name, {}))
        assert all(np.ptp(array) > 0 for array in outputs.values()), name


def test_another_colour_is_wrong(gpu_check: ModuleType) -> None:
    ab = np.zeros((1, 2, 40, 40), np.float32)
    limits = LIMITS["float16"]
    assert gpu_check._differences("colorizer", {"ab": ab + 0.2}, {"ab": ab}, limits)
    with pytest.raises(gpu_check.WrongError, match=r"colorizer ab: mean 0\.4, at most 0\.3 Lab units"):
        gpu_check._differences("colorizer", {"ab": ab + 0.4}, {"ab": ab}, limits)
    with pytest.raises(gpu_check.WrongError, match="nan"):
        gpu_check._differences("colorizer", {"ab": ab * np.nan}, {"ab": ab}, limits)


class Cuda(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session on the CPU that says it is on a GPU, where one was asked for."""

    asked: ClassVar[list[Any]] = []
    loads = True

    def __init__(self, graph: Any, providers: list[Any]) -> None:
        self._gpu = providers != ["CPUExecutionProvider"]
        if self._gpu:
            self.asked.append(providers[0])
        super().__init__(graph, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider" if self._gpu and self.loads else "CPUExecutionProvider"]


def test_every_network_runs_in_float16_too_and_without_tf32(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Cuda)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    answer = gpu_check.ask("cuda", lambda: gpu_check.cuda(default_models()))
    assert answer.answer == "yes", answer.found
    for name in NETWORKS_IN_HALF:
        assert f"; {name} in float16 " in answer.found
    assert len(Cuda.asked) == len(list(default_models().glob("*/1/model.onnx"))) + len(NETWORKS_IN_HALF)
    assert all(provider == ("CUDAExecutionProvider", {"use_tf32": "0"}) for provider in Cuda.asked)
    monkeypatch.setattr(Cuda, "loads", False)
    answer = gpu_check.ask("cuda", lambda: gpu_check.cuda(default_models()))
    assert (answer.answer, "does not load" in answer.found) == ("not tried", True)


def test_engines_that_are_missing_are_a_no(gpu_check: ModuleType, tmp_path: Path) -> None:
    for name in ("lab_split", "scene_embedder"):
        shutil.copytree(default_models() / name, tmp_path / name)
    (tmp_path / "lab_split/1/model.plan").touch()
    answer = gpu_check.ask("repository", lambda: gpu_check.repository(tmp_path))
    assert answer.answer == "no"
    assert "scene_embedder: configs/tensorrt.pbtxt: 1/model.plan is missing" in answer.found


def test_the_extras_are_those_of_the_release() -> None:
    """TensorRT's version in NVIDIA's containers, by their release notes."""
    [release] = re.findall(r"^ARG RELEASE=([\d.]+)$", (ROOT / "deploy/export/Dockerfile").read_text(), re.MULTILINE)
    version = {"25.08": "10.13.2"}[release]
    project = (ROOT / "pyproject.toml").read_text()
    assert f'tensorrt = ["tensorrt=={version}.*"]' in project
    assert 'gpu = ["onnxruntime-gpu[cuda,cudnn]' in project


def test_what_is_missing_is_named(gpu_check: ModuleType, tmp_path: Path) -> None:
    answer = gpu_check.ask("served", lambda: gpu_check.served(tmp_path))
    assert (answer.answer, answer.found) == ("not tried", "there are no engines to serve")
    shutil.copytree(default_models() / "colorizer", tmp_path / "colorizer")
    model = onnx.load(next(tmp_path.glob("colorizer/*/model.onnx")))
    model.graph.input[0].name = "nothing"
    onnx.save(model, next(tmp_path.glob("colorizer/*/model.onnx")))
    answer = gpu_check.ask("cuda", lambda: list(gpu_check._on_cpu(tmp_path)))
    assert answer.answer == "no"
