"""Frames to request tensors, answers to colour batches, refusals to errors: pure, no input or output."""

import math
from collections.abc import Iterable
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
Output = Literal["chroma", "rgb", "ab"]
Shape = tuple[int | None, ...]
MODELS: dict[Output, str] = {"chroma": "colorize_chroma", "rgb": "colorize", "ab": "colorize_ab"}
MERGES: dict[Output, str] = {"chroma": "chroma_merge", "rgb": "lab_merge"}
ENCODER, EMBEDDER = "reference_encoder", "scene_embedder"
_TYPES = {"UINT8": np.uint8, "FP32": np.float32}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """The colours of one photograph as the server's network reads them: made once a scene, sent with every batch.

    The server keeps nothing of it, so any replica may colour any batch by it. What is in it is the network's own
    matter and good for servers of the same models only.

    Attributes:
        keys: [C, K] float32, what is where in the photograph.
        ab: [2, K] float32, its colour there.
        origin: Where it is from, for messages and reports.

    Raises:
        InvalidRequest: The arrays are not such, or do not agree.
    """

    keys: NDArray[np.float32]
    ab: NDArray[np.float32]
    origin: str = ""

    def __post_init__(self) -> None:
        for name, array in (("keys", self.keys), ("ab", self.ab)):
            _check_array(f"reference's {name}", array, np.float32, "[C, K]" if name == "keys" else "[2, K]", 2)
        if self.ab.shape != (2, self.keys.shape[1]):
            raise InvalidRequest(f"reference: keys {list(self.keys.shape)} and ab {list(self.ab.shape)} do not agree")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColorBatch:
    """A batch of frames and their colour; what was not asked for is None.

    Attributes:
        frames: [B, H, W] uint8, the grey frames that were sent.
        chroma: [B, 2, ceil(H/2), ceil(W/2)] uint8, Cb and Cr, BT.709 limited range (16..240, 128 neutral).
        rgb: [B, H, W, 3] uint8, sRGB.
        ab: [B, 2, s, s] float32, a* and b* (CIELAB, D65) at the network's own size: the square is the whole frame.
        confidence: [B, 1, s, s] float32, 0..1: how well the reference answers for each place; with a reference only.
    """

    frames: Frames
    chroma: NDArray[np.uint8] | None = None
    rgb: NDArray[np.uint8] | None = None
    ab: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None


def model_of(output: Output, reference: Reference | None) -> str:
    """The model that colours frames so.

    Raises:
        InvalidRequest: There is no such output, or `reference` is not one.
    """
    if reference is not None and not isinstance(reference, Reference):
        raise InvalidRequest(f"reference: a Reference (see `Colorizer.reference`), not {type(reference).__name__}")
    return _named(MODELS, output) + ("_by_reference" if reference is not None else "")


def merge_of(output: Output) -> str:
    """The model that puts frames and ab together so.

    Raises:
        InvalidRequest: There is no such output.
    """
    return _named(MERGES, output)


def _named(models: dict[Output, str], output: str) -> str:
    for name, model in models.items():
        if name == output:
            return model
    raise InvalidRequest(f"output: {' or '.join(map(repr, models))}, not {output!r}")


def encode(frames: Frames, output: Output, max_batch: int, reference: Reference | None = None) -> bytes:
    """Make the request that colours frames, a serialized `ModelInferRequest` of the KServe protocol.

    Args:
        frames: [B, H, W] uint8, grey sRGB code values 0..255.
        output: What is asked for.
        max_batch: The largest B that the server takes.
        reference: The colours to use.

    Raises:
        InvalidRequest: `frames` is not such an array.
    """
    _check_frames(frames, max_batch)
    model = model_of(output, reference)
    if reference is None:
        return _request(model, {"frames": frames}, [output])
    inputs: dict[str, NDArray[Any]] = {"frames": frames, "reference_keys": reference.keys, "reference_ab": reference.ab}
    return _request(model, inputs, [output, "confidence"])


def encode_merge(frames: Frames, ab: NDArray[np.float32], output: Output, max_batch: int) -> bytes:
    """Make the request that puts frames [B, H, W] and ab [B, 2, h, w] float32 together.

    Raises:
        InvalidRequest: The arrays are not such, do not agree, or `ab` has values that are no numbers.
    """
    _check_frames(frames, max_batch)
    _check_array("ab", ab, np.float32, "[B, 2, h, w]", 4)
    if ab.shape[:2] != (len(frames), 2):
        raise InvalidRequest(f"ab: [{len(frames)}, 2, h, w] goes with these frames, not {list(ab.shape)}")
    if not np.isfinite(ab).all():
        raise InvalidRequest("ab: it has values that are no numbers (NaN or infinite)")
    return _request(merge_of(output), {"frames": frames, "ab": ab}, [output])


def encode_reference(picture: NDArray[np.uint8]) -> bytes:
    """Make the request that reads a photograph's colours.

    Raises:
        InvalidRequest: `picture` is not uint8 [h, w, 3].
    """
    _check_array("picture", picture, np.uint8, "[h, w, 3]", 3)
    if picture.shape[2] != 3:
        raise InvalidRequest(f"picture: [h, w, 3] was expected, not {list(picture.shape)}")
    return _request(ENCODER, {"reference": picture}, ["reference_keys", "reference_ab"])


def encode_embed(frames: Frames, max_batch: int) -> bytes:
    """Make the request for the embeddings of frames [B, H, W] uint8.

    Raises:
        InvalidRequest: `frames` is not such an array.
    """
    _check_frames(frames, max_batch)
    return _request(EMBEDDER, {"frames": frames}, ["embedding"])


def _check_frames(frames: Frames, max_batch: int) -> None:
    _check_array("frames", frames, np.uint8, "[B, H, W]", 3)
    if len(frames) > max_batch:
        raise InvalidRequest(f"frames: a batch of {len(frames)} is more than the {max_batch} the server takes")


def _check_array(name: str, array: Any, kind: type, axes: str, dimensions: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != kind or array.ndim != dimensions or 0 in array.shape:
        what = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InvalidRequest(f"{name}: {np.dtype(kind)} {axes} with no empty side was expected, not {what}")


def _request(model: str, inputs: dict[str, NDArray[Any]], outputs: Iterable[str]) -> bytes:
    """Serialize a request.

    Serialized protocol buffers may be joined, so the tensors are appended as the field `raw_input_contents`: one copy
    of the pixels, where the generated class makes three.
    """
    request = ModelInferRequest(model_name=model)
    parts: list[Any] = []
    for name, array in inputs.items():
        datatype = "UINT8" if array.dtype == np.uint8 else "FP32"
        request.inputs.add(name=name, datatype=datatype).shape.extend(array.shape)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        parts += [_RAW_INPUT, _varint(len(data)), data]
    for name in outputs:
        request.outputs.add(name=name)
    return b"".join([request.SerializeToString(), *parts])


_RAW_INPUT = bytes([ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])  # wire type 2: length, then bytes


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def decode(response: Any, frames: Frames, output: Output, reference: Reference | None = None) -> ColorBatch:
    """Read the answer to `encode`.

    Raises:
        ServerError: The answer lacks an output or has another shape.
    """
    wanted: dict[str, tuple[str, Shape]] = {output: _colour(frames, output)}
    if reference is not None:
        wanted["confidence"] = ("FP32", (len(frames), 1, None, None))
    return ColorBatch(frames=frames, **_arrays(response, model_of(output, reference), wanted))


def decode_merge(response: Any, frames: Frames, output: Output) -> ColorBatch:
    """Read the answer to `encode_merge`.

    Raises:
        ServerError: The answer lacks the output or has another shape.
    """
    return ColorBatch(frames=frames, **_arrays(response, merge_of(output), {output: _colour(frames, output)}))


def decode_reference(response: Any, origin: str) -> Reference:
    """Read the answer to `encode_reference`.

    Raises:
        ServerError: The answer lacks an output or has another shape.
    """
    wanted: dict[str, tuple[str, Shape]] = {
        "reference_keys": ("FP32", (None, None)), "reference_ab": ("FP32", (2, None)),
    }  # fmt: skip
    arrays = _arrays(response, ENCODER, wanted)
    keys, ab = arrays["reference_keys"], arrays["reference_ab"]
    if keys.shape[1] != ab.shape[1]:
        raise ServerError(f"{ENCODER}: keys {list(keys.shape)} and ab {list(ab.shape)} do not agree")
    return Reference(keys=keys, ab=ab, origin=origin)


def decode_embed(response: Any, frames: Frames) -> NDArray[np.float32]:
    """Read the answer to `encode_embed`: [B, D].

    Raises:
        ServerError: The answer lacks the output or has another shape.
    """
    embedding: NDArray[np.float32] = _arrays(response, EMBEDDER, {"embedding": ("FP32", (len(frames), None))})[
        "embedding"
    ]
    return embedding


def _colour(frames: Frames, output: Output) -> tuple[str, Shape]:
    """Type and shape of an output, None where any size will do."""
    count, height, width = frames.shape
    if output == "ab":
        return "FP32", (count, 2, None, None)
    return "UINT8", (count, height, width, 3) if output == "rgb" else (count, 2, (height + 1) // 2, (width + 1) // 2)


def _arrays(response: Any, model: str, wanted: dict[str, tuple[str, Shape]]) -> dict[str, Any]:
    """Read the tensors of a `ModelInferResponse`, read-only, by name."""
    found = {}
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=False):
        found[tensor.name] = (tensor.datatype, tuple(tensor.shape), content)
    arrays = {}
    for name, (datatype, shape) in wanted.items():
        kind, got, content = found.get(name, ("", (), b""))
        alike = len(got) == len(shape) and all(size in (None, other) for size, other in zip(shape, got, strict=True))
        whole = len(content) == np.dtype(_TYPES[datatype]).itemsize * math.prod(got)
        if kind != datatype or not alike or not whole or 0 in got:
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            sent = [(other, was, list(size)) for other, (was, size, _) in found.items()]
            raise ServerError(f"{model}: output {name!r} should be {datatype} [{sizes}], the server sent {sent}")
        arrays[name] = np.frombuffer(content, _TYPES[datatype]).reshape(got)
    return arrays


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
