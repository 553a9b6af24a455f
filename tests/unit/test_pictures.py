"""Stills in colour, and pictures made small, against Pillow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from reeltint._errors import FilmError
from reeltint._film_still import read_still, read_still_rgb
from reeltint._thumbnail import at_most, embedding_frame, resized
from skimage import data


def _away(path: Path) -> float:
    """Mean difference from what Pillow reads, in levels."""
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).astype(int)
    found = read_still_rgb(path)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    return float(np.abs(found - expected).mean())


@pytest.mark.parametrize(
    ("name", "options", "most"),
    [
        ("a.png", {}, 0.0),
        ("a.bmp", {}, 0.0),
        ("a.tif", {}, 0.0),
        ("lossless.webp", {"lossless": True}, 0.0),
        ("a.webp", {"quality": 95}, 2.0),
        ("whole.jpg", {"quality": 95, "subsampling": 0}, 0.3),
        ("halved.jpg", {"quality": 95}, 1.2),
    ],
)
def test_a_still_is_read_in_colour(tmp_path: Path, name: str, options: dict[str, Any], most: float) -> None:
    Image.fromarray(data.astronaut()[:101, :150]).save(tmp_path / name, **options)
    assert _away(tmp_path / name) <= most


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_kinds_of_png(tmp_path: Path, mode: str) -> None:
    Image.fromarray(data.astronaut()[:60, :80]).convert(mode).save(tmp_path / "a.png")
    assert _away(tmp_path / "a.png") == 0


def test_sixteen_bits_are_reduced(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 48, dtype=np.uint16).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.abs(read_still_rgb(tmp_path / "a.png") / 255 - values[..., None] / 65535).max() < 2 / 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_still_stands_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(data.astronaut()[:41, :60]).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    assert _away(tmp_path / "a.jpg") < 0.5
    assert read_still(tmp_path / "a.jpg").shape == read_still_rgb(tmp_path / "a.jpg").shape[:2]


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    (tmp_path / "b.jpg").touch()
    for name in ("a.png", "b.jpg", "absent.png"):
        with pytest.raises(FilmError, match="not a picture"):
            read_still_rgb(tmp_path / name)


@pytest.mark.parametrize("picture", [data.camera(), data.coffee()])
def test_small_pictures_are_means_over_areas(picture: NDArray[np.uint8]) -> None:
    half = picture[:400, :512]
    expected = np.asarray(Image.fromarray(half).resize((128, 100), Image.Resampling.BOX)).astype(int)
    assert np.abs(resized(half, 100, 128) - expected).max() <= 2
    assert resized(half, 400, 512) is half
    assert at_most(half, 600) is half
    assert at_most(half, 128).shape[:2] == (100, 128)
    assert at_most(half[:1], 128).shape[:2] == (1, 128)
    first, second = half.copy(), np.ascontiguousarray(half[::-1])
    small = resized(first, 40, 50)
    kept = small.copy()
    resized(second, 40, 50)
    assert np.array_equal(small, kept)  # what was returned is not written over


def test_what_embeddings_are_made_from() -> None:
    coffee = data.coffee()
    frame = embedding_frame(coffee)
    assert frame.shape == (320, 320)
    assert frame.dtype == np.uint8
    luma = (coffee @ np.array([0.2126, 0.7152, 0.0722])).round().astype(np.uint8)
    assert np.abs(frame.astype(int) - embedding_frame(luma)).mean() < 0.6
    assert embedding_frame(np.full((1, 1), 77, np.uint8)).tolist() == [[77] * 320] * 320
