"""ONNX graphs -> a Triton model repository: one folder a model, config.pbtxt beside the graph."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import onnx

from reeltint_export.manifest import FORMAT, NAME, TENSOR_TYPES, describe, file_facts, seal
from reeltint_export.profiles import profiles
from reeltint_export.tensorrt_configs import tensorrt_config

MAX_BATCH = 32

MERGES = ("lab_merge", "chroma_merge")
"""What takes ab beside frames."""
NETWORKS = ("colorizer", "exemplar_colorizer")
"""What gives ab."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """How one ONNX graph is served.

    Attributes:
        purpose: The comment at the head of its config.
        batched: Every tensor carries the batch first, and Triton may split and join requests; else a request is one
            batch and the config writes shapes whole.
        instances: How many copies run side by side.
    """

    purpose: str
    batched: bool = True
    instances: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Models run one after the other; tensors of the same name are the same tensor.

    Attributes:
        purpose: The comment at the head of its config.
        steps: Models in their order.
        outputs: Tensors that the caller gets.
    """

    purpose: str
    steps: tuple[str, ...]
    outputs: tuple[str, ...]


MODELS = {
    "lab_split": Model(purpose="Frames to the network's input: resized, then L*."),
    "colorizer": Model(purpose="Colour of a frame from its lightness: the trained network."),
    "lab_merge": Model(purpose="Frames and their colour to RGB."),
    "chroma_merge": Model(purpose="Frames and their colour to 4:2:0 chroma; the luma plane is not touched."),
    "reference_encoder": Model(
        purpose="A scene's reference picture to what exemplar_colorizer takes; run once a scene.",
        batched=False,
        instances=1,
    ),
    "exemplar_colorizer": Model(
        purpose="Colour of a frame from its lightness and its scene's reference.", batched=False
    ),
    "scene_embedder": Model(purpose="Frames to vectors whose distance says how much two pictures look alike."),
}
"""Every model there can be, by name."""

ENSEMBLES = {
    "colorize": Ensemble(
        purpose="Grey frames to RGB.", steps=("lab_split", "colorizer", "lab_merge"), outputs=("rgb",)
    ),
    "colorize_chroma": Ensemble(
        purpose="Grey frames to the chroma planes of 4:2:0 video.",
        steps=("lab_split", "colorizer", "chroma_merge"),
        outputs=("chroma",),
    ),
    "colorize_ab": Ensemble(
        purpose="Grey frames to colour at the network's resolution.", steps=("lab_split", "colorizer"), outputs=("ab",)
    ),
    "colorize_by_reference": Ensemble(
        purpose="Grey frames to RGB, coloured like a reference.",
        steps=("lab_split", "exemplar_colorizer", "lab_merge"),
        outputs=("rgb", "confidence"),
    ),
    "colorize_chroma_by_reference": Ensemble(
        purpose="Grey frames to the chroma planes of 4:2:0 video, coloured like a reference.",
        steps=("lab_split", "exemplar_colorizer", "chroma_merge"),
        outputs=("chroma", "confidence"),
    ),
    "colorize_ab_by_reference": Ensemble(
        purpose="Grey frames to colour at the network's resolution, coloured like a reference.",
        steps=("lab_split", "exemplar_colorizer"),
        outputs=("ab", "confidence"),
    ),
}
"""Every ensemble there can be, by name."""

_MEANING = {
    "frames": "grey sRGB codes, full range, [H, W]",
    "lightness": "L*/100",
    "ab": "a*, b*, CIELAB, D65",
    "rgb": "gamma-encoded sRGB, [H, W, 3]",
    "chroma": "Cb, Cr: BT.709, limited range, [ceil(H/2), ceil(W/2)], left-sited",
    "reference": "gamma-encoded sRGB, [h, w, 3]",
    "reference_keys": "opaque: what reference_encoder gave",
    "reference_ab": "opaque: what reference_encoder gave",
    "confidence": "0..1: how well the reference fits here",
    "embedding": "Euclidean length 1",
}


def repository_files(
    models: Mapping[str, onnx.ModelProto],
    version: int = 1,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, bytes]:
    """All files of a repository, by path in it: each model's graph and its manifest before its configs.

    Args:
        models: By their names in `MODELS`; an ensemble is written when all its steps are among them.
        version: Name of the version folder.
        facts: What the manifest of each model says beyond its file: see `reeltint_export.manifest`.

    Raises:
        ValueError: A model that no entry of `MODELS` describes, or whose tensors are not as its entry says.
    """
    files: dict[str, bytes] = {}
    for name, model in models.items():
        if name not in MODELS:
            raise ValueError(f"no model is called {name!r}: {', '.join(MODELS)}")
        content = model.SerializeToString(deterministic=True)
        manifest = {
            "format": FORMAT,
            "model": name,
            "version": version,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **(facts or {}).get(name, {}),
            "files": {"model.onnx": file_facts(content)},
            "graph": describe(model),
        }
        config = model_config(name, model)
        files[f"{name}/{version}/model.onnx"] = content
        files[f"{name}/{version}/{NAME}"] = seal(manifest)
        files[f"{name}/config.pbtxt"] = config.encode()
        if name not in MERGES or any(network in models for network in NETWORKS):
            files[f"{name}/configs/tensorrt.pbtxt"] = tensorrt_config(config, profiles(name, models)).encode()
    for name, ensemble in ENSEMBLES.items():
        if all(step in models for step in ensemble.steps):
            files[f"{name}/1/.gitkeep"] = b""  # Triton wants a version folder, git keeps no empty one
            files[f"{name}/config.pbtxt"] = ensemble_config(name, models).encode()
    return files


def model_config(name: str, model: onnx.ModelProto) -> str:
    """config.pbtxt of an ONNX model, its dimensions those of the graph (without the batch where it is batched)."""
    served = MODELS[name]
    inputs, outputs = (
        _list(field, values, served.batched)
        for field, values in (("input", model.graph.input), ("output", model.graph.output))
    )
    return f"""# {served.purpose}
name: "{name}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH if served.batched else 0}
{inputs}
{outputs}
instance_group [ {{ count: {served.instances} }} ]
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
parameters {{ key: "inter_op_thread_count" value {{ string_value: "1" }} }}
"""


def ensemble_config(name: str, models: Mapping[str, onnx.ModelProto]) -> str:
    """config.pbtxt of an ensemble: its inputs are what no step gives, its dimensions those of the steps' graphs.

    It is batched when every step is. Otherwise a request is one batch, as for the step that is not.
    """
    ensemble = ENSEMBLES[name]
    batched = all(MODELS[step].batched for step in ensemble.steps)
    inputs: dict[str, onnx.ValueInfoProto] = {}
    known: dict[str, onnx.ValueInfoProto] = {}
    steps = []
    for step in ensemble.steps:
        graph = models[step].graph
        inputs |= {value.name: value for value in graph.input if value.name not in inputs and value.name not in known}
        known |= {value.name: value for value in graph.output}
        maps = [
            f'      {field} {{ key: "{value.name}" value: "{value.name}" }}'
            for field, values in (("input_map", graph.input), ("output_map", graph.output))
            for value in values
        ]
        steps.append("\n".join(["    {", f'      model_name: "{step}"', "      model_version: -1", *maps, "    }"]))
    outputs = [known[output] for output in ensemble.outputs]
    joined = ",\n".join(steps)
    return f"""# {ensemble.purpose}
name: "{name}"
platform: "ensemble"
max_batch_size: {MAX_BATCH if batched else 0}
{_list("input", inputs.values(), batched)}
{_list("output", outputs, batched)}
ensemble_scheduling {{
  step [
{joined}
  ]
}}
"""


def dims(value: onnx.ValueInfoProto) -> list[int]:
    """Shape of a graph's input or output, -1 where it is free."""
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]


def _tensor(value: onnx.ValueInfoProto, batched: bool) -> str:
    shape = dims(value)
    if batched and shape[:1] != [-1]:
        raise ValueError(f"{value.name} has no dynamic batch in front: {shape}")
    written = ", ".join(map(str, shape[1:] if batched else shape))
    return f'{{ name: "{value.name}" data_type: {TENSOR_TYPES[value.type.tensor_type.elem_type]} dims: [ {written} ] }}'


def _list(field: str, values: Iterable[onnx.ValueInfoProto], batched: bool) -> str:
    """One tensor a line, each with what it means."""
    tensors = {value.name: _tensor(value, batched) for value in values}
    last = list(tensors)[-1]
    lines = [f"  {text}{'' if name == last else ','}  # {_MEANING[name]}" for name, text in tensors.items()]
    return "\n".join([f"{field} [", *lines, "]"])
