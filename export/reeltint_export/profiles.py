"""Optimization profiles: which shapes an engine is built for, and which of them it is best at."""

from collections.abc import Mapping, Sequence

import onnx

Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]
"""Smallest, best and largest shape of each input, batch included."""

BATCH = (1, 8, 32)
"""Smallest, best and largest batch. The largest is what every config promises: Triton refuses a smaller one."""
FRAMES = (((480, 854), (576, 1024)), ((1080, 1920), (1556, 2048)))
"""Best and largest size of frames, rows and columns: standard definition, and high definition or film scanned at 2K."""
BEST_PIXELS = 4 * 2**20
"""Pixels in a request of the client; the best batch of large frames is as many as fit."""
_REFERENCE = ((1, 1, 3), (720, 1280, 3), (4096, 4096, 3))


def profiles(
    name: str,
    models: Mapping[str, onnx.ModelProto],
    batch: tuple[int, int, int] = BATCH,
    frames: Sequence[tuple[Shape, Shape]] = FRAMES,
) -> list[Profile]:
    """Profiles of a model: one for each size of frames where it takes frames, else one.

    Args:
        name: The model.
        models: Its graph by name, and beside it `colorizer` (or `exemplar_colorizer`), which says how large ab is.
        batch: Smallest, best and largest.
        frames: Best and largest rows and columns of each profile; the smallest is a single pixel.

    Raises:
        ValueError: It has a free input of which no size is known, or sizes that do not grow.
    """
    if not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise ValueError(f"a batch of {batch}: smallest, best and largest do not grow")
    inputs = {
        value.name: [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
        for value in models[name].graph.input
    }
    return [
        {tensor: _shapes(name, tensor, dims, models, batch, size) for tensor, dims in inputs.items()}
        for size in (frames if "frames" in inputs else frames[:1])
    ]


def _shapes(
    model: str,
    tensor: str,
    dims: list[int],
    models: Mapping[str, onnx.ModelProto],
    batch: tuple[int, int, int],
    size: tuple[Shape, Shape],
) -> tuple[Shape, Shape, Shape]:
    best, largest = size
    if not all(1 <= low <= high for low, high in zip(best, largest, strict=True)):
        raise ValueError(f"frames of {best} at best and {largest} at most: the sizes do not grow")
    if -1 not in dims:
        return tuple(dims), tuple(dims), tuple(dims)
    if tensor == "reference":
        return _REFERENCE
    middle = batch[1]
    if "frames" in (value.name for value in models[model].graph.input):
        middle = max(batch[0], min(middle, BEST_PIXELS // (best[0] * best[1])))
    if tensor == "frames":
        return (batch[0], 1, 1), (middle, *best), (batch[2], *largest)
    if tensor == "ab":
        side = _ab_size(models)
        return (batch[0], 2, *side), (middle, 2, *side), (batch[2], 2, *side)
    if -1 in dims[1:]:
        raise ValueError(f"{model}: no sizes are known for input {tensor!r} of shape {dims}")
    return (batch[0], *dims[1:]), (middle, *dims[1:]), (batch[2], *dims[1:])


def _ab_size(models: Mapping[str, onnx.ModelProto]) -> Shape:
    for name in ("colorizer", "exemplar_colorizer"):
        for value in models[name].graph.output if name in models else ():
            if value.name == "ab":
                return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[2:])
    raise ValueError("how large ab is, no colorizer says")
