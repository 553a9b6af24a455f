"""Stills: read as grey, written in colour."""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from reeltint._errors import FilmError, InvalidRequest
from reeltint._film_partial import create_partial
from reeltint._film_read import Luma, LumaExtractor, code_table, reason
from reeltint._film_write import QP_TO_LAMBDA

_ENCODERS = {
    ".png": ("png", "rgb24"), ".jpg": ("mjpeg", "yuvj444p"), ".jpeg": ("mjpeg", "yuvj444p"),
    ".tif": ("tiff", "rgb24"), ".tiff": ("tiff", "rgb24"), ".bmp": ("bmp", "bgr24"), ".webp": ("libwebp", "bgra"),
}  # fmt: skip
STILL_SUFFIXES = frozenset(_ENCODERS)


def read_still(path: Path | str) -> NDArray[np.uint8]:
    """Read a picture (PNG, JPEG, WebP, TIFF, BMP, …) as grey.

    A luma plane (JPEG, WebP: BT.601 as those formats define it) is taken as it is, RGB is reduced by BT.709,
    transparency is ignored, an EXIF orientation applied.

    Returns:
        (H, W), full range 0..255.

    Raises:
        FilmError: no such file, or not a picture.
    """
    with _decoded(Path(path)) as (picture, orientation):
        luma, bits, full_range = LumaExtractor()(picture, rgb_to_full_range=True)
        if bits != 8 or not full_range:
            luma = code_table(bits, full_range, 8, True)[luma]
        return np.ascontiguousarray(_upright(luma, orientation), np.uint8)


def read_still_rgb(path: Path | str) -> NDArray[np.uint8]:
    """Read a picture in colour.

    Untagged JPEG and WebP are BT.601, as those formats define it; transparency is ignored, an EXIF orientation applied.

    Returns:
        (H, W, 3), sRGB 0..255; a grey picture has three equal planes.

    Raises:
        FilmError: no such file, or not a picture.
    """
    with _decoded(Path(path)) as (picture, orientation):
        how = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
        rgb = np.asarray(picture.reformat(format="rgb24", interpolation=how).to_ndarray(), np.uint8)
        return np.ascontiguousarray(_upright(rgb, orientation), np.uint8)


@contextmanager
def _decoded(path: Path) -> Iterator[tuple[VideoFrame, int]]:
    """The picture of a file and its orientation."""
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            if container.format.name == "tty" or not container.streams.video:
                raise FilmError(path, "not a picture")
            picture = next(container.decode(video=0))
            yield picture, _orientation(path.read_bytes())
    except (FFmpegError, StopIteration, ValueError, OSError) as error:
        raise FilmError(path, f"not a picture that can be read ({reason(error) or 'empty'})") from error


def write_still(path: Path | str, rgb: NDArray[np.uint8]) -> None:
    """Write a picture; the suffix chooses PNG, JPEG, TIFF, BMP or WebP. It appears under its name only when whole.

    Args:
        path: The picture to write.
        rgb: (H, W, 3), sRGB 0..255.

    Raises:
        InvalidRequest: `rgb` has another shape or type; unknown suffix, or no folder for it.
        FilmError: the picture cannot be written.
    """
    path = Path(path)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size:
        raise InvalidRequest(f"a picture is uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}")
    if path.suffix.lower() not in _ENCODERS:
        raise InvalidRequest(f"{path}: the suffix is none of {', '.join(_ENCODERS)}")
    encoder, pixel_format = _ENCODERS[path.suffix.lower()]
    partial = create_partial(path)
    try:
        context = av.Codec(encoder, "w").create("video")
        context.height, context.width = rgb.shape[:2]
        context.pix_fmt, context.time_base = pixel_format, Fraction(1)
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
        if encoder == "mjpeg":
            context.color_range, context.qscale, context.global_quality = ColorRange.JPEG, True, 2 * QP_TO_LAMBDA
            frame = frame.reformat(
                format=pixel_format, dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.JPEG,
                interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
            )  # fmt: skip
        packets = context.encode(frame) + context.encode(None)
        partial.write_bytes(b"".join(bytes(packet) for packet in packets))
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, FFmpegError | OSError | ValueError):
            raise FilmError(path, f"cannot be written ({reason(error)})") from error
        raise


def _orientation(data: bytes) -> int:
    """Read the EXIF orientation, 1 to 8, out of a picture file (EXIF 2.32, 4.6.4 A); 1 where there is none.

    A TIFF begins with the same directory of tags that the others carry.

    PyAV tells the angle only, which is not enough for mirrored pictures.
    """
    found = re.search(rb"(?:\A|Exif\0\0|eXIf|EXIF.{4})(II\*\0|MM\0\*)", data, re.DOTALL)
    with suppress(struct.error):
        if found:
            order, start = ("<" if found[1][:1] == b"I" else ">"), found.start(1)
            first = start + struct.unpack_from(order + "I", data, start + 4)[0]
            for entry in range(struct.unpack_from(order + "H", data, first)[0]):
                tag, _, _, value = struct.unpack_from(order + "HHIH", data, first + 2 + 12 * entry)
                if tag == 0x0112 and 1 <= value <= 8:
                    return int(value)
    return 1


def _upright(picture: Luma, orientation: int) -> Luma:
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    return picture[:: -1 if orientation in {3, 4, 7, 8} else 1, :: -1 if orientation in {2, 3, 6, 7} else 1]
