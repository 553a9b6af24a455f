"""The training loop: AdamW, cosine schedule with warm-up, averaged weights, bfloat16, resumable."""

import hashlib
import io
import json
import logging
import math
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from reeltint_training.bins import class_weights, smooth_prior
from reeltint_training.checkpoints import (
    CheckpointError,
    load_network,
    load_state,
    read_checkpoint,
    save_checkpoint,
    without_base,
    written_whole,
)
from reeltint_training.data import Batches, Photo, evenly, film_look, load_photos, make_batch, to_lab
from reeltint_training.losses import ExemplarLoss, Loss, MeanSquaredError, RebalancedCrossEntropy
from reeltint_training.networks import NETWORKS
from reeltint_training.networks.exemplar import ExemplarNet
from reeltint_training.networks.huenet import HueNet
from reeltint_training.networks.resnet18 import ResNet18Half

log = logging.getLogger(__name__)

_FREE = {"steps", "minutes", "learning_rate", "save_every_s"}  # may be others when a run goes on


class DivergedError(ValueError):
    """The loss or its gradient is no finite number; the step that found it changed nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Everything that decides a training run, kept in the checkpoint's header.

    Attributes:
        network: Name in the registry.
        crop: Size of the training crops in pixels, a multiple of the network's stride.
        batch: Crops a step.
        steps: Steps in all; with `minutes`, the limit that comes first ends the run.
        minutes: Wall-clock time of the whole run, over which the learning rate then falls; None counts steps.
        learning_rate: Peak of the schedule; the pretrained encoder learns at `encoder_rate` times it.
        encoder_rate: See `learning_rate`.
        weight_decay: AdamW's, on convolution kernels only.
        warm_up: Steps over which the rate rises from 0.
        ema: Decay of the averaged weights, which are what is kept and measured.
        seed: Of crops, order and fresh weights.
        save_every_s: Seconds between checkpoints.
    """

    network: str = "huenet"
    crop: int = 128
    batch: int = 64
    steps: int = 100_000
    minutes: float | None = None
    learning_rate: float = 2e-3
    encoder_rate: float = 0.3
    weight_decay: float = 0.02
    warm_up: int = 150
    ema: float = 0.998
    seed: int = 0
    save_every_s: float = 240.0

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"--network {self.network}: known are {', '.join(NETWORKS)}")
        NETWORKS[self.network].check_size(self.crop, "--crop")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"--minutes {self.minutes:g}: more than 0 are needed")


def _bin_prior(photos: list[tuple[str, Photo]], bins: Tensor) -> Tensor:
    """How often each bin occurs in the data: every fourth pixel of every row and column."""
    counts = torch.zeros(len(bins))
    step = float((bins[:, 0].unique().diff()).min())
    for _, photo in photos:
        ab = to_lab(photo[None, ::4, ::4])[0, 1:].flatten(1).T
        cell = (ab / step).round() * step
        code, count = torch.unique(cell[:, 0] * 1000 + cell[:, 1], return_counts=True)
        found = torch.isin(bins[:, 0] * 1000 + bins[:, 1], code)
        order = torch.searchsorted(code, (bins[:, 0] * 1000 + bins[:, 1])[found])
        counts[found] += count[order]
    return smooth_prior(counts, bins)


def _make_loss(network: nn.Module, photos: list[tuple[str, Photo]], fresh: bool) -> Loss:
    if isinstance(network, HueNet):
        if fresh:
            network.log_weight.copy_(class_weights(_bin_prior(photos, network.bins)).log())
        return RebalancedCrossEntropy(network)
    if isinstance(network, ExemplarNet):
        return ExemplarLoss(network)
    assert isinstance(network, ResNet18Half)
    return MeanSquaredError(network)


def _centre_crops(photos: list[tuple[str, Photo]], size: int) -> Tensor:
    """The middle square of each photograph at `size`, Lab [N, 3, S, S]: always the same validation pictures."""
    crops = []
    for _, photo in photos:
        side = min(photo.shape[:2])
        top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
        lab = to_lab(photo[None, top : top + side, left : left + side])
        crops.append(functional.interpolate(lab, (size, size), mode="bilinear", antialias=True))
    return torch.cat(crops)


def _plot(log_path: Path) -> None:
    rows = _read_log(log_path)
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for key, label in (("loss", "training"), ("validation_loss", "validation")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), label=label) if points else None
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(log_path.with_suffix(".png"), dpi=120)
    plt.close(figure)


class _Average:
    """Exponential moving average of a network's weights and statistics; what counts is copied."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach().float(), 1 - decay)
            else:
                self.state[name].copy_(value)


def train(
    options: TrainOptions,
    sources: list[Path],
    validation: list[Path],
    folder: Path,
    *,
    imagenet: dict[str, Tensor] | None = None,
    start: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Path:
    """Train a network, or go on where `folder` stopped.

    Photographs, crops and grain depend on the seed and the step alone, and Ctrl-C waits for the step to end, so that a
    run in parts is as good as one.

    Args:
        options: What to do; all but steps, minutes, learning rate and saving must be the same when resuming.
        sources: Training photographs: folders and .tar files.
        validation: Validation photographs, not among the sources.
        folder: Gets `{network}.safetensors`, `log.jsonl`, `log.png` and `resume.pt`.
        imagenet: Published weights of the encoder to start from.
        start: A checkpoint to start from (fine-tuning), instead of fresh weights.
        on_step: Called after each step with its number.

    Returns:
        The path of the checkpoint.

    Raises:
        DataError: No photographs with colour.
        CheckpointError: `start`, `imagenet`, the resume file or what else is in `folder` does not fit, or a checkpoint
            is there without a resume file.
        DivergedError: The loss is not finite; `folder` is as of its last save.
        KeyboardInterrupt: After saving.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, log_path, resume = (folder / f for f in (f"{options.network}.safetensors", "log.jsonl", "resume.pt"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(options.seed)
    if start is not None and start.resolve() == target.resolve():
        raise CheckpointError(f"{target}: --start would be written over; use another folder")
    kept = _read_resume(resume, options)
    if kept is None and target.exists():
        raise CheckpointError(f"{target} is there without a {resume.name} to go on from; use another folder")
    network, base = _begin(options, imagenet, start)
    own = folder / base.name if base else None  # what `target` builds on must stand beside it
    if base and own and own.is_file() and own.read_bytes() != base.read_bytes():
        raise CheckpointError(f"{own} is another network than {base}; use another folder")
    photos = load_photos(sources, max(320, options.crop * 5 // 2))
    unseen = evenly(load_photos(validation, max(320, options.crop * 5 // 2)), 256)
    if pairs := isinstance(network, ExemplarNet):
        held_out = make_batch(unseen, len(unseen), options.crop, seed=0, step=0, pairs=True)
    else:
        held_out = _centre_crops(unseen, options.crop)
    log.info("%d photographs, %d for validation", len(photos), len(held_out))
    made_of = {
        "data": _digest(photos),
        "validation": _digest(unseen),
        "start": hashlib.sha256(start.read_bytes()).hexdigest() if start else "",
        "imagenet": imagenet is not None,
    }
    if kept:
        _refuse_others(resume, kept["made_of"], made_of)
        load_state(network, kept["network"], resume)
    if base and own and not own.is_file():
        with written_whole(own) as partial:
            shutil.copyfile(base, partial)
    loss_of = _make_loss(network, photos, fresh=not kept and start is None)
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = _optimiser(network, options)
    base_rates = [group["lr"] for group in optimiser.param_groups]  # before the last step's are loaded
    average = _Average(network, options.ema)
    step, elapsed, smooth = 0, 0.0, None
    if kept:
        optimiser.load_state_dict(kept["optimiser"])
        average.state = {name: value.to(device) for name, value in kept["average"].items()}
        step, elapsed, smooth = kept["step"], kept["elapsed"], kept["smooth"]
        log.info("resumed at step %d", step)
    with written_whole(log_path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in _read_log(log_path) if row["step"] <= step))
    grain = torch.Generator()
    autocast = torch.autocast(device, torch.bfloat16)
    begun, saved, reported = time.monotonic() - elapsed, time.monotonic(), time.monotonic()

    def finish(done: bool) -> None:
        whole = {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": average.state,
            "step": step,
            "elapsed": time.monotonic() - begun,
            "smooth": smooth,
            "options": asdict(options),
            "made_of": made_of,
        }
        buffer = io.BytesIO()  # torch's own error says nothing of a full disk
        torch.save(whole, buffer)
        with written_whole(resume) as partial:
            partial.write_bytes(buffer.getbuffer())
        figures = _validate(network, average, loss_of, held_out, options.batch, device)
        header = {
            "network": options.network,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "bins": len(network.bins) if isinstance(network, HueNet) else None,
            "train": asdict(options),
            "data": [source.name for source in sources],
            "photographs": len(photos),
            "step": step,
            "images": step * options.batch,
            "minutes": round((time.monotonic() - begun) / 60, 1),
            "finished": done,
            "pretrained": imagenet is not None,
            "start": {"name": start.name, "sha256": made_of["start"]} if start else None,
            "validation_loss": figures,
        }
        state = average.state
        if own:
            state, header["base"] = without_base(state, own)
        if isinstance(hue := network.base if isinstance(network, ExemplarNet) else network, HueNet):
            header["options"] = {name: getattr(hue, name) for name in ("temperature", "rebalance", "bin_step")}
        save_checkpoint(target, state, header)
        _write_log(log_path, {"step": step, "validation_loss": figures})
        _plot(log_path)

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    batches = Batches(photos, options.batch, options.crop, options.seed, skip=step, pairs=pairs)
    with _stop_asked() as stop, closing(batches), Progress(*columns) as progress:
        task, coming = progress.add_task("training", total=1.0), iter(batches)
        while step < options.steps and not stop():
            done = _progress(options, step, time.monotonic() - begun)
            if done >= 1:
                break
            rate = min(1.0, (step + 1) / options.warm_up) * (0.5 + 0.5 * math.cos(math.pi * done))
            for group, peak in zip(optimiser.param_groups, base_rates, strict=True):
                group["lr"] = peak * max(rate, 0.002)
            lab = next(coming)
            lightness = film_look(lab[:, :1] / 100, grain.manual_seed(options.seed + step))
            lightness = lightness.to(device, memory_format=torch.channels_last)
            with autocast if device == "cuda" or torch.backends.mkldnn.is_available() else nullcontext():
                loss = loss_of(lightness, lab[:, 1:].to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            value, slope = float(loss.detach()), float(nn.utils.clip_grad_norm_(network.parameters(), 1.0))
            if not math.isfinite(value) or not math.isfinite(slope):
                raise DivergedError(
                    f"step {step + 1}: the loss is {value:g}, its gradient {slope:g}; {folder} is as of its last "
                    "save: go on with a lower --learning-rate"
                )
            optimiser.step()
            step += 1
            average.update(network, step)
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            if step % 20 == 0:
                now = time.monotonic()
                speed, reported = 20 * options.batch / (now - reported), now
                _write_log(log_path, {"step": step, "loss": round(smooth, 5), "images_s": round(speed, 1)})
                progress.update(task, completed=done, description=f"loss {smooth:.4f}  {speed:.0f} images/s")
            if on_step:
                on_step(step)
            if time.monotonic() - saved > options.save_every_s:
                finish(done=False)
                saved = reported = time.monotonic()
        stopped = stop()
        finish(done=not stopped)
    if stopped:
        raise KeyboardInterrupt
    return target


@contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: it waits for the step or save to end, as from half of one nothing goes on exactly."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(
    options: TrainOptions, imagenet: dict[str, Tensor] | None, start: Path | None
) -> tuple[nn.Module, Path | None]:
    """The network before its first step, and for an exemplar the checkpoint of the huenet inside."""
    if start is not None and imagenet is not None:
        raise CheckpointError("--imagenet and --start: one of them, the encoder is in both")
    if options.network != "exemplar":
        if start is not None:
            return load_network(start, options.network)[0], None
        network = NETWORKS[options.network].build()
        assert not isinstance(network, ExemplarNet)
        try:
            if imagenet is not None:
                network.load_imagenet(imagenet)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"--imagenet: these are no weights of {options.network}'s encoder") from error
        return network, None
    if start is None:
        raise CheckpointError("--start: exemplar grows on a trained huenet; name its checkpoint")
    if read_checkpoint(start)[1].get("network") == "exemplar":
        grown, _, header = load_network(start)
        return grown, start.with_name(header["base"]["name"]) if "base" in header else None
    inside, _, header = load_network(start, "huenet")
    grown = ExemplarNet(**header.get("options", {}))
    grown.base.load_state_dict(inside.state_dict())
    return grown, start


def _digest(photos: list[tuple[str, Photo]]) -> str:
    """Of names and sizes, wherever the photographs lie."""
    return hashlib.sha256(repr([(Path(name).name, photo.shape) for name, photo in photos]).encode()).hexdigest()


def _progress(options: TrainOptions, step: int, elapsed_s: float) -> float:
    share = step / options.steps
    return share if options.minutes is None else max(share, elapsed_s / 60 / options.minutes)


def _optimiser(network: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": options.learning_rate * (options.encoder_rate if encoder else 1.0),
                "weight_decay": options.weight_decay if kernel else 0.0,
            }
            for (encoder, kernel), parameters in groups.items()
        ]
    )


def _read_resume(resume: Path, options: TrainOptions) -> dict[str, Any] | None:
    if not resume.is_file():
        return None
    try:
        kept: dict[str, Any] = torch.load(resume, map_location="cpu", weights_only=True)
        before = kept["options"]
        kept["made_of"].keys()
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{resume}: damaged; use another folder") from error
    _refuse_others(resume, before, {key: value for key, value in asdict(options).items() if key not in _FREE})
    return kept


def _refuse_others(resume: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    if different := [key for key, value in now.items() if before.get(key) != value]:
        raise CheckpointError(f"{resume} was made with other options ({', '.join(different)}); use another folder")


def _validate(network: nn.Module, average: _Average, loss_of: Loss, lab: Tensor, batch: int, device: str) -> float:
    """The loss of the averaged weights over the validation crops."""
    own = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(average.state)
    network.eval()
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        losses = [
            len(part) * float(loss_of(part[:, :1].to(device) / 100, part[:, 1:].to(device)))
            for part in torch.split(lab, batch)
        ]
    network.load_state_dict(own)
    network.train()
    return round(sum(losses) / len(lab), 5)


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The rows that are whole."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def _write_log(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
