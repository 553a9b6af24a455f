"""What resizing ab along the edges of the lightness is worth and what it costs, against bilinear resizing.

    python benchmarks/edges.py [PHOTOS...] [--model model_repository/colorizer/1/model.onnx] [--picture docs/edges.png]

PHOTOS are folders or .tar files; they keep their size. Two sources of ab are resized: the network's, and the truth's
reduced to the same 40 x 40 cells, which is what a good reference comes close to. All are scored with the true L*, at
full size. The time is that of the merges as they are exported against the same graphs with ab resized bilinearly, in
ONNX Runtime, one thread, one frame a run.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import torch
from common import MODELS, PHOTOS, ROOT, SIZES, grey_frames, take_turns
from PIL import Image
from reeltint_export import colour_graphs as graphs
from reeltint_training.data import Photo, load_photos, to_lab
from reeltint_training.evaluate import Colour, picture, row
from reeltint_training.figures import Figures, compare, mean
from reeltint_training.guided import guided_ab
from skimage import data
from torch import Tensor
from torch.nn import functional

CELLS = (40, 40)
TURNS = 41
CROPS = (("astronaut", 336, 192), ("coffee", 64, 160))  # what, top, left: hard edges between two colours
CROP, ZOOM = 96, 2
MODEL = MODELS / "colorizer/1/model.onnx"
_UNITS = {
    "psnr": ("PSNR dB", 3),
    "ssim": ("SSIM", 4),
    "ciede2000": ("CIEDE2000", 3),
    "ab_distance": ("ab distance", 3),
    "colourfulness": ("colourfulness", 1),
}


def bilinear(lightness: Tensor, ab: Tensor) -> Tensor:
    return functional.interpolate(ab, lightness.shape[2:], mode="bilinear")


def guided(lightness: Tensor, ab: Tensor) -> Tensor:
    return guided_ab(lightness, ab, lightness.shape[2:])


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bilinear": bilinear, "along edges": guided}


def scores(photos: list[tuple[str, Photo]], colour: Colour) -> dict[str, dict[str, dict[str, float]]]:
    """Mean figures by source of ab and way of resizing."""
    figures: dict[str, dict[str, list[Figures]]] = {}
    for _, photo in photos:
        lab = to_lab(photo[None])
        sources = {"network": colour(lab[:, :1] / 100), "truth": functional.adaptive_avg_pool2d(lab[:, 1:], CELLS)}
        for source, ab in sources.items():
            for way, resize in WAYS.items():
                found = compare(picture(lab[:, :1], resize(lab[:, :1], ab)), photo)
                figures.setdefault(source, {}).setdefault(way, []).append(found)
    return {s: {way: asdict(mean(each)) for way, each in ways.items()} for s, ways in figures.items()}


def bilinear_merge(merge: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    """The graph that `merge` writes, with ab resized bilinearly."""
    with patch.object(graphs, "_linear_light", _bilinear_light):
        return merge()


def _bilinear_light(graph: graphs._Graph, codes: str, greys: Tensor, down: graphs._Bands, across: graphs._Axis) -> str:
    """`_linear_light` where f(X) and f(Z) are f(Y) and what is read of ab, no line over it."""
    v, delta = graphs._curve(greys), graphs._DELTA / graphs._UNIT
    u = np.maximum(v, delta)
    shape, index = graph.op("Shape", codes), graph.index(codes)
    lightness, y = (graph.take_by(table, index, shape) for table in (v, u**3 - u + v))
    finite = graph.op("Where", graph.op("IsNaN", "ab"), graph.constant(0.0), "ab")
    finite = graph.op("Clip", finite, graph.constant(-graphs._AB_LIMIT), graph.constant(graphs._AB_LIMIT))
    x = graph.op("Mul", finite, graph.constant(graphs._OFFSETS / graphs._UNIT))
    xz = graph.op("Add", down.read(graph.op("MatMul", x, across.reading())), lightness)
    xz = graph.op("Max", xz, graph.constant(np.array([-1e9, 0.0])[:, None, None]))
    above = graph.op("Max", xz, graph.constant(delta))
    cube = graph.op("Mul", graph.op("Sub", graph.op("Mul", above, above), graph.constant(1.0)), above)
    return graph.op("Concat", graph.op("Add", cube, xz), y, axis=1)


def times(turns: int = TURNS) -> dict[str, dict[str, dict[str, float]]]:
    """Median milliseconds a frame of each merge, by frame size and way, and their ratio."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    ab = np.random.default_rng(0).normal(0, 15, (1, 2, *CELLS)).astype(np.float32)
    for merge in (graphs.chroma_merge, graphs.lab_merge):
        sessions = {"bilinear": _session(bilinear_merge(merge)), "along edges": _session(merge())}
        for size, shape in SIZES.items():
            given = {"frames": grey_frames(1, *shape), "ab": ab}
            rivals: dict[str, Callable[[], object]]
            rivals = {way: partial(session.run, None, given) for way, session in sessions.items()}
            ms = {way: 1000 * seconds for way, seconds in take_turns(rivals, turns).items()}
            result.setdefault(merge.__name__, {})[size] = {**ms, "ratio": ms["along edges"] / ms["bilinear"]}
    return result


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(photos: Sequence[Path] = (PHOTOS,), model: Path = MODEL) -> dict[str, Any]:
    """Scores on all photographs, and times."""
    torch.set_num_threads(1)
    spent = times()
    loaded = load_photos(photos, None)
    return {"photographs": len(loaded), "scores": scores(loaded, row(model).colour), "ms a frame": spent}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [f"| {result['photographs']} photographs | bilinear | along edges | |", "|---|---|---|---|"]
    for source, name in (("network", "the network's ab"), ("truth", "true ab of 40 x 40 cells")):
        before, after = (result["scores"][source][way] for way in WAYS)
        for key, (unit, digits) in _UNITS.items():
            old, new = before[key], after[key]
            lines.append(f"| {name}, {unit} | {old:.{digits}f} | {new:.{digits}f} | {new - old:+.{digits}f} |")
    for merge, sizes in result["ms a frame"].items():
        for size, each in sizes.items():
            ms = " | ".join(f"{each[way]:.2f}" for way in WAYS)
            lines.append(f"| `{merge}`, {size}, ms a frame | {ms} | {each['ratio']:.2f} times |")
    return "\n".join(lines)


def write_picture(path: Path) -> None:
    """Crops, each grey, the truth's ab of 40 x 40 cells resized both ways, and the truth."""
    lines = []
    for name, top, left in CROPS:
        photo = getattr(data, name)()
        lab = to_lab(photo[None])
        ab = functional.adaptive_avg_pool2d(lab[:, 1:], CELLS)
        columns = [torch.zeros_like(lab[:, 1:]), *(resize(lab[:, :1], ab) for resize in WAYS.values())]
        pictures = [*(picture(lab[:, :1], x) for x in columns), photo]
        crops = [x[top : top + CROP, left : left + CROP] for x in pictures]
        lines.append(
            np.concatenate([np.pad(x.repeat(ZOOM, 0).repeat(ZOOM, 1), ((0, 4), (0, 4), (0, 0))) for x in crops], 1)
        )
    Image.fromarray(np.concatenate(lines)[:-4, :-4]).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photos", type=Path, nargs="*", help=f"folders or .tar files; without --picture: {PHOTOS}")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument(
        "--picture", type=Path, help=f"write the picture here; the kept one is {ROOT / 'docs/edges.png'}"
    )
    options = parser.parse_args()
    if options.photos or not options.picture:
        print(table(measure(options.photos or (PHOTOS,), options.model)))
    if options.picture:
        write_picture(options.picture)


if __name__ == "__main__":
    main()
