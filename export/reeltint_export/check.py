"""Is a model repository sound? Files against their manifests, configs against graphs and engines, ensembles against
their steps. Triton reports these mistakes only while it loads, and some (a misspelt thread count) never.

Without the package onnx the graphs are known by their manifests alone; that is how a server checks before it starts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

from reeltint_export.manifest import NAME, ManifestError, describe, file_problems, read_manifest
from reeltint_export.publish import STAGING, chosen, versions

MAX_OPSET, MAX_IR = 21, 10
"""What ONNX Runtime in Triton 24.10 loads."""
MAX_BYTES = 100_000_000
"""No network here comes near: the largest is paper 3's ResNet-50 as `scene_embedder`, 47 MB."""
PLAN = "model.plan"
CLIENT_BATCH = 32
"""What clients may send to a model whose config, without max_batch_size, promises nothing."""

_KNOWN_PARAMETERS = {
    "intra_op_thread_count", "inter_op_thread_count", "execution_mode", "level", "enable_mem_arena",
    "enable_mem_pattern", "memory.enable_memory_arena_shrinkage", "arena_extend_strategy", "gpu_mem_limit",
    "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "do_copy_in_default_stream", "use_tf32",
}  # fmt: skip

_Dims = tuple[int, ...]
_Tensors = dict[str, tuple[str, _Dims]]  # name: type, dims
_Config: TypeAlias = model_config_pb2.ModelConfig
_Configs: TypeAlias = dict[str, model_config_pb2.ModelConfig]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What this machine can say about an engine.

    Attributes:
        tensorrt: Version of TensorRT here; None where it is not installed.
        capability: Compute capability of its GPU, "8.9"; None without one.
    """

    tensorrt: str | None = None
    capability: str | None = None


def start_problems(folder: Path, only: Iterable[str] = ()) -> list[str]:
    """What is wrong with the models that have a manifest and would be loaded; quick, and without the package onnx.

    Args:
        folder: Model repository.
        only: Models to be loaded, with what they are made of; empty means all.
    """
    configs, _ = _read_configs(folder, "config.pbtxt")
    wanted, pending = set(), list(only) or list(configs)
    while pending:
        name = pending.pop()
        if name in configs and name not in wanted:
            wanted.add(name)
            pending += [step.model_name for step in configs[name].ensemble_scheduling.step]
    exported = {name for name in wanted if any((path / NAME).is_file() for path in _version_folders(folder / name))}
    found = []
    for name in sorted(wanted):
        steps = {step.model_name for step in configs[name].ensemble_scheduling.step}
        if _is_ensemble(configs[name]):
            found += [f"{name}: {text}" for text in _ensemble_problems(configs[name], configs) if steps <= exported]
        elif name in exported:
            found += [f"{name}: {text}" for text in _version_problems(folder / name, configs[name], graphs=False)]
    return found


def problems(folder: Path, variant: str | None = None, host: Host | None = None) -> list[str]:
    """What is wrong with the model repository `folder`: one sentence each, beginning with the model; empty if sound.

    Args:
        folder: Model repository.
        variant: As Triton's --model-config-name: configs/VARIANT.pbtxt is read where there is one.
        host: What engines are compared with; None compares them with their manifests and configs alone.
    """
    if not folder.is_dir():
        return ["no such folder"]
    found: list[str] = []
    for path in sorted((folder / STAGING, *folder.glob(f"*/{STAGING}"))):
        if path.is_dir() and path.parent == folder:
            found.append(f"{STAGING}: an export was interrupted here, and Triton takes it for a model: export again")
    configs, unread = _read_configs(folder, "config.pbtxt")
    found += unread
    if not configs and not found:
        found.append("no model in it")
    for name, config in configs.items():
        found += [f"{name}: {text}" for text in _config_problems(folder / name, config, configs, host)]
        for path in sorted((folder / name / "configs").glob("*.pbtxt")):
            label = f"{name}: configs/{path.name}"
            other = _parse(path)
            if isinstance(other, str):
                found.append(f"{label} {other}")
            else:
                found += [f"{label}: {text}" for text in _variant_problems(folder / name, other, config, host)]
                wanted = path.stem == variant
                found += [f"{label}: {text}" for text in _plan_problems(folder / name, other, host, wanted=wanted)]
    return found


def _read_configs(folder: Path, file: str) -> tuple[_Configs, list[str]]:
    """Configs by model, and what is wrong with those that cannot be read."""
    configs: _Configs = {}
    found = []
    for path in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        config = _parse(path / file)
        if isinstance(config, str):
            found.append(f"{path.name}: {config}" if config.startswith("no ") else f"{path.name}: {file} {config}")
        else:
            configs[path.name] = config
    return configs, found


def _parse(path: Path) -> "model_config_pb2.ModelConfig | str":
    """A config, or why it cannot be read."""
    config = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(path.read_text(), config)
    except FileNotFoundError:
        return f"no {path.name}"
    except (text_format.ParseError, UnicodeDecodeError) as error:
        return f"does not parse: {error}"
    return config


def _is_ensemble(config: _Config) -> bool:
    return bool(config.platform == "ensemble" or config.HasField("ensemble_scheduling"))


def _version_folders(path: Path) -> list[Path]:
    return [path / str(number) for number in versions(path)]


def _config_problems(path: Path, config: _Config, configs: _Configs, host: Host | None) -> Iterator[str]:
    if config.name != path.name:
        yield f"is called {config.name!r} in its config"
    if not versions(path):
        yield "no version folder (1/)"
    for number in sorted(set(config.version_policy.specific.versions) - set(versions(path))):
        yield f"version {number} is to be served and is not there"
    for field, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            yield f"lists no {field}"
        names = [tensor.name for tensor in tensors]
        yield from (f"{field} {name!r} is listed twice" for name in sorted(set(names)) if names.count(name) > 1)
    if _is_ensemble(config):
        yield from _ensemble_problems(config, configs)
    elif config.platform == "tensorrt_plan":
        yield from _version_problems(path, config, graphs=True)
        yield from _plan_problems(path, config, host, wanted=True)
    elif config.backend != "onnxruntime" or config.platform not in ("", "onnxruntime_onnx"):
        yield f'backend is {config.backend or config.platform!r}, not "onnxruntime"'
    else:
        yield from _backend_problems(config)
        yield from _version_problems(path, config, graphs=True)


def _backend_problems(config: _Config) -> Iterator[str]:
    if any(group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU for group in config.instance_group):
        yield "KIND_GPU does not load on a host without a GPU; leave kind out"
    for key, parameter in config.parameters.items():
        if key not in _KNOWN_PARAMETERS:
            yield f"parameter {key!r} is none of the backend's, which would ignore it"
        elif key.endswith("thread_count") and not parameter.string_value.isdigit():
            yield f"parameter {key!r} is {parameter.string_value!r}, not a number"
    if config.HasField("dynamic_batching") and config.max_batch_size < 1:
        yield "dynamic_batching without max_batch_size"


def _variant_problems(path: Path, variant: _Config, config: _Config, host: Host | None) -> Iterator[str]:
    """What a variant says otherwise than config.pbtxt although callers and ensembles rely on it."""
    if variant.name != path.name:
        yield f"is called {variant.name!r}"
    if variant.max_batch_size != config.max_batch_size:
        yield f"max_batch_size is {variant.max_batch_size}, that of config.pbtxt {config.max_batch_size}"
    for field in ("input", "output"):
        ours, theirs = _declared(getattr(variant, field)), _declared(getattr(config, field))
        yield from (f"{field} {name!r} is not as in config.pbtxt" for name in theirs if ours.get(name) != theirs[name])
        yield from (f"{field} {name!r} is not in config.pbtxt" for name in sorted(set(ours) - set(theirs)))
    if variant.version_policy != config.version_policy:
        yield "its version_policy is not that of config.pbtxt"


def _served_folders(path: Path, config: _Config) -> list[Path]:
    wanted = chosen(config.version_policy, versions(path))
    return [path / str(number) for number in wanted if (path / str(number)).is_dir()]


def _version_problems(path: Path, config: _Config, *, graphs: bool) -> Iterator[str]:
    """Every version against its manifest; those that are served against the config.

    Without `graphs` only what the manifests say is compared with the config, and a version without one passes.
    """
    for folder in _version_folders(path):
        try:
            manifest = read_manifest(folder)
        except ManifestError as error:
            if graphs or (folder / NAME).exists():
                yield f"{folder.name}/{error}"
            manifest = None
        if manifest is not None:
            yield from (f"{folder.name}/{problem}" for problem in file_problems(folder, manifest))
        if folder not in _served_folders(path, config):
            continue
        label = f"{folder.name}/{config.default_model_filename or 'model.onnx'}"
        if graphs:
            yield from _graph_problems(folder / "model.onnx", config, manifest)
        elif manifest is not None:
            for field, tensors in (("input", config.input), ("output", config.output)):
                actual = {
                    entry["name"]: (entry["type"], tuple(entry["dims"])) for entry in manifest["graph"][f"{field}s"]
                }
                yield from _tensor_problems(f"{label} {field}", _declared(tensors), actual, config.max_batch_size > 0)


def _graph_problems(path: Path, config: _Config, manifest: Mapping[str, Any] | None) -> Iterator[str]:
    import onnx

    label = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        if manifest is None:
            yield f"{label} is missing"
        return
    if path.stat().st_size > MAX_BYTES:
        yield f"{label} has {path.stat().st_size} bytes, more than {MAX_BYTES}"
    try:
        model = onnx.load(path, load_external_data=False)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
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
    graph = describe(model)
    if manifest is not None and manifest["graph"] != graph:
        yield f"{label} is not the graph that {NAME} describes"
    for field, tensors in (("input", config.input), ("output", config.output)):
        actual = {entry["name"]: (entry["type"], tuple(entry["dims"])) for entry in graph[f"{field}s"]}
        yield from _tensor_problems(f"{label} {field}", _declared(tensors), actual, config.max_batch_size > 0)


def _plan_problems(path: Path, config: _Config, host: Host | None, *, wanted: bool) -> Iterator[str]:
    """Every engine that would be served, against its manifest, its config and this machine.

    Args:
        path: The model's folder.
        config: A config of the platform tensorrt_plan.
        host: What this machine is.
        wanted: A missing engine is a problem.
    """
    if config.platform != "tensorrt_plan":
        return
    for folder in _served_folders(path, config):
        name = config.default_model_filename or PLAN
        label = f"{folder.name}/{name}"
        if not (folder / name).is_file():
            if wanted:
                yield f"{label} is missing: build it with reeltint-export engines"
            continue
        try:
            manifest = read_manifest(folder)
        except ManifestError:
            continue  # said already
        engine = manifest.get("engines", {}).get(name)
        if engine is None:
            yield f"{label} is in no manifest"
            continue
        if engine["onnx_sha256"] != manifest["files"].get("model.onnx", {}).get("sha256"):
            yield f"{label} was built from another model.onnx: build it again"
        yield from (f"{label}: {text}" for text in _profile_problems(config, engine["profiles"]))
        if host is None:
            continue
        if host.tensorrt is not None and engine["tensorrt"] != host.tensorrt and not engine["version_compatible"]:
            yield f"{label} was built by TensorRT {engine['tensorrt']}, here is {host.tensorrt}: build it again"
        fits = host.capability in (None, engine["compute_capability"]) or engine["hardware_compatible"]
        if not fits:
            yield (
                f"{label} was built for compute capability {engine['compute_capability']}, "
                f"this GPU has {host.capability}: build it here"
            )
        elif host.tensorrt is not None and host.capability is not None:
            from reeltint_export.engines import deserialise

            problem = deserialise((folder / name).read_bytes())
            if problem:
                yield f"{label} does not load: {problem}"


def _profile_problems(config: _Config, profiles: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    used = {int(number) for group in config.instance_group for number in group.profile if number.isdigit()} or {0}
    for number in sorted(used - set(range(len(profiles)))):
        yield f"profile {number} is to be used, the engine has {len(profiles)}"
    for number in sorted(set(range(len(profiles))) - used):
        yield f"profile {number} of the engine is used by no instance"
    for number, profile in enumerate(profiles):
        for tensor in config.input:
            if tensor.name not in profile:
                yield f"profile {number} does not know input {tensor.name!r}"
                continue
            smallest, _, largest = profile[tensor.name]
            unbatched = not config.max_batch_size and tensor.name in ("frames", "lightness")
            promised = CLIENT_BATCH if unbatched else config.max_batch_size
            if promised and largest[0] < promised:
                promise = "clients may send" if unbatched else "the config promises"
                yield f"profile {number} ends at a batch of {largest[0]} ({tensor.name!r}), {promise} {promised}"
            if promised and smallest[0] > 1:
                yield f"profile {number} begins at a batch of {smallest[0]} ({tensor.name!r}), clients may send one"


def _tensor_problems(label: str, declared: _Tensors, actual: _Tensors, batched: bool) -> Iterator[str]:
    yield from (f"{label} {name!r} is not in the config" for name in actual if name not in declared)
    for name, (kind, dims) in declared.items():
        if name not in actual:
            yield f"{label} {name!r} is in the config only"
            continue
        held, shape = actual[name]
        if batched and shape[:1] != (-1,):
            yield f"{label} {name!r} has no dynamic batch in front: {list(shape)}"
        if dims != shape[1 if batched else 0 :]:
            yield f"{label} {name!r} is {list(shape[1 if batched else 0 :])}, the config says {list(dims)}"
        if kind != held:
            yield f"{label} {name!r} is {held}, the config says {kind}"


def _declared(tensors: Sequence[model_config_pb2.ModelInput | model_config_pb2.ModelOutput]) -> _Tensors:
    return {item.name: (model_config_pb2.DataType.Name(item.data_type), tuple(item.dims)) for item in tensors}


def _whole(
    tensors: Sequence[model_config_pb2.ModelInput | model_config_pb2.ModelOutput], config: model_config_pb2.ModelConfig
) -> _Tensors:
    """As `_declared`, with the batch in front where Triton adds it: what goes from one step to the next."""
    batch = (-1,) if config.max_batch_size > 0 else ()
    return {name: (kind, batch + dims) for name, (kind, dims) in _declared(tensors).items()}


def _ensemble_problems(
    config: model_config_pb2.ModelConfig, configs: dict[str, model_config_pb2.ModelConfig]
) -> Iterator[str]:
    known = _whole(config.input, config)
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
    for name, (kind, dims) in _whole(config.output, config).items():
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
    inputs, outputs = _whole(model.input, model), _whole(model.output, model)
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
