"""Reference colouring on 25 colour clips, each coloured by its first true frame: all, by category, and clip by clip.

Beside them stands what paper 3 published: the range of its figures by category, on films of its own.
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
PAPER_3 = "| paper 3, other films | 29.1 to 30.9 | .87 to .93 | | | | |"


def measure(every: int = 5) -> dict[str, Any]:
    """All figures of all clips."""
    network, spec, header = load_network(CHECKPOINT, "exemplar")
    assert isinstance(network, ExemplarNet)
    figures: dict[str, dict[str, ClipFigures]] = {}
    known = tuple(prefix for prefixes in CATEGORIES.values() for prefix in prefixes)
    for name, frames in clips_of(CLIPS):
        if not name.startswith(known):
            continue  # a black-and-white film, tinted
        figures[name] = measure_clip(network, frames, spec.size, every)
    if not figures:
        raise SystemExit(f"{CLIPS}: none of the clips that are named in {__file__}")
    return {
        "size": spec.size,
        "step": header["step"],
        "every": every,
        "clips": {name: {row: asdict(f) for row, f in rows.items()} for name, rows in figures.items()},
    }


def table(result: dict[str, Any]) -> str:
    """All clips, each category, every clip and the growth of error as Markdown."""
    clips = {
        name: {row: ClipFigures(**figures) for row, figures in rows.items()} for name, rows in result["clips"].items()
    }
    lines = []
    for category, prefixes in {"all": ("",), **CATEGORIES}.items():
        chosen = [rows for name, rows in clips.items() if name.startswith(prefixes)]
        if chosen:
            lines += [summary(chosen, f"{category}, {len(chosen)} clips"), PAPER_3, ""]
    others = [row for row in ROWS if row != "exemplar"]
    lines += [
        "| exemplar, by clip | PSNR dB | SSIM | ab distance | flicker | the truth's | "
        + " | ".join(f"PSNR dB: {row}" for row in others)
        + " |",
        "|---" * (6 + len(others)) + "|",
    ]
    for name, rows in clips.items():
        mine = rows["exemplar"]
        figures = (f"{mine.psnr:.2f}", f"{mine.ssim:.3f}", f"{mine.ab_distance:.2f}", f"{mine.flicker:.2f}")
        cells = (name, *figures, f"{rows['truth'].flicker:.2f}", *(f"{rows[row].psnr:.2f}" for row in others))
        lines.append(f"| {' | '.join(cells)} |")
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
