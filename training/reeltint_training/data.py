"""Photographs for training: folders and .tar files, decoded once into memory, cropped at random.

A photograph that cannot be read is named in a warning and left out; so is one without colour.
"""

import io
import logging
import queue
import tarfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reeltint_training.color import srgb_to_lab

log = logging.getLogger(__name__)

SUFFIXES = {".webp", ".jpg", ".jpeg", ".png"}
Photo = NDArray[np.uint8]  # [H, W, 3] sRGB


class DataError(ValueError):
    """The data cannot train or measure a network: nothing found, or nothing with colour in it."""


def _encoded(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES):
            yield str(path), path.read_bytes()
    elif source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            for member in tar:
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                    stream = tar.extractfile(member)
                    assert stream is not None  # a regular file, checked above
                    yield f"{source}:{member.name}", stream.read()
    else:
        raise DataError(f"{source}: neither a folder nor a .tar file")


def _decode(item: tuple[str, bytes], longest: int | None) -> tuple[str, Photo | None, str]:
    name, encoded = item
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if longest:
                image.draft("RGB", (longest, longest))
            rgb = image.convert("RGB")
        if longest and max(rgb.size) > longest:
            rgb.thumbnail((longest, longest), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return name, None, f"cannot be read: {error}"
    pixels: Photo = np.asarray(rgb)
    small = pixels[::4, ::4].astype(np.int16)
    if (small.max(-1) - small.min(-1)).mean() < 2:
        return name, None, "has no colour"
    return name, pixels, ""


def load_photos(sources: Sequence[Path], longest: int | None = 320) -> list[tuple[str, Photo]]:
    """Decode every photograph of folders and .tar files.

    Args:
        sources: Folders (searched through) and .tar files of WebP, JPEG and PNG images.
        longest: Larger photographs are shrunk to this many pixels on the long side; None keeps them.

    Returns:
        Name and sRGB pixels [H, W, 3] of each, in the order of the sources.

    Raises:
        DataError: A source is neither folder nor .tar file, or no photograph with colour is left.
    """
    photos, left_out = [], 0
    with ThreadPoolExecutor() as pool:
        for source in sources:
            for name, pixels, problem in pool.map(lambda item: _decode(item, longest), _encoded(source)):
                if pixels is None:
                    log.warning("%s %s; left out", name, problem)
                    left_out += 1
                else:
                    photos.append((name, pixels))
    if not photos:
        places = ", ".join(map(str, sources))
        raise DataError(f"no colour photograph in {places} ({left_out} left out: unreadable or grey)")
    return photos


def to_lab(pixels: NDArray[np.uint8]) -> Tensor:
    """sRGB [B, H, W, 3] u8 to Lab [B, 3, H, W] float32."""
    return srgb_to_lab(torch.tensor(pixels).movedim(-1, 1).float() / 255)


def random_crop(photo: Photo, size: int, rng: np.random.Generator) -> Photo:
    """A random part (half to all of the area, aspect 3:4 to 4:3) at [size, size, 3], mirrored half the time."""
    height, width = photo.shape[:2]
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    area = rng.uniform(0.5, 1.0) * min(height, width) ** 2 * rng.uniform(1.0, max(height, width) / min(height, width))
    crop_w = min(width, np.sqrt(area * aspect))
    crop_h = min(height, np.sqrt(area / aspect))
    left, top = rng.uniform(0, width - crop_w), rng.uniform(0, height - crop_h)
    box = (left, top, left + crop_w, top + crop_h)
    crop = np.asarray(Image.fromarray(photo).resize((size, size), Image.Resampling.BILINEAR, box))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def film_look(lightness: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast, exposure and grain of old film, on a quarter of the pictures; lightness [B, 1, S, S] in 0..1."""
    count = len(lightness)
    draw = torch.rand(4, count, 1, 1, 1, generator=generator)
    touched = draw[0] < 0.25
    gamma = torch.exp((draw[1] - 0.5) * 0.8)
    grain = torch.randn(lightness.shape, generator=generator) * draw[2] * 0.04
    changed = (lightness.clamp(min=0) ** gamma * (0.8 + 0.2 * draw[3]) + grain).clamp(0, 1)
    return torch.where(touched, changed, lightness)


class Batches:
    """Endless shuffled batches of random crops, made by a thread while the network works.

    Args:
        photos: What `load_photos` returned.
        batch: Pictures a batch.
        size: Width and height of a crop in pixels.
        seed: The same seed gives the same batches.
        skip: Batches already seen, when training resumes: the order goes on from there.
    """

    def __init__(self, photos: Sequence[tuple[str, Photo]], batch: int, size: int, seed: int, skip: int = 0) -> None:
        self._photos, self._batch, self._size, self._seed, self._skip = photos, batch, size, seed, skip
        self._ready: queue.Queue[Tensor | Exception] = queue.Queue(maxsize=3)
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        try:
            rng = np.random.default_rng([self._seed, self._skip])
            order = np.empty(0, np.int64)
            while True:
                while len(order) < self._batch:
                    order = np.concatenate([order, rng.permutation(len(self._photos))])
                chosen, order = order[: self._batch], order[self._batch :]
                crops = np.stack([random_crop(self._photos[i][1], self._size, rng) for i in chosen])
                self._ready.put(to_lab(crops))
        except Exception as error:  # noqa: BLE001 # handed to the consumer: a dead thread would hang the training
            self._ready.put(error)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield Lab [B, 3, S, S] float32 for ever."""
        while True:
            item = self._ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
