"""make gpu-check, as far as a host without a GPU can tell."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
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
        assert gpu_check._differences(name, outputs, outputs)
        assert all(np.ptp(array) > 0 for array in outputs.values()), name


def test_another_colour_is_wrong(gpu_check: ModuleType) -> None:
    ab = np.zeros((1, 2, 40, 40), np.float32)
    assert gpu_check._differences("colorizer", {"ab": ab + 0.2}, {"ab": ab})
    with pytest.raises(gpu_check.WrongError, match=r"colorizer ab: mean 0\.4.* at most 0\.3 and 2"):
        gpu_check._differences("colorizer", {"ab": ab + 0.4}, {"ab": ab})
    with pytest.raises(gpu_check.WrongError, match="nan"):
        gpu_check._differences("colorizer", {"ab": ab * np.nan}, {"ab": ab})


def test_what_is_missing_is_named(gpu_check: ModuleType, tmp_path: Path) -> None:
    answer = gpu_check.ask("served", lambda: gpu_check.served(tmp_path))
    assert (answer.answer, answer.found) == ("not tried", "there are no engines to serve")
    shutil.copytree(default_models() / "colorizer", tmp_path / "colorizer")
    model = onnx.load(next(tmp_path.glob("colorizer/*/model.onnx")))
    model.graph.input[0].name = "nothing"
    onnx.save(model, next(tmp_path.glob("colorizer/*/model.onnx")))
    answer = gpu_check.ask("cuda", lambda: list(gpu_check._on_cpu(tmp_path)))
    assert answer.answer == "no"
