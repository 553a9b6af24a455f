"""Is a model repository sound? Every config.pbtxt against the ONNX file beside it, and ensembles against their steps.

Triton reports these mistakes only while it loads, and some (a misspelt thread count) never.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from google.protobuf import text_format  # type: ignore[import-untyped]
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2

MAX_OPSET, MAX_IR = 21, 10
"""What ONNX Runtime in Triton 24.10 loads."""
MAX_BYTES = 25_000_000

_KNOWN_PARAMETERS = {
    "intra_op_thread_count", "inter_op_thread_count", "execution_mode", "level", "enable_mem_arena",
    "enable_mem_pattern", "memory.enable_memory_arena_shrinkage", "arena_extend_strategy", "gpu_mem_limit",
    "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "do_copy_in_default_stream", "use_tf32",
}  # fmt: skip
_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32", TensorProto.FLOAT16: "TYPE_FP16", TensorProto.DOUBLE: "TYPE_FP64",
    TensorProto.UINT8: "TYPE_UINT8", TensorProto.INT8: "TYPE_INT8", TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64", TensorProto.BOOL: "TYPE_BOOL", TensorProto.STRING: "TYPE_STRING",
}  # fmt: skip

_Dims = tuple[int, ...]
_Tensors = dict[str, tuple[str, _Dims]]  # name: type, dims without the batch


class RepositoryError(ValueError):
    """The repository would not load, or not do what its configs say: every problem, one a line."""


def require_sound(folder: Path) -> None:
    """Raise `RepositoryError` where `problems` finds any."""
    found = problems(folder)
    if found:
        raise RepositoryError(f"{folder}:\n  " + "\n  ".join(found))


def problems(folder: Path) -> list[str]:
    """What is wrong with the model repository `folder`: one sentence each, beginning with the model; empty if sound."""
    if not folder.is_dir():
        return ["no such folder"]
    found: list[str] = []
    configs: dict[str, model_config_pb2.ModelConfig] = {}
    for path in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        config = model_config_pb2.ModelConfig()
        try:
            text_format.Parse((path / "config.pbtxt").read_text(), config)
        except FileNotFoundError:
            found.append(f"{path.name}: no config.pbtxt")
            continue
        except (text_format.ParseError, UnicodeDecodeError) as error:
            found.append(f"{path.name}: config.pbtxt does not parse: {error}")
            continue
        configs[path.name] = config
    if not configs and not found:
        found.append("no model in it")
    for name, config in configs.items():
        check = _ensemble_problems(config, configs) if _is_ensemble(config) else _model_problems(folder / name, config)
        found += [f"{name}: {problem}" for problem in (*_common_problems(folder / name, config), *check)]
    return found


def _is_ensemble(config: model_config_pb2.ModelConfig) -> bool:
    return bool(config.platform == "ensemble" or config.HasField("ensemble_scheduling"))


def _versions(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and entry.name.isdigit() and int(entry.name) > 0)


def _common_problems(path: Path, config: model_config_pb2.ModelConfig) -> Iterator[str]:
    if config.name != path.name:
        yield f"is called {config.name!r} in its config"
    if not _versions(path):
        yield "no version folder (1/)"
    for field, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            yield f"lists no {field}"
        names = [tensor.name for tensor in tensors]
        yield from (f"{field} {name!r} is listed twice" for name in sorted(set(names)) if names.count(name) > 1)


def _model_problems(path: Path, config: model_config_pb2.ModelConfig) -> Iterator[str]:
    if config.backend != "onnxruntime" or config.platform not in ("", "onnxruntime_onnx"):
        yield f'backend is {config.backend or config.platform!r}, not "onnxruntime"'
        return
    if any(group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU for group in config.instance_group):
        yield "KIND_GPU does not load on a host without a GPU; leave kind out"
    for key, parameter in config.parameters.items():
        if key not in _KNOWN_PARAMETERS:
            yield f"parameter {key!r} is none of the backend's, which would ignore it"
        elif key.endswith("thread_count") and not parameter.string_value.isdigit():
            yield f"parameter {key!r} is {parameter.string_value!r}, not a number"
    if config.HasField("dynamic_batching") and config.max_batch_size < 1:
        yield "dynamic_batching without max_batch_size"
    for version in _versions(path):
        yield from _graph_problems(version / (config.default_model_filename or "model.onnx"), config)


def _graph_problems(path: Path, config: model_config_pb2.ModelConfig) -> Iterator[str]:
    label = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        yield f"{label} is missing"
        return
    if path.stat().st_size > MAX_BYTES:
        yield f"{label} has {path.stat().st_size} bytes, more than {MAX_BYTES}"
    try:
        model = onnx.load(path, load_external_data=False)
        if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
            yield f"{label} keeps weights in another file"
            return
        onnx.checker.check_model(model)
    except Exception as error:  # noqa: BLE001 (protobuf's and the checker's own errors share no base)
        yield f"{label} is not sound ONNX: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        return
    opset = max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset > MAX_OPSET:
        yield f"{label} is opset {opset}; at most {MAX_OPSET} loads"
    if model.ir_version > MAX_IR:
        yield f"{label} is IR {model.ir_version}; at most {MAX_IR} loads"
    weights = {tensor.name for tensor in model.graph.initializer}
    graph_inputs = [value for value in model.graph.input if value.name not in weights]
    for field, tensors, values in (
        ("input", config.input, graph_inputs),
        ("output", config.output, model.graph.output),
    ):
        yield from _tensor_problems(f"{label} {field}", _declared(tensors), values, config.max_batch_size > 0)


def _tensor_problems(
    label: str, declared: _Tensors, values: Sequence[onnx.ValueInfoProto], batched: bool
) -> Iterator[str]:
    actual = {value.name: value.type.tensor_type for value in values}
    yield from (f"{label} {name!r} is not in the config" for name in actual if name not in declared)
    for name, (kind, dims) in declared.items():
        if name not in actual:
            yield f"{label} {name!r} is in the config only"
            continue
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in actual[name].shape.dim)
        if batched and shape[:1] != (-1,):
            yield f"{label} {name!r} has no dynamic batch in front: {list(shape)}"
        if dims != shape[1 if batched else 0 :]:
            yield f"{label} {name!r} is {list(shape[1 if batched else 0 :])}, the config says {list(dims)}"
        if kind != _TYPES.get(actual[name].elem_type):
            yield f"{label} {name!r} is {_TYPES.get(actual[name].elem_type)}, the config says {kind}"


def _declared(tensors: Sequence[model_config_pb2.ModelInput | model_config_pb2.ModelOutput]) -> _Tensors:
    return {item.name: (model_config_pb2.DataType.Name(item.data_type), tuple(item.dims)) for item in tensors}


def _ensemble_problems(
    config: model_config_pb2.ModelConfig, configs: dict[str, model_config_pb2.ModelConfig]
) -> Iterator[str]:
    known = _declared(config.input)
    unused = set(known)
    if not config.ensemble_scheduling.step:
        yield "has no steps"
    if config.instance_group or config.HasField("dynamic_batching"):
        yield "an ensemble has neither instances nor a batcher of its own"
    pending = list(config.ensemble_scheduling.step)
    while pending:  # in the order in which inputs become known, which is how Triton runs them
        ready = [step for step in pending if all(tensor in known for tensor in step.input_map.values())]
        if not ready:
            for step in pending:
                lost = sorted(set(step.input_map.values()) - set(known))
                yield f"step {step.model_name!r} waits for {', '.join(lost)}, which nothing gives"
            break
        for step in ready:
            pending.remove(step)
            unused -= set(step.input_map.values())
            if step.model_name not in configs:
                yield f"step {step.model_name!r} is no model of this repository"
                known |= dict.fromkeys(step.output_map.values(), ("", ()))
                continue
            yield from _step_problems(config, step, configs[step.model_name], known)
    yield from (f"input {name!r} is used by no step" for name in sorted(unused))
    produced = {tensor for step in config.ensemble_scheduling.step for tensor in step.output_map.values()}
    for name, (kind, dims) in _declared(config.output).items():
        if name not in produced:
            yield f"output {name!r} is given by no step"
        elif name in known and known[name][0] and known[name] != (kind, dims):
            yield f"output {name!r} is {known[name][0]} {list(known[name][1])}, the config says {kind} {list(dims)}"


def _step_problems(
    config: model_config_pb2.ModelConfig,
    step: model_config_pb2.ModelEnsembling.Step,
    model: model_config_pb2.ModelConfig,
    known: _Tensors,
) -> Iterator[str]:
    """Problems of one step; what it gives is added to `known`."""
    label = f"step {step.model_name!r}"
    if config.max_batch_size > model.max_batch_size:
        yield f"{label} takes batches up to {model.max_batch_size}, the ensemble promises {config.max_batch_size}"
    inputs, outputs = _declared(model.input), _declared(model.output)
    for name in sorted(set(inputs) - set(step.input_map)):
        yield f"{label} gets no {name!r}"
    for name, tensor in step.input_map.items():
        kind, dims = known[tensor]
        if name not in inputs:
            yield f"{label} has no input {name!r}"
        elif kind and (kind != inputs[name][0] or not _fits(dims, inputs[name][1])):
            yield f"{label} takes {name!r} as {inputs[name][0]} {list(inputs[name][1])}, but gets {kind} {list(dims)}"
    for name, tensor in step.output_map.items():
        if name not in outputs:
            yield f"{label} has no output {name!r}"
        elif tensor in known:
            yield f"{label} gives {tensor!r}, which exists already"
        known.setdefault(tensor, outputs.get(name, ("", ())))


def _fits(given: _Dims, taken: _Dims) -> bool:
    return len(given) == len(taken) and all(-1 in pair or pair[0] == pair[1] for pair in zip(given, taken, strict=True))
