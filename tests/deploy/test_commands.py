"""Workflows and documents: against GitHub's schema, and against the commands that a person has."""

import re
import sys
from pathlib import Path

import pytest
import reeltint
import typer
import yaml
from manifests import DEPLOY, Manifest, compose, run
from reeltint._cli import main as client_app
from reeltint_export._cli import app as export_app
from support import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def _steps(workflow: Path) -> list[Manifest]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_workflow_schema(schema: str) -> None:
    assert {path.stem for path in WORKFLOWS} == {"ci", "export"}
    done = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *WORKFLOWS)
    assert done.returncode == 0, done.stdout


def test_the_workflow_for_other_teams_too(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    (tmp_path / "models.yml").write_text(text)
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows")
    done = run(*check, tmp_path / "models.yml")
    assert done.returncode == 0, done.stdout


def _known(app: typer.Typer) -> dict[str, set[str]]:
    """Options of an application's commands, by their names."""
    group = typer.main.get_command(app)
    assert hasattr(group, "commands")
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize(
    "path",
    [*WORKFLOWS, DEPLOY / "export/publish.sh", ROOT / "docs/deploy.md", ROOT / "docs/export.md"],
    ids=lambda path: path.name,
)
def test_commands_are_those_a_person_has(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    found = 0
    for program, app, default in (("reeltint-export", export_app, "export"), ("reeltint", client_app, None)):
        known = _known(app)
        for call in re.findall(rf"(?<![\w/-]){program}((?: +[^\s`>|;#&]+)+)", text):
            words = call.split()
            command = words[0] if words[0] in known else default
            if command is None:
                continue  # a sentence about reeltint
            used = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert used <= known[command] | {"--help"}, call
            found += 1
    assert found or path.stem == "ci"


def test_names_in_the_documents_exist() -> None:
    text = (ROOT / "docs/deploy.md").read_text()
    for names in re.findall(r"^from reeltint import (.+)$", text, re.MULTILINE):
        assert set(names.split(", ")) <= set(reeltint.__all__)


@pytest.mark.parametrize("name", ["deploy.md", "export.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", text)
    assert links
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for path, anchor in links:
        assert not path or (ROOT / "docs" / path).exists(), path
        assert path or anchor[1:] in headings, anchor


def test_ci_runs_what_a_person_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = [step["run"] for step in _steps(ROOT / ".github/workflows/ci.yml") if "run" in step]
    targets = [word for command in commands for word in re.findall(r"^make (\S+)", command)]
    assert targets == ["check"]
    assert re.search(r"^check:", makefile, re.MULTILINE)


def test_make_leaves_no_half_environment(tmp_path: Path) -> None:
    """Where ensurepip is missing, `python3 -m venv` fails and leaves a Python without pip."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nmkdir -p .venv/bin; touch .venv/bin/python; exit 1\n")
    python.chmod(0o755)
    command = ("make", "-C", tmp_path, "-f", ROOT / "Makefile", ".venv/bin/python", f"PYTHON={python}")
    for _ in range(2):
        done = run(*map(str, command))
        assert done.returncode != 0
        assert "apt install python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("where", ["export.yml", "export.md"])
def test_jobs_in_nvidias_container_do_what_the_dockerfile_does(where: str) -> None:
    """Which is built from the same image: pip may write there, and TensorRT's Python part may have to be installed."""
    if where == "export.yml":
        job = yaml.safe_load((ROOT / ".github/workflows/export.yml").read_text())
        job, common = job["jobs"]["gpu"], job["env"]
    else:
        [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
        job, common = yaml.safe_load(text)["jobs"]["engines"], {}
    dockerfile = (DEPLOY / "export/Dockerfile").read_text()
    assert "PIP_BREAK_SYSTEM_PACKAGES=1" in dockerfile
    [install] = re.findall(r'python3 -c "import tensorrt" \|\| bash \S+python_setup\.sh', dockerfile)
    [index] = re.findall(r"--extra-index-url (\S+)", dockerfile)
    variables = common | job["env"]
    assert variables["PIP_BREAK_SYSTEM_PACKAGES"] == "1"
    assert variables["PIP_EXTRA_INDEX_URL"] == index
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands.index(install) < next(i for i, command in enumerate(commands) if "engines" in command)
    checks = [command for command in commands if command.startswith("reeltint-export check")]
    assert checks
    assert all("--config-name tensorrt" in command for command in checks)
    if any(command.startswith("aws ") for command in commands):
        assert any("pip install awscli" in command for command in commands)


def test_engines_are_built_in_the_release_that_serves_them() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/export.yml").read_text())["jobs"]
    built = jobs["gpu"]["container"]["image"].replace("/tensorrt:", "/tritonserver:")
    assert built == compose("compose.yaml")["services"]["triton"]["image"]
    assert jobs["gpu"]["runs-on"] == ["self-hosted", "gpu"]
