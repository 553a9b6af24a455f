"""Served frames/s against ONNX Runtime in process on the same graphs, with the client's defaults."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
from common import MODELS, SIZES, grey_frames, take_turns
from numpy.typing import NDArray
from reeltint import Colorizer
from reeltint._colorize import default_batch
from reeltint_local import LocalTriton

FRAMES, WORKERS = 120, 2


class InProcess:
    """lab_split, colorizer and chroma_merge in this process.

    Args:
        threads: Of each session; the server has 1.
    """

    def __init__(self, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the server: else they fight
        self._split, self._network, self._merge = (
            onnxruntime.InferenceSession(
                str(MODELS / name / "1/model.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for name in ("lab_split", "colorizer", "chroma_merge")
        )

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        (lightness,) = self._split.run(None, {"frames": frames})
        (ab,) = self._network.run(None, {"lightness": lightness})
        return self._merge.run(None, {"frames": frames, "ab": ab})[0]  # type: ignore[no-any-return]


def measure() -> dict[str, Any]:
    """Frames/s and their ratio by frame size, in process with as many workers as the server has instances.

    In process the client's batches are run as they are; "frame by frame" is what does without the batches, and quicker
    where a batch of frames does not fit into the caches.
    """
    result: dict[str, Any] = {}
    in_process = InProcess(threads=1)
    with LocalTriton(MODELS) as server, Colorizer(server.address) as colorizer, ThreadPoolExecutor(WORKERS) as pool:
        for name, (height, width) in SIZES.items():
            frames = grey_frames(FRAMES, height, width)
            batch = default_batch(height, width)
            batches = [frames[k : k + batch] for k in range(0, FRAMES, batch)]
            seconds = take_turns(
                {
                    "served": lambda b=batches: [batch.chroma for batch in colorizer.stream(b)],  # type: ignore[misc]
                    "in process": lambda b=batches: list(pool.map(in_process, b)),  # type: ignore[misc]
                    "frame by frame": lambda f=frames: list(pool.map(in_process, f[:, None])),  # type: ignore[misc]
                }
            )
            speed = {way: FRAMES / taken for way, taken in seconds.items()}
            result[name] = {**speed, "ratio": speed["served"] / speed["in process"]}
    return result


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    ways = ("served", "in process", "frame by frame")
    lines = [f"| frames/s | {' | '.join(ways)} | served / in process |", "|---|---|---|---|---|"]
    for name, row in result.items():
        speeds = " | ".join(f"{row[way]:.1f}" for way in ways)
        lines.append(f"| {name} | {speeds} | {row['ratio']:.2f} |")
    return "\n".join(lines)
