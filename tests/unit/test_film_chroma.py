"""Chroma read back from a coloured film."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import make_film
from numpy.typing import NDArray
from reeltint import FilmError
from reeltint._film import FilmFrame, FilmReader, FilmWriter
from reeltint._film_chroma import ChromaReader

Chroma = NDArray[np.uint8]


def coloured(source: Path, target: Path, **options: Any) -> list[Chroma]:
    """Write the film with noise for chroma, every code that occurs in it."""
    rng, given = np.random.default_rng(0), []
    with FilmReader(source) as film, FilmWriter(target, film, **options) as writer:
        shape = (2, (film.info.height + 1) // 2, (film.info.width + 1) // 2)
        for frame in film:
            given.append(rng.integers(16, 241, shape, np.uint8))
            writer.write(frame, given[-1])
    return given


def read(target: Path, source: Path) -> list[Chroma]:
    with FilmReader(source) as film, ChromaReader(target, film) as chroma:
        return [values for _, values in chroma.beside(film)]


@pytest.mark.parametrize(
    ("film", "written"),
    [
        ({}, {"encoder": "ffv1"}),
        ({}, {"encoder": "libx264", "quality": 0}),
        ({"pixel_format": "yuv420p10le"}, {"encoder": "ffv1"}),
        ({"full_range": True}, {"encoder": "ffv1"}),
        ({"width": 63, "height": 47, "pixel_format": "yuv444p"}, {"encoder": "ffv1"}),
        ({}, {"encoder": "ffv1", "pixel_format": "yuv422p10le"}),
        ({"width": 5, "height": 3, "pixel_format": "yuv444p"}, {"encoder": "ffv1"}),
    ],
)
def test_lossless_chroma_comes_back_as_it_was_given(
    film: dict[str, Any], written: dict[str, Any], tmp_path: Path
) -> None:
    make_film(tmp_path / "grey.mkv", pts=[0, 40, 83, 120], time_base=Fraction(1, 1000), **film)
    given = coloured(tmp_path / "grey.mkv", tmp_path / "color.mkv", **written)
    found = read(tmp_path / "color.mkv", tmp_path / "grey.mkv")
    assert len(found) == 4
    assert all(np.array_equal(one, other) for one, other in zip(given, found, strict=True))


def test_other_films_are_no_colour_of_this_one(tmp_path: Path) -> None:
    grey = tmp_path / "grey.mkv"
    make_film(grey, pts=range(6))
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "small": ({"width": 32}, "32x48, not 64x48"),
        "short": ({"pts": range(4)}, "4 pictures, the source goes on"),
        "long": ({"pts": range(9)}, "more than the source's 6"),
        "slow": ({"pts": range(0, 12, 2)}, "times are others"),
        "grey": ({"pixel_format": "gray"}, "gray is not planar YUV"),
    }
    for name, (options, said) in cases.items():
        make_film(tmp_path / f"a {name}.mkv", **{"pts": range(6), **options})
        with pytest.raises(FilmError, match=said) as caught:
            read(tmp_path / f"a {name}.mkv", grey)
        assert f"{name}.mkv" in str(caught.value)
        assert "grey.mkv" in str(caught.value)


def test_an_error_of_the_source_passes(tmp_path: Path) -> None:
    make_film(tmp_path / "grey.mkv", pts=range(6))
    coloured(tmp_path / "grey.mkv", tmp_path / "color.mkv", encoder="ffv1")

    def torn(film: FilmReader) -> Iterator[FilmFrame]:
        yield next(iter(film))
        raise FilmError(film.path, "torn")

    with FilmReader(tmp_path / "grey.mkv") as film, ChromaReader(tmp_path / "color.mkv", film) as chroma:
        pictures = chroma.beside(torn(film))
        next(pictures)
        with pytest.raises(FilmError, match="torn"):
            next(pictures)
