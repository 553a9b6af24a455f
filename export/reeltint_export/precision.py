"""Words that exports, engines and the command line share, free of torch."""

from typing import Literal

Storage = Literal["float16", "float32"]
"""How weights are stored when arithmetic is float32."""
Precision = Literal["float16", "float32"]
"""What a network computes in."""

NETWORKS_IN_HALF = ("colorizer", "exemplar_colorizer", "reference_encoder", "scene_embedder")
"""Models with a trained network in them; all others are colour arithmetic and float32 always."""
