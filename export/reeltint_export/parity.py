"""What is served against what was trained: every exported graph against torch, on photographs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from reeltint_training.color import lab_to_srgb, srgb_to_lab
from reeltint_training.networks import NetworkSpec
from torch import Tensor, nn
from torch.nn import functional

from reeltint_export.onnx_export import ExportError, Storage

BATCHES = (1, 2, 5)
MAX_LIGHTNESS_ERROR = 5e-4
"""Of L*/100; tables and sums stay below a third of it."""
MAX_LEVEL_ERROR = 1.0
"""Of 255 levels of rgb and chroma."""
FLOAT16_STORAGE_ERROR = 0.2
"""Lab units that rounding the weights may add to a network's own tolerance: below half a code of 8-bit chroma."""

_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina")
_LARGEST_CROP = (719, 1279)  # rows, columns

_Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far a graph is from torch, over all batch sizes.

    Attributes:
        max_error: Largest difference, in `unit`.
        error_99_9: 99.9th percentile of the differences.
        tolerance: What `max_error` may be.
    """

    unit: str
    batches: tuple[int, ...]
    max_error: float
    error_99_9: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.max_error <= self.tolerance  # false for NaN too


def photographs(folder: Path | None = None) -> list[_Frames]:
    """Grey pictures, [H, W] each: all images of `folder`, or five photographs that scikit-image ships.

    Raises:
        ExportError: The folder holds no readable image, or scikit-image is not installed.
    """
    if folder is None:
        try:
            from skimage import data
        except ImportError as error:
            raise ExportError("comparing needs pictures: install scikit-image, or name a folder (--frames)") from error
        return [np.array(Image.fromarray(getattr(data, name)()).convert("L")) for name in _PHOTOGRAPHS]
    pictures = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            with Image.open(path) as image:
                pictures.append(np.array(image.convert("L")))
        except (UnidentifiedImageError, OSError):
            continue
    if not pictures:
        raise ExportError(f"{folder}: no folder with readable images")
    return pictures


def compare(
    models: dict[str, onnx.ModelProto],
    network: nn.Module,
    spec: NetworkSpec,
    size: int,
    storage: Storage,
    pictures: Sequence[_Frames],
) -> dict[str, Parity]:
    """Run the exported graphs in ONNX Runtime, on the CPU, and the same steps in torch.

    Args:
        models: `colorizer`, `lab_split`, `lab_merge` and `chroma_merge`.
        network: What `colorizer` was exported from.
        spec: Its entry in the registry.
        size: Its input size.
        storage: How its weights are stored.
        pictures: [H, W] each; repeated, mirrored, where there are fewer than five.
    """
    pictures = [pictures[i % len(pictures)][:, :: -1 if i >= len(pictures) else 1] for i in range(max(BATCHES))]
    frames = _crops(pictures)
    with torch.inference_mode():
        lightness = torch.cat([torch_lightness(picture[None], size) for picture in pictures])
        ab = network(torch_lightness(frames, size)).numpy()
        ab_tolerance = spec.max_ab_error + (FLOAT16_STORAGE_ERROR if storage == "float16" else 0.0)
        return {
            "colorizer": _compare(
                models["colorizer"],
                lambda x: network(torch.from_numpy(x)),
                [lightness.numpy()],
                "Lab units",
                ab_tolerance,
            ),
            "lab_split": _compare(
                models["lab_split"], lambda x: torch_lightness(x, size), [frames], "L*/100", MAX_LIGHTNESS_ERROR
            ),
            "lab_merge": _compare(models["lab_merge"], torch_rgb, [frames, ab], "levels", MAX_LEVEL_ERROR),
            "chroma_merge": _compare(models["chroma_merge"], torch_chroma, [frames, ab], "levels", MAX_LEVEL_ERROR),
        }


def torch_lightness(frames: _Frames, size: int) -> Tensor:
    """What `lab_split` computes, by torch's own resize: [B, H, W] to L*/100, [B, 1, size, size]."""
    codes = torch.from_numpy(np.ascontiguousarray(frames))[:, None].float()
    codes = functional.interpolate(codes, (size, size), mode="bilinear", antialias=True)
    return _lightness(codes) / 100


def torch_rgb(frames: _Frames, ab: NDArray[np.float32]) -> Tensor:
    """What `lab_merge` computes: [B, H, W] and [B, 2, s, t] to uint8 [B, H, W, 3]."""
    codes = torch.from_numpy(frames)[:, None].float()
    resized = functional.interpolate(torch.from_numpy(ab), frames.shape[1:], mode="bilinear")
    rgb = lab_to_srgb(torch.cat([_lightness(codes), resized], 1))
    return (rgb * 255).round().byte().movedim(1, 3)


def torch_chroma(frames: _Frames, ab: NDArray[np.float32]) -> Tensor:
    """What `chroma_merge` computes: [B, H, W] and [B, 2, s, t] to uint8 [B, 2, ceil(H/2), ceil(W/2)]."""
    height, width = frames.shape[1:]
    codes = functional.pad(torch.from_numpy(frames)[:, None].float(), (1, 1, 0, 1), mode="replicate")
    codes = functional.conv2d(codes, torch.tensor([[[[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]]]) / 8, stride=2)
    y = (2 * torch.arange(codes.shape[2]) + 1) / height * 2 - 1
    x = (2 * torch.arange(codes.shape[3]) + 0.5) / width * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).expand(len(frames), -1, -1, -1)
    sampled = functional.grid_sample(torch.from_numpy(ab), grid, padding_mode="border", align_corners=False)
    r, g, b = lab_to_srgb(torch.cat([_lightness(codes), sampled], 1)).unbind(1)
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return (128 + 224 * torch.stack([(b - luma) / 1.8556, (r - luma) / 1.5748], 1)).round().byte()


def _lightness(codes: Tensor) -> Tensor:
    """L*, 0..100, of grey sRGB codes [B, 1, H, W]."""
    return srgb_to_lab((codes / 255).expand(-1, 3, -1, -1))[:, :1]


def _crops(pictures: Sequence[_Frames]) -> _Frames:
    """The middles of all pictures at their least common size, odd both ways: [N, H, W]."""
    height, width = (
        (min(limit, *(picture.shape[axis] for picture in pictures)) - 1) // 2 * 2 + 1
        for axis, limit in enumerate(_LARGEST_CROP)
    )
    corners = [((p.shape[0] - height) // 2, (p.shape[1] - width) // 2) for p in pictures]
    return np.stack([p[y : y + height, x : x + width] for p, (y, x) in zip(pictures, corners, strict=True)])


def _compare(
    model: onnx.ModelProto,
    reference: Callable[..., Tensor],
    inputs: Sequence[NDArray[np.generic]],
    unit: str,
    tolerance: float,
) -> Parity:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    errors, start = [], 0
    for batch in BATCHES:
        part = [np.ascontiguousarray(np.take(x, range(start, start + batch), 0, mode="wrap")) for x in inputs]
        got = session.run(None, dict(zip(names, part, strict=True)))[0]
        errors.append(np.abs(got.astype(np.float64) - reference(*part).numpy()).ravel())
        start += batch
    joined = np.concatenate(errors)
    return Parity(
        unit=unit,
        batches=BATCHES,
        max_error=float(joined.max()),
        error_99_9=float(np.percentile(joined, 99.9)),
        tolerance=tolerance,
    )
