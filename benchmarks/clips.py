"""Reference colouring on 25 colour clips, each coloured by its first true frame, by category.

Paper 3's published figures by category lie between 29.1 and 30.9 dB and .87 and .93 SSIM, on films of its own.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
from common import CLIPS, ROOT
from reeltint_training.checkpoints import load_network
from reeltint_training.clips import ROWS, ClipFigures, clips_of, measure_clip, summary
from reeltint_training.networks.exemplar import ExemplarNet

CHECKPOINT = ROOT / "training/checkpoints/exemplar.safetensors"
CATEGORIES = {
    "people": ("davis_bmx", "davis_tennis", "fresco_boxer", "fresco_music", "intel_asl", "intel_person",
               "propainter_parkour", "propainter_skater", "sam2_bedroom", "sam2_juggle", "tokenflow_woman"),
    "animals": ("davis_blackswan", "fresco_corgi", "sam2_dog", "tokenflow_wolf"),
    "vehicles": ("carnd", "fresco_car", "moviepy_airplane", "propainter_running_car"),
    "things": ("intel_bottles", "sam2_blocks", "sam2_coffee", "sam2_cups"),
}  # fmt: skip
CAMERA_STAYS = ("intel", "sam2_blocks", "sam2_coffee", "sam2_cups", "sam2_dog", "sam2_juggle")
"""Looked at by eye: a highway is smooth enough to fool a measure of change."""


def measure(every: int = 5) -> dict[str, Any]:
    """All figures of all clips, and the summary as a table."""
    network, spec, header = load_network(CHECKPOINT, "exemplar")
    assert isinstance(network, ExemplarNet)
    figures: dict[str, dict[str, ClipFigures]] = {}
    known = tuple(prefix for prefixes in CATEGORIES.values() for prefix in prefixes)
    for name, frames in clips_of(CLIPS):
        if not name.startswith(known):
            continue  # a black-and-white film, tinted
        figures[name] = measure_clip(network, frames, spec.size, every)
    return {
        "size": spec.size,
        "step": header["step"],
        "every": every,
        "clips": {name: {row: asdict(f) for row, f in rows.items()} for name, rows in figures.items()},
    }


def table(result: dict[str, Any]) -> str:
    """The means, the categories and the growth of error as Markdown."""
    clips = {
        name: {row: ClipFigures(**figures) for row, figures in rows.items()} for name, rows in result["clips"].items()
    }
    lines = [
        summary(list(clips.values())),
        "",
        "| PSNR dB / SSIM | clips | grey | automatic | exemplar |",
        "|---|---|---|---|---|",
    ]
    for category, prefixes in CATEGORIES.items():
        chosen = [rows for name, rows in clips.items() if name.startswith(prefixes)]
        cells = [
            f"{_mean(chosen, row, 'psnr'):.2f} / {_mean(chosen, row, 'ssim'):.3f}"
            for row in ("grey", "automatic", "exemplar")
        ]
        lines.append(f"| {category} | {len(chosen)} | {' | '.join(cells)} |")
    lines += ["", "| clip | " + " | ".join(ROWS) + " |", "|---" * (len(ROWS) + 1) + "|"]
    for name, rows in clips.items():
        lines.append(f"| {name} | " + " | ".join(f"{rows[row].psnr:.2f}" for row in ROWS) + " |")
    lines += [
        "",
        "| error's growth, first tenth to last, dB | clips | copy only | exemplar | fed back |",
        "|---|---|---|---|---|",
    ]
    for label, prefixes in (("camera stays", CAMERA_STAYS), ("all", ("",))):
        chosen = [rows for name, rows in clips.items() if name.startswith(prefixes)]
        growth = (f"{_mean(chosen, row, 'growth'):.2f}" for row in ("copy only", "exemplar", "fed back"))
        lines.append(f"| {label} | {len(chosen)} | {' | '.join(growth)} |")
    return "\n".join(lines)


def _mean(clips: list[dict[str, ClipFigures]], row: str, figure: str) -> float:
    return float(np.mean([getattr(rows[row], figure) for rows in clips])) if clips else float("nan")
