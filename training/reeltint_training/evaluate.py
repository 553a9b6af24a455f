"""Networks measured on photographs they have not seen, with the rows that put their figures into proportion."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from reeltint_training.checkpoints import CheckpointError, load_network
from reeltint_training.color import lab_to_srgb
from reeltint_training.data import Photo, bend, move_objects, random_pair, to_lab
from reeltint_training.figures import Figures, colourfulness, compare, mean
from reeltint_training.guided import guided_ab
from reeltint_training.networks.exemplar import ExemplarNet

Colour = Callable[[Tensor], Tensor]
"""True lightness [1, 1, H, W], L*/100, to ab [1, 2, h, w] in Lab units."""
_TOGETHER = 20  # pairs: what moves in one is cut out of another


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is measured: a name for the table, how it colours, and the folder it is from."""

    name: str
    colour: Colour
    folder: str = ""


def grey(lightness: Tensor) -> Tensor:
    """No colour at all."""
    return torch.zeros(1, 2, 1, 1)


def at_size(network: Callable[[Tensor], Tensor], size: int) -> Colour:
    """Serve `network` at `size` x `size`, as `lab_split` does: antialiased, not keeping the aspect."""

    def colour(lightness: Tensor) -> Tensor:
        with torch.inference_mode():
            small = functional.interpolate(lightness, (size, size), mode="bilinear", antialias=True)
            return network(small).float()

    return colour


def row(model: Path, size: int | None = None, network: str | None = None) -> Row:
    """Make a row of a checkpoint (.safetensors, .pth) or of an exported `colorizer` (.onnx, at its own size).

    Args:
        model: The file.
        size: Input size for a checkpoint; by default the registry's.
        network: Which network a checkpoint of others holds.

    Raises:
        CheckpointError: The file cannot be loaded.
        ValueError: `size` is no multiple of the network's stride.
    """
    if model.suffix == ".onnx":
        if not model.is_file():
            raise CheckpointError(f"{model}: no such file")
        try:
            session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no class in common
            raise CheckpointError(f"{model}: not a readable ONNX file: {error}") from error
        given, fixed = session.get_inputs()[0], session.get_inputs()[0].shape[-1]

        def run(lightness: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {given.name: lightness.numpy()})[0])

        version = model.parent
        name = f"{version.parent.name or model.stem} (ONNX, {fixed})"
        return Row(name=name, colour=at_size(run, fixed), folder=version.parent.parent.name)
    loaded, spec, _ = load_network(model, network)
    if isinstance(loaded, ExemplarNet):  # without a reference
        loaded = loaded.base
    size = spec.check_size(spec.size if size is None else size)
    return Row(name=f"{model.stem} ({size})", colour=at_size(loaded, size), folder=model.resolve().parent.name)


def apply(colour: Colour, photo: Photo) -> Photo:
    """Colour the true lightness of `photo` [H, W, 3] sRGB as the served merges do; the lightness stays the truth's."""
    lab = to_lab(photo[None])
    return picture(lab[:, :1], guided_ab(lab[:, :1], colour(lab[:, :1] / 100), photo.shape[:2]))


def picture(lightness: Tensor, ab: Tensor) -> Photo:
    """L* [1, 1, H, W] and its ab [1, 2, H, W] to sRGB [H, W, 3]; colours outside it are clipped."""
    rgb = lab_to_srgb(torch.cat([lightness, ab], 1))[0]
    pixels: NDArray[np.uint8] = (rgb.movedim(0, -1) * 255).round().to(torch.uint8).numpy()
    return pixels


def names(rows: Sequence[Row]) -> list[str]:
    """A name for each row that no other has: with its folder where two are alike, numbered where those are too."""
    plain = [each.name for each in rows]
    long = [f"{r.folder}/{r.name}" if r.folder and plain.count(r.name) > 1 else r.name for r in rows]
    return [f"{name} #{n}" if (n := long[: k + 1].count(name)) > 1 else name for k, name in enumerate(long)]


def evaluate(rows: Sequence[Row], photos: list[tuple[str, Photo]]) -> dict[str, Figures]:
    """Mean figures of each row over `photos`, by the row's name; see `names`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # each takes 140 bytes a pixel
            return {
                name: mean(list(pool.map(partial(_score, each.colour), photos)))
                for name, each in zip(names(rows), rows, strict=True)
            }
    finally:
        torch.set_num_threads(threads)


def _score(colour: Colour, photo: tuple[str, Photo]) -> Figures:
    return compare(apply(colour, photo[1]), photo[1])


def true_colourfulness(photos: list[tuple[str, Photo]]) -> float:
    """The mean over `photos`."""
    return float(np.mean([colourfulness(photo) for _, photo in photos]))


def table(figures: dict[str, Figures], photos: list[tuple[str, Photo]]) -> str:
    """The figures as a Markdown table, the truth's colourfulness last."""
    lines = ["| | PSNR dB | SSIM | CIEDE2000 | ab distance | colourfulness |", "|---|---|---|---|---|---|"]
    for name, f in figures.items():
        lines.append(
            f"| {name} | {f.psnr:.2f} | {f.ssim:.4f} | {f.ciede2000:.2f} "
            f"| {f.ab_distance:.2f} | {f.colourfulness:.1f} |"
        )
    return "\n".join([*lines, f"| truth | | | | | {true_colourfulness(photos):.1f} |"])


def contact_sheet(
    rows: list[Row], photos: list[tuple[str, Photo]], path: Path, columns: int = 3, cell: tuple[int, int] = (160, 120)
) -> None:
    """Write a PNG: of each photograph grey, each row's colours, then the truth; `columns` photographs a line.

    Args:
        rows: What colours.
        photos: Photographs, each shrunk to fit its cell.
        path: Where to write.
        columns: Photographs a line.
        cell: Width and height of a picture in pixels.
    """
    strips = []
    for _, photo in photos:
        pictures = [apply(each.colour, photo) for each in [Row(name="grey", colour=grey), *rows]] + [photo]
        cells = [ImageOps.pad(Image.fromarray(each), cell) for each in pictures]
        strips.append(np.pad(np.concatenate([np.asarray(each) for each in cells], 1), ((0, 4), (0, 8), (0, 0))))
    while len(strips) % columns:
        strips.append(np.zeros_like(strips[0]))
    lines = [np.concatenate(strips[k : k + columns], 1) for k in range(0, len(strips), columns)]
    Image.fromarray(np.concatenate(lines)).save(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFigures:
    """One way of colouring the frames of pairs.

    Attributes:
        psnr: dB over R, G and B, mean over pairs.
        ab_distance: Mean Euclidean distance of (a*, b*), Lab units, before colours outside sRGB are clipped.
    """

    psnr: float
    ab_distance: float


def cut_pairs(photos: Sequence[tuple[str, Photo]], size: int, seed: int, *, still: bool = False) -> Iterator[Tensor]:
    """A frame and a reference out of each photograph, as training sees them but with their own colours.

    The reference is another view, bent; objects of other photographs move, come in and leave (`data.move_objects`). No
    colours are turned and no reference is of another photograph.

    Args:
        photos: What `load_photos` returned.
        size: Of both, in pixels.
        seed: The same seed gives the same pairs of the same photographs.
        still: No object of another photograph.

    Returns:
        Lab [2, 3, size, size] of each pair.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    for some in np.array_split(np.arange(len(photos)), -(-len(photos) // _TOGETHER)):
        crops = np.stack([random_pair(photos[k][1], size, rng) for k in some])
        pairs = torch.stack([to_lab(crops[..., :3]), to_lab(crops[..., 3:])], 1)
        if not still:
            pairs = move_objects(pairs, generator)
        pairs[:, 1] = bend(pairs[:, 1], generator)
        yield from pairs


def evaluate_pairs(
    networks: Mapping[str, ExemplarNet],
    photos: Sequence[tuple[str, Photo]],
    size: int,
    seed: int = 0,
    *,
    still: bool = False,
) -> dict[str, dict[str, PairFigures]]:
    """Mean figures of each network's automatic and exemplar colours on pairs cut out of `photos`; see `cut_pairs`.

    The true L* is kept and ab resized along its edges, as in `apply`.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {"automatic": [], "exemplar": []} for name in networks
    }
    with torch.inference_mode():
        for frame, reference in cut_pairs(photos, size, seed, still=still):
            light, true_ab = frame[None].split((1, 2), 1)
            truth = picture(light, true_ab).astype(np.float32)
            for name, network in networks.items():
                keys, colours = network.remember(reference[None, :1] / 100, reference[None, 1:])
                automatic, by_reference, _ = network.both(light / 100, keys[0], colours[0])
                for way, ab in (("automatic", automatic), ("exemplar", by_reference)):
                    full = guided_ab(light, ab, light.shape[2:])
                    error = float(np.mean((picture(light, full) - truth) ** 2))
                    distance = float((full - true_ab).norm(dim=1).mean())
                    found[name][way].append((10 * np.log10(255**2 / max(error, 1e-4)), distance))
    return {
        name: {
            way: PairFigures(psnr=float(psnr), ab_distance=float(distance))
            for way, (psnr, distance) in ((way, np.mean(scores, 0)) for way, scores in ways.items())
        }
        for name, ways in found.items()
    }


def pairs_table(figures: Mapping[str, Mapping[str, PairFigures]]) -> str:
    """The figures as a Markdown table."""
    lines = ["| checkpoint | | PSNR dB | ab distance |", "|---|---|---|---|"]
    for name, ways in figures.items():
        lines += [f"| {name} | {way} | {f.psnr:.2f} | {f.ab_distance:.2f} |" for way, f in ways.items()]
    return "\n".join(lines)
