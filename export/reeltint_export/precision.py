"""Precisions, and how far a graph may be from what it stands for: one table, free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Storage = Literal["float16", "float32"]
"""How weights are stored when arithmetic is float32."""
Precision = Literal["float16", "float32"]
"""What a network computes in."""

NETWORKS_IN_HALF = ("colorizer", "exemplar_colorizer", "reference_encoder", "scene_embedder")
"""Models with a trained network in them; all others are colour arithmetic and float32 always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What differences may be, in `unit`; None: anything.

    Attributes:
        unit: What is compared.
        mean: Their mean.
        most: Their 99.9th percentile.
        largest: The largest of them.
    """

    unit: str
    mean: float | None = None
    most: float | None = None
    largest: float | None = None

    def exceeded(self, mean: float, most: float, largest: float) -> str | None:
        """The first figure that is past its limit, in words; None if there is none."""
        figures = {"mean": (mean, self.mean), "99.9 %": (most, self.most), "max": (largest, self.largest)}
        for name, (figure, limit) in figures.items():
            if limit is not None and not figure <= limit:  # NaN is past it too
                return f"{name} {figure:.3g}, at most {limit:g} {self.unit}"
        return None if largest < float("inf") else f"max {largest:g}"


_LAB, _LENGTH, _LEVELS, _LIGHTNESS, _PART = "Lab units", "of length 1", "levels", "L*/100", "of 0..1"
LIMITS: dict[Literal["float32", "float16", "gpu"], dict[str, Limits]] = {
    "float32": {
        "lightness": Limits(unit=_LIGHTNESS, largest=5e-4),  # tables and sums stay below a third of it
        "rgb": Limits(unit=_LEVELS, largest=1.0),
        "chroma": Limits(unit=_LEVELS, largest=1.0),
        "reference_keys": Limits(unit=_LENGTH, largest=2e-3),
        "reference_ab": Limits(unit=_LAB, largest=0.05),
        "confidence": Limits(unit=_PART, largest=0.02),
        "embedding": Limits(unit=_LENGTH, largest=2e-3),
    },
    "float16": {
        "ab": Limits(unit=_LAB, mean=0.3, most=2.0),
        "rgb": Limits(unit=_LEVELS, mean=0.3, most=3.0),
        "chroma": Limits(unit=_LEVELS, mean=0.3, most=3.0),
        "reference_keys": Limits(unit=_LENGTH, mean=5e-3, most=0.03),
        "reference_ab": Limits(unit=_LAB, mean=0.3, most=2.0),
        "confidence": Limits(unit=_PART, mean=0.02, most=0.1),
        "embedding": Limits(unit=_LENGTH, mean=2e-3, most=0.01),
    },
    "gpu": {
        "lightness": Limits(unit=_LIGHTNESS, largest=1e-3),
        "rgb": Limits(unit=_LEVELS, most=1.0, largest=2.0),
        "chroma": Limits(unit=_LEVELS, most=1.0, largest=2.0),
    },
}
"""By output. float32: a graph and torch; float16: a network in half precision, or what is coloured by it, and float32;
gpu: colour arithmetic on a GPU and on a CPU. What ab may be off is the network's own (`NetworkSpec`), and its manifest
says it; in float16 the row here stands for one that does not."""


def gpu_limits(model: str, manifest: Mapping[str, Any]) -> dict[str, Limits]:
    """How far a model on a GPU may be from its graph in ONNX Runtime on a CPU, by output."""
    if model not in NETWORKS_IN_HALF:
        return LIMITS["gpu"]
    own = {output: Limits(**limits) for output, limits in manifest.get("half_limits", {}).items()}
    return LIMITS["float16"] | own
