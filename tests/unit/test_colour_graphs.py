"""The exported colour graphs against scikit-image, SciPy and torch's own resize."""

import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from reeltint_export.colour_graphs import chroma_merge, lab_merge, lab_split
from scipy.ndimage import map_coordinates  # type: ignore[import-untyped]
from skimage import color, data
from torch.nn import functional

SIZES = [(1, 1), (1, 7), (2, 2), (3, 5), (31, 160), (161, 159), (299, 451), (480, 853)]


def run(model: onnx.ModelProto, **inputs: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def random_ab(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(0, 20, shape).astype(np.float32)


def grey_lightness(codes: NDArray[Any]) -> NDArray[Any]:
    """L* of grey codes 0..255 by scikit-image."""
    return np.asarray(color.rgb2lab(np.repeat(np.asarray(codes)[..., None] / 255, 3, -1))[..., 0])


def sample(ab: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """One plane read bilinearly at fractions y, x of its height and width, edges repeated."""
    points = np.meshgrid(y * ab.shape[0] - 0.5, x * ab.shape[1] - 0.5, indexing="ij")
    return np.asarray(map_coordinates(ab.astype(np.float64), points, order=1, mode="nearest"))


def to_rgb(lightness: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Conversion from CIE-LAB", UserWarning)  # some Z below 0, clipped
        return np.asarray(color.lab2rgb(np.stack([lightness, a, b], -1)))


@pytest.mark.parametrize("size", [8, 160, 256])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_lab_split_is_torchs_resize_then_scikit_images_lightness(height: int, width: int, size: int) -> None:
    frames = noise(3, height, width)
    got = run(lab_split(size), frames=frames)
    codes = torch.from_numpy(frames)[:, None].float()
    resized = functional.interpolate(codes, (size, size), mode="bilinear", antialias=True)
    assert got.shape == (3, 1, size, size)
    assert np.abs(got[:, 0] * 100 - grey_lightness(resized[:, 0].numpy())).max() < 0.02


def test_lab_split_keeps_every_row_of_tall_frames() -> None:
    for height in [*range(150, 175), 719, 1080, 2161]:
        flat = run(lab_split(160), frames=np.full((1, height, 3), 200, np.uint8))
        assert np.abs(flat * 100 - grey_lightness(np.array(200.0))).max() < 0.02


@pytest.mark.parametrize("size", [0, -8, 100])
def test_lab_split_refuses_sizes_it_cannot_cut_into_bands(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        lab_split(size)


def test_lab_merge_agrees_with_scikit_image_on_every_colour_in_the_gamut() -> None:
    steps = np.arange(-110, 111, 2, dtype=np.float32)
    a, b = np.meshgrid(steps, steps, indexing="ij")
    codes = np.arange(256, dtype=np.uint8)
    frames = np.broadcast_to(codes[:, None, None], (256, *a.shape)).copy()
    ab = np.broadcast_to(np.stack([a, b]), (256, 2, *a.shape)).copy()
    lightness = np.broadcast_to(grey_lightness(codes)[:, None, None], frames.shape)
    lab = np.stack([lightness, ab[:, 0], ab[:, 1]], -1)
    expected = to_rgb(lab[..., 0], lab[..., 1], lab[..., 2])
    in_gamut = np.abs(color.rgb2lab(expected) - lab).max(-1) < 0.01
    assert in_gamut.sum() > 400_000
    error = np.abs(run(lab_merge(), frames=frames, ab=ab)[in_gamut] - expected[in_gamut] * 255)
    assert error.max() <= 1
    assert np.mean(error > 0.6) < 1e-3  # rounding alone is 0.5


@pytest.mark.parametrize("cells", [(1, 1), (5, 7), (40, 40)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_lab_merge_resizes_bilinearly_with_half_pixel_centres(height: int, width: int, cells: tuple[int, int]) -> None:
    frames, ab = noise(2, height, width), random_ab(2, 2, *cells)
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    got = run(lab_merge(), frames=frames, ab=ab)
    assert got.shape == (2, height, width, 3)
    for frame, (a, b), rgb in zip(frames, ab, got, strict=True):
        expected = to_rgb(grey_lightness(frame), sample(a, y, x), sample(b, y, x)) * 255
        assert np.abs(rgb - expected).max() <= 1


@pytest.mark.parametrize("cells", [(1, 1), (5, 7), (40, 40)])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_chroma_merge_is_bt709_chroma_at_left_sited_samples(height: int, width: int, cells: tuple[int, int]) -> None:
    frames, ab = noise(2, height, width), random_ab(2, 2, *cells)
    y = (2 * np.arange((height + 1) // 2) + 1) / height
    x = (2 * np.arange((width + 1) // 2) + 0.5) / width
    got = run(chroma_merge(), frames=frames, ab=ab)
    assert got.shape == (2, 2, len(y), len(x))
    for frame, (a, b), chroma in zip(frames, ab, got, strict=True):
        edged = np.pad(frame.astype(float), ((0, 1), (1, 2)), "edge")
        rows = (edged[0:-1:2] + edged[1::2])[: len(y)]
        luma = (rows[:, 0:-2:2] + 2 * rows[:, 1:-1:2] + rows[:, 2::2])[:, : len(x)] / 8
        rgb = to_rgb(grey_lightness(luma), sample(a, y, x), sample(b, y, x))
        y709 = rgb @ [0.2126, 0.7152, 0.0722]
        expected = 128 + 224 * np.stack([(rgb[..., 2] - y709) / 1.8556, (rgb[..., 0] - y709) / 1.5748])
        assert np.abs(chroma - expected).max() <= 1


def test_chroma_is_sited_on_the_left_luma_column() -> None:
    ramp = np.linspace(-40, 40, 64, dtype=np.float32)
    ab = np.stack([np.broadcast_to(ramp, (64, 64)), np.zeros((64, 64), np.float32)])[None]
    chroma = run(chroma_merge(), frames=np.full((1, 64, 64), 128, np.uint8), ab=ab)[0, 1, 5]
    rgb = to_rgb(np.full(64, grey_lightness(np.array(128.0))), ramp, np.zeros(64))
    cr = 128 + 224 * (rgb[:, 0] - rgb @ [0.2126, 0.7152, 0.0722]) / 1.5748
    assert np.abs(chroma - cr[::2]).max() <= 0.6
    assert np.abs(chroma - (cr[::2] + cr[1::2]) / 2).max() > 0.6  # as if it were centred


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 17)])
def test_no_colour_leaves_grey_exactly_as_it_was(height: int, width: int) -> None:
    frames = (np.arange(256, dtype=np.uint8)[:, None, None] + np.zeros((height, width), np.uint8)).astype(np.uint8)
    ab = np.zeros((256, 2, 3, 3), np.float32)
    assert (run(lab_merge(), frames=frames, ab=ab) == frames[..., None]).all()
    assert (run(chroma_merge(), frames=frames, ab=ab) == 128).all()


def test_colours_outside_the_gamut_stay_within_the_video_range() -> None:
    frames, ab = noise(4, 32, 32), random_ab(4, 2, 32, 32) * 8
    chroma = run(chroma_merge(), frames=frames, ab=ab)
    assert chroma.min() >= 16
    assert chroma.max() <= 240


def test_a_photograph_comes_back_from_its_own_lightness_and_colour() -> None:
    photo = data.astronaut()
    lab = color.rgb2lab(photo)
    codes = np.round(color.lab2rgb(np.stack([lab[..., 0], 0 * lab[..., 0], 0 * lab[..., 0]], -1))[..., 0] * 255)
    ab = np.moveaxis(lab[None, ..., 1:], -1, 1).astype(np.float32)
    rgb = run(lab_merge(), frames=codes[None].astype(np.uint8), ab=ab)[0]
    assert np.percentile(np.abs(rgb.astype(int) - photo), 99) <= 2  # L* rounded to a grey code


def test_parts_of_a_batch_do_not_touch() -> None:
    frames, ab = noise(5, 37, 53), random_ab(5, 2, 40, 40)
    both: dict[str, NDArray[Any]] = {"frames": frames, "ab": ab}
    for model, inputs in ((lab_split(32), {"frames": frames}), (lab_merge(), both), (chroma_merge(), both)):
        alone = [run(model, **{name: x[i : i + 1] for name, x in inputs.items()}) for i in range(5)]
        np.testing.assert_allclose(run(model, **inputs), np.concatenate(alone), atol=2e-4)
