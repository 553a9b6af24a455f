"""The image of deploy/export, as far as it can be told without a container engine."""

import fnmatch
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from manifests import DEPLOY
from support import ROOT

LINES = (DEPLOY / "export/Dockerfile").read_text().replace("\\\n", " ").splitlines()
COPIES = [line.split()[1:] for line in LINES if line.startswith("COPY ")]


def test_what_is_copied_makes_the_package(tmp_path: Path) -> None:
    context = tmp_path / "context"
    for *sources, target in COPIES:
        for source in sources:
            if target.startswith("/"):
                continue  # not part of the package
            place = context / (Path(source).name if target == "./" else target)
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, place)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist")]
    subprocess.run(command, cwd=context, check=True, capture_output=True)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    packages = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {"reeltint", "reeltint_export", "reeltint_local", "reeltint_training"} <= packages


def test_nothing_that_is_copied_is_ignored() -> None:
    """Docker reads Dockerfile.dockerignore beside the Dockerfile: all is ignored but lines with an exclamation mark."""
    first, *rules = (DEPLOY / "export/Dockerfile.dockerignore").read_text().split()
    assert first == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    assert sorted(kept) == sorted(source for *sources, _ in COPIES for source in sources)
    assert not any(fnmatch.fnmatch(".venv/lib/x.py", f"{name}*") for name in kept)


def test_it_starts_the_script_as_nobody_in_particular() -> None:
    text = "\n".join(LINES)
    [script] = re.findall(r"^COPY deploy/export/publish\.sh (\S+)$", text, re.MULTILINE)
    assert f'ENTRYPOINT ["{Path(script).name}"]' in text
    assert "USER 1000:1000" in text
    assert (DEPLOY / "export/publish.sh").stat().st_mode & 0o111
