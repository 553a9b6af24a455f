"""Colouring by a reference: the network, its training pairs, its figures and its graphs."""

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from reeltint_export.exemplar_export import exemplar_models
from reeltint_training.checkpoints import CheckpointError, load_network, save_checkpoint, without_base
from reeltint_training.clips import camera_stays, cdc, colour_clip, flicker, measure_clip
from reeltint_training.data import Batches, mix_pairs, to_lab
from reeltint_training.losses import ExemplarLoss
from reeltint_training.networks.exemplar import ExemplarNet
from reeltint_training.networks.huenet import HueNet
from reeltint_training.train import TrainOptions, train
from skimage import data
from skimage.transform import resize
from torch.nn import functional


@pytest.fixture(scope="module")
def network() -> ExemplarNet:
    torch.manual_seed(0)
    return ExemplarNet().eval()


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """Lab [1, 3, 64, 64] of a photograph."""
    small = resize(data.astronaut(), (64, 64), anti_aliasing=True) * 255
    return to_lab(small.round().astype(np.uint8)[None])


def test_small_enough_and_only_its_own_part_learns(network: ExemplarNet) -> None:
    own = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert sum(p.numel() for p in network.parameters()) <= 12e6
    assert 0 < own < 0.5e6
    network.train()
    assert not any(module.training for module in network.base.modules())
    network.eval()


def test_without_confidence_the_colour_is_that_of_the_network_inside(network: ExemplarNet, photo: torch.Tensor) -> None:
    doubtful = ExemplarNet().eval()
    doubtful.load_state_dict(network.state_dict())
    doubtful.correct.bias = torch.nn.Parameter(torch.tensor([0.0, 0.0, -40.0]))
    keys, ab = doubtful.remember(photo[:, :1] / 100, photo[:, 1:])
    with torch.inference_mode():
        result, confidence = doubtful(photo[:, :1] / 100, keys[0], ab[0])
        alone = doubtful.base(photo[:, :1] / 100)
    assert confidence.max() < 1e-6
    assert torch.allclose(result, alone, atol=1e-3)


def test_a_picture_finds_its_own_colours(network: ExemplarNet, photo: torch.Tensor) -> None:
    keys, ab = network.remember(photo[:, :1] / 100, photo[:, 1:])
    queries, _ = network.encode(photo[:, :1] / 100)
    own, spread, cosine = network.carry(100 * queries, keys, ab)  # as sharp as can be: only the best one counts
    assert torch.allclose(own.flatten(2), ab, atol=1.0)
    assert spread.max() < 3
    assert torch.allclose(cosine, torch.full_like(cosine, 100.0), rtol=1e-3)


def test_pairs_show_one_scene_and_are_made_harder() -> None:
    batch = next(iter(Batches([("photo", data.astronaut()[::4, ::4])], 16, 64, seed=3, pairs=True)))
    assert batch.shape == (16, 6, 64, 64)
    again = next(iter(Batches([("photo", data.astronaut()[::4, ::4])], 16, 64, seed=3, pairs=True)))
    assert torch.equal(batch, again)

    plain = torch.rand(64, 6, 32, 32) * 50 + 10
    mixed = mix_pairs(plain, torch.Generator().manual_seed(1))
    kept = (mixed[:, 0] == plain[:, 0]).flatten(1).all(1)
    assert 0.3 < kept.float().mean() < 0.7  # half the frames get no object
    colours = (mixed[:, 1:3] - plain[:, 1:3]).abs().flatten(1).amax(1)[kept] > 1e-3
    assert 0.15 < colours.float().mean() < 0.55  # a third has other colours
    turned = mixed[:, 1:3].norm(dim=1) / plain[:, 1:3].norm(dim=1)
    for each in turned[kept][colours]:
        assert each.std() < 0.01 or each.max() > 1.39  # all colours scaled alike, where none was clipped


def test_the_loss_falls_to_what_an_honest_reference_allows(network: ExemplarNet, photo: torch.Tensor) -> None:
    loss = ExemplarLoss(network)
    ab = torch.cat([photo[:, 1:], photo], 1)
    foreign = torch.cat([photo[:, 1:], photo[:, :1], -photo[:, 1:]], 1)
    with torch.inference_mode():
        assert loss(photo[:, :1] / 100, ab) < loss(photo[:, :1] / 100, foreign)


def test_cdc_and_flicker_know_known_changes() -> None:
    still = np.zeros((6, 3, 256))
    still[:, :, 7] = 1
    assert cdc(still) == 0
    jumping = still.copy()
    jumping[1::2] = np.roll(still[1::2], 1, -1)  # disjoint at distance 1, the same at 2 and 4
    assert cdc(jumping) == pytest.approx(math.log(2) / 3)

    lightness, ab = torch.zeros(3, 1, 4, 4), torch.zeros(3, 2, 4, 4)
    ab[1, 0] = 3.0
    assert flicker(lightness, ab) == pytest.approx(3.0)
    lightness[1, :, :2] = 50  # half of the picture changes its light too: that is no flicker
    ab[1, :, :2] = 90
    assert flicker(lightness, ab) == pytest.approx(3.0)


def test_a_clip_is_measured_in_every_way(network: ExemplarNet) -> None:
    picture = data.astronaut()
    frames = [np.ascontiguousarray(picture[k : k + 128, 4 * k : 4 * k + 160]) for k in range(3)]
    figures = measure_clip(network, frames, 64, every=1)
    assert list(figures) == ["grey", "automatic", "Reinhard", "copy only", "fed back", "exemplar", "truth"]
    assert figures["truth"].psnr > 80
    assert figures["grey"].colourfulness < 1 < figures["truth"].colourfulness
    assert camera_stays(frames[:1] * 2)
    assert not camera_stays([picture[:128, :128], picture[200:328, 200:328]])
    lab = torch.cat([functional.interpolate(to_lab(f[None]), (64, 64), mode="area") for f in frames])
    ways = colour_clip(network, lab)
    assert torch.allclose(ways["fed back"][0], ways["exemplar"][0])  # both begin with the reference itself
    assert ways["Reinhard"][0].mean((1, 2)) == pytest.approx(lab[0, 1:].mean((1, 2)).numpy(), abs=0.5)


def test_the_graphs_do_what_the_network_does(network: ExemplarNet) -> None:
    models = exemplar_models(network, 64)
    encoder, colorizer = (
        onnxruntime.InferenceSession(models[name].SerializeToString(), providers=["CPUExecutionProvider"])
        for name in ("reference_encoder", "exemplar_colorizer")
    )
    picture = np.ascontiguousarray(data.astronaut()[:301, :417])
    keys, ab = encoder.run(["reference_keys", "reference_ab"], {"reference": picture})
    small = functional.interpolate(
        torch.tensor(picture).movedim(-1, 0)[None].float(), (64, 64), mode="bilinear", antialias=True
    )
    lab = to_lab((small[0].movedim(0, -1)[None]).numpy())
    with torch.inference_mode():
        true_keys, true_ab = network.remember(lab[:, :1] / 100, lab[:, 1:])
        assert np.abs(ab - true_ab[0].numpy()).max() < 0.3
        assert (keys * true_keys[0].numpy()).sum(0).min() > 0.995
        for count in (1, 3):
            lightness = torch.rand(count, 1, 64, 64)
            result, confidence = network(lightness, torch.tensor(keys), torch.tensor(ab))
            given = {"lightness": lightness.numpy(), "reference_keys": keys, "reference_ab": ab}
            served = colorizer.run(["ab", "confidence"], given)
            assert np.abs(served[0] - result.numpy()).max() < 0.3
            assert np.abs(served[1] - confidence.numpy()).max() < 0.01


def test_a_checkpoint_holds_its_own_part_and_names_the_rest(tmp_path: Path, network: ExemplarNet) -> None:
    base = tmp_path / "huenet.safetensors"
    save_checkpoint(base, network.base.state_dict(), {"network": "huenet"})
    own, entry = without_base(network.state_dict(), base)
    target = tmp_path / "exemplar.safetensors"
    save_checkpoint(target, own, {"network": "exemplar", "base": entry})
    assert target.stat().st_size < 3e6
    loaded, _, _ = load_network(target)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())

    save_checkpoint(base, HueNet().state_dict(), {"network": "huenet"})
    with pytest.raises(CheckpointError, match="sha256 differs"):
        load_network(target)
    base.unlink()
    with pytest.raises(CheckpointError, match=r"builds on .*huenet.safetensors, which is not there"):
        load_network(target)


def test_training_leaves_the_network_inside_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    from PIL import Image

    Image.fromarray(data.astronaut()).save(folder / "a.png")
    Image.fromarray(data.coffee()).save(folder / "b.png")
    base = tmp_path / "huenet.safetensors"
    inside = HueNet()
    save_checkpoint(base, inside.state_dict(), {"network": "huenet", "options": {"temperature": 0.5}})
    options = TrainOptions(network="exemplar", crop=64, batch=2, steps=2)
    with pytest.raises(CheckpointError, match="--start"):
        train(options, [folder], [folder], tmp_path / "none")
    trained, _, header = load_network(train(options, [folder], [folder], tmp_path / "run", start=base))
    assert isinstance(trained, ExemplarNet)
    assert trained.base.temperature == 0.5
    assert header["step"] == 2
    kept = inside.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in trained.base.state_dict().items())
