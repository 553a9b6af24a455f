"""What deploy/ holds, read for tests."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from reeltint_local._server import _environment, _wheel
from support import ROOT

DEPLOY = ROOT / "deploy"
Manifest = dict[str, Any]


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end; a tool that is not here skips the test."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def rendered(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization, as `kubectl apply -k` would send them."""
    done = run("kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """The only manifest of this kind."""
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def compose(name: str) -> Manifest:
    """A compose file of deploy/."""
    parsed: Manifest = yaml.safe_load((DEPLOY / name).read_text())
    return parsed


def server_options() -> set[str]:
    """The options of the wheel's tritonserver, by its own help."""
    wheel = _wheel()
    done = subprocess.run(
        [wheel / "bin/tritonserver", "--help"], env=_environment(wheel), capture_output=True, text=True, check=False
    )
    return set(re.findall(r"^  (--[a-z-]+)", done.stdout + done.stderr, re.MULTILINE))


def dashboards() -> list[Manifest]:
    """Grafana's dashboards."""
    return [json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana/dashboards").glob("*.json"))]
