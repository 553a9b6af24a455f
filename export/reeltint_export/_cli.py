"""`reeltint-export`: a checkpoint becomes a model repository that Triton serves; and what is done to one."""

import json
import platform
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from reeltint_export.precision import NETWORKS_IN_HALF, Precision, Storage
from reeltint_export.publish import (
    PublishError,
    RepositoryBusyError,
    publish,
    served,
    versions,
)
from reeltint_export.publish import promote as promote_version
from reeltint_export.publish import rollback as roll_back

if TYPE_CHECKING:
    from reeltint_export.parity import Parity


class _ExportFirst(TyperGroup):
    """A first word that is no command is the checkpoint of `export`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["export", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_ExportFirst, add_completion=False, rich_markup_mode=None, no_args_is_help=True)

_FAILED_REPORT = "export.failed.json"
_BUSY = 3

Repository = Annotated[Path, typer.Argument(help="Model repository.")]


@app.callback()
def main() -> None:
    """Checkpoint -> ONNX -> model repository -> engines.

    `reeltint-export CHECKPOINT --to REPOSITORY` is short for `reeltint-export export CHECKPOINT --to REPOSITORY`.
    """


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Weights: .safetensors, or a state dict saved by PyTorch.")],
    to: Annotated[Path, typer.Option(help="Model repository: made if absent, its models replaced if there.")],
    network: Annotated[str | None, typer.Option(help="Name of the network; default: what the checkpoint says.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Input size in pixels; default: the network's own.")] = None,
    storage: Annotated[Storage, typer.Option(help="How weights are stored when arithmetic is float32.")] = "float16",
    precision: Annotated[
        Precision,
        typer.Option(help="Arithmetic of the network; float16 is for GPUs. Engines choose for themselves."),
    ] = "float32",
    embedder: Annotated[
        str | None,
        typer.Option(
            help="Of scenes: none, imagenet, or torchvision's ResNet-50 weights; default: imagenet beside an "
            "exemplar network."
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version folder: a number, or new; default: the highest there is, or 1.")
    ] = None,
    frames: Annotated[
        Path | None, typer.Option(help="Folder of pictures and films to compare on; default: scikit-image's.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Where to write the report, all manifests in one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report on standard output.")] = False,
) -> None:
    """Export a trained network and the colour graphs, compare them with torch, and publish them in a repository.

    Nothing in TO changes unless every comparison passes and the repository stays fit; then whole versions appear at
    once. Exit code 1: a graph is past its tolerance (the report is then TO/export.failed.json), or the repository
    would be unfit. Exit code 2: wrong use, a checkpoint that does not load, or a disk that is full. Exit code 3:
    another export writes there, try again.
    """
    from reeltint_training.checkpoints import CheckpointError, load_network

    from reeltint_export.check import problems
    from reeltint_export.half import HalfError
    from reeltint_export.manifest import digest
    from reeltint_export.onnx_export import ExportError
    from reeltint_export.parity import network_limits
    from reeltint_export.pictures import PictureError, photographs
    from reeltint_export.repository import repository_files
    from reeltint_export.served import compare_models, load_embedder, served_models

    if to.exists() and not to.is_dir():
        _fail(f"cannot write: {to} is no folder", 2)
    number = _version(to, version)
    try:
        pictures = photographs(frames, color=True)
        module, spec, _ = load_network(checkpoint, network)
        size = size or spec.size
        scenes = load_embedder(embedder or ("imagenet" if spec.id == "exemplar" else "none"))
        _say(f"exporting {spec.id} at {size} x {size}")
        models = served_models(module, scenes, size, storage, precision, pictures)
        _say(f"comparing with torch on {len(pictures)} pictures")
        figures = compare_models(models, module, spec, scenes, size, storage, precision, pictures)
    except HalfError as error:
        _fail(str(error), 1)
    except (CheckpointError, ExportError, PictureError) as error:
        _fail(str(error), 2)

    common = {
        "command": shlex.join(["reeltint-export", *sys.argv[1:]]) if _is_command() else "",
        "network": spec.id,
        "size": size,
        "checkpoint": {"name": checkpoint.name, "sha256": digest(checkpoint)},
    }
    half = {"ab": asdict(network_limits(spec, "float16", storage))}
    tools = {name: installed(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")}
    stored = storage if precision == "float32" else precision
    facts = {
        name: common
        | {
            "precision": precision if name in NETWORKS_IN_HALF else "float32",
            "storage": stored if name in NETWORKS_IN_HALF else "float32",
            "parity": {output: parity.report() for output, parity in figures[name].items()},
            "half_limits": half if "ab" in figures[name] else {},
            "versions": tools | {"python": platform.python_version()},
        }
        for name in models
    }
    if scenes is not None:
        facts["scene_embedder"] |= {
            "network": scenes.network,
            "size": scenes.size,
            "checkpoint": {"name": scenes.weights.name, "sha256": digest(scenes.weights)},
        }
    files = repository_files(models, number, facts)
    passed = all(parity.passed for outputs in figures.values() for parity in outputs.values())
    manifests = {name: json.loads(files[f"{name}/{number}/manifest.json"]) for name in models}
    text = json.dumps({"passed": passed, "models": manifests}, indent=2) + "\n"
    _say_figures(figures)
    target = report or (None if passed else to / _FAILED_REPORT)
    try:
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        if passed:
            (to / _FAILED_REPORT).unlink(missing_ok=True)
            publish(to, files, new=version == "new", check=problems)
    except RepositoryBusyError as error:
        _fail(str(error), _BUSY)
    except PublishError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"cannot write: {error}; {to} is as it was", 2)
    if as_json:
        typer.echo(text, nl=False)
    if not passed:
        _fail(f"past the tolerance: {to} is left as it was; see {target}", 1)
    others = {name: there for name in models if number not in (there := served(to / name))}
    stay = [
        f"; {name} stays at {', '.join(map(str, there))}: reeltint-export promote" for name, there in others.items()
    ]
    _say(f"version {number} is in {to}{''.join(stay)}")


@app.command()
def check(
    repository: Repository,
    config_name: Annotated[
        str | None, typer.Option(help="As Triton's --model-config-name: tensorrt wants an engine of every model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON object.")] = False,
) -> None:
    """Check a model repository before a server loads it.

    Every file against its manifest, every config against its graph or engine, ensembles against their steps, opset and
    IR limits; engines against this machine's TensorRT and GPU, where it has them. Exit code 0: fit; 1: unfit; 2: wrong
    use.
    """
    from reeltint_export.check import problems
    from reeltint_export.host import this_host

    if not repository.is_dir():
        _fail(f"{repository}: no such folder", 2)
    variants = sorted({path.stem for path in repository.glob("*/configs/*.pbtxt")})
    if config_name is not None and config_name not in variants:
        _fail(
            f"--config-name {config_name}: no model has such a config, only {', '.join(variants) or 'config.pbtxt'}", 2
        )
    host = this_host()
    found = problems(repository, config_name, host)
    missing = "GPU" if host.capability is None else "TensorRT" if host.tensorrt is None else None
    notes = [f"no {missing} here: engines were not loaded, only compared with their manifests"] if missing else []
    if as_json:
        entries = [dict(zip(("model", "problem"), line.split(": ", 1), strict=False)) for line in found]
        content = {"repository": str(repository), "fit": not found, "problems": entries, "notes": notes}
        typer.echo(json.dumps(content, indent=2))
    for line in found:
        _say(line)
    if found:
        _fail(f"{repository} is unfit: {len(found)} problem{'s' if len(found) > 1 else ''}", 1)
    for note in notes:
        _say(note)
    _say(f"{repository} is fit")


@app.command()
def engines(
    repository: Repository,
    target: Annotated[
        list[str] | None, typer.Option("--for", help="Architecture to build for without a GPU (SM89); may be repeated.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Build this model only; may be repeated.")] = None,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the networks.")] = "float16",
    batch: Annotated[str, typer.Option(help="Smallest, best and largest batch.")] = "1,8,32",
    sizes: Annotated[
        str, typer.Option(help="Best and largest frames of each profile, rows x columns.")
    ] = "480x854-576x1024,1080x1920-1556x2048",
    workspace_mib: Annotated[int | None, typer.Option(min=1, help="Memory that kernels may use; default: all.")] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Engines load in later TensorRT too.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Engines run on every GPU from Ampere on.")
    ] = False,
    timing_cache: Annotated[Path | None, typer.Option(help="Keeps measured times from build to build.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --for: where to leave engines and logs.")] = None,
    frames: Annotated[
        Path | None, typer.Option(help="Folder of pictures and films to compare on; default: scikit-image's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was built as one JSON object.")] = False,
) -> None:
    """Build TensorRT engines of every model in a repository, compare them with ONNX Runtime, and publish them in it.

    With --for nothing is published: TensorRT for RTX parses and builds every graph ahead of time, no GPU needed. Exit
    code 1: a graph that TensorRT refuses, or an engine that is past its tolerance; 2: wrong use, or no TensorRT.
    """
    from reeltint_export.build_engines import build_repository, parse_batch, parse_sizes
    from reeltint_export.engines import TARGETS, EngineError, EngineOptions, MissingTensorRTError
    from reeltint_export.half import HalfError
    from reeltint_export.host import CudaError
    from reeltint_export.pictures import PictureError, photographs

    unknown = sorted(set(target or ()) - set(TARGETS))
    if unknown:
        _fail(f"--for {unknown[0]}: one of {', '.join(TARGETS)}", 2)
    if not repository.is_dir():
        _fail(f"{repository}: no such folder", 2)
    if out is not None and not target:
        _fail("--out goes with --for; other engines are published in the repository", 2)
    options = EngineOptions(
        targets=tuple(target or ()),
        workspace_mib=workspace_mib,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        timing_cache=timing_cache,
    )
    try:
        built = build_repository(
            repository,
            options,
            only=only or (),
            precision=precision,
            batch=parse_batch(batch),
            sizes=parse_sizes(sizes),
            pictures=photographs(frames, color=True),
            out=out,
            say=_say,
        )
    except RepositoryBusyError as error:
        _fail(str(error), _BUSY)
    except (MissingTensorRTError, PictureError, ValueError) as error:
        _fail(str(error), 1 if isinstance(error, HalfError) else 2)
    except (EngineError, CudaError, PublishError) as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"cannot write: {error}", 2)
    if as_json:
        typer.echo(json.dumps({"repository": str(repository), "engines": built}, indent=2))


@app.command()
def promote(
    repository: Repository,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[int, typer.Argument(min=1, help="Version to serve.")],
) -> None:
    """Serve this version of a model, by the version policy of its configs, whatever higher versions there are.

    A running Triton takes it when it polls, or when it is asked to load the model again. Exit code 1: refused.
    """
    try:
        before = promote_version(repository, model, version)
    except RepositoryBusyError as error:
        _fail(str(error), _BUSY)
    except (PublishError, OSError) as error:
        _fail(str(error), 1)
    _say(f"{model}: {version} is served, before it was {', '.join(map(str, before)) or 'none'}")


@app.command()
def rollback(
    repository: Repository,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
) -> None:
    """Serve the version before the one that is served. Exit code 1: there is none, or it is not sound."""
    try:
        before, now = roll_back(repository, model)
    except RepositoryBusyError as error:
        _fail(str(error), _BUSY)
    except (PublishError, OSError) as error:
        _fail(str(error), 1)
    _say(f"{model}: {now} is served, before it was {', '.join(map(str, before))}")


def _version(to: Path, wanted: str | None) -> int:
    """The version folder that an export writes."""
    from reeltint_export.repository import MODELS

    highest = max((number for name in MODELS if (to / name).is_dir() for number in versions(to / name)), default=0)
    if wanted is None:
        return highest or 1
    if wanted == "new":
        return highest + 1
    if not (wanted.isdigit() and int(wanted) > 0):
        _fail(f"--version {wanted}: a number from 1, or new", 2)
    return int(wanted)


def _is_command() -> bool:
    """Whether this process is `reeltint-export`, so that its arguments are ours."""
    return Path(sys.argv[0]).name.startswith("reeltint-export")


def _say_figures(figures: "dict[str, dict[str, Parity]]") -> None:
    for name, outputs in figures.items():
        for output, parity in outputs.items():
            _say(f"{name + ' ' + output:30} {parity}")


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _fail(message: str, code: int) -> NoReturn:
    _say(message)
    raise typer.Exit(code)
