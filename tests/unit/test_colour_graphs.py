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
from reeltint_training.figures import compare
from scipy.ndimage import map_coordinates, uniform_filter  # type: ignore[import-untyped]
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


def averages(plane: NDArray[Any], y: NDArray[Any], x: NDArray[Any], cells: tuple[int, ...]) -> NDArray[Any]:
    """Means of `plane`, whose points are at fractions y, x of the picture, in cells, under triangles of one cell."""
    for axis, (places, count) in enumerate(zip((y, x), cells, strict=True)):
        at = np.clip(places * count - 0.5, 0, count - 1)
        spacing = (places[1] - places[0]) * count if len(places) > 1 else np.inf
        weights = np.maximum(max(1, spacing) - np.abs(at[:, None] - np.arange(count)), 0)
        if np.isinf(spacing):
            weights = np.ones((1, count))
        plane = np.moveaxis(np.tensordot(weights / weights.sum(0), plane, (0, axis)), 0, axis)
    return plane


def around(plane: NDArray[Any]) -> NDArray[Any]:
    """Means of 3 x 3 cells; of fewer at the edges."""
    return np.asarray(
        uniform_filter(plane, 3, mode="constant") / uniform_filter(np.ones(plane.shape), 3, mode="constant")
    )


def guided(
    lightness: NDArray[Any], ab: NDArray[Any], y: NDArray[Any], x: NDArray[Any], stride: int = 1
) -> NDArray[Any]:
    """One plane of ab resized to the points y, x along the edges of L*: a line a cell, by least squares."""
    some, plane = lightness[::stride], ab.astype(np.float64)
    mean, square = (averages(each, y[::stride], x, ab.shape) for each in (some, some**2))
    slope = (around(plane * mean) - around(plane) * around(mean)) / (around(square) - around(mean) ** 2 + 2.0**2)
    slope = np.clip(slope, -1, 1)
    return np.asarray(sample(slope, y, x) * lightness + sample(plane - slope * mean, y, x))


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
def test_lab_merge_resizes_along_edges_with_half_pixel_centres(height: int, width: int, cells: tuple[int, int]) -> None:
    frames, ab = noise(2, height, width), random_ab(2, 2, *cells)
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    got = run(lab_merge(), frames=frames, ab=ab)
    assert got.shape == (2, height, width, 3)
    for frame, (a, b), rgb in zip(frames, ab, got, strict=True):
        lightness = grey_lightness(frame)
        expected = to_rgb(lightness, guided(lightness, a, y, x), guided(lightness, b, y, x)) * 255
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
        lightness = grey_lightness(luma)
        rgb = to_rgb(lightness, guided(lightness, a, y, x, 2), guided(lightness, b, y, x, 2))
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


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_colour_follows_the_edges_of_the_lightness(name: str) -> None:
    photo = getattr(data, name)()
    lab = color.rgb2lab(photo)
    codes = np.round(color.lab2rgb(np.stack([lab[..., 0], 0 * lab[..., 0], 0 * lab[..., 0]], -1))[..., 0] * 255)
    planes = torch.from_numpy(lab[None, ..., 1:]).movedim(-1, 1).float()
    small = functional.adaptive_avg_pool2d(planes, (40, 40))
    y, x = ((np.arange(length) + 0.5) / length for length in codes.shape)
    bilinear = to_rgb(lab[..., 0], *(sample(plane, y, x) for plane in small[0].numpy()))
    rgb = run(lab_merge(), frames=codes[None].astype(np.uint8), ab=small.numpy())[0]
    ours, before = compare(rgb, photo), compare((bilinear * 255).round().astype(np.uint8), photo)
    assert ours.psnr > before.psnr + 0.5
    assert ours.ssim > before.ssim
    assert ours.ciede2000 < before.ciede2000


def test_a_sharp_edge_is_coloured_sharply_and_without_halos() -> None:
    frames = np.full((1, 160, 160), 60, np.uint8)
    frames[:, :, 81:] = 200  # through the middle of a cell: a quarter of it dark
    right = np.arange(160) >= 81
    colour = np.where(right, 10.0, 40.0)
    ab = np.zeros((1, 2, 40, 40), np.float32)
    ab[0, 0] = colour.reshape(40, 4).mean(1)
    rgb = run(lab_merge(), frames=frames, ab=ab)[0, 80]
    a = color.rgb2lab(rgb[None])[0, :, 1]
    assert np.abs(a - colour).max() < 5
    y, x = np.full(1, 0.5), (np.arange(160) + 0.5) / 160
    assert np.abs(sample(ab[0, 0], y, x)[0] - colour).max() > 10


def test_lettering_does_not_carry_colour_out_of_its_range() -> None:
    rng = np.random.default_rng(3)
    frames = np.full((1, 480, 640), 70, np.uint8)
    frames[:, rng.random((480, 640)) < 0.05] = 250  # as bright as can be, in too few pixels for a cell
    ab = np.zeros((1, 2, 40, 40), np.float32)
    ab[0, 0] = rng.uniform(10, 40, (40, 40))
    a = color.rgb2lab(run(lab_merge(), frames=frames, ab=ab)[0])[..., 1]
    assert a[frames[0] == 70].min() > 4
    assert a[frames[0] == 70].max() < 46


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_one_colour_everywhere_is_not_touched(height: int, width: int) -> None:
    frames = noise(1, height, width)
    ab = np.broadcast_to(np.array([17.0, -23.0], np.float32)[None, :, None, None], (1, 2, 40, 40)).copy()
    expected = to_rgb(grey_lightness(frames[0]), np.full((height, width), 17.0), np.full((height, width), -23.0))
    assert np.abs(run(lab_merge(), frames=frames, ab=ab)[0] - expected * 255).max() <= 1


def test_parts_of_a_batch_do_not_touch() -> None:
    frames, ab = noise(5, 37, 53), random_ab(5, 2, 40, 40)
    both: dict[str, NDArray[Any]] = {"frames": frames, "ab": ab}
    for model, inputs in ((lab_split(32), {"frames": frames}), (lab_merge(), both), (chroma_merge(), both)):
        alone = [run(model, **{name: x[i : i + 1] for name, x in inputs.items()}) for i in range(5)]
        np.testing.assert_allclose(run(model, **inputs), np.concatenate(alone), atol=2e-4)


@pytest.mark.parametrize("merge", [lab_merge, chroma_merge])
def test_what_is_no_number_is_no_colour(merge: Any) -> None:
    frames = noise(1, 32, 48)
    plain = np.zeros((1, 2, 8, 8), np.float32)
    broken = plain.copy()
    broken[:, :, :2] = np.nan
    assert np.array_equal(run(merge(), frames=frames, ab=broken), run(merge(), frames=frames, ab=plain))
    assert run(merge(), frames=frames, ab=np.full((1, 2, 8, 8), np.inf, np.float32)).shape[0] == 1
