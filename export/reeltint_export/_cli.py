"""`reeltint-export`: a checkpoint becomes a model repository that Triton serves."""

import hashlib
import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import onnx
import typer
from reeltint_training.checkpoints import CheckpointError, load_network

from reeltint_export.check import RepositoryError, require_sound
from reeltint_export.colour_graphs import chroma_merge, lab_merge, lab_split
from reeltint_export.onnx_export import ExportError, Storage, export_network
from reeltint_export.parity import Parity, compare, photographs
from reeltint_export.repository import repository_files, write_files

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_REPORT = "export.json"
_FAILED_REPORT = "export.failed.json"


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Weights: .safetensors, or a state dict saved by PyTorch.")],
    to: Annotated[Path, typer.Option(help="Model repository: made if absent, its models replaced if there.")],
    network: Annotated[str | None, typer.Option(help="huenet or resnet18; default: what the checkpoint says.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Input size in pixels; default: the network's own.")] = None,
    storage: Annotated[Storage, typer.Option(help="How weights are stored; arithmetic is float32.")] = "float16",
    frames: Annotated[
        Path | None, typer.Option(help="Folder of pictures to compare on; default: scikit-image's photographs.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help=f"Where the report goes; default: TO/{_REPORT}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report on standard output too.")] = False,
) -> None:
    """Export a trained network and the colour graphs, compare them with torch, and write a model repository.

    Nothing in TO changes unless every comparison passes. Exit code 1: a graph is past its tolerance; the report is
    then TO/export.failed.json. Exit code 2: wrong use, or a checkpoint that does not load.
    """
    if to.exists() and not to.is_dir():
        _fail(f"cannot write: {to} is no folder", 2)
    try:
        pictures = photographs(frames)
        module, spec, _ = load_network(checkpoint, network)
        size = size or spec.size
        _say(f"exporting {spec.id} at {size} x {size}")
        models = {
            "colorizer": export_network(module, size, storage),
            "lab_split": lab_split(size),
            "lab_merge": lab_merge(),
            "chroma_merge": chroma_merge(),
        }
        _say(f"comparing with torch on {len(pictures)} pictures")
        figures = compare(models, module, spec, size, storage, pictures)
    except (CheckpointError, ExportError) as error:
        _fail(str(error), 2)

    files = repository_files(models)
    passed = all(figure.passed for figure in figures.values())
    content = {
        "network": spec.id,
        "size": size,
        "storage": storage,
        "checkpoint": {"name": checkpoint.name, "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest()},
        "passed": passed,
        "models": {
            name: _model_report(model, files[f"{name}/1/model.onnx"], figures[name]) for name, model in models.items()
        },
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")}
        | {"python": platform.python_version()},
    }
    text = json.dumps(content, indent=2) + "\n"
    for name, figure in figures.items():
        verdict = "ok" if figure.passed else "PAST TOLERANCE"
        _say(
            f"{name:13} max {figure.max_error:.2g}  99.9 % {figure.error_99_9:.2g}  "
            f"of {figure.tolerance:g} {figure.unit}: {verdict}"
        )
    target = report or to / (_REPORT if passed else _FAILED_REPORT)
    try:
        if passed:
            write_files(to, files)
        write_files(target.parent, {target.name: text.encode()})
        if passed and report is None:
            (to / _FAILED_REPORT).unlink(missing_ok=True)
    except OSError as error:
        _fail(f"cannot write: {error}", 2)
    if as_json:
        typer.echo(text, nl=False)
    if not passed:
        _fail(f"past the tolerance: {to} is left as it was; see {target}", 1)
    try:
        require_sound(to)
    except RepositoryError as error:
        _fail(str(error), 1)
    _say(f"wrote {to}, report in {target}")


def _model_report(model: onnx.ModelProto, content: bytes, figure: Parity) -> dict[str, Any]:
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "opset": model.opset_import[0].version,
        "ir_version": model.ir_version,
        "parity": asdict(figure) | {"passed": figure.passed},
    }


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _fail(message: str, code: int) -> NoReturn:
    _say(message)
    raise typer.Exit(code)
