"""Frames to request tensors, answers to colour batches, refusals to errors: pure, no input or output."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from reeltint._errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ReeltintError,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    TransportError,
)

Frames = NDArray[np.uint8]
Output = Literal["chroma", "rgb"]
MODELS: dict[Output, str] = {"chroma": "colorize_chroma", "rgb": "colorize"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColorBatch:
    """A batch of frames and their colour.

    Attributes:
        frames: [B, H, W] uint8, the grey frames that were sent.
        chroma: [B, 2, ceil(H/2), ceil(W/2)] uint8, Cb and Cr, BT.709 limited range (16..240, 128 neutral); None
            where RGB was asked for.
        rgb: [B, H, W, 3] uint8, sRGB; None where chroma was asked for.
    """

    frames: Frames
    chroma: NDArray[np.uint8] | None = None
    rgb: NDArray[np.uint8] | None = None


def encode(frames: Frames, output: Output, max_batch: int) -> tuple[list[InferInput], list[InferRequestedOutput]]:
    """Make the tensors of a request.

    Args:
        frames: [B, H, W] uint8, grey sRGB code values 0..255.
        output: What is asked for.
        max_batch: The largest B that the server takes.

    Raises:
        InvalidRequest: `frames` is not such an array.
    """
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 3 or 0 in frames.shape:
        what = f"{frames.dtype} {list(frames.shape)}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise InvalidRequest(f"frames: uint8 [B, H, W] with no empty side was expected, not {what}")
    if len(frames) > max_batch:
        raise InvalidRequest(f"frames: a batch of {len(frames)} is more than the {max_batch} the server takes")
    tensor = InferInput("frames", list(frames.shape), "UINT8")
    tensor.set_data_from_numpy(np.ascontiguousarray(frames))
    return [tensor], [InferRequestedOutput(output)]


def decode(result: Any, frames: Frames, output: Output) -> ColorBatch:
    """Read a tritonclient result.

    Raises:
        ServerError: The answer lacks the output or has another shape.
    """
    array: NDArray[np.uint8] | None = result.as_numpy(output)
    count, height, width = frames.shape
    wanted = (count, height, width, 3) if output == "rgb" else (count, 2, (height + 1) // 2, (width + 1) // 2)
    if array is None or array.dtype != np.uint8 or array.shape != wanted:
        got = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
        raise ServerError(f"{MODELS[output]}: output {output!r} should be uint8 {list(wanted)}, the server sent {got}")
    return ColorBatch(frames=frames, rgb=array) if output == "rgb" else ColorBatch(frames=frames, chroma=array)


# What Triton writes with UNAVAILABLE when it is alive but has no room; a dead server has the same status.
_BUSY = ("maximum queue size", "timeout expired", "queue", "too many requests")


def error_of(error: InferenceServerException, address: str, model: str) -> ReeltintError:
    """The error class of a refusal or failure that tritonclient raised."""
    status = str(error.status() or "").removeprefix("StatusCode.")
    text = str(error.message() or "").strip()
    message = f"{address}, {model}: {text}"
    unknown_model = "unknown model" in text.lower() or "is not ready" in text.lower()
    match status:
        case "NOT_FOUND":
            return ModelNotFound(message)
        case "UNAVAILABLE" | "RESOURCE_EXHAUSTED" if any(words in text.lower() for words in _BUSY):
            return ServerBusy(message)
        case "UNAVAILABLE" if unknown_model:
            return ModelNotFound(message)
        case "UNAVAILABLE":
            return ServerUnreachable(f"{address}: no answer ({text})")
        case "DEADLINE_EXCEEDED":
            return DeadlineExceeded(f"{address}, {model}: no answer before the deadline")
        case "CANCELLED" | "UNKNOWN" | "ABORTED" | "DATA_LOSS":
            return TransportError(message)
    return ServerError(message)
