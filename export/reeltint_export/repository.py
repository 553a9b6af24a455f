"""ONNX graphs -> a Triton model repository: one folder a model, config.pbtxt beside the graph."""

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto

MAX_BATCH = 32

_TYPES: dict[int, str] = {TensorProto.UINT8: "TYPE_UINT8", TensorProto.FLOAT: "TYPE_FP32"}

_MODELS = {
    "lab_split": "Frames to the network's input: resized, then L*.",
    "colorizer": "Colour of a frame from its lightness: the trained network.",
    "lab_merge": "Frames and their colour to RGB.",
    "chroma_merge": "Frames and their colour to 4:2:0 chroma; the luma plane is not touched.",
}
_ENSEMBLES = {
    "colorize": ("Grey frames to RGB.", "lab_merge", "rgb"),
    "colorize_chroma": ("Grey frames to the chroma planes of 4:2:0 video.", "chroma_merge", "chroma"),
}
_MEANING = {
    "frames": "grey sRGB codes, full range, [H, W]",
    "lightness": "L*/100",
    "ab": "a*, b*, CIELAB, D65",
    "rgb": "gamma-encoded sRGB, [H, W, 3]",
    "chroma": "Cb, Cr: BT.709, limited range, [ceil(H/2), ceil(W/2)], left-sited",
}


def repository_files(models: Mapping[str, onnx.ModelProto]) -> dict[str, bytes]:
    """All files of a repository, by path in it, each model's graph before its config.

    Args:
        models: `lab_split`, `colorizer`, `lab_merge` and `chroma_merge`.
    """
    files: dict[str, bytes] = {}
    for name, purpose in _MODELS.items():
        files[f"{name}/1/model.onnx"] = models[name].SerializeToString(deterministic=True)
        files[f"{name}/config.pbtxt"] = model_config(name, purpose, models[name]).encode()
    frames = _tensor(models["lab_split"].graph.input[0])
    for name, (purpose, merge, output) in _ENSEMBLES.items():
        files[f"{name}/1/.gitkeep"] = b""  # Triton wants a version folder, git keeps no empty one
        result = _tensor(models[merge].graph.output[0])
        files[f"{name}/config.pbtxt"] = _ensemble_config(name, purpose, merge, output, frames, result).encode()
    return files


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` below `folder`; each appears under its name only when whole.

    Raises:
        OSError: A file cannot be written; the one that stood there before still does.
    """
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def model_config(name: str, purpose: str, model: onnx.ModelProto) -> str:
    """config.pbtxt of an ONNX model, its dimensions those of the graph without the batch."""
    inputs = _list("input", [_tensor(value) for value in model.graph.input])
    outputs = _list("output", [_tensor(value) for value in model.graph.output])
    return f"""# {purpose}
name: "{name}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
{inputs}
{outputs}
instance_group [ {{ count: 2 }} ]
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
parameters {{ key: "inter_op_thread_count" value {{ string_value: "1" }} }}
"""


def _ensemble_config(name: str, purpose: str, merge: str, output: str, frames: str, result: str) -> str:
    return f"""# {purpose}
name: "{name}"
platform: "ensemble"
max_batch_size: {MAX_BATCH}
{_list("input", [frames])}
{_list("output", [result])}
ensemble_scheduling {{
  step [
    {{
      model_name: "lab_split"
      model_version: -1
      input_map {{ key: "frames" value: "frames" }}
      output_map {{ key: "lightness" value: "lightness" }}
    }},
    {{
      model_name: "colorizer"
      model_version: -1
      input_map {{ key: "lightness" value: "lightness" }}
      output_map {{ key: "ab" value: "ab" }}
    }},
    {{
      model_name: "{merge}"
      model_version: -1
      input_map {{ key: "frames" value: "frames" }}
      input_map {{ key: "ab" value: "ab" }}
      output_map {{ key: "{output}" value: "{output}" }}
    }}
  ]
}}
"""


def _tensor(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    dims = ", ".join(str(-1 if dim.dim_param else dim.dim_value) for dim in kind.shape.dim[1:])
    return f'{{ name: "{value.name}" data_type: {_TYPES[kind.elem_type]} dims: [ {dims} ] }}'


def _list(field: str, tensors: list[str]) -> str:
    """One tensor a line, each with what it means."""
    lines = []
    for number, tensor in enumerate(tensors):
        end = "," if number + 1 < len(tensors) else ""
        lines.append(f"  {tensor}{end}  # {_MEANING[tensor.split(chr(34))[1]]}")
    return "\n".join([f"{field} [", *lines, "]"])
