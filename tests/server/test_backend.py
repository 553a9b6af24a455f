"""The local server's backend runs large batches in parts: nobody is to notice."""

import numpy as np
import pytest
from reeltint import Colorizer


@pytest.mark.parametrize(("count", "height", "width"), [(5, 480, 853), (3, 1080, 1920), (7, 300, 500)])
def test_a_batch_is_its_frames(triton: str, count: int, height: int, width: int) -> None:
    rng = np.random.default_rng(count)
    small = rng.integers(0, 256, (count, height // 20, width // 20), np.uint8)
    frames = np.pad(small.repeat(20, 1).repeat(20, 2), ((0, 0), (0, height % 20), (0, width % 20)), "edge")
    with Colorizer(triton) as colorizer:
        whole = colorizer.colorize(frames).chroma
        alone = [colorizer.colorize(frame[None]).chroma for frame in frames]
    assert whole is not None
    assert whole.shape == (count, 2, -(-height // 2), -(-width // 2))
    difference = np.abs(whole.astype(int) - np.concatenate([each for each in alone if each is not None]))
    assert difference.max() <= 1  # of sums in another order
    assert len({each.tobytes() for each in whole}) == count
