"""Frames to request tensors, answers to colour batches, refusals to errors: pure, no input or output."""

from dataclasses import dataclass
from typing import Any, Literal

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferRequest

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


def encode(frames: Frames, output: Output, max_batch: int) -> bytes:
    """Make a serialized `ModelInferRequest` of the KServe protocol.

    Serialized protocol buffers may be joined, so the frames are appended as the field `raw_input_contents`: one copy
    of the pixels, where the generated class makes three.

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
    request = ModelInferRequest(model_name=MODELS[output])
    request.inputs.add(name="frames", datatype="UINT8").shape.extend(frames.shape)
    request.outputs.add(name=output)
    pixels = np.ascontiguousarray(frames).reshape(-1).data
    return b"".join([request.SerializeToString(), _RAW_INPUT, _varint(len(pixels)), pixels])


_RAW_INPUT = bytes([ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])  # wire type 2: length, then bytes


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def decode(response: Any, frames: Frames, output: Output) -> ColorBatch:
    """Read a `ModelInferResponse`.

    Raises:
        ServerError: The answer lacks the output or has another shape.
    """
    count, height, width = frames.shape
    wanted = (count, height, width, 3) if output == "rgb" else (count, 2, (height + 1) // 2, (width + 1) // 2)
    got = [(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in response.outputs]
    if got != [(output, "UINT8", wanted)]:
        raise ServerError(f"{MODELS[output]}: output {output!r} should be UINT8 {list(wanted)}, the server sent {got}")
    array = np.frombuffer(response.raw_output_contents[0], np.uint8).reshape(wanted)
    return ColorBatch(frames=frames, rgb=array) if output == "rgb" else ColorBatch(frames=frames, chroma=array)


# What Triton writes with UNAVAILABLE when it is alive but has no room; a dead server has the same status.
_BUSY = ("maximum queue size", "timeout expired", "queue", "too many requests")


def error_of(error: grpc.RpcError, address: str, model: str) -> ReeltintError:
    """The error class of a refusal or failure of a call."""
    status, text = error.code().name, (error.details() or "").strip()
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
