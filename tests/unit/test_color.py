"""Colour arithmetic in torch against scikit-image."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from reeltint_training.color import lab_to_srgb, srgb_to_lab
from skimage.color import lab2rgb, rgb2lab


def _cube() -> NDArray[Any]:
    levels = np.linspace(0, 1, 33)
    cube: NDArray[Any] = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(33, -1, 3)
    return cube


def test_srgb_to_lab_is_scikit_images() -> None:
    rgb = _cube()
    ours = srgb_to_lab(torch.from_numpy(rgb).movedim(-1, 0)).movedim(0, -1).numpy()
    assert np.abs(ours - rgb2lab(rgb)).max() < 0.01


def test_lab_to_srgb_is_scikit_images_and_inverts() -> None:
    rgb = _cube()
    lab = rgb2lab(rgb)
    ours = lab_to_srgb(torch.from_numpy(lab).movedim(-1, 0)).movedim(0, -1).numpy()
    assert np.abs(ours - lab2rgb(lab)).max() < 1e-3
    assert np.abs(ours - rgb).max() < 1e-3


def test_mid_grey_is_119() -> None:
    grey = lab_to_srgb(torch.tensor([50.0, 0.0, 0.0]).reshape(3, 1, 1))
    assert (grey * 255).round().flatten().tolist() == [119, 119, 119]
