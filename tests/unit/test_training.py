"""Training, from files to a checkpoint, on a handful of pictures."""

import io
import itertools
import json
import logging
import pickle
import resource
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reeltint_training import _cli
from reeltint_training import data as data_module
from reeltint_training import train as train_module
from reeltint_training._cli import app
from reeltint_training.checkpoints import CheckpointError, load_network, load_state, read_checkpoint, save_checkpoint
from reeltint_training.data import Batches, DataError, Photo, evenly, load_photos, random_crop
from reeltint_training.evaluate import Row, apply, evaluate, grey, names
from reeltint_training.figures import colourfulness, compare
from reeltint_training.networks import NETWORKS
from reeltint_training.networks.exemplar import ExemplarNet
from reeltint_training.networks.huenet import HueNet
from reeltint_training.train import DivergedError, TrainOptions, train
from reeltint_training.tune import Setting, best
from skimage import data
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one picture of each kind, and one that is broken and one that is grey."""
    folder = tmp_path_factory.mktemp("photos")
    for suffix, picture in {".png": data.astronaut(), ".jpg": data.coffee(), ".webp": data.chelsea()}.items():
        Image.fromarray(picture).save(folder / f"colour{suffix}")
    (folder / "broken.jpg").write_bytes((folder / "colour.jpg").read_bytes()[:900])
    Image.fromarray(data.camera()).save(folder / "grey.png")
    return folder


def test_loads_folders_and_tars_and_names_what_it_leaves_out(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        tar.add(photos / "colour.webp", "inside/colour.webp")
    with caplog.at_level(logging.WARNING):
        loaded = load_photos([photos, tmp_path / "more.tar"])
    assert [name.rpartition("/")[2] for name, _ in loaded] == ["colour.jpg", "colour.png", "colour.webp", "colour.webp"]
    assert all(picture.shape[2] == 3 and max(picture.shape) <= 320 for _, picture in loaded)
    assert "broken.jpg cannot be read" in caplog.text
    assert "grey.png has no colour" in caplog.text


def test_whatever_is_wrong_with_a_file_only_that_one_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(data.chelsea()).save(good)
    with tarfile.open(tmp_path / "cut.tar", "w") as tar:
        for name in ("first.png", "second.png"):
            tar.add(good, name)
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[: good.stat().st_size * 3 // 2])
    (tmp_path / "link.jpg").symlink_to("nowhere")
    (tmp_path / "folder.jpg").mkdir()
    Image.fromarray(data.chelsea()[:6]).save(tmp_path / "flat.png")
    with caplog.at_level(logging.WARNING):
        loaded = load_photos([tmp_path, tmp_path / "cut.tar"])
    assert [name.rpartition("/")[2] for name, _ in loaded] == ["good.png", "cut.tar:first.png"]
    for said in ("cut.tar cannot be read: unexpected end", "link.jpg cannot be read", "folder.jpg cannot be read"):
        assert said in caplog.text
    assert "flat.png is smaller than 7 x 7 pixels" in caplog.text


def test_photographs_are_upright_and_on_white_where_they_are_transparent(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(data.chelsea()).save(tmp_path / "a.jpg", exif=turned)
    hidden = np.full((40, 40, 4), (255, 0, 0, 0), np.uint8)
    hidden[10:20] = (0, 0, 255, 255)
    Image.fromarray(hidden).save(tmp_path / "b.png")
    (_, upright), (_, white) = load_photos([tmp_path])
    assert upright.shape[0] > upright.shape[1]
    assert white[0, 0].tolist() == [255, 255, 255]
    assert white[15, 0].tolist() == [0, 0, 255]


def test_few_encoded_files_are_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def files(source: Path) -> Iterator[tuple[str, bytes]]:
        nonlocal read
        for read in range(1, 101):
            yield str(read), b""

    def decode(item: tuple[str, bytes], longest: int | None) -> tuple[str, Photo, str]:
        time.sleep(0.005)
        assert read - int(item[0]) < 32
        return item[0], data.chelsea(), ""

    monkeypatch.setattr(data_module, "_encoded", files)
    monkeypatch.setattr(data_module, "_decode", decode)
    assert len(load_photos([tmp_path])) == 100


def test_a_limit_is_kept_and_spread() -> None:
    for total, limit in ((250, 200), (126, 125), (5, 9)):
        chosen = evenly(range(total), limit)
        assert len(chosen) == min(total, limit)
        assert set(np.diff(chosen)) <= {1, 2}


def test_nothing_to_learn_from_is_an_error(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no colour photograph"):
        load_photos([tmp_path])
    Image.fromarray(data.camera()).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"1 left out"):
        load_photos([tmp_path])
    with pytest.raises(DataError, match=r"nowhere"):
        load_photos([photos / "nowhere"])


def test_crops_have_their_size_and_stay_in_the_picture() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (90, 200, 3)).copy()
    rng = np.random.default_rng(0)
    for _ in range(50):
        crop = random_crop(ramp, 64, rng)
        assert crop.shape == (64, 64, 3)
        assert crop.max() < 200


def test_batches_repeat_by_seed_and_go_on_where_they_stopped() -> None:
    pictures = [(str(k), np.full((16, 16, 3), (20 * k, 200, 30), np.uint8)) for k in range(10)]
    before = set(threading.enumerate())  # of other tests

    def some(seed: int, skip: int = 0) -> torch.Tensor:
        batches = Batches(pictures, 2, 8, seed, skip)
        try:
            return torch.stack(list(islice(batches, 5)))
        finally:
            batches.close()

    first = some(1)
    assert torch.equal(first, some(1))
    assert not torch.equal(first, some(2))
    assert torch.equal(first[3:], some(1, skip=3)[:2])
    assert len(first[:, :, 1, 0, 0].unique()) == 10  # an epoch: every one of them
    assert not torch.equal(first, some(1, skip=5))  # the next is in another order
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("network", ["huenet", "resnet18"])
def test_trains_resumes_and_writes_all_files(network: str, photos: Path, tmp_path: Path) -> None:
    arguments = ["fit", str(photos), "--out", str(tmp_path / "run"), "--validation", str(photos), "--network", network]
    arguments += ["--crop", "32", "--batch", "4", "--imagenet", "none"]
    assert CliRunner().invoke(app, [*arguments, "--steps", "21"]).exit_code == 0
    result = CliRunner().invoke(app, [*arguments, "--steps", "40"])
    assert result.exit_code == 0, result.output
    header = read_checkpoint(tmp_path / "run" / f"{network}.safetensors")[1]
    assert (header["step"], header["images"], header["photographs"]) == (40, 160, 3)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 21, 40, 40]
    assert (tmp_path / "run" / "log.png").stat().st_size > 1000
    loaded, spec, _ = load_network(tmp_path / "run" / f"{network}.safetensors")
    assert spec.id == network
    with torch.inference_mode():
        assert loaded(torch.rand(1, 1, 32, 32)).isfinite().all()
    result = CliRunner().invoke(app, [*arguments, "--steps", "41", "--seed", "9"])
    assert result.exit_code == 2
    assert "seed" in result.output


@pytest.fixture
def coffee(tmp_path: Path) -> Path:
    folder = tmp_path / "coffee"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(data.coffee()[:100, 100 * k : 100 * k + 100]).save(folder / f"{k}.png")
    return folder


def _options(steps: int, network: str = "resnet18", learning_rate: float = 2e-3) -> TrainOptions:
    return TrainOptions(network=network, crop=32, batch=2, steps=steps, learning_rate=learning_rate)


def _ctrl_c_at(monkeypatch: pytest.MonkeyPatch, module: ModuleType, place: str, call: int) -> None:
    """Press it when `place` is called for the time `call`."""
    calls, whole = itertools.count(1), getattr(module, place)

    def pressed(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return whole(*arguments, **options)

    monkeypatch.setattr(module, place, pressed)


@pytest.mark.parametrize(
    ("module", "place", "call"),
    [(torch.nn.utils, "clip_grad_norm_", 2), (train_module, "_write_log", 1), (train_module, "_validate", 2)],
    ids=["in a step", "in a log", "in a save"],
)
def test_a_run_in_parts_is_as_good_as_one(
    module: ModuleType, place: str, call: int, coffee: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(_options(4), save_every_s=0)  # after each step
    whole = train(options, [coffee], [coffee], tmp_path / "whole")
    with monkeypatch.context() as patched:
        _ctrl_c_at(patched, module, place, call)
        with pytest.raises(KeyboardInterrupt):
            train(options, [coffee], [coffee], tmp_path / "parts")
    reached = read_checkpoint(tmp_path / "parts/resnet18.safetensors")[1]["step"]
    assert 0 < reached < 4
    with (tmp_path / "parts/log.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 1}\n{"step": 20, "lo')  # written after the last save, the last one half
    parts = train(_options(4), [coffee], [coffee], tmp_path / "parts")
    once, twice = read_checkpoint(whole)[0], read_checkpoint(parts)[0]
    assert all(torch.equal(value, twice[name]) for name, value in once.items())
    rows = [json.loads(line) for line in (tmp_path / "parts/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [*range(1, reached + 1), reached, 4]


def test_a_run_goes_on_only_with_what_it_began_with(coffee: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = train(_options(1), [coffee], [coffee], run)
    with pytest.raises(CheckpointError, match=r"other options \(start\)"):
        train(_options(2), [coffee], [coffee], run, start=Path(shutil.copy(start, tmp_path / "other.safetensors")))
    with pytest.raises(CheckpointError, match="--start would be written over"):
        train(_options(2), [coffee], [coffee], run, start=start)
    coffee = coffee.rename(tmp_path / "elsewhere")
    train(_options(2, learning_rate=1e-3), [coffee], [coffee], run)
    (coffee / "1.png").unlink()
    with pytest.raises(CheckpointError, match=r"other options \(data, validation\)"):
        train(_options(3), [coffee], [coffee], run)
    whole = (run / "resume.pt").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no pickle"):
        (run / "resume.pt").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"resume.pt: damaged; use another folder"):
            train(_options(3), [coffee], [coffee], run)


def test_a_resume_file_of_another_architecture_says_what_does_not_fit(coffee: Path, tmp_path: Path) -> None:
    train(_options(1), [coffee], [coffee], tmp_path / "run")
    kept = torch.load(tmp_path / "run/resume.pt", weights_only=True)
    kept["network"]["former.weight"] = torch.zeros(1)
    torch.save(kept, tmp_path / "run/resume.pt")
    with pytest.raises(CheckpointError, match=r"resume.pt does not fit the network:\n  unknown: former.weight"):
        train(_options(2), [coffee], [coffee], tmp_path / "run")


def test_a_full_disk_leaves_the_last_save(coffee: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(_options(1), [coffee], [coffee], run)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
    try:
        arguments = ["--network", "resnet18", "--crop", "32", "--batch", "2", "--steps", "2", "--imagenet", "none"]
        folders = [str(coffee), "--validation", str(coffee), "--out", str(run)]
        result = CliRunner().invoke(app, ["fit", *folders, *arguments])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 2
    assert "File too large" in result.output
    assert not list(run.glob("*.partial"))
    assert torch.load(run / "resume.pt", weights_only=True)["step"] == 1


def test_a_loss_that_is_no_number_stops_before_it_does_harm(
    coffee: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(_options(1), [coffee], [coffee], run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    monkeypatch.setattr(train_module, "film_look", lambda lightness, generator: lightness * float("nan"))
    with pytest.raises(DivergedError, match=r"step 2: the loss is nan.*run is as of its last save.*--learning-rate"):
        train(_options(2), [coffee], [coffee], run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_nothing_in_the_folder_is_written_over(coffee: Path, tmp_path: Path) -> None:
    start, run = tmp_path / "huenet.safetensors", tmp_path / "run"
    save_checkpoint(start, HueNet().state_dict(), {"network": "huenet"})
    with pytest.raises(DataError):
        train(_options(1, "exemplar"), [tmp_path / "nowhere"], [coffee], run, start=start)
    assert not list(run.iterdir())
    (run / "huenet.safetensors").write_bytes(b"trained for days")
    with pytest.raises(CheckpointError, match=r"run/huenet.safetensors is another network than .*; use another folder"):
        train(_options(1, "exemplar"), [coffee], [coffee], run, start=start)
    assert (run / "huenet.safetensors").read_bytes() == b"trained for days"
    (run / "resnet18.safetensors").write_bytes(b"trained for days")
    (run / "log.jsonl").write_text('{"step": 9, "loss": 1}\n')
    with pytest.raises(CheckpointError, match=r"resnet18.safetensors is there without a resume.pt .*another folder"):
        train(_options(1), [coffee], [coffee], run)
    assert (run / "resnet18.safetensors").read_bytes() == b"trained for days"
    assert json.loads((run / "log.jsonl").read_text())["step"] == 9


@pytest.mark.parametrize(("crop", "longest"), [(32, 320), (256, 640)])
def test_large_crops_come_from_large_photographs(
    crop: int, longest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(sources: list[Path], wanted: int) -> list[tuple[str, Photo]]:
        raise DataError(str(wanted))

    monkeypatch.setattr(train_module, "load_photos", load)
    with pytest.raises(DataError, match=f"^{longest}$"):
        train(TrainOptions(crop=crop), [], [], tmp_path)


def test_fine_tuning_keeps_the_decoding(coffee: Path, tmp_path: Path) -> None:
    start = tmp_path / "tuned.safetensors"
    chosen = {"temperature": 0.6, "rebalance": 0.4, "bin_step": 10}
    save_checkpoint(start, HueNet(0.6, 0.4).state_dict(), {"network": "huenet", "options": chosen})
    _, _, header = load_network(train(_options(1, "huenet"), [coffee], [coffee], tmp_path / "run", start=start))
    assert header["options"] == chosen
    alone, inside = HueNet(), ExemplarNet().base
    assert (alone.temperature, alone.rebalance) == (inside.temperature, inside.rebalance) == (0.85, 0.95)


def test_learns_the_colours_of_a_picture(tmp_path: Path) -> None:
    Image.fromarray(data.coffee()).save(tmp_path / "coffee.png")
    options = TrainOptions(network="resnet18", crop=64, batch=8, steps=60, warm_up=5, ema=0.9)
    path = train(options, [tmp_path], [tmp_path], tmp_path / "run")
    network, _, _ = load_network(path)
    rows = [Row(name="grey", colour=grey), Row(name="ours", colour=lambda x: network(x[..., :256, :256]))]
    picture = data.coffee()[:256, :256]
    with torch.inference_mode():
        figures = evaluate(rows, [("coffee", picture)])
    assert figures["ours"].ab_distance < 0.8 * figures["grey"].ab_distance


def test_bad_options_name_themselves(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, {"fc.weight": torch.zeros(1)}, {"network": "resnet18"})
    for wrong, said in (
        (["--network", "vgg"], "vgg"),
        (["--crop", "100"], "multiple of 32"),
        (["--crop", "0"], "multiple of 32"),
        (["--minutes", "0"], "--minutes 0: more than 0"),
        (["--imagenet", str(other)], "--imagenet: these are no weights of huenet's encoder"),
        (["--imagenet", str(other), "--start", str(other)], "--imagenet and --start"),
    ):
        arguments = ["fit", str(photos), "--out", str(tmp_path / "run"), "--validation", str(photos), *wrong]
        result = CliRunner().invoke(app, arguments)
        assert (result.exit_code, type(result.exception)) == (2, SystemExit), wrong
        assert said in " ".join(result.output.split()), result.output


def test_ctrl_c_has_its_exit_code(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cli, "train", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    arguments = ["fit", str(photos), "--out", str(tmp_path), "--validation", str(photos), "--imagenet", "none"]
    assert CliRunner().invoke(app, arguments).exit_code == 130


def test_evaluate_measures_every_model_and_refuses_before_it_measures(photos: Path, tmp_path: Path) -> None:
    models = [tmp_path / folder / "resnet18.safetensors" for folder in ("a", "b")]
    for model in models:
        model.parent.mkdir()
        save_checkpoint(model, NETWORKS["resnet18"].build().state_dict(), {"network": "resnet18"})
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    pairs = tmp_path / "exemplar.safetensors"
    save_checkpoint(pairs, ExemplarNet().state_dict(), {"network": "exemplar"})
    for wrong, said in (
        (["evaluate", models[0], "--size", "100"], "--size 100: resnet18 wants a multiple of 8"),
        (["evaluate", models[0], "--sheet", tmp_path / "nowhere/s.png"], "there is no folder"),
        (["evaluate", tmp_path / "none.onnx"], "none.onnx: no such file"),
        (["evaluate", tmp_path / "broken.onnx"], "broken.onnx: not a readable ONNX file"),
        (["clips", pairs, "--size", "100"], "--size 100: exemplar wants a multiple of 32"),
    ):
        result = CliRunner().invoke(app, [*map(str, wrong), "--data", str(photos / "nowhere")])
        assert (result.exit_code, type(result.exception)) == (2, SystemExit), wrong
        assert said in result.output.replace("\n", "")
    sheet = tmp_path / "sheet.png"
    arguments = ["--data", str(photos), "--size", "64", "--limit", "2", "--longest", "100", "--sheet", str(sheet)]
    result = CliRunner().invoke(app, ["evaluate", *map(str, models), *arguments, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found) == ["photographs", "grey", "a/resnet18 (64)", "b/resnet18 (64)", "truth"]
    assert found["photographs"] == 2
    assert found["truth"]["colourfulness"] > 10
    assert sheet.stat().st_size > 1000


def test_rows_that_are_alike_are_told_apart(tmp_path: Path) -> None:
    rows = [Row(name="x", colour=grey, folder=folder) for folder in ("", "a", "b", "b")]
    assert names([Row(name="grey", colour=grey), *rows]) == ["grey", "x", "a/x", "b/x", "b/x #2"]


def test_tuning_writes_a_smaller_checkpoint_that_decodes_as_chosen(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = {"network": "huenet", "options": {"temperature": 0.3, "bin_step": 10}}
    save_checkpoint(tmp_path / "raw.safetensors", HueNet().state_dict(), before)
    arguments = [
        "tune",
        str(tmp_path / "raw.safetensors"),
        "--data",
        str(photos),
        "--out",
        str(tmp_path / "t.safetensors"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--size", "64", "--half"])
    assert result.exit_code == 0, result.output
    network, _, header = load_network(tmp_path / "t.safetensors")
    assert (network.temperature, network.rebalance) == (header["tuned"]["temperature"], header["tuned"]["rebalance"])
    assert (tmp_path / "t.safetensors").stat().st_size < 0.55 * (tmp_path / "raw.safetensors").stat().st_size
    assert header["options"]["bin_step"] == 10
    (tmp_path / "beside").touch()
    assert (tmp_path / "t.safetensors").stat().st_mode == (tmp_path / "beside").stat().st_mode
    assert CliRunner().invoke(app, [*arguments, "--size", "100"]).exit_code == 2
    result = CliRunner().invoke(app, [*arguments, "--data", "nowhere", "--out", str(tmp_path / "no/t.safetensors")])
    assert "there is no folder" in result.output


def test_the_best_setting_is_colourful_enough() -> None:
    def setting(psnr: float, colour: float) -> Setting:
        return Setting(size=1, temperature=1, rebalance=1, psnr=psnr, ab_distance=0, colourfulness=colour)

    settings = [setting(25, 10), setting(24, 25), setting(23, 30)]
    assert best(settings, 20).psnr == 24
    assert best(settings, 40).colourfulness == 30


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the pickle ran')",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    harm = tmp_path / "harm.pth"
    harm.write_bytes(pickle.dumps({"weight": _Harm()}))
    with pytest.raises(CheckpointError, match=r"harm.pth: refused"):
        read_checkpoint(harm)
    torch.save({"weight": _Harm()}, harm)
    with pytest.raises(CheckpointError, match=r"harm.pth: refused"):
        read_checkpoint(harm)


def test_a_checkpoint_that_does_not_fit_lists_everything(tmp_path: Path) -> None:
    network = NETWORKS["resnet18"].build()
    state = dict(network.state_dict())
    state["upsample.14.bias"] = torch.zeros(3)
    state["extra"] = torch.zeros(1)
    del state["midlevel_resnet.0.weight"]
    with pytest.raises(CheckpointError) as caught:
        load_state(network, state, tmp_path / "x.pth")
    for words in ("missing: midlevel_resnet.0.weight", "unknown: extra", "shape of upsample.14.bias: (3,)"):
        assert words in str(caught.value)


def test_damaged_and_unknown_checkpoints_name_the_file(tmp_path: Path) -> None:
    for name, content in {"a.safetensors": b"12345", "b.pth": b"", "c.pth": b"no pickle"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    (tmp_path / "list.pth").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="not a state dict"):
        read_checkpoint(tmp_path / "list.pth")
    save_checkpoint(tmp_path / "d.safetensors", {"x": torch.zeros(1)}, {"network": "other"})
    with pytest.raises(CheckpointError, match="known are huenet, exemplar, resnet18"):
        load_network(tmp_path / "d.safetensors")


def test_colourfulness_of_known_pictures() -> None:
    """Values by the paper's equations, worked by hand."""
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert colourfulness(np.full((4, 4, 3), 90, np.uint8)) == 0
    assert colourfulness(red) == pytest.approx(0.3 * np.hypot(255, 127.5), rel=1e-5)
    half = red.copy()
    half[:2] = 0
    expected = np.hypot(127.5, 63.75) + 0.3 * np.hypot(127.5, 63.75)
    assert colourfulness(half) == pytest.approx(expected, rel=1e-5)


def test_figures_of_a_picture_against_itself_and_grey() -> None:
    picture = data.chelsea()
    same = compare(picture, picture)
    assert same.psnr > 80
    assert same.ssim == pytest.approx(1)
    assert same.ab_distance == same.ciede2000 == 0
    without = compare(apply(grey, picture), picture)
    assert without.colourfulness < 0.5
    assert 10 < without.ab_distance < 30
