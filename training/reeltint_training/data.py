"""Photographs for training: folders and .tar files, decoded once into memory, cropped at random.

A photograph that cannot be read is named in a warning and left out; so is one without colour.
"""

import io
import logging
import queue
import tarfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from reeltint_training.color import srgb_to_lab

log = logging.getLogger(__name__)

SUFFIXES = {".webp", ".jpg", ".jpeg", ".png"}
SMALLEST = 7  # pixels: what SSIM's windows need
TAR_ERRORS = (tarfile.TarError, EOFError, zlib.error)
Photo = NDArray[np.uint8]  # [H, W, 3] sRGB
_AT_ONCE = 32  # files in memory, encoded
_T = TypeVar("_T")


class DataError(ValueError):
    """The data cannot train or measure a network: nothing found, or nothing with colour in it."""


def _encoded(source: Path) -> Iterator[tuple[str, bytes | str]]:
    """Name of each picture file, and what is in it, or what is wrong with it."""
    if source.is_dir():
        for path in sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES):
            try:
                found: bytes | str = path.read_bytes()
            except OSError as error:
                found = f"cannot be read: {error.strerror}"
            yield str(path), found
    elif source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            try:
                for member in tar:
                    if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                        stream = tar.extractfile(member)
                        assert stream is not None  # a regular file, checked above
                        yield f"{source}:{member.name}", stream.read()
            except TAR_ERRORS as error:
                yield f"the rest of {source}", f"cannot be read: {error}"
    else:
        raise DataError(f"{source}: neither a folder nor a .tar file")


def has_colour(pixels: Photo) -> bool:
    """Whether R, G and B differ by more than JPEG's faults: by 2 of 255 on average."""
    small = pixels[::4, ::4].astype(np.int16)
    return bool((small.max(-1) - small.min(-1)).mean() >= 2)


def _decode(item: tuple[str, bytes | str], longest: int | None) -> tuple[str, Photo | None, str]:
    name, encoded = item
    if isinstance(encoded, str):
        return name, None, encoded
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if longest:
                image.draft("RGB", (longest, longest))
            picture = ImageOps.exif_transpose(image)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        rgb = picture.convert("RGB")
        if longest and max(rgb.size) > longest:
            rgb.thumbnail((longest, longest), Image.Resampling.BOX)
    except Exception as error:  # noqa: BLE001 # a decoder that is given nonsense raises anything
        return name, None, f"cannot be read: {error}"
    pixels: Photo = np.asarray(rgb)
    if min(rgb.size) < SMALLEST:
        return name, None, f"is smaller than {SMALLEST} x {SMALLEST} pixels"
    if not has_colour(pixels):
        return name, None, "has no colour"
    return name, pixels, ""


def load_photos(sources: Sequence[Path], longest: int | None = 320) -> list[tuple[str, Photo]]:
    """Decode every photograph of folders and .tar files, upright, on white where it is transparent.

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
            files = _encoded(source)
            while some := list(islice(files, _AT_ONCE)):
                for name, pixels, problem in pool.map(lambda item: _decode(item, longest), some):
                    if pixels is None:
                        log.warning("%s %s; left out", name, problem)
                        left_out += 1
                    else:
                        photos.append((name, pixels))
    if not photos:
        places = ", ".join(map(str, sources))
        raise DataError(f"no colour photograph in {places} ({left_out} left out: unreadable or grey)")
    return photos


def evenly(items: Sequence[_T], limit: int) -> list[_T]:
    """`limit` of `items`, evenly spread; all of them where there are no more."""
    count = min(limit, len(items))
    return [items[k * len(items) // count] for k in range(count)]


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


def random_pair(photo: Photo, size: int, rng: np.random.Generator) -> Photo:
    """A frame and a reference of the same scene: two random crops, the second also turned, sheared and in perspective.

    Args:
        photo: [H, W, 3].
        size: Of both crops, in pixels.
        rng: Decides how far they differ: from hardly at all, as in a still camera's shot, to another view.

    Returns:
        [size, size, 6]: the frame's R, G, B, then the reference's.
    """
    height, width = photo.shape[:2]
    far = rng.random() ** 1.5
    side = np.array([width, height]) * rng.uniform(0.75, 1.0, 2)
    corner = rng.uniform(0, 1, 2) * ([width, height] - side)
    frame = Image.fromarray(photo).resize(
        (size, size), Image.Resampling.BILINEAR, (*corner, *np.minimum(corner + side, [width, height]))
    )
    centre = corner + side / 2 + far * rng.uniform(-0.15, 0.15, 2) * side
    angle = far * rng.normal(0, 0.12)
    half = side / 2 * np.exp(far * rng.normal(0, 0.15, 2)) * (-1 if rng.random() < 0.3 * far else 1, 1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    square = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) + far * rng.normal(0, 0.06, (4, 2))
    quad = np.clip(centre + (square * half) @ turn, 0, [width, height])
    reference = Image.fromarray(photo).transform(
        (size, size), Image.Transform.QUAD, quad.flatten().tolist(), Image.Resampling.BILINEAR
    )
    pair: Photo = np.concatenate([np.asarray(frame), np.asarray(reference)], -1)
    return pair[:, ::-1] if rng.random() < 0.5 else pair


def bend(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Bend half of the pictures [B, 3, S, S] smoothly, by up to a tenth of their size: limbs and faces that move."""
    count = len(pictures)
    coarse = torch.randn(count, 2, 5, 5, generator=generator)
    strength = torch.rand(count, 1, 1, 1, generator=generator) * 0.06
    strength = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, strength, 0.0)
    flow = functional.interpolate(coarse * strength, pictures.shape[-2:], mode="bicubic", align_corners=True)
    straight = functional.affine_grid(torch.eye(2, 3).expand(count, 2, 3), list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, straight + flow.movedim(1, -1), padding_mode="border", align_corners=False)


def move_objects(pair: Tensor, generator: torch.Generator) -> Tensor:
    """Put an object cut out of another photograph into two thirds of the pairs, and one more into any third of all.

    Three in five stand in both pictures, elsewhere, turned, larger or smaller, in another light: half of these near,
    half anywhere. One in five is only in the frame, as if it had come in, one in five only in the reference: what was
    behind it comes to light.

    Args:
        pair: [B, 2, 3, S, S]: the frame's L*, a*, b*, and the reference's.
        generator: Of all that is drawn.
    """
    count, _, _, size, _ = pair.shape
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    across, down = torch.meshgrid(axis, axis, indexing="xy")
    turns = torch.arange(1, 5)
    for order in (1, 2):
        draw = torch.rand(7, count, 1, 1, generator=generator)
        normal = torch.randn(5, count, 1, 1, generator=generator)
        waves = torch.rand(2, count, 1, 1, 4, generator=generator)
        place, far = (torch.rand(2, count, 1, 1, generator=generator) * 1.8 - 0.9 for _ in range(2))
        near = place + 0.15 * torch.randn(2, count, 1, 1, generator=generator)
        moved = torch.where(draw[3] < 0.5, near, far)
        foreign, source = pair[:, 0].roll(order, 0), draw[1:3] * 1.2 - 0.6
        radius, slender = 0.15 + 0.35 * draw[0], (0.4 * normal[4]).exp()
        has = draw[4] < 2 / 3 / order
        in_frame, in_reference = has & (draw[5] < 0.8), has & ((draw[5] < 0.6) | (draw[5] >= 0.8))
        mirrored = torch.where(draw[6] < 0.15, -1.0, 1.0)
        straight, same = torch.zeros_like(mirrored), torch.ones_like(mirrored)
        views = (
            (in_frame, place, straight, same, same),
            (in_reference, moved, 0.35 * normal[0], (0.15 * normal[1]).exp(), mirrored),
        )
        for which, (shown, (x, y), angle, scale, flip) in enumerate(views):
            cos, sin = angle.cos() / scale, angle.sin() / scale
            u = (cos * (across - x) + sin * (down - y)) * flip  # in the object's own coordinates
            v = cos * (down - y) - sin * (across - x)
            bumps = (0.3 * waves[0] * torch.cos(turns * torch.atan2(v, u)[..., None] + 6.3 * waves[1]) / turns).sum(-1)
            edge = radius * (1 + bumps) - torch.hypot(u * slender, v / slender)
            inside = ((edge * size / 2 + 0.5).clamp(0, 1) * shown)[:, None]
            grid = torch.stack([u + source[0], v + source[1]], -1)
            cut = functional.grid_sample(foreign, grid, padding_mode="reflection", align_corners=False)
            light = 1 + 0.06 * normal[2 + which][:, None]
            cut = torch.cat([(cut[:, :1] * light).clamp(0, 100), cut[:, 1:]], 1)
            pair[:, which] = pair[:, which] * (1 - inside) + cut * inside
    return pair


def mix_pairs(lab: Tensor, generator: torch.Generator) -> Tensor:
    """Make pairs harder, so that the reference must be read, and distrusted.

    Objects of other photographs stand in them and move (`move_objects`). In a third of the pairs ab is turned and
    scaled alike in both pictures: colours that lightness alone cannot tell. One reference in eight belongs to another
    pair.

    Args:
        lab: [B, 6, S, S]: the frame's L*, a*, b*, then the reference's.
        generator: Of all that is drawn.
    """
    count = len(lab)
    pair = move_objects(lab.unflatten(1, (2, 3)).clone(), generator)
    pair[:, 1] = bend(pair[:, 1], generator)

    draw = torch.rand(4, count, 1, 1, 1, 1, generator=generator)
    angle = (draw[0] * 2 - 1) * torch.pi
    scale = draw[1] + 0.4
    turned = draw[2] < 1 / 3
    cos = torch.where(turned, angle.cos() * scale, 1.0)
    sin = torch.where(turned, angle.sin() * scale, 0.0)
    lightness, a, b = pair.split(1, 2)
    pair = torch.cat([lightness, (cos * a - sin * b).clamp(-100, 100), (sin * a + cos * b).clamp(-100, 100)], 2)
    pair[:, 1] = torch.where(draw[3, ..., 0] < 1 / 8, pair[:, 1].roll(count // 2, 0), pair[:, 1])
    return pair.flatten(1, 2)


def make_batch(
    photos: Sequence[tuple[str, Photo]], batch: int, size: int, seed: int, step: int, *, pairs: bool = False
) -> Tensor:
    """Random crops of the photographs whose turn it is: each once an epoch, in an order of the epoch's own.

    Args:
        photos: What `load_photos` returned.
        batch: Pictures a batch.
        size: Width and height of a crop in pixels.
        seed: With `step` it decides everything.
        step: Batches before this one.
        pairs: Cut a frame and a reference.

    Returns:
        Lab [B, 3, S, S] float32, or [B, 6, S, S].
    """
    places = [divmod(place, len(photos)) for place in range(step * batch, (step + 1) * batch)]
    orders = {e: np.random.default_rng([seed, 0, e]).permutation(len(photos)) for e in {e for e, _ in places}}
    rng = np.random.default_rng([seed, 1, step])
    cut = random_pair if pairs else random_crop
    crops = np.stack([cut(photos[orders[epoch][place]][1], size, rng) for epoch, place in places])
    lab = torch.cat([to_lab(crops[..., k : k + 3]) for k in range(0, crops.shape[-1], 3)], 1)
    return mix_pairs(lab, torch.Generator().manual_seed(int(rng.integers(2**62)))) if pairs else lab


class Batches:
    """`make_batch` for step after step, by a thread while the network works.

    Args:
        photos: What `load_photos` returned.
        batch: Pictures a batch.
        size: Width and height of a crop in pixels.
        seed: The same seed gives the same batches.
        skip: Batches already seen, when training resumes: the order goes on from there.
        pairs: Yield a frame and a reference, [B, 6, S, S].
    """

    def __init__(
        self,
        photos: Sequence[tuple[str, Photo]],
        batch: int,
        size: int,
        seed: int,
        skip: int = 0,
        *,
        pairs: bool = False,
    ) -> None:
        self._make = partial(make_batch, photos, batch, size, seed, pairs=pairs)
        self._step = skip
        self._ready: queue.Queue[Tensor | Exception] = queue.Queue(maxsize=3)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)
        self._thread.start()

    def _fill(self) -> None:
        try:
            while not self._closed.is_set():
                self._ready.put(self._make(self._step))
                self._step += 1
        except Exception as error:  # noqa: BLE001 # handed to the consumer: a dead thread would hang the training
            self._ready.put(error)

    def close(self) -> None:
        """End the thread and let go of what it has made."""
        self._closed.set()
        while self._thread.is_alive() or not self._ready.empty():
            with suppress(queue.Empty):
                self._ready.get(timeout=0.05)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield Lab [B, 3, S, S] float32 for ever, or [B, 6, S, S]."""
        while True:
            item = self._ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
