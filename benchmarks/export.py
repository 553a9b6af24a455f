"""Exports to half precision against torch in float32, on photographs and clips; engines of every graph, ahead of time.

The commands are those a person runs. A GPU's own engines are no part of it: TensorRT for RTX builds without one.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from common import CLIPS, MODELS, PHOTOS, ROOT

COMMAND = Path(sys.executable).with_name("reeltint-export")
CHECKPOINTS = {
    "exemplar": (ROOT / "training/checkpoints/exemplar.safetensors", ()),
    "paper 1's": (ROOT.parent / "shared/checkpoints/paper1_resnet18_half.pth", ("--network", "resnet18")),
}
TARGETS = ("SM80", "SM86", "SM89", "SM120")


def measure(photos: int = 200) -> dict[str, Any]:
    """Differences by checkpoint, model and output, on so many photographs and all clips; MiB and seconds of engines."""
    result: dict[str, Any] = {"photographs": photos, "parity": {}, "engines": {}}
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        _unpack(pictures, photos)
        for name, (checkpoint, options) in CHECKPOINTS.items():
            if not checkpoint.exists():
                print(f"{name}: left out, {checkpoint} is not here", file=sys.stderr)
                continue
            report = Path(folder) / f"{name}.json"
            where = ("--to", Path(folder) / name, "--frames", pictures, "--report", report)
            _run("export", checkpoint, *options, "--precision", "float16", *where)
            models = json.loads(report.read_text())["models"]
            result["parity"][name] = {model: manifest["parity"] for model, manifest in models.items()}
    for target in TARGETS:
        for engine in json.loads(_run("engines", MODELS, "--for", target, "--json"))["engines"]:
            facts = {"mib": engine["bytes"] / 2**20, "seconds": engine["seconds"], "precision": engine["precision"]}
            result["engines"].setdefault(engine["model"], {})[target] = facts
            result["tensorrt"] = f"for RTX {engine['tensorrt']}"
    return result


def table(result: dict[str, Any]) -> str:
    """Two tables as Markdown."""
    lines = ["| checkpoint | output | mean | 99.9 % | max | |", "|---|---|---|---|---|---|"]
    for checkpoint, models in result["parity"].items():
        for model, outputs in models.items():
            for output, parity in outputs.items():
                figures = " | ".join(f"{parity[key]:.2g}" for key in ("mean_error", "error_99_9", "max_error"))
                lines.append(f"| {checkpoint} | `{model}` {output} | {figures} | {parity['limits']['unit']} |")
    lines += ["", f"| engine, MiB and seconds | | {' | '.join(TARGETS)} |", "|---" * (len(TARGETS) + 2) + "|"]
    for model, engines in result["engines"].items():
        cells = " | ".join(f"{engines[target]['mib']:.2f}, {engines[target]['seconds']:.1f}" for target in TARGETS)
        lines.append(f"| `{model}` | {engines[TARGETS[0]]['precision']} | {cells} |")
    return "\n".join(lines)


def _unpack(folder: Path, photos: int) -> None:
    """Photographs evenly spread over those for validation, and with them all clips in colour."""
    with tarfile.open(PHOTOS) as tar:
        members = sorted((member for member in tar if member.isfile()), key=lambda member: member.name)
        tar.extractall(folder, members[:: max(1, len(members) // photos)][:photos], filter="data")
    with tarfile.open(CLIPS) as tar:
        tar.extractall(folder, [member for member in tar if member.name.startswith("color/")], filter="data")


def _run(*arguments: str | Path) -> str:
    return subprocess.run([COMMAND, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout
