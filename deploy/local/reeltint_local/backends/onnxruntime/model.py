"""Triton's Python-based backend `onnxruntime`: the same configs as the C++ backend of that name, on the wheel's server.

The rules are those of https://github.com/triton-inference-server/onnxruntime_backend: the model is
`<version>/model.onnx`, the parameters `intra_op_thread_count` and `inter_op_thread_count` set the threads, and the
tensors of config.pbtxt must be those of the file, so what loads here loads there.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

_CPU_BYTES = 2**20
"""Inputs of one run on a CPU: with more, what lies between the nodes falls out of the caches (a fifth of the time)."""

_ELEMENT_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
    **{f"TYPE_{sign}INT{bits}": f"tensor({sign.lower()}int{bits})" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}


def _check(kind: str, tensors: Iterable[Any], configured: Sequence[dict[str, Any]], batched: bool) -> None:
    """Compare the file's inputs or outputs with config.pbtxt; raise ValueError with what differs."""
    in_file = {tensor.name: tensor for tensor in tensors}
    names = {entry["name"] for entry in configured}
    if names != set(in_file):
        raise ValueError(f"config.pbtxt names the {kind}s {sorted(names)}, model.onnx has {sorted(in_file)}")
    for entry in configured:
        tensor = in_file[entry["name"]]
        if _ELEMENT_TYPES.get(entry["data_type"]) != tensor.type:
            raise ValueError(
                f"{kind} {tensor.name!r} is {entry['data_type']} in config.pbtxt, {tensor.type} in model.onnx"
            )
        shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
        dims = [-1] * batched + [int(size) for size in entry["dims"]]
        # An input of the file that is dynamic takes any size; an output must be declared as it is.
        same = [a == b or (a == -1 and kind == "input") for a, b in zip(shape, dims, strict=False)]
        if len(shape) != len(dims) or not all(same):
            raise ValueError(
                f"{kind} {tensor.name!r} is {dims} in config.pbtxt, {shape} in model.onnx (batch first, -1: any size)"
            )


class TritonPythonModel:
    """One instance of one model: an ONNX Runtime session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model file; an error says what is wrong with it or its config.pbtxt."""
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"], args["model_version"], config["default_model_filename"] or "model.onnx")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        self._batched = config["max_batch_size"] > 0
        self._run_bytes = sys.maxsize if args["model_instance_kind"] == "GPU" else _CPU_BYTES
        self._session = ort.InferenceSession(path, _options(config["parameters"]), providers=_providers(args))
        _check("input", self._session.get_inputs(), config["input"], self._batched)
        _check("output", self._session.get_outputs(), config["output"], self._batched)
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request; small ones that agree in all but the batch run as one, large ones in parts."""
        answers: list[Any] = [None] * len(requests)
        groups: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for index, request in enumerate(requests):
            feeds = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            mergeable = self._batched and sum(feed.nbytes for feed in feeds.values()) <= self._run_bytes
            alike = [(name, feed.shape[1:]) for name, feed in sorted(feeds.items())] if mergeable else index
            groups.setdefault(str(alike), []).append((index, feeds))
        for group in groups.values():
            for index, answer in zip([index for index, _ in group], self._answer([f for _, f in group]), strict=True):
                answers[index] = answer
        return answers

    def _answer(self, group: list[dict[str, Any]]) -> list[Any]:
        """Run requests with equal shapes together; where that fails, one by one, so that only the bad one does."""
        first, *others = group
        feeds = {name: np.concatenate([each[name] for each in group]) for name in first} if others else first
        try:
            results = self._run(feeds)
        except Exception as error:  # noqa: BLE001 - whatever ONNX Runtime raises is the answer to this request
            if others:
                return [answer for each in group for answer in self._answer([each])]
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))]
        if not others:
            return [_response(self._outputs, results)]
        ends = np.cumsum([len(next(iter(each.values()))) for each in group])[:-1]
        return [_response(self._outputs, part) for part in zip(*(np.split(r, ends) for r in results), strict=True)]

    def _run(self, feeds: dict[str, Any]) -> list[Any]:
        """Run the session, on as many items of the batch at a time as stay in the caches."""
        count = len(next(iter(feeds.values()))) if self._batched else 1
        part = max(1, count * self._run_bytes // max(1, sum(feed.nbytes for feed in feeds.values())))
        if part >= count:
            return list(self._session.run(self._outputs, feeds))
        starts = range(0, count, part)
        parts = [
            self._session.run(self._outputs, {name: feed[k : k + part] for name, feed in feeds.items()}) for k in starts
        ]
        return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _response(names: Iterable[str], arrays: Iterable[Any]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in zip(names, arrays, strict=True)])


def _options(parameters: dict[str, dict[str, str]]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    for key in ("intra_op_thread_count", "inter_op_thread_count"):
        if key in parameters:
            setattr(options, key.replace("thread_count", "num_threads"), int(parameters[key]["string_value"]))
    # Instances share the cores: a thread that waits must not spin on the one where another instance works.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _providers(args: dict[str, str]) -> list[Any]:
    cuda = "CUDAExecutionProvider"
    if args["model_instance_kind"] == "GPU" and cuda in ort.get_available_providers():
        return [(cuda, {"device_id": int(args["model_instance_device_id"])}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
