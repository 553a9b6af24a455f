"""Engines of a whole repository: built, compared on real frames, and published beside the ONNX they come from."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnx

from reeltint_export.chain import Chain, fitted
from reeltint_export.engines import Engine, EngineError, EngineOptions, ToleranceError, build, compare, lint
from reeltint_export.engines import tensorrt_module as load_tensorrt
from reeltint_export.half import require_finite, to_half
from reeltint_export.host import compute_capability, cuda_version
from reeltint_export.manifest import NAME, ManifestError, file_facts, file_problems, read_manifest, seal
from reeltint_export.pictures import Pictures
from reeltint_export.precision import NETWORKS_IN_HALF, Precision, gpu_limits
from reeltint_export.profiles import Profile, Shape, profiles
from reeltint_export.publish import publish_into_versions, served
from reeltint_export.tensorrt_configs import tensorrt_config

PLAN, LOG = "model.plan", "model.plan.log"


def parse_batch(text: str) -> tuple[int, int, int]:
    """Read "1,8,32".

    Raises:
        ValueError: It is not three numbers.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--batch {text}: three numbers, as 1,8,32")
    smallest, best, largest = map(int, parts)
    return smallest, best, largest


def parse_sizes(text: str) -> list[tuple[Shape, Shape]]:
    """Read "480x854-576x1024,1080x1920-1200x2048".

    Raises:
        ValueError: It is not of that form.
    """
    found: list[tuple[Shape, Shape]] = []
    for part in text.split(","):
        numbers = re.fullmatch(r"\s*(\d+)x(\d+)-(\d+)x(\d+)\s*", part)
        if numbers is None:
            raise ValueError(f"--sizes {part}: best and largest rows x columns, as 480x854-576x1024")
        a, b, c, d = map(int, numbers.groups())
        found.append(((a, b), (c, d)))
    return found


def build_repository(
    repository: Path,
    options: EngineOptions,
    *,
    only: Sequence[str] = (),
    precision: Precision = "float16",
    batch: tuple[int, int, int],
    sizes: Sequence[tuple[Shape, Shape]],
    pictures: Pictures,
    out: Path | None = None,
    say: Callable[[str], object] = print,
) -> list[dict[str, Any]]:
    """Build an engine of every ONNX model that the repository serves, and publish all unless they are for elsewhere.

    Before the first is built, all graphs are linted and all profiles compared with what the configs promise. With the
    engines their profiles are written into the models' configs for TensorRT.

    Args:
        repository: The model repository.
        options: How engines are built.
        only: Names of models; empty: all.
        precision: Arithmetic of the networks; colour graphs are float32 always.
        batch: Smallest, best and largest.
        sizes: Best and largest frames, one pair a profile.
        pictures: [H, W, 3] each: what engines are compared on.
        out: Where engines that are built ahead of time are left; None throws them away.
        say: What happens, line by line.

    Returns:
        One record an engine, as in the manifest.

    Raises:
        EngineError: TensorRT is missing, or refuses a graph.
        ToleranceError: An engine computes something else than its graph.
        HalfError: A layer overflows float16.
        ValueError: A model or a size that there is none of, or a largest batch below what a config promises.
        OSError: Something cannot be written.
    """
    folders = _folders(repository)
    for name in only:
        if name not in folders:
            raise ValueError(f"{repository} has no ONNX model {name!r}, only {', '.join(folders)}")
    manifests = {name: _manifest(folder) for name, folder in folders.items()}
    models = {name: onnx.load(folder / "model.onnx") for name, folder in folders.items()}
    shapes_of = {name: profiles(name, models, batch, sizes) for name in only or folders}
    variants = {
        f"{name}/configs/tensorrt.pbtxt": tensorrt_config((folders[name].parent / "config.pbtxt").read_text(), shapes)
        for name, shapes in shapes_of.items()
    }
    halved = {name for name in only or folders if precision == "float16" and name in NETWORKS_IN_HALF}
    graphs = {name: to_half(models[name]) if name in halved else models[name] for name in only or folders}
    found = [f"{name}: {problem}" for name, graph in graphs.items() for problem in lint(graph)]
    if found:
        raise EngineError("TensorRT would refuse:\n  " + "\n  ".join(found))
    trt = load_tensorrt(ahead_of_time=bool(options.targets))
    chain = Chain(models, fitted(pictures, [best for best, _ in sizes]), len(sizes))
    for name in sorted(halved):
        require_finite(name, models[name], (feeds for _, feeds in chain.requests(name, 1)))

    built: list[dict[str, Any]] = []
    contents: dict[Path, dict[str, bytes]] = {}
    for name, graph in graphs.items():
        shapes = shapes_of[name]
        engine = build(graph, shapes, options, trt)
        record = _record(name, manifests[name]["files"]["model.onnx"]["sha256"], engine, shapes, options, precision)
        say(f"{name:20} {len(engine.plan) / 2**20:6.2f} MiB  {engine.seconds:6.2f} s  {len(shapes)} profiles")
        if options.targets:
            _leave(out, name, options.targets, engine)
        else:
            record["parity"] = compare(engine.plan, graph, chain.requests(name, len(shapes)), trt)
            _within(name, record["parity"], manifests[name])
            contents[folders[name]] = _files(manifests[name], engine, record)
        built.append({"model": name, **record})
    if not options.targets:
        configs = {path: text.encode() for path, text in variants.items()}
        publish_into_versions(repository, contents, {folders[name]: manifests[name] for name in graphs}, configs)
    return built


def _folders(repository: Path) -> dict[str, Path]:
    """The version folder that is served of every model with an ONNX file."""
    found = {}
    for config in sorted(repository.glob("*/config.pbtxt")):
        for number in served(config.parent):
            folder = config.parent / str(number)
            if (folder / "model.onnx").is_file():
                found[config.parent.name] = folder
    if not found:
        raise ValueError(f"{repository} serves no ONNX model")
    return found


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(folder)
        for problem in file_problems(folder, manifest):
            raise EngineError(f"{folder.parent.name} {folder.name}: {problem}")
    except ManifestError as error:
        raise EngineError(f"{folder.parent.name} {folder.name}: {error}") from error
    return manifest


def _record(
    name: str, onnx_sha256: str, engine: Engine, shapes: Sequence[Profile], options: EngineOptions, precision: Precision
) -> dict[str, Any]:
    return {
        "precision": precision if name in NETWORKS_IN_HALF else "float32",
        "onnx_sha256": onnx_sha256,
        "profiles": [{tensor: [list(shape) for shape in three] for tensor, three in each.items()} for each in shapes],
        "tensorrt": engine.version,
        "cuda": cuda_version(),
        "compute_capability": compute_capability() if not options.targets else None,
        "built_for": list(options.targets),
        "workspace_mib": options.workspace_mib,
        "version_compatible": options.version_compatible,
        "hardware_compatible": options.hardware_compatible,
        "bytes": len(engine.plan),
        "seconds": round(engine.seconds, 2),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _leave(out: Path | None, name: str, targets: Sequence[str], engine: Engine) -> None:
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    stem = f"{name}.{'-'.join(targets)}"
    for suffix, content in (("plan", engine.plan), ("log", engine.log.encode())):
        partial = out / f".{stem}.{suffix}.partial"
        partial.write_bytes(content)
        partial.replace(out / f"{stem}.{suffix}")


def _within(name: str, parity: Mapping[str, Mapping[str, float]], manifest: Mapping[str, Any]) -> None:
    limits = gpu_limits(name, manifest)
    for output, figures in parity.items():
        past = limits[output].exceeded(figures["mean_error"], figures["error_99_9"], figures["max_error"])
        if past is not None:
            raise ToleranceError(f"{name}: its engine is past the tolerance: {output} {past}; nothing was published")


def _files(manifest: Mapping[str, Any], engine: Engine, record: Mapping[str, Any]) -> dict[str, bytes]:
    """An engine, its log and the manifest that knows them, by file name."""
    content = json.loads(json.dumps(manifest))
    content.setdefault("engines", {})[PLAN] = dict(record)
    content["files"] |= {PLAN: file_facts(engine.plan), LOG: file_facts(engine.log.encode())}
    return {PLAN: engine.plan, LOG: engine.log.encode(), NAME: seal(content)}
