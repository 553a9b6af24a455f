"""Milliseconds a frame of the colour graphs in ONNX Runtime, beside scikit-image at full size.

    python benchmarks/colour_graphs.py [--repository model_repository] [--threads 1] [--json FILE]

Times are the least of several runs: the machine's noise only ever adds.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from skimage import color, data, transform

SIZES = {"480p": (480, 854), "1080p": (1080, 1920)}
BATCHES = (1, 4)
RUNS = 7


def least_ms(step: Callable[[], object], frames: int, runs: int = RUNS) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3 / frames


def session(repository: Path, name: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = repository / name / "1" / "model.onnx"
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def scikit_image_ms(frame: NDArray[np.uint8]) -> float:
    """Both ways at full size, as the papers do it: RGB to Lab, and Lab to RGB."""
    grey = np.repeat(frame[..., None], 3, -1)
    lab = color.rgb2lab(grey)
    return least_ms(lambda: color.rgb2lab(grey), 1, 2) + least_ms(lambda: color.lab2rgb(lab), 1, 2)


def measure(repository: Path, cells: int, threads: int = 1) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    ab = np.random.default_rng(0).normal(0, 15, (max(BATCHES), 2, cells, cells)).astype(np.float32)
    for size, shape in SIZES.items():
        photo = transform.resize(color.rgb2gray(data.astronaut()), shape)
        frames = np.repeat((photo * 255).astype(np.uint8)[None], max(BATCHES), 0)
        papers = scikit_image_ms(frames[0])
        for name in ("lab_split", "chroma_merge", "lab_merge"):
            model = session(repository, name, threads)
            for batch in BATCHES:
                inputs = {"frames": frames[:batch]} | ({} if name == "lab_split" else {"ab": ab[:batch]})
                ms = least_ms(lambda model=model, inputs=inputs: model.run(None, inputs), batch)  # type: ignore[misc]
                rows.append(
                    {"graph": name, "size": size, "batch": batch, "ms": round(ms, 2), "scikit_image_ms": round(papers)}
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--cells", type=int, default=40, help="side of the ab map")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime; 1 is what the server has")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    rows = measure(options.repository, options.cells, options.threads)
    print("| graph | size | batch | ms a frame | scikit-image, both ways |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['graph']} | {row['size']} | {row['batch']} | {row['ms']} | {row['scikit_image_ms']} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
