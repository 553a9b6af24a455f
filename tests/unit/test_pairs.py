"""`reeltint-train pairs`: reference colouring on pairs cut out of photographs."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from reeltint_training._cli import app
from reeltint_training.checkpoints import save_checkpoint, without_base
from reeltint_training.data import Photo
from reeltint_training.evaluate import cut_pairs, evaluate_pairs
from reeltint_training.networks.exemplar import ExemplarNet
from skimage import data
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def photos() -> list[tuple[str, Photo]]:
    return [(name, getattr(data, name)()[:240, :320]) for name in ("astronaut", "coffee", "chelsea")]


def test_pairs_are_the_same_by_seed_and_differ_as_scenes_do(photos: list[tuple[str, Photo]]) -> None:
    once, again, other = (torch.stack(list(cut_pairs(photos * 8, 64, seed))) for seed in (1, 1, 2))
    assert once.shape == (24, 2, 3, 64, 64)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    difference = (once[:, 0, 1:].mean((2, 3)) - once[:, 1, 1:].mean((2, 3))).norm(dim=1)
    assert difference.median() < 5  # one scene, in its own colours
    assert ((once[:, 0] - once[:, 1]).abs().flatten(1).mean(1) > 1).all()  # another view
    still = torch.stack(list(cut_pairs(photos * 8, 64, 1, still=True)))
    assert 0.5 < (still[:, 0] - once[:, 0]).abs().flatten(1).amax(1).gt(0).float().mean() < 1  # most had an object


def test_figures_of_pairs_are_those_of_their_pictures(
    photos: list[tuple[str, Photo]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that by itself answers grey, and by a reference the reference's mean colour."""
    network = ExemplarNet().eval()
    cells = torch.ones(1, 2, 16, 16)
    monkeypatch.setattr(network, "remember", lambda lightness, ab: (lightness.flatten(2), ab.flatten(2)))
    monkeypatch.setattr(
        network, "both", lambda _, keys, ab: (0 * cells, ab.mean(1)[:, None, None] * cells, cells[:, :1])
    )
    found = evaluate_pairs({"known": network}, photos, 64, 3)["known"]
    frames, references = torch.stack(list(cut_pairs(photos, 64, 3)))[:, :, 1:].unbind(1)
    assert found["automatic"].ab_distance == pytest.approx(float(frames.norm(dim=1).mean()), rel=1e-3)
    distance = float((references.mean((2, 3), keepdim=True) - frames).norm(dim=1).mean())
    assert found["exemplar"].ab_distance == pytest.approx(distance, rel=1e-3)
    assert 10 < found["automatic"].psnr < found["exemplar"].psnr < 40


def _checkpoint(folder: Path, seed: int) -> Path:
    """An exemplar checkpoint and, beside it, the huenet that it builds on."""
    torch.manual_seed(seed)
    network, path = ExemplarNet(), folder / "exemplar.safetensors"
    folder.mkdir()
    save_checkpoint(folder / "huenet.safetensors", network.base.state_dict(), {"network": "huenet"})
    own, entry = without_base(network.state_dict(), folder / "huenet.safetensors")
    save_checkpoint(path, own, {"network": "exemplar", "base": entry})
    return path


def test_checkpoints_are_compared_on_the_same_pairs(photos: list[tuple[str, Photo]], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name, photo in photos:
        Image.fromarray(photo).save(tmp_path / "photos" / f"{name}.png")
    one, two = (str(_checkpoint(tmp_path / folder, seed)) for folder, seed in (("in place", 0), ("new", 1)))
    arguments = ["--data", str(tmp_path / "photos"), "--limit", "2"]
    result = CliRunner().invoke(app, ["pairs", one, two, *arguments])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith(f"| {tmp_path}")]
    assert [line.split(" | ")[:2] for line in lines] == [
        [f"| {path}", row] for path in (one, two) for row in ("automatic", "exemplar")
    ]
    kept = json.loads(CliRunner().invoke(app, ["pairs", one, two, *arguments, "--json"]).stdout)
    assert (kept["pairs"], kept["size"], kept["seed"]) == (2, 160, 0)
    both = [kept["checkpoints"][path] for path in (one, two)]
    assert both[0]["automatic"] != both[1]["automatic"]
    again = CliRunner().invoke(app, ["pairs", one, *arguments, "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["checkpoints"] == {one: both[0]}


def test_pairs_says_what_is_wrong_before_it_measures(tmp_path: Path) -> None:
    good = _checkpoint(tmp_path / "good", 0)
    lonely = _checkpoint(tmp_path / "lonely", 0)
    lonely.with_name("huenet.safetensors").unlink()
    for arguments, said in (
        ([good.with_name("huenet.safetensors")], "holds a huenet, not a exemplar"),
        ([good, tmp_path / "none.safetensors"], "none.safetensors: no such file"),
        ([lonely], "which is not there"),
        ([good], "neither a folder nor a .tar file"),
    ):
        result = CliRunner().invoke(app, ["pairs", *map(str, arguments), "--data", str(tmp_path / "nowhere")])
        assert (result.exit_code, type(result.exception)) == (2, SystemExit), arguments
        assert said in result.output.replace("\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "lonely"]
