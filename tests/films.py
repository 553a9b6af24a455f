"""Small films for tests, made with PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from numpy.typing import NDArray

LOSSLESS = {"libx264": {"qp": "0", "preset": "ultrafast"}, "ffv1": {}}


def plane(picture: VideoFrame, index: int) -> NDArray[Any]:
    """The samples of a plane, (h, w): a writable view."""
    view = picture.planes[index]
    part = next(part for part in picture.format.components if part.plane == index)
    kind = np.dtype(np.uint8 if part.bits == 8 else np.uint16)
    samples: NDArray[Any] = np.ndarray(
        (view.height, view.width),
        kind,
        buffer=view,  # type: ignore[arg-type]  # it has the buffer protocol
        strides=(view.line_size, kind.itemsize),
    )
    return samples


def pictures(count: int, width: int, height: int, bits: int = 8, seed: int = 0) -> NDArray[Any]:
    """Moving noise over every code value, (count, height, width)."""
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 1 << bits, (height, width + count), np.uint16)
    still[::4] = np.linspace(0, (1 << bits) - 1, width + count)
    moving: NDArray[Any] = np.stack([still[:, index : index + width] for index in range(count)])
    return moving.astype(np.uint8) if bits == 8 else moving


def make_film(
    path: Path,
    *,
    encoder: str = "ffv1",
    pixel_format: str = "yuv420p",
    width: int = 64,
    height: int = 48,
    pts: Sequence[int] = range(20),
    time_base: Fraction = Fraction(1, 25),
    rate: Fraction = Fraction(25),
    full_range: bool = False,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    rotation: int = 0,
    aspect: Fraction | None = None,
    primaries: int = 2,
    transfer: int = 2,
    gop: int | None = None,
    tone_s: tuple[float, float] | None = None,
) -> NDArray[Any]:
    """Write a film of moving noise and return its luma, (count, height, width), in code values.

    `tone_s` adds two audio streams (eng, deu), silence but for noise, from and to these times.
    """
    with av.open(str(path), "w", container_options=container or {}) as film:
        video = film.add_stream(encoder, rate=rate, time_base=time_base, width=width, height=height)
        assert isinstance(video, VideoStream)
        video.pix_fmt = pixel_format
        context = video.codec_context
        context.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
        context.color_primaries, context.color_trc, context.colorspace = primaries, transfer, 1
        context.options = dict(LOSSLESS.get(encoder, {}) if options is None else options)
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if gop is not None:
            context.gop_size = gop
        if rotation:
            video.set_display_rotation(rotation)
        sounds = [film.add_stream("pcm_s16le", rate=8000) for _ in ("eng", "deu") if tone_s is not None]
        for sound, language in zip(sounds, ("eng", "deu"), strict=False):
            sound.layout = "mono"
            sound.metadata["language"] = language
        film.start_encoding()
        bits = video.format.components[0].bits
        luma = pictures(len(pts), width, height, bits)
        for values, time in zip(luma, pts, strict=True):
            picture = VideoFrame(width, height, pixel_format)
            for index in range(len(picture.planes)):
                plane(picture, index)[:] = values if index == 0 else 1 << (bits - 1)
            picture.pts, picture.time_base = time, time_base
            picture.color_range = context.color_range
            film.mux(video.encode(picture))
        if tone_s is not None:
            first, last = (round(time * 8000) for time in tone_s)
            for start in range(first, last, 800):
                for sound in sounds:
                    noise = np.random.default_rng(abs(start)).integers(-9, 9, (1, 800), np.int16)
                    block = av.AudioFrame.from_ndarray(noise, "s16", "mono")
                    block.sample_rate, block.pts, block.time_base = 8000, start, Fraction(1, 8000)
                    film.mux(sound.encode(block))
        film.mux(video.encode(None))
    return luma


def hurt(path: Path, at: int, **options: Any) -> tuple[bytearray, slice]:
    """Make a film; returns its bytes, and where among them one of its packets is."""
    make_film(path, **options)
    with av.open(str(path)) as film:
        packet = [packet for packet in film.demux(video=0) if packet.size][at]
        assert packet.pos is not None
        data = path.read_bytes()
        start = data.index(bytes(packet), packet.pos)
        return bytearray(data), slice(start, start + packet.size)


def damaged(tmp_path: Path, at: int) -> Path:
    """60 pictures at 25 a second, the packet of one of them overwritten."""
    options = {"bf": "0", "crf": "10"}
    data, packet = hurt(tmp_path / "whole.mp4", at, encoder="libx264", options=options, pts=range(60), gop=12)
    data[packet] = bytes(len(data[packet]))
    (tmp_path / "in.mp4").write_bytes(data)
    return tmp_path / "in.mp4"
