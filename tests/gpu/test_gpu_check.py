"""On a host with a GPU: engines and CUDA against ONNX Runtime's CPU provider, by deploy/gpu_check.py."""

import json
import subprocess
import sys
from typing import Any

import pytest
from support import ROOT


@pytest.fixture(scope="session")
def answers() -> dict[str, dict[str, Any]]:
    command = [sys.executable, str(ROOT / "deploy/gpu_check.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        pytest.skip("no GPU here")
    return {answer["question"]: answer for answer in json.loads(done.stdout)}


@pytest.mark.parametrize("question", ["gpu", "cuda", "engines", "repository", "served"])
def test_a_gpu_says_yes(answers: dict[str, dict[str, Any]], question: str) -> None:
    answer = answers[question]
    if answer["answer"] == "not tried":
        pytest.skip(answer["found"])
    assert answer["answer"] == "yes", answer["found"]
