"""What the benchmarks share: grey test frames, a stopwatch that takes turns, the results folder."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from skimage import color, data

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "model_repository"
RESULTS = Path(__file__).parent / "results"
CLIPS = Path(os.environ.get("REELTINT_CLIPS", ROOT.parent / "shared/data/clips.tar"))
"""Clips to measure on, which are not part of the project: a .tar file with a folder `color`."""
PHOTOS = CLIPS.with_name("photos-val.tar")
"""Photographs that nothing was trained on, beside the clips."""
SIZES = {"480p": (480, 854), "1080p": (1080, 1920)}


def grey_frames(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Frames [count, height, width] that pan over a photograph."""
    photograph = (color.rgb2gray(data.coffee()) * 255).round().astype(np.uint8)
    large = av.VideoFrame.from_ndarray(photograph, "gray").reformat(width + 2 * count, height).to_ndarray()
    return np.stack([large[:, 2 * k : 2 * k + width] for k in range(count)])


def take_turns(rivals: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each rival: one warm-up, then `rounds` in which each runs once, on the same busy machine."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for run in rivals.values():
        run()
    for _ in range(rounds):
        for name, run in rivals.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
