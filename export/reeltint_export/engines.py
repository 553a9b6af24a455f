"""ONNX -> TensorRT engines: one path for TensorRT and for TensorRT for RTX, which builds without a GPU.

Networks are strongly typed, which TensorRT 10.12 and 11 share (11 has no FP16 flag): what runs in float16 is what
the graph says (`reeltint_export.half`). An engine of TensorRT is built on the host that serves it, run there, and
compared with ONNX Runtime before it is published. TensorRT for RTX builds ahead of time for a named architecture:
that is how a machine without a GPU proves that every graph parses and builds.
"""

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from reeltint_export.half import rounded, session
from reeltint_export.profiles import Profile

TARGETS = ("SM80", "SM86", "SM89", "SM120", "SM121")
"""Architectures that TensorRT for RTX builds for ahead of time; on Turing (SM75) it has no float32 products."""

_INSTALL = {
    "tensorrt": 'TensorRT is not installed: pip install "reeltint[tensorrt]", or run this in NVIDIA\'s TensorRT '
    "container of the release of your Triton; without a GPU: --for SM89",
    "tensorrt_rtx_bindings": 'TensorRT for RTX is not installed: pip install "reeltint[tensorrt-rtx]"',
}
# docs/operators.md of onnx-tensorrt: what its parser has no importer for
_REFUSED = {
    "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BlackmanWindow", "CenterCropPad",
    "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "DeformConv", "Det", "DynamicQuantizeLinear",
    "HammingWindow", "HannWindow", "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial",
    "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement", "QLinearConv",
    "QLinearMatMul", "STFT", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringNormalizer",
    "TfIdfVectorizer", "Unique",
}  # fmt: skip
_RESIZE = {
    "mode": {"nearest", "linear", "cubic"},
    "coordinate_transformation_mode": {
        "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners",
    },
}  # fmt: skip
_CONSTANT_INPUTS = {"Slice": (3,), "TopK": (1,), "Unsqueeze": (1,), "CumSum": (1,)}
_ON_BYTES = {"Cast", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze"}


class EngineError(RuntimeError):
    """No engine was made; the message says of which graph and why."""


class MissingTensorRTError(EngineError):
    """TensorRT is not installed; the message says what to install."""


class ToleranceError(EngineError):
    """The engine does not compute what the graph does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How engines are built.

    Attributes:
        targets: Architectures to build for ahead of time, with TensorRT for RTX; empty: this host's GPU, TensorRT.
        workspace_mib: Memory that kernels may use while they run; None leaves it to TensorRT.
        version_compatible: Loads in later versions of TensorRT too.
        hardware_compatible: Runs on every GPU from Ampere on, not only on one like this.
        timing_cache: File that keeps how fast kernels were, so that the next build on this GPU is short.
    """

    targets: tuple[str, ...] = ()
    workspace_mib: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    timing_cache: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A built engine.

    Attributes:
        plan: Its bytes.
        log: What the builder said.
        seconds: How long the build took.
        version: Of TensorRT.
    """

    plan: bytes = field(repr=False)
    log: str = field(repr=False)
    seconds: float
    version: str


def tensorrt_module(*, ahead_of_time: bool) -> ModuleType:
    """TensorRT, or TensorRT for RTX where engines are built ahead of time.

    Raises:
        MissingTensorRTError: It is not installed.
    """
    name = "tensorrt_rtx_bindings" if ahead_of_time else "tensorrt"
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise MissingTensorRTError(_INSTALL[name]) from error


def lint(model: onnx.ModelProto) -> list[str]:
    """What TensorRT's parser would refuse: one sentence each, beginning with the node's name; empty if nothing."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types: dict[str, int] = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = int(value.type.tensor_type.elem_type)
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    found = []
    for index, node in enumerate(graph.node):
        label = f"{node.name or f'node {index}'} ({node.op_type})"
        found += [f"{label}: {problem}" for problem in _node_problems(node, types, constants)]
    return found


def _node_problems(node: onnx.NodeProto, types: Mapping[str, int], constants: set[str]) -> Iterable[str]:
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type in _REFUSED:
        yield "TensorRT has no such operator"
    if node.op_type == "Resize":
        if attributes.get("antialias"):
            yield "antialias is not known; write the resize as matrix products"
        for name, known in _RESIZE.items():
            value = attributes.get(name, b"").decode()
            if value and value not in known:
                yield f"{name} {value!r} is not known"
        if attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
            yield "keep_aspect_ratio_policy is not known"
    if node.op_type in ("Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements"):
        kind = types.get(node.input[1])
        wide_only = node.op_type in ("GatherND", "ScatterND")
        allowed = (TensorProto.INT64,) if wide_only else (TensorProto.INT32, TensorProto.INT64)
        if kind is not None and kind not in allowed:
            yield f"its indices are {TensorProto.DataType.Name(kind).lower()}"
    if node.op_type == "MaxPool" and len(node.output) > 1:
        yield "its second output (indices) is not known"
    for slot in _CONSTANT_INPUTS.get(node.op_type, ()):
        if slot < len(node.input) and node.input[slot] and node.input[slot] not in constants:
            yield f"its input {slot} ({node.input[slot]!r}) must be a constant"
    for name in (*node.input, *node.output):
        if types.get(name) == TensorProto.UINT8 and node.op_type not in _ON_BYTES:
            yield f"it computes on uint8 ({name!r}), which only Cast may"
        if types.get(name) == TensorProto.STRING:
            yield f"{name!r} is text"


def build(
    model: onnx.ModelProto, profiles: Sequence[Profile], options: EngineOptions, trt: ModuleType | None = None
) -> Engine:
    """Build an engine.

    Args:
        model: Its types are those of the engine.
        profiles: Shapes it is for; see `reeltint_export.profiles`.
        options: How.
        trt: TensorRT; None imports it.

    Raises:
        EngineError: TensorRT is not there, or refuses the graph; the message names the node.
    """
    trt = trt or tensorrt_module(ahead_of_time=bool(options.targets))
    name = model.graph.name
    lines: list[str] = []
    logger = _logger(trt, lines)
    started = time.perf_counter()
    builder = trt.Builder(logger)
    if builder is None:
        raise EngineError(f"{name}: TensorRT does not start: {_last(lines)}")
    config = _config(trt, builder, options)
    flags = trt.NetworkDefinitionCreationFlag
    strongly = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0  # gone where all are
    network = builder.create_network(strongly)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(f"{error.node_name() or error.node_operator()}: {error.desc()}" for error in errors)
        raise EngineError(f"{name}: TensorRT's parser refuses {said or _last(lines)}")
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        for tensor, (smallest, best, largest) in profile.items():
            shapes.set_shape(tensor, smallest, best, largest)
        if config.add_optimization_profile(shapes) < 0:
            raise EngineError(f"{name}: TensorRT refuses the profile {profile}: {_last(lines)}")
    cache = _load_timing_cache(trt, config, options)
    with _stdout_to_stderr():
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{name}: TensorRT builds no engine: {_last(lines)}")
    if cache is not None and options.timing_cache is not None:
        partial = options.timing_cache.with_name(f".{options.timing_cache.name}.partial")
        partial.write_bytes(bytes(cache.serialize()))
        partial.replace(options.timing_cache)
    return Engine(
        plan=bytes(plan),
        log="\n".join(lines) + "\n",
        seconds=time.perf_counter() - started,
        version=str(trt.__version__),
    )


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keep what TensorRT's compiler prints out of standard output, which may be JSON that a machine reads."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _logger(trt: Any, lines: list[str]) -> Any:
    """A logger of TensorRT that adds what it hears to `lines`."""

    def log(_self: Any, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.Severity.INFO:
            lines.append(f"[{severity.name}] {message}")

    return type("Log", (trt.ILogger,), {"log": log})()


def _config(trt: ModuleType, builder: Any, options: EngineOptions) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # its 10 bits of a code value are not enough: what is float32 stays so
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.targets:
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target), index)
    return config


def _load_timing_cache(trt: ModuleType, config: Any, options: EngineOptions) -> Any:
    if options.timing_cache is None or options.targets:  # TensorRT for RTX times nothing: it has no GPU
        return None
    known = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")  # what was known is of another GPU or version
        config.set_timing_cache(cache, False)
    return cache


def _last(lines: Sequence[str]) -> str:
    errors = [line for line in lines if "ERROR" in line]
    return (errors or lines or ["it does not say why"])[-1]


def deserialise(plan: bytes, trt: ModuleType | None = None) -> str | None:
    """Why an engine does not load on this machine's GPU; None if it does."""
    trt = trt or tensorrt_module(ahead_of_time=False)
    lines: list[str] = []
    engine = _load(trt, plan, lines)
    return None if engine is not None else _last(lines)


def _load(trt: Any, plan: bytes, lines: list[str]) -> Any:
    runtime = trt.Runtime(_logger(trt, lines))
    if runtime is None:
        return None
    runtime.engine_host_code_allowed = True  # version-compatible engines bring code of their own
    return runtime.deserialize_cuda_engine(plan)


def run(plan: bytes, feeds: Mapping[str, NDArray[Any]], profile: int, trt: ModuleType) -> dict[str, NDArray[Any]]:
    """Run an engine once on this machine's GPU.

    Args:
        plan: The engine.
        feeds: Inputs by name.
        profile: Which of its profiles.
        trt: TensorRT.

    Raises:
        EngineError: It does not load, or refuses the inputs.
        CudaError: The driver refuses memory.
    """
    from contextlib import ExitStack

    from reeltint_export.host import Gpu

    lines: list[str] = []
    with Gpu() as gpu, ExitStack() as stack:
        engine = _load(trt, plan, lines)
        if engine is None:
            raise EngineError(f"the engine does not load: {_last(lines)}")
        context = engine.create_execution_context()
        context.set_optimization_profile_async(profile, gpu.stream)
        for name, array in feeds.items():
            if not context.set_input_shape(name, array.shape):
                raise EngineError(f"the engine refuses {name!r} of shape {array.shape}: {_last(lines)}")
            address = stack.enter_context(gpu.memory(array.nbytes))
            gpu.upload(address, array)
            context.set_tensor_address(name, address)
        results: dict[str, tuple[int, NDArray[Any]]] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT:
                result = np.empty(tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name)))
                results[name] = (stack.enter_context(gpu.memory(result.nbytes)), result)
                context.set_tensor_address(name, results[name][0])
        if not context.execute_async_v3(gpu.stream):
            raise EngineError(f"the engine does not run: {_last(lines)}")
        for address, result in results.values():
            gpu.download(address, result)
        return {name: result for name, (_, result) in results.items()}


def compare(
    plan: bytes, model: onnx.ModelProto, requests: Iterable[tuple[int, Mapping[str, NDArray[Any]]]], trt: ModuleType
) -> dict[str, dict[str, float]]:
    """Run an engine and ONNX Runtime on the same inputs.

    Args:
        plan: The engine.
        model: What it was built from.
        requests: Profile and inputs of each run.
        trt: TensorRT.

    Returns:
        By output: mean, 99.9th percentile and largest difference.
    """
    half = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    runner = session(rounded(model) if half else model, exact=half)
    names = [value.name for value in runner.get_outputs()]
    errors: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for profile, feeds in requests:
        got = run(plan, feeds, profile, trt)
        for name, expected in zip(names, runner.run(names, dict(feeds)), strict=True):
            errors[name].append(np.abs(got[name].astype(np.float32) - expected.astype(np.float32)).ravel())
    joined = {name: np.concatenate(parts) for name, parts in errors.items()}
    return {
        name: {
            "mean_error": float(error.mean(dtype=np.float64)),
            "error_99_9": float(np.percentile(error, 99.9)),
            "max_error": float(error.max()),
        }
        for name, error in joined.items()
    }
