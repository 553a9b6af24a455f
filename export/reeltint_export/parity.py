"""What is served against what was trained: every exported graph against torch, on photographs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from reeltint_training.color import lab_to_srgb, srgb_to_lab
from reeltint_training.guided import guided_ab
from reeltint_training.networks import NetworkSpec
from torch import Tensor, nn
from torch.nn import functional

from reeltint_export.half import rounded, session
from reeltint_export.precision import LIMITS, Limits, Precision, Storage

BATCHES = (1, 2, 5)
FLOAT16_STORAGE_ERROR = 0.2
"""Lab units that rounding the weights may add to a network's own tolerance: below half a code of 8-bit chroma."""

_LARGEST_CROP = (719, 1279)  # rows, columns

_Frames = NDArray[np.uint8]
_Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far one output of a graph is from torch, over all batch sizes.

    Attributes:
        values: How many were compared.
        mean_error: Mean difference.
        error_99_9: 99.9th percentile of the differences.
        max_error: Largest difference.
        limits: What they may be.
        batches: Batch sizes that were run.
    """

    values: int
    mean_error: float
    error_99_9: float
    max_error: float
    limits: Limits
    batches: tuple[int, ...] = BATCHES

    @property
    def passed(self) -> bool:
        return self.limits.exceeded(self.mean_error, self.error_99_9, self.max_error) is None

    def __str__(self) -> str:
        limits = (("mean", self.limits.mean), ("99.9 %", self.limits.most), ("max", self.limits.largest))
        allowed = ", ".join(f"{name} {limit:g}" for name, limit in limits if limit is not None)
        return (
            f"mean {self.mean_error:.2g}  99.9 % {self.error_99_9:.2g}  max {self.max_error:.2g} {self.limits.unit} "
            f"(allowed: {allowed}): {'ok' if self.passed else 'PAST TOLERANCE'}"
        )

    def report(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def network_limits(spec: NetworkSpec, precision: Precision, storage: Storage) -> Limits:
    """What an exported network's ab may be off."""
    if precision == "float16":
        return Limits(unit="Lab units", mean=spec.half_mean_ab_error, most=spec.half_ab_error_99_9)
    stored = FLOAT16_STORAGE_ERROR if storage == "float16" else 0.0
    return Limits(unit="Lab units", largest=spec.max_ab_error + stored)


def compare(
    models: Mapping[str, onnx.ModelProto],
    network: nn.Module,
    spec: NetworkSpec,
    size: int,
    storage: Storage,
    pictures: Sequence[_Frames],
    precision: Precision = "float32",
) -> dict[str, dict[str, Parity]]:
    """Run the exported graphs in ONNX Runtime, on the CPU, and the same steps in torch, in float32.

    A float16 graph is run as a GPU computes it: every tensor between two nodes rounded to float16.

    Args:
        models: `colorizer`, `lab_split`, `lab_merge` and `chroma_merge`.
        network: What `colorizer` was exported from.
        spec: Its entry in the registry.
        size: Its input size.
        storage: How its weights are stored.
        pictures: [H, W] each; repeated, mirrored, where there are fewer than five.
        precision: What `colorizer` computes in.

    Returns:
        By model and output.
    """
    pictures = list(pictures)
    pictures += [pictures[i % len(pictures)][:, ::-1] for i in range(len(pictures), max(BATCHES))]
    frames = _crops(pictures[: max(BATCHES)])
    limits = LIMITS["float32"]
    with torch.inference_mode():
        lightness = torch.cat([torch_lightness(picture[None], size) for picture in pictures]).numpy()
        ab = network(torch_lightness(frames, size)).numpy()
        return {
            "colorizer": measure(
                rounded(models["colorizer"]) if precision == "float16" else models["colorizer"],
                lambda x: network(torch.from_numpy(x)),
                batches(lightness),
                {"ab": network_limits(spec, precision, storage)},
                exact=precision == "float16",
            ),
            "lab_split": measure(
                models["lab_split"],
                lambda x: torch_lightness(x, size),
                batches(frames),
                limits,
            ),
            "lab_merge": measure(models["lab_merge"], torch_rgb, batches(frames, ab), limits),
            "chroma_merge": measure(models["chroma_merge"], torch_chroma, batches(frames, ab), limits),
        }


def batches(*inputs: _Array) -> Iterator[tuple[_Array, ...]]:
    """Inputs of one request after the other, of 1, 2 and 5, until all have been taken; they begin again at the end."""
    start, number = 0, 0
    while start < len(inputs[0]) or number < len(BATCHES):
        size = BATCHES[number % len(BATCHES)]
        yield tuple(np.ascontiguousarray(np.take(x, range(start, start + size), 0, mode="wrap")) for x in inputs)
        start, number = start + size, number + 1


def measure(
    model: onnx.ModelProto,
    reference: Callable[..., Tensor | tuple[Tensor, ...]],
    feeds: Iterator[tuple[_Array, ...]],
    limits: Mapping[str, Limits],
    *,
    exact: bool = False,
) -> dict[str, Parity]:
    """Run a graph and its reference side by side.

    Args:
        model: The graph.
        reference: Takes what the graph takes, in its order, and gives what it gives.
        feeds: Inputs of one run after the other.
        limits: By output.
        exact: Run every node as it is written.
    """
    runner = session(model, exact=exact)
    names = [value.name for value in runner.get_inputs()]
    outputs = [value.name for value in runner.get_outputs()]
    errors: dict[str, list[NDArray[np.float32]]] = {name: [] for name in outputs}
    for part in feeds:
        got = runner.run(outputs, dict(zip(names, part, strict=True)))
        expected = reference(*part)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for name, one, other in zip(outputs, got, expected, strict=True):
            difference = np.abs(one.astype(np.float64) - other.numpy()).astype(np.float32)
            errors[name].append(difference.ravel())
    joined = {name: np.concatenate(parts) for name, parts in errors.items()}
    return {
        name: Parity(
            values=error.size,
            mean_error=float(error.mean(dtype=np.float64)),
            error_99_9=float(np.percentile(error, 99.9)),
            max_error=float(error.max()),
            limits=limits[name],
        )
        for name, error in joined.items()
    }


def torch_lightness(frames: _Frames, size: int) -> Tensor:
    """What `lab_split` computes, by torch's own resize: [B, H, W] to L*/100, [B, 1, size, size]."""
    codes = torch.from_numpy(np.ascontiguousarray(frames))[:, None].float()
    codes = functional.interpolate(codes, (size, size), mode="bilinear", antialias=True)
    return _lightness(codes) / 100


def torch_rgb(frames: _Frames, ab: NDArray[np.float32]) -> Tensor:
    """What `lab_merge` computes: [B, H, W] and [B, 2, s, t] to uint8 [B, H, W, 3]."""
    lightness = _lightness(torch.from_numpy(frames)[:, None].float())
    resized = guided_ab(lightness, torch.from_numpy(ab), frames.shape[1:])
    rgb = lab_to_srgb(torch.cat([lightness, resized], 1))
    return (rgb * 255).round().byte().movedim(1, 3)


def torch_chroma(frames: _Frames, ab: NDArray[np.float32]) -> Tensor:
    """What `chroma_merge` computes: [B, H, W] and [B, 2, s, t] to uint8 [B, 2, ceil(H/2), ceil(W/2)]."""
    codes = functional.pad(torch.from_numpy(frames)[:, None].float(), (1, 1, 0, 1), mode="replicate")
    codes = functional.conv2d(codes, torch.tensor([[[[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]]]) / 8, stride=2)
    lightness = _lightness(codes)
    resized = guided_ab(lightness, torch.from_numpy(ab), frames.shape[1:], step=2, phase=(1.0, 0.5))
    r, g, b = lab_to_srgb(torch.cat([lightness, resized], 1)).unbind(1)
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
