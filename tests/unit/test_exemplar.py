"""Colouring by a reference: the network, its training pairs, its figures and its graphs."""

import copy
import logging
import math
import tarfile
from pathlib import Path

import av
import numpy as np
import onnxruntime
import pytest
import torch
from reeltint_export.exemplar_export import exemplar_models
from reeltint_training import clips
from reeltint_training.checkpoints import CheckpointError, load_network, save_checkpoint, without_base
from reeltint_training.clips import cdc, clips_of, colour_clip, flicker, measure_clip
from reeltint_training.data import DataError, Photo, bend, make_batch, mix_pairs, move_objects, to_lab
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
    network = ExemplarNet().eval()
    zeros = (
        network.refine,
        network.turn,
        network.widen,
        network.correct,
    )  # where training begins: they would hide faults
    for last in zeros:
        torch.nn.init.normal_(last.weight, std=0.02)
    return network


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


def _sharpened(network: ExemplarNet, sharpness: float) -> ExemplarNet:
    """So sharp that only the best key counts."""
    sharp = copy.deepcopy(network)
    torch.nn.init.constant_(sharp.sharpness, math.log(sharpness))
    return sharp


def test_a_picture_finds_its_own_colours(network: ExemplarNet, photo: torch.Tensor) -> None:
    keys, ab = network.remember(photo[:, :1] / 100, photo[:, 1:])
    queries, _ = network.encode(photo[:, :1] / 100)
    own, spread, near = _sharpened(network, 2000).carry(queries, keys, ab)
    assert torch.allclose(own.flatten(2), ab, atol=1.0)
    assert spread.max() < 3
    assert torch.allclose(near, torch.ones_like(near), atol=2e-3)


def test_what_is_carried_is_the_mean_by_softmax(network: ExemplarNet, photo: torch.Tensor) -> None:
    keys, ab = network.remember(photo[:, :1] / 100, photo[:, 1:])
    queries, _ = network.encode(photo[:, :1].flip(3) / 100)
    carried, spread, near = network.carry(queries, keys, ab)
    cosines = torch.einsum("bcq,bck->bqk", queries.flatten(2), keys)
    weights = (20 * cosines).softmax(-1)
    assert torch.allclose(carried.flatten(2), torch.einsum("bqk,bck->bcq", weights, ab), atol=1e-2)
    variance = torch.einsum("bqk,bck->bcq", weights, ab**2).sum(1) - carried.flatten(2).square().sum(1)
    assert torch.allclose(spread.flatten(1), variance.clamp(min=0.01).sqrt(), atol=5e-2)
    assert torch.allclose(near.flatten(1), ((20 * cosines).exp().sum(-1) / 4).log() / 20, atol=1e-4)
    assert (near.flatten(1) - cosines.amax(-1)).abs().max() < 0.2  # about the largest
    far, _, _ = _sharpened(network, 500).carry(queries, -queries.flatten(2)[:, :, :1].expand_as(keys), ab)
    assert far.isfinite().all()


def test_pairs_show_one_scene_and_are_made_harder() -> None:
    batch, again = (
        make_batch([("photo", data.astronaut()[::4, ::4])], 16, 64, seed=3, step=5, pairs=True) for _ in range(2)
    )
    assert batch.shape == (16, 6, 64, 64)
    assert torch.equal(batch, again)

    plain = torch.rand(256, 6, 32, 32) * 50 + 10
    mixed = mix_pairs(plain, torch.Generator().manual_seed(1))
    kept = (mixed[:, 0] == plain[:, 0]).flatten(1).all(1)
    assert 0.25 < kept.float().mean() < 0.45  # a third of the frames get no object
    colours = (mixed[:, 1:3] - plain[:, 1:3]).abs().flatten(1).amax(1)[kept] > 1e-3
    assert 0.15 < colours.float().mean() < 0.55  # a third has other colours
    turned = mixed[:, 1:3].norm(dim=1) / plain[:, 1:3].norm(dim=1)
    for each in turned[kept][colours]:
        assert each.std() < 0.01 or each.max() > 1.39  # all colours scaled alike, where none was clipped


def test_objects_move_come_in_and_leave() -> None:
    count, size = 512, 32
    plain = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1, 1).expand(count, 2, 3, size, size) / 10
    moved = move_objects(plain.clone(), torch.Generator().manual_seed(2))
    here, there = ((moved - plain).abs().amax(2) > 0).unbind(1)  # [B, S, S]: what is not the photograph's
    frame, reference = here.flatten(1).any(1), there.flatten(1).any(1)
    shares = [float(each.float().mean()) for each in (frame & reference, frame & ~reference, ~frame & reference)]
    assert 0.4 < shares[0] < 0.65  # it moved
    assert 0.06 < shares[1] < 0.2  # it came in
    assert 0.06 < shares[2] < 0.2  # it left, and shows what was behind it
    both = frame & reference
    assert (here & there)[both].flatten(1).any(1).float().mean() < 0.9  # some are found in quite another place
    assert torch.equal(moved, move_objects(plain.clone(), torch.Generator().manual_seed(2)))


def test_a_first_match_turns_queries_and_leaves_them_alone_before_it_has_learned(photo: torch.Tensor) -> None:
    fresh = ExemplarNet().eval()
    keys, _ = fresh.remember(photo[:, :1] / 100, photo[:, 1:])
    queries, _ = fresh.encode(photo[:, :1] / 100)
    assert torch.allclose(fresh.seek(queries, keys), queries, atol=1e-6)
    torch.nn.init.normal_(fresh.turn.weight, std=0.1)
    turned, mirrored = fresh.seek(queries, keys), fresh.seek(queries, keys.flip(2))
    assert torch.allclose(turned.norm(dim=1), torch.ones(()), atol=1e-4)
    assert (turned - mirrored).abs().max() > 1e-3  # it depends on where in the reference things are


def test_half_the_references_are_bent_a_little() -> None:
    axis = torch.linspace(0, 1, 64)
    slope = torch.stack([axis.expand(64, 64), axis[:, None].expand(64, 64), torch.ones(64, 64)]).expand(32, 3, 64, 64)
    moved = (bend(slope, torch.Generator().manual_seed(5)) - slope).abs()
    far = moved[:, :2].flatten(1).amax(1)  # of the picture's size
    assert 0.25 < (far > 2e-3).float().mean() < 0.75
    assert 0.02 < far.max() < 0.2
    assert moved[:, 2].max() < 1e-5  # nothing from outside comes in


def test_of_like_places_the_nearer_is_chosen(photo: torch.Tensor) -> None:
    network = ExemplarNet().eval()
    for parameter in network.project.parameters():
        torch.nn.init.zeros_(parameter)  # nothing to see: all places look alike
    keys, ab = network.remember(photo[:, :1] / 100, photo[:, 1:])
    queries, _ = network.encode(photo[:, :1] / 100)
    own, _, _ = _sharpened(network, 20_000).carry(queries, keys, ab)
    assert torch.allclose(own.flatten(2), ab, atol=2.0)


def test_the_loss_falls_to_what_an_honest_reference_allows(network: ExemplarNet, photo: torch.Tensor) -> None:
    loss = ExemplarLoss(network)
    ab = torch.cat([photo[:, 1:], photo], 1)
    foreign = torch.cat([photo[:, 1:], photo[:, :1], -photo[:, 1:]], 1)
    with torch.inference_mode():
        assert loss(photo[:, :1] / 100, ab) < loss(photo[:, :1] / 100, foreign)


def test_the_automatic_colour_is_as_exact_in_training_as_served(
    network: ExemplarNet, photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    decode = network.base.decode

    def watched(logits: torch.Tensor) -> torch.Tensor:
        seen.append(decode(logits))
        return seen[-1]

    monkeypatch.setattr(network.base, "decode", watched)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        ExemplarLoss(network)(photo[:, :1] / 100, torch.cat([photo[:, 1:], photo], 1))
    assert [each.dtype for each in seen] == [torch.float32]


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
    lab = torch.cat([functional.interpolate(to_lab(f[None]), (64, 64), mode="area") for f in frames])
    ways = colour_clip(network, lab)
    assert torch.allclose(ways["fed back"][0], ways["exemplar"][0])  # both begin with the reference itself
    assert ways["Reinhard"][0].mean((1, 2)) == pytest.approx(lab[0, 1:].mean((1, 2)).numpy(), abs=0.5)


def test_the_reference_frame_is_not_counted(network: ExemplarNet) -> None:
    other, still = (np.ascontiguousarray(picture[:64, 100:164]) for picture in (data.coffee(), data.astronaut()))
    figures = measure_clip(network, [other, still, still, still], 64)
    for row in ("automatic", "exemplar", "truth"):
        assert figures[row].cdc == pytest.approx(0, abs=1e-4)
        assert figures[row].flicker == pytest.approx(0, abs=0.01)


def test_the_truth_is_averaged_like_what_it_is_compared_with(network: ExemplarNet) -> None:
    even = np.array([[[200, 80, 40], [40, 90, 200]]], np.uint8)
    pattern = np.tile(np.concatenate([even, even[:, ::-1]]), (32, 32, 1))  # of every four pixels two are alike
    mirrored = np.ascontiguousarray(pattern[:, ::-1])
    truth = measure_clip(network, [pattern, pattern, mirrored, pattern], 64)["truth"]
    assert truth.cdc == pytest.approx(0, abs=1e-9)  # at half size nothing changes


def _write_clip(path: Path, frames: list[Photo]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def test_clips_that_cannot_be_used_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture = np.ascontiguousarray(data.astronaut()[:64, 100:164])
    grey = np.repeat(picture[..., 1:2], 3, 2)
    _write_clip(tmp_path / "fades_in.mp4", [np.zeros_like(picture), picture, picture])
    _write_clip(tmp_path / "grey.mp4", [grey] * 3)
    _write_clip(tmp_path / "short.mp4", [picture])
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "fades_in.mp4").read_bytes()[:300])
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.rate = 8000
        container.mux(sound.encode(silence))
    with caplog.at_level(logging.WARNING):
        assert [name for name, _ in clips_of(tmp_path)] == ["fades_in"]
    for said in ("grey.mp4 has no colour", "short.mp4 has 1 frame", "broken.mp4 cannot", "sound.mkv has no video"):
        assert said in caplog.text
    whole, cut = tmp_path / "whole.tar", tmp_path / "cut.tar"
    with tarfile.open(whole, "w") as tar:
        tar.add(tmp_path / "fades_in.mp4", "a.mp4")
        tar.add(tmp_path / "fades_in.mp4", "b.mp4")
    with tarfile.open(whole) as tar:
        end = tar.getmember("b.mp4").offset_data + 10
    cut.write_bytes(whole.read_bytes()[:end])
    assert [name for name, _ in clips_of(cut)] == ["a"]
    (tmp_path / "fades_in.mp4").unlink()
    with pytest.raises(DataError, match="no colour clip"):
        list(clips_of(tmp_path))


def test_growth_compares_whole_tenths(network: ExemplarNet, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.ascontiguousarray(data.astronaut()[:64, 100:164])

    def figures(wrong: list[float]) -> clips.ClipFigures:
        def off_by(network: ExemplarNet, lab: torch.Tensor) -> dict[str, torch.Tensor]:
            ab = functional.avg_pool2d(lab[:, 1:], network.output_stride)
            return {"exemplar": ab + torch.tensor(wrong)[:, None, None, None]}

        monkeypatch.setattr(clips, "colour_clip", off_by)
        return clips.measure_clip(network, [picture] * 22, 64, every=7)["exemplar"]

    right, off = figures([0.0] * 22).psnr, figures([8.0] * 22).psnr
    half_to_all = figures([0.0, 0.0, 8.0] + [0.0] * 17 + [8.0] * 2)  # frames 1 and 2 are the first tenth
    assert half_to_all.growth == pytest.approx((right - off) / 2, rel=1e-3)


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

    whole = tmp_path / "whole.safetensors"
    save_checkpoint(whole, trained.state_dict(), {"network": "exemplar"})
    again, _, header = load_network(train(options, [folder], [folder], tmp_path / "again", start=whole))
    assert "base" not in header  # it came with the weights of the network inside, and keeps them
    assert isinstance(again, ExemplarNet)
    assert all(torch.equal(value, kept[name]) for name, value in again.base.state_dict().items())
