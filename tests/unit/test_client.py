"""The client's pure parts: requests, answers, errors, options."""

import inspect
import subprocess
import sys
from typing import Any

import grpc
import numpy as np
import pytest
import reeltint
from numpy.typing import NDArray
from reeltint._codec import decode, encode, error_of
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
