"""Fit the scene detector's judgement of dissolves on half of the clips; writes client/reeltint/_dissolves.json.

Windows of films made by tests/scene_films.py, clean and damaged, that overlap a dissolve by more than 60 % against
those that overlap none by 30 %; beside them what is no dissolve: whole clips, pans, zooms, changing light, a hand over
the lens.
"""

import json
import sys
from collections.abc import Iterator

import numpy as np
import torch
from common import ROOT
from numpy.typing import NDArray
from reeltint import _scene_signals as signal
from reeltint._scenes import luma_thumbnail
from torch import nn

sys.path.append(str(ROOT / "tests"))
from scene_films import Frames, Join, clips, cover, damage, draw_shots, joins, pan, photographs, render

SHAPE, HALF, SEEDS = (360, 640), 0, (10, 11, 12, 13)
HIDDEN, EPOCHS = 16, 40
Samples = tuple[NDArray[np.float32], NDArray[np.float32]]


def samples(frames: Iterator[Frames], truth: list[Join]) -> Samples:
    """Features of a film's windows, and each one's overlap with a dissolve; windows over cuts and fades left out."""
    seen = signal.measure(np.stack([luma_thumbnail(frame) for frame in frames]))
    barrier = np.zeros(len(seen) + 1, np.intp)
    for join in truth:
        if join.kind != "dissolve":
            barrier[join.start : join.end + 1] = 1
    blocked = np.concatenate([[0], np.cumsum(barrier)])
    features, overlaps = [], []
    for begin in range(0, len(seen), 256):  # as the detector goes
        first = max(0, begin - 112)
        part = seen[first : begin + 256 + 112]
        grams = signal.gram_matrices(part)
        for length in signal.DISSOLVE_LENGTHS:
            low = max(1, begin - first - length // 2)
            starts = np.arange(low, min(len(part) - length, begin - first + 256 - length // 2))
            starts = starts[blocked[starts + first + length + 1] == blocked[starts + first]]
            if not len(starts):
                continue
            overlap = np.zeros(len(starts), np.float32)
            for join in truth:
                if join.kind == "dissolve":
                    start, end = join.start - first, join.end - first
                    both = np.maximum(np.minimum(starts + length, end) - np.maximum(starts, start), 0)
                    overlap = np.maximum(overlap, both / (length + end - start - both))
            features.append(signal.dissolve_features(part, starts, length, grams))
            overlaps.append(overlap)
    return np.concatenate(features), np.concatenate(overlaps).astype(np.float32)


def quiet_films(rng: np.random.Generator) -> Iterator[Iterator[Frames]]:
    """Films of one scene in which much changes."""
    for photograph in photographs().values():
        for _ in range(3):
            times = np.arange(150)
            speed = np.exp(rng.uniform(-6, -2.5, 2))
            phase = rng.uniform(0, 6, 2)
            left, top = (0.5 + 0.5 * np.sin(v * times + p) for v, p in zip(speed, phase, strict=True))
            zoom = 1.3 + rng.uniform(0, 1) * (1 + np.sin(np.exp(rng.uniform(-5, -2.5)) * times))
            yield pan(photograph, *SHAPE, list(zip(left, top, zoom, strict=True)))
            still = [next(pan(photograph, *SHAPE, [(0.5, 0.5, 1.2)]))] * 120
            yield _lit(iter(still), rng)
            yield cover(iter(still), int(rng.integers(20, 60)), int(rng.integers(2, 30)), int(rng.integers(3, 20)))


def _lit(frames: Iterator[Frames], rng: np.random.Generator) -> Iterator[Frames]:
    """Light that comes and goes over half of the picture or all of it."""
    start, length = rng.integers(10, 60), rng.integers(4, 48)
    gain, level = rng.uniform(0.3, 1.6), rng.uniform(-10, 50)
    for index, frame in enumerate(frames):
        share = np.clip((index - start) / length, 0, 1)
        side = np.clip(np.linspace(-1, 2, frame.shape[1]), 0, 1) if level > 20 else 1
        yield np.clip(frame * (1 + (gain - 1) * share * side) + level * share * side, 0, 255).astype(np.uint8)


def collect() -> Samples:
    """All samples, of the half of the clips that the benchmark does not report."""
    sources = clips(*SHAPE, half=HALF)
    found: list[Samples] = []
    for seed in SEEDS:
        shots = draw_shots(sources, 220, seed=seed, gradual=0.5, shortest_dissolve=1)
        found.append(samples(render(sources, shots), joins(shots)))
        found.append(samples(damage(render(sources, shots), seed=seed), joins(shots)))
    rng = np.random.default_rng(0)
    for frames in [*(iter(clip) for clip in sources.values()), *quiet_films(rng)]:
        kept = list(frames)
        found += [samples(iter(kept), []), samples(damage(iter(kept), seed=int(rng.integers(1000))), [])]
    return np.concatenate([f for f, _ in found]), np.concatenate([o for _, o in found])


def main() -> None:
    torch.manual_seed(0)
    features, overlaps = collect()
    kept = (overlaps > 0.6) | (overlaps < 0.3)
    features, target = features[kept], torch.from_numpy((overlaps[kept] > 0.6).astype(np.float32))
    mean, scale = features.mean(0), features.std(0) + 1e-3
    inputs = torch.from_numpy(np.clip((features - mean) / scale, -5, 5))
    first, last = nn.Linear(inputs.shape[1], HIDDEN), nn.Linear(HIDDEN, 1)
    network = nn.Sequential(first, nn.Tanh(), last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    print(f"{len(target)} windows, {int(target.sum())} of them dissolves", flush=True)
    for epoch in range(EPOCHS):
        total = 0.0
        for chosen in torch.randperm(len(target)).split(4096):
            loss = nn.functional.binary_cross_entropy_with_logits(network(inputs[chosen])[:, 0], target[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(chosen)
        schedule.step()
        print(f"epoch {epoch + 1}: {total / len(target):.4f}", flush=True)
    weights = {
        "mean": mean, "scale": scale, "hidden": first.weight.T, "hidden_bias": first.bias, "out": last.weight[0],
        "out_bias": last.bias,
    }  # fmt: skip
    stored = {name: _rounded(values) for name, values in weights.items()}
    lines = ",\n".join(f' "{name}": {json.dumps(values)}' for name, values in stored.items())
    (ROOT / "client/reeltint/_dissolves.json").write_text("{\n" + lines + "\n}\n")


def _rounded(values: NDArray[np.float32] | torch.Tensor) -> list[object]:
    array = values.detach().numpy() if isinstance(values, torch.Tensor) else values
    return np.vectorize(lambda value: float(f"{value:.5g}"))(array).tolist()  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
