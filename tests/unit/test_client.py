"""The client's pure parts: requests, answers, errors, options."""

import inspect
import pickle
import subprocess
import sys
from typing import Any

import grpc
import numpy as np
import pytest
import reeltint
from numpy.typing import NDArray
from reeltint import Reference
from reeltint._codec import (
    Output,
    decode,
    decode_embed,
    decode_reference,
    encode,
    encode_merge,
    encode_reference,
    error_of,
)
from reeltint._colorizer import _is_loopback
from reeltint._errors import (
    DeadlineExceeded,
    FilmError,
    InvalidRequest,
    ModelNotFound,
    ReeltintError,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    TransportError,
)
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse


@pytest.mark.parametrize(
    ("status", "text", "wanted"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; Connection refused", ServerUnreachable),
        ("UNAVAILABLE", "Socket closed", ServerUnreachable),
        ("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size", ServerBusy),
        ("UNAVAILABLE", "Request timeout expired", ServerBusy),
        ("UNAVAILABLE", "Request for unknown model: 'colorize' has no available versions", ModelNotFound),
        ("NOT_FOUND", "Request for unknown model: 'colorize' is not found", ModelNotFound),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
        ("INVALID_ARGUMENT", "unexpected shape for input 'frames'", ServerError),
        ("RESOURCE_EXHAUSTED", "Sent message larger than max", ServerError),
        ("INTERNAL", "onnx runtime error", ServerError),
        ("UNIMPLEMENTED", "no such method", ServerError),
        ("PERMISSION_DENIED", "no", ServerError),
        ("CANCELLED", "Locally cancelled", TransportError),
        ("UNKNOWN", "Stream removed", TransportError),
    ],
)
def test_every_status_becomes_one_error(status: str, text: str, wanted: type[ReeltintError]) -> None:
    failure = grpc.aio.AioRpcError(grpc.StatusCode[status], grpc.aio.Metadata(), grpc.aio.Metadata(), text)
    error = error_of(failure, "host:1", "colorize")
    assert type(error) is wanted
    assert "host:1" in str(error)


def test_errors_are_builtins_where_one_fits() -> None:
    assert issubclass(InvalidRequest, ValueError)
    assert issubclass(DeadlineExceeded, TimeoutError)
    assert issubclass(ServerUnreachable, ConnectionError)


def _tree(base: type[ReeltintError]) -> list[type[ReeltintError]]:
    return [base, *(each for child in base.__subclasses__() for each in _tree(child))]


@pytest.mark.parametrize("kind", [each for each in _tree(ReeltintError) if each.__module__ == "reeltint._errors"])
def test_errors_travel_between_processes(kind: type[ReeltintError]) -> None:
    error = kind("reel.mov", "damaged", 1.5) if issubclass(kind, FilmError) else kind("reel.mov: damaged")
    error.args = (f"{error}; 3 pictures are kept",)
    error.add_note("a note")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is kind
        assert str(back) == str(error)
        assert back.__dict__ == error.__dict__


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True), ("127.8.0.1:1", True), ("localhost:1", True), ("[::1]:1", True),
        ("10.0.0.1:1", False), ("triton:1", False), ("localhost.example:1", False), ("[::2]:1", False),
    ],
)  # fmt: skip
def test_loopback_addresses(address: str, expected: bool) -> None:
    assert _is_loopback(address) is expected


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (np.zeros((2, 4, 4), np.float32), "float32"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((0, 4, 4), np.uint8), r"uint8 \[0, 4, 4\]"),
        (np.zeros((33, 4, 4), np.uint8), "33 is more than the 32"),
        ([[1, 2]], "list"),
    ],
)
def test_frames_that_cannot_be_right_are_not_sent(frames: NDArray[Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        encode(frames, "chroma", 32)


def test_a_view_with_strides_is_sent_as_it_looks() -> None:
    whole = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    request = ModelInferRequest.FromString(encode(whole[:, ::2, 1:5], "chroma", 32))
    assert (request.model_name, request.inputs[0].name) == ("colorize_chroma", "frames")
    assert list(request.inputs[0].shape) == [1, 4, 4]
    assert request.raw_input_contents[0] == whole[:, ::2, 1:5].tobytes()


def _reference(count: int = 5) -> Reference:
    rng = np.random.default_rng(0)
    keys, ab = rng.normal(size=(3, count)), rng.normal(size=(2, count))
    return Reference(keys=keys.astype(np.float32), ab=ab.astype(np.float32), origin="still.png")


def test_the_reference_travels_with_the_frames() -> None:
    frames, reference = np.full((2, 4, 6), 9, np.uint8), _reference()
    request = ModelInferRequest.FromString(encode(frames, "ab", 32, reference))
    assert request.model_name == "colorize_ab_by_reference"
    sent = {
        tensor.name: (tensor.datatype, list(tensor.shape), raw)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    assert sent == {
        "frames": ("UINT8", [2, 4, 6], frames.tobytes()),
        "reference_keys": ("FP32", [3, 5], reference.keys.tobytes()),
        "reference_ab": ("FP32", [2, 5], reference.ab.tobytes()),
    }
    assert [tensor.name for tensor in request.outputs] == ["ab", "confidence"]


@pytest.mark.parametrize(
    ("keys", "ab", "said"),
    [
        ((3, 5), (2, 4), "do not agree"),
        ((3, 5), (3, 5), "do not agree"),
        ((3, 0), (2, 0), "keys"),
        ((15,), (2, 5), r"keys: float32 \[C, K\]"),
    ],
)
def test_a_reference_agrees_with_itself(keys: tuple[int, ...], ab: tuple[int, ...], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Reference(keys=np.zeros(keys, np.float32), ab=np.zeros(ab, np.float32))
    with pytest.raises(InvalidRequest, match="float64"):
        Reference(keys=np.zeros((3, 5)), ab=np.zeros((2, 5), np.float32))  # type: ignore[arg-type]


def test_what_is_no_reference_is_not_sent() -> None:
    with pytest.raises(InvalidRequest, match=r"reference: a Reference .* not ndarray"):
        encode(np.zeros((1, 4, 4), np.uint8), "chroma", 32, np.zeros((4, 4, 3), np.uint8))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ab", "output", "said"),
    [
        (np.zeros((1, 2, 3, 3), np.float32), "chroma", r"\[2, 2, h, w\] goes with these frames, not \[1, 2, 3, 3\]"),
        (np.zeros((2, 1, 3, 3), np.float32), "chroma", "goes with"),
        (np.zeros((2, 2, 3, 3)), "chroma", "float64"),
        (np.full((2, 2, 3, 3), np.nan, np.float32), "rgb", "no numbers"),
        (np.zeros((2, 2, 3, 3), np.float32), "ab", "'chroma' or 'rgb', not 'ab'"),
    ],
)
def test_ab_that_cannot_be_merged_is_not_sent(ab: NDArray[Any], output: Output, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        encode_merge(np.zeros((2, 8, 8), np.uint8), ab, output, 32)


def test_views_are_merged_as_they_look() -> None:
    ab = np.arange(48, dtype=np.float32).reshape(1, 2, 4, 6)[..., ::2]
    request = ModelInferRequest.FromString(encode_merge(np.zeros((1, 8, 8), np.uint8), ab, "rgb", 32))
    assert (request.model_name, list(request.inputs[1].shape)) == ("lab_merge", [1, 2, 4, 3])
    assert request.raw_input_contents[1] == ab.tobytes()


@pytest.mark.parametrize("picture", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))])
def test_pictures_that_cannot_be_references_are_not_sent(picture: NDArray[Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"\[h, w, 3\]"):
        encode_reference(picture)


def _answer(**tensors: NDArray[np.float32]) -> ModelInferResponse:
    response = ModelInferResponse(raw_output_contents=[array.tobytes() for array in tensors.values()])
    for name, array in tensors.items():
        response.outputs.add(name=name, datatype="FP32").shape.extend(array.shape)
    return response


def test_answers_in_any_order_of_outputs() -> None:
    ab = np.arange(36, dtype=np.float32).reshape(2, 2, 3, 3)
    confidence = np.full((2, 1, 3, 3), 0.5, np.float32)
    frames = np.zeros((2, 9, 9), np.uint8)
    batch = decode(_answer(confidence=confidence, ab=ab), frames, "ab", _reference())
    assert batch.ab is not None
    assert batch.confidence is not None
    assert np.array_equal(batch.ab, ab)
    assert np.array_equal(batch.confidence, confidence)
    assert (batch.chroma, batch.rgb) == (None, None)
    with pytest.raises(ServerError, match="'confidence' should be FP32"):
        decode(_answer(ab=ab), frames, "ab", _reference())
    with pytest.raises(ServerError, match=r"'ab' should be FP32 \[3, 2, any, any\]"):
        decode(_answer(ab=ab), np.zeros((3, 9, 9), np.uint8), "ab")


def test_an_answer_that_is_cut_short_is_refused() -> None:
    response = _answer(embedding=np.zeros((2, 4), np.float32))
    assert decode_embed(response, np.zeros((2, 8, 8), np.uint8)).shape == (2, 4)
    response.raw_output_contents[0] = response.raw_output_contents[0][:-1]
    with pytest.raises(ServerError, match="embedding"):
        decode_embed(response, np.zeros((2, 8, 8), np.uint8))
    unlike = _answer(reference_keys=np.zeros((3, 5), np.float32), reference_ab=np.zeros((2, 4), np.float32))
    with pytest.raises(ServerError, match="do not agree"):
        decode_reference(unlike, "")


@pytest.mark.parametrize("side", [1, 11, 12, 127, 128, 129, 2000])
def test_requests_of_any_length_parse(side: int) -> None:
    frames = np.full((1, side, side), 7, np.uint8)
    assert ModelInferRequest.FromString(encode(frames, "rgb", 32)).raw_input_contents[0] == frames.tobytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"address": "localhost"}, "host:port"),
        ({"in_flight": 0}, "in_flight"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"retries": -1}, "retries"),
    ],
)
def test_bad_options_name_themselves(options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        reeltint.AsyncColorizer(**({"address": "localhost:1"} | options))  # type: ignore[arg-type]


def test_both_colorizers_have_the_same_methods_and_options() -> None:
    def shape(method: object) -> list[tuple[str, object, object]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]  # type: ignore[arg-type]

    public = {name for name in vars(reeltint.Colorizer) if not name.startswith("_")}
    assert public == {name for name in vars(reeltint.AsyncColorizer) if not name.startswith("_")}
    for name in [*public, "__init__"]:
        assert shape(getattr(reeltint.Colorizer, name)) == shape(getattr(reeltint.AsyncColorizer, name)), name


def test_import_is_light() -> None:
    heavy = "{'torch', 'tensorrt', 'onnx', 'onnxruntime', 'scipy', 'PIL', 'typer', 'rich', 'reeltint_local'}"
    script = f"import reeltint, sys; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert output.stdout.strip() == "[]"


def test_all_names_are_there() -> None:
    assert sorted(reeltint.__all__) == reeltint.__all__
    assert all(hasattr(reeltint, name) for name in reeltint.__all__)


def test_an_answer_of_another_shape_is_refused() -> None:
    response = ModelInferResponse(raw_output_contents=[bytes(18)])
    response.outputs.add(name="chroma", datatype="UINT8").shape.extend([1, 2, 3, 3])
    assert decode(response, np.zeros((1, 6, 6), np.uint8), "chroma").chroma is not None
    with pytest.raises(ServerError, match=r"should be UINT8 \[1, 2, 4, 4\]"):
        decode(response, np.zeros((1, 8, 8), np.uint8), "chroma")
