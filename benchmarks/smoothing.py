"""Colour clips with and without smoothing in time: flicker, and PSNR with the true L*; coloured by the first true frame
and automatically, at 180 lines.
"""

import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
import torch
from common import CLIPS, MODELS, RESULTS
from numpy.typing import NDArray
from reeltint._film import write_still
from reeltint._project import DEFAULT_SMOOTHING
from reeltint._scene_colour import lightness_of
from reeltint._smoothing import REACH, Smoother
from reeltint_training.clips import clips_of, flicker
from reeltint_training.color import lab_to_srgb
from reeltint_training.data import to_lab
from reeltint_training.guided import guided_ab
from skimage import data
from torch.nn import functional

FRAMES, LINES = 32, 180  # of each clip, at most
STRENGTHS = (0.0, DEFAULT_SMOOTHING, 1.0)
Array = NDArray[Any]


class Networks:
    """lab_split, colorizer, reference_encoder and exemplar_colorizer in this process."""

    def __init__(self, models: Path = MODELS) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        names = ("lab_split", "colorizer", "reference_encoder", "exemplar_colorizer")
        self._sessions = {
            name: onnxruntime.InferenceSession(
                str(models / name / "1/model.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for name in names
        }

    def __call__(self, grey: Array, reference: Array | None) -> tuple[Array, Array]:
        """Ab [T, 2, s, s] and confidence [T, s, s] of frames [T, H, W], by a picture [h, w, 3] or automatically."""
        state = {}
        if reference is not None:
            encoder = self._sessions["reference_encoder"]
            names = [tensor.name for tensor in encoder.get_outputs()]
            state = dict(zip(names, encoder.run(names, {"reference": reference}), strict=True))
        parts, sure = [], []
        for first in range(0, len(grey), 8):
            (lightness,) = self._sessions["lab_split"].run(["lightness"], {"frames": grey[first : first + 8]})
            network = self._sessions["colorizer" if reference is None else "exemplar_colorizer"]
            ab, *confidence = network.run(None, {"lightness": lightness, **state})
            parts.append(ab)
            sure.append(confidence[0][:, 0] if confidence else np.ones_like(ab[:, 0]))
        return np.concatenate(parts), np.concatenate(sure)


def smooth(coloured: tuple[Array, Array], grey: Array, strength: float) -> Array:
    """What the client makes of a scene's ab and confidence."""
    smoother, done = Smoother(strength), []
    for plane, confidence, frame in zip(*coloured, grey, strict=True):
        done += smoother.push(plane, lightness_of(frame, plane.shape[1:]), confidence)
    return np.stack([*done, *smoother.finish()])


def figures(ab: Array, lab: torch.Tensor, truth: Array) -> tuple[float, float]:
    """PSNR in dB (the first frame, which may be the reference, left out) and flicker at the network's resolution."""
    large = guided_ab(lab[:, :1], torch.from_numpy(ab), lab.shape[2:])
    picture = lab_to_srgb(torch.cat([lab[:, :1], large], 1)).movedim(1, -1).numpy() * 255
    error = np.square(picture - truth).mean((1, 2, 3))[1:]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-4)))), _flicker(torch.from_numpy(ab), lab)


def _flicker(ab: torch.Tensor, lab: torch.Tensor) -> float:
    return flicker(functional.interpolate(lab[:, :1], ab.shape[-2:], mode="bilinear", antialias=True), ab)


def clips() -> Iterator[tuple[str, Array, torch.Tensor, Array]]:
    """Name, and at 180 lines grey frames [T, h, w], Lab [T, 3, h, w] and sRGB [T, h, w, 3] of each colour clip."""
    for name, frames in _color():
        height, width = frames[0].shape[:2]
        size = (LINES * width // min(height, width), LINES * height // min(height, width))
        pictures = (av.VideoFrame.from_ndarray(frame, "rgb24") for frame in frames[:FRAMES])
        truth: Array = np.stack([each.reformat(*size, interpolation="AREA").to_ndarray() for each in pictures])
        lab = to_lab(truth)
        yield name, greys(lab), lab, truth


def _color() -> Iterator[tuple[str, list[Array]]]:
    with tempfile.TemporaryDirectory() as folder, tarfile.open(CLIPS) as tar:
        tar.extractall(folder, filter="data")
        yield from clips_of(Path(folder, "color"))


def greys(lab: torch.Tensor) -> Array:
    """The grey frames [T, h, w] of the same L*."""
    rgb = lab_to_srgb(lab * torch.tensor([1.0, 0, 0])[:, None, None])
    grey: Array = (rgb[:, 1] * 255).round().to(torch.uint8).numpy()
    return grey


def measure(models: Path = MODELS) -> dict[str, Any]:
    """Mean and worst change by strength, of both ways."""
    torch.set_num_threads(1)  # on a busy machine its threads would wait for each other
    networks = Networks(models)
    rows: dict[str, dict[str, list[tuple[float, float]]]] = {"automatic": {}, "by the first frame": {}}
    true_flicker = []
    for name, grey, lab, truth in clips():
        for way, reference in (("automatic", None), ("by the first frame", truth[0])):
            coloured = networks(grey, reference)
            rows[way][name] = [figures(smooth(coloured, grey, strength), lab, truth) for strength in STRENGTHS]
        size = coloured[0].shape[-2:]
        small = functional.interpolate(lab[:, 1:], size, mode="bilinear", antialias=True)
        true_flicker.append(_flicker(small, lab))
    result: dict[str, Any] = {"reach": REACH, "clips": len(true_flicker), "truth": float(np.mean(true_flicker))}
    for way, by_clip in rows.items():
        for index, strength in enumerate(STRENGTHS):
            psnr, moved = np.array([row[index] for row in by_clip.values()]).T
            change = psnr - np.array([row[0][0] for row in by_clip.values()])
            result[f"{way}, {strength:g}"] = {
                "psnr": float(psnr.mean()),
                "worst change": float(change.min()),
                "worst clip": list(by_clip)[int(change.argmin())],
                "flicker": float(moved.mean()),
            }
    picture(RESULTS / "smoothing.jpg", networks)
    return result


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| colour, strength | PSNR dB | worst clip's change | flicker |", "|---|---|---|---|"]
    for name, row in result.items():
        if isinstance(row, dict) and "psnr" in row:
            lines.append(f"| {name} | {row['psnr']:.2f} | {row['worst change']:+.2f} | {row['flicker']:.2f} |")
    return "\n".join([*lines, f"| truth | | | {result['truth']:.2f} |"])


def picture(path: Path, networks: Networks | None = None) -> None:
    """A photograph gliding over another: every fourth frame without smoothing, with it, and eight times the change."""
    networks = networks or Networks()
    ground, figure = data.coffee()[:360, :480], data.astronaut()[20:240, 120:340]
    frames = np.repeat(ground[None], 17, 0)
    for index, frame in enumerate(frames):
        frame[100:320, 12 * index : 12 * index + 220] = figure
    lab = to_lab(frames)
    grey = greys(lab)
    plain = networks(grey, None)
    rows = []
    for ab in (plain[0], smooth(plain, grey, 1.0)):
        large = guided_ab(lab[:, :1], torch.from_numpy(ab), lab.shape[2:])
        rgb = lab_to_srgb(torch.cat([lab[:, :1], large], 1)).movedim(1, -1).numpy()
        rows.append((rgb[2:15:4] * 255).round().astype(np.int16))
    rows.append(np.clip(128 + 8 * (rows[1] - rows[0]), 0, 255))
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows])[::2, ::2]
    write_still(path, np.ascontiguousarray(sheet, np.uint8))
