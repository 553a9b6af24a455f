"""One 1080p frame: our three graphs against the papers' way.

The papers' way is scikit-image's rgb2lab at full size, a resize, the network in eager PyTorch, a resize back and
scikit-image's lab2rgb at full size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import SIZES, grey_frames, take_turns
from numpy.typing import NDArray
from reeltint_training.networks import NETWORKS
from served import InProcess
from skimage.color import lab2rgb, rgb2lab
from torch.nn import functional

SPEC = NETWORKS["huenet"]
FRAMES = 4  # a turn: a film is one frame after another


def measure() -> dict[str, Any]:
    """Milliseconds of each way and their ratio; PyTorch with all cores, ours too, and with the server's one thread."""
    network = SPEC.build().eval()
    frame = grey_frames(1, *SIZES["1080p"])
    threads = {"all cores": torch.get_num_threads(), "one thread": 1}
    ours = {name: InProcess(count) for name, count in threads.items()}

    def papers() -> NDArray[np.uint8]:
        lab = rgb2lab(np.repeat(frame[0][..., None], 3, 2))
        lightness = torch.from_numpy(lab[..., 0] / 100).float()[None, None]
        with torch.inference_mode():
            small = functional.interpolate(lightness, (SPEC.size, SPEC.size), mode="bilinear", antialias=True)
            ab = functional.interpolate(network(small), frame.shape[1:], mode="bilinear")[0].movedim(0, -1).numpy()
        rgb: NDArray[np.uint8] = (lab2rgb(np.concatenate([lab[..., :1], ab], -1)) * 255).round().astype(np.uint8)
        return rgb

    ways: dict[str, Callable[[], object]] = {name: partial(way, frame) for name, way in ours.items()}
    seconds = take_turns({name: partial(_film, way) for name, way in (ways | {"papers": papers}).items()})
    return {
        "threads": threads,
        "ms": {way: 1000 * taken / FRAMES for way, taken in seconds.items()},
        "ratio": {name: seconds["papers"] / seconds[name] for name in ours},
    }


def _film(way: Callable[[], object]) -> None:
    for _ in range(FRAMES):
        way()


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| one 1080p frame | reeltint ms | the papers' way ms | ratio |", "|---|---|---|---|"]
    for name, ratio in result["ratio"].items():
        lines.append(f"| {name} | {result['ms'][name]:.1f} | {result['ms']['papers']:.0f} | {ratio:.1f} |")
    return "\n".join(lines)
