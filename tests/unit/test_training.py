"""Training, from files to a checkpoint, on a handful of pictures."""

import io
import json
import logging
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reeltint_training._cli import app
from reeltint_training.checkpoints import CheckpointError, load_network, load_state, read_checkpoint, save_checkpoint
from reeltint_training.data import Batches, DataError, load_photos, random_crop
from reeltint_training.evaluate import Row, apply, evaluate, grey
from reeltint_training.figures import colourfulness, compare
from reeltint_training.networks import NETWORKS
from reeltint_training.networks.huenet import HueNet
from reeltint_training.train import TrainOptions, train
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
    pictures = [("a", data.coffee()), ("b", data.chelsea())]
    first, again, other = (next(iter(Batches(pictures, 2, 32, seed=s))) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


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
    for wrong, said in ((["--network", "vgg"], "vgg"), (["--crop", "100"], "multiple of 32")):
        arguments = ["fit", str(photos), "--out", str(tmp_path), "--validation", str(photos), *wrong]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2
        assert said in result.output


def test_tuning_writes_a_smaller_checkpoint_that_decodes_as_chosen(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "raw.safetensors", HueNet().state_dict(), {"network": "huenet"})
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
    assert CliRunner().invoke(app, [*arguments, "--size", "100"]).exit_code == 2


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
