"""What resizing ab along the edges of the lightness is worth, against bilinear resizing.

    python benchmarks/edges.py PHOTOS... [--model model_repository/colorizer/1/model.onnx] [--picture docs/edges.png]

PHOTOS are folders or .tar files. Two sources of ab are resized: the network's, and the truth's reduced to the same
40 x 40 cells, which is what a good reference comes close to. All are scored with the true L*, at full size.
"""

import argparse
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from common import MODELS, ROOT
from PIL import Image
from reeltint_training.color import lab_to_srgb
from reeltint_training.data import Photo, load_photos, to_lab
from reeltint_training.evaluate import row
from reeltint_training.figures import Figures, compare, mean
from reeltint_training.guided import guided_ab
from skimage import data
from torch import Tensor
from torch.nn import functional

CELLS = (40, 40)
CROPS = (("astronaut", 336, 192), ("coffee", 64, 160))  # what, top, left: hard edges between two colours
CROP, ZOOM = 96, 2


def bilinear(lightness: Tensor, ab: Tensor) -> Tensor:
    return functional.interpolate(ab, lightness.shape[2:], mode="bilinear")


def guided(lightness: Tensor, ab: Tensor) -> Tensor:
    return guided_ab(lightness, ab, lightness.shape[2:])


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bilinear": bilinear, "along edges": guided}


def picture(lab: Tensor, ab: Tensor) -> Photo:
    rgb: Photo = (lab_to_srgb(torch.cat([lab[:, :1], ab], 1))[0].movedim(0, -1) * 255).round().byte().numpy()
    return rgb


def measure(photos: list[tuple[str, Photo]], model: Path) -> dict[tuple[str, str], list[Figures]]:
    """Figures of every photograph, by source of ab and way of resizing."""
    colour = row(model).colour
    figures: dict[tuple[str, str], list[Figures]] = {}
    for _, photo in photos:
        lab = to_lab(photo[None])
        sources = {"network": colour(lab[:, :1] / 100), "truth": functional.adaptive_avg_pool2d(lab[:, 1:], CELLS)}
        for source, ab in sources.items():
            for way, resize in WAYS.items():
                figures.setdefault((source, way), []).append(compare(picture(lab, resize(lab[:, :1], ab)), photo))
    return figures


def table(figures: dict[tuple[str, str], list[Figures]]) -> str:
    """The mean figures as Markdown."""
    lines = [
        "| ab | resized | PSNR dB | SSIM | CIEDE2000 | ab distance | colourfulness |",
        "|---|---|---|---|---|---|---|",
    ]
    for (source, way), each in figures.items():
        psnr, ssim, ciede, distance, colourful = astuple(mean(each))
        lines.append(f"| {source} | {way} | {psnr:.3f} | {ssim:.4f} | {ciede:.3f} | {distance:.3f} | {colourful:.1f} |")
    return "\n".join(lines)


def write_picture(path: Path) -> None:
    """Crops, each grey, the truth's ab of 40 x 40 cells resized both ways, and the truth."""
    lines = []
    for name, top, left in CROPS:
        photo = getattr(data, name)()
        lab = to_lab(photo[None])
        ab = functional.adaptive_avg_pool2d(lab[:, 1:], CELLS)
        columns = [torch.zeros_like(lab[:, 1:]), *(resize(lab[:, :1], ab) for resize in WAYS.values())]
        crops = [x[top : top + CROP, left : left + CROP] for x in (*(picture(lab, x) for x in columns), photo)]
        lines.append(
            np.concatenate([np.pad(x.repeat(ZOOM, 0).repeat(ZOOM, 1), ((0, 4), (0, 4), (0, 0))) for x in crops], 1)
        )
    Image.fromarray(np.concatenate(lines)[:-4, :-4]).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photos", type=Path, nargs="*", help="folders or .tar files")
    parser.add_argument("--model", type=Path, default=MODELS / "colorizer/1/model.onnx")
    parser.add_argument(
        "--picture", type=Path, help=f"write the picture here; the kept one is {ROOT / 'docs/edges.png'}"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.photos:
        print(table(measure(load_photos(options.photos, None), options.model)))
    if options.picture:
        write_picture(options.picture)


if __name__ == "__main__":
    main()
