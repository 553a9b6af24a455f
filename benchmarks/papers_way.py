"""One 1080p frame: our three graphs against the papers' way.

The papers' way is scikit-image's rgb2lab at full size, a resize, the network in eager PyTorch, a resize back and
scikit-image's lab2rgb at full size.
"""

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
    """Milliseconds of each way, and their ratio; ours with the server's one thread, PyTorch with all of its."""
    network = SPEC.build().eval()
    frame = grey_frames(1, *SIZES["1080p"])
    ours = InProcess(threads=1)

    def papers() -> NDArray[np.uint8]:
        lab = rgb2lab(np.repeat(frame[0][..., None], 3, 2))
        lightness = torch.from_numpy(lab[..., 0] / 100).float()[None, None]
        with torch.inference_mode():
            small = functional.interpolate(lightness, (SPEC.size, SPEC.size), mode="bilinear", antialias=True)
            ab = functional.interpolate(network(small), frame.shape[1:], mode="bilinear")[0].movedim(0, -1).numpy()
        rgb: NDArray[np.uint8] = (lab2rgb(np.concatenate([lab[..., :1], ab], -1)) * 255).round().astype(np.uint8)
        return rgb

    ways = {"reeltint": lambda: ours(frame), "papers": papers}
    seconds = take_turns({name: lambda run=run: [run() for _ in range(FRAMES)] for name, run in ways.items()})  # type: ignore[misc]
    return {
        **{f"{way} ms": 1000 * taken / FRAMES for way, taken in seconds.items()},
        "ratio": seconds["papers"] / seconds["reeltint"],
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    return (
        "| one 1080p frame | reeltint | the papers' way | ratio |\n|---|---|---|---|\n"
        f"| ms | {result['reeltint ms']:.0f} | {result['papers ms']:.0f} | {result['ratio']:.1f} |"
    )
