"""Film and still input and output, on small films made here; nothing is mocked."""

import math
import os
import re
import struct
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from films import damaged, hurt, make_film, pictures, plane
from numpy.typing import NDArray
from reeltint import _film_write
from reeltint._errors import FilmError, InvalidRequest
from reeltint._film import FilmFrame, FilmReader, FilmWriter, read_still, write_still
from reeltint._film_read import LumaExtractor, code_table

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips.tar"
LOSSLESS: dict[str, dict[str, Any]] = {
    ".mp4": {"quality": 0, "preset": "ultrafast"},
    ".mov": {"quality": 0, "preset": "ultrafast"},
    ".mkv": {"encoder": "ffv1"},
    ".avi": {"encoder": "ffv1"},
}


def chroma_for(width: int, height: int, cb: int = 100, cr: int = 160) -> NDArray[np.uint8]:
    chroma = np.empty((2, (height + 1) // 2, (width + 1) // 2), np.uint8)
    chroma[0], chroma[1] = cb, cr
    return chroma


def colour(
    source: Path, output: Path, *, start_s: float | None = None, end_s: float | None = None, **options: Any
) -> list[str]:
    """Give a film one constant colour; returns the warnings."""
    with FilmReader(source, start_s=start_s, end_s=end_s) as reader:
        chroma = chroma_for(reader.info.width, reader.info.height)
        with FilmWriter(output, reader, **options) as writer:
            for frame in reader:
                writer.write(frame, chroma)
    return reader.warnings + writer.warnings


def read(path: Path, **options: Any) -> list[FilmFrame]:
    with FilmReader(path, **options) as reader:
        return list(reader)


def times(frames: Sequence[FilmFrame]) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames]


def planes(path: Path) -> list[NDArray[Any]]:
    """The three planes of the first picture."""
    with av.open(str(path)) as film:
        picture = next(film.decode(video=0))
        return [plane(picture, index).copy() for index in range(3)]


def packets(path: Path, kind: str) -> list[list[tuple[Fraction | None, bytes]]]:
    """Time and content of all packets, for each stream of a kind."""
    with av.open(str(path)) as film:
        found: dict[int, list[tuple[Fraction | None, bytes]]] = {
            stream.index: [] for stream in film.streams if stream.type == kind
        }
        for packet in film.demux():
            if packet.size and packet.stream_index in found:
                time = None if packet.pts is None else packet.pts * packet.time_base
                found[packet.stream_index].append((time, bytes(packet)))
    return list(found.values())


# Luma unchanged


@pytest.mark.parametrize("suffix", list(LOSSLESS))
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 1)], ids=str)
@pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
def test_luma_goes_out_bit_for_bit(
    tmp_path: Path, suffix: str, pixel_format: str, size: tuple[int, int], full_range: bool
) -> None:
    source, output = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    luma = make_film(
        source, pixel_format=pixel_format, width=size[0], height=size[1], full_range=full_range, pts=range(12)
    )

    warnings = colour(source, output, **LOSSLESS[suffix])

    was, now = read(source), read(output)
    assert np.array_equal([frame.luma for frame in was], luma)
    assert np.array_equal([frame.luma for frame in now], luma)
    assert times(was) == times(now) == [Fraction(index, 25) for index in range(12)]
    assert now[0].bit_depth == was[0].bit_depth == (10 if "10" in pixel_format else 8)
    if suffix == ".avi" and full_range:
        assert "the full range" in warnings[0]
    else:
        assert (now[0].full_range, warnings) == (full_range, [])
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize(
    ("pixel_format", "bits"),
    [("gray", 8), ("gray10le", 10), ("yuv422p", 8), ("yuv444p10le", 10), ("yuv420p9le", 9), ("yuv420p12le", 12),
     ("yuv420p16le", 16)],
)  # fmt: skip
def test_other_luma_formats_survive_in_ffv1(tmp_path: Path, pixel_format: str, bits: int) -> None:
    luma = make_film(tmp_path / "in.mkv", pixel_format=pixel_format, pts=range(5))

    colour(tmp_path / "in.mkv", tmp_path / "out.mkv", encoder="ffv1")

    now = read(tmp_path / "out.mkv")
    assert np.array_equal([frame.luma for frame in now], luma)
    assert now[0].bit_depth == bits


@pytest.mark.parametrize(
    ("pixel_format", "bits"),
    [("nv12", 8), ("nv16", 8), ("p010le", 10), ("p010be", 10), ("p210le", 10), ("p012le", 12), ("p016le", 16),
     ("yuv420p10be", 10), ("gray16be", 16), ("yuyv422", 8), ("uyvy422", 8), ("ya8", 8), ("ya16le", 16),
     ("yuvj420p", 8), ("y210le", 10), ("yuv411p", 8), ("yuva444p", 8)],
)  # fmt: skip
def test_luma_plane_of_every_layout_is_taken_as_it_is(pixel_format: str, bits: int) -> None:
    values = pictures(1, 32, 8, bits)[0]
    planar = VideoFrame(32, 8, "gray" if bits == 8 else f"gray{bits}le")
    plane(planar, 0)[:] = values
    picture = VideoFrame(32, 8, pixel_format)
    raw = np.frombuffer(picture.planes[0], np.uint8).reshape(8, -1)  # type: ignore[call-overload]
    order = ">u2" if pixel_format.endswith("be") else "<u2"
    step, first = {"yuyv422": (2, 0), "uyvy422": (2, 1), "ya8": (2, 0), "ya16le": (2, 0), "y210le": (2, 0)}.get(
        pixel_format, (1, 0)
    )
    shift = 16 - bits if pixel_format.startswith(("p0", "p2", "y2")) else 0
    samples = raw if bits == 8 else raw.view(order)
    samples[:, first : first + 32 * step : step] = values << shift if shift else values

    luma, depth, _ = LumaExtractor()(picture)

    assert (depth, luma.dtype.itemsize) == (bits, 1 if bits == 8 else 2)
    assert np.array_equal(luma, values)
    with pytest.raises(ValueError, match="read-only"):
        luma[0, 0] = 1


@pytest.mark.parametrize("pixel_format", ["rgb24", "gbrp", "bgra", "gbrp10le", "rgb48le", "pal8"])
def test_rgb_is_reduced_by_bt709(pixel_format: str) -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frame = VideoFrame.from_ndarray(rgb, "rgb24")
    if pixel_format == "pal8":
        rgb = np.full((48, 64, 3), (200, 30, 90), np.uint8)
        frame = VideoFrame(64, 48, "pal8")
        np.frombuffer(frame.planes[0], np.uint8)[:] = 3  # type: ignore[call-overload]
        np.frombuffer(frame.planes[1], np.uint32)[3] = 0xFF000000 | 200 << 16 | 30 << 8 | 90  # type: ignore[call-overload]
    elif pixel_format != "rgb24":
        frame = frame.reformat(format=pixel_format)
    expected = rgb @ np.array([0.2126, 0.7152, 0.0722])  # ITU-R BT.709-6, 3.2

    luma, bits, full_range = LumaExtractor()(frame)

    assert not full_range
    grey = code_table(bits, False, 8, True)[luma]
    assert np.abs(grey - expected).max() <= 1.6
    assert bits == (10 if "10" in pixel_format or "48" in pixel_format else 8)


def test_one_bit_pictures_become_black_and_white() -> None:
    frame = VideoFrame(64, 16, "monob")
    np.frombuffer(frame.planes[0], np.uint8)[:] = 0xF0  # type: ignore[call-overload]

    luma, bits, full_range = LumaExtractor()(frame)

    grey = code_table(bits, full_range, 8, True)[luma]
    assert np.unique(grey).tolist() == [0, 255]
    assert (grey[:, :4] == 255).all()


def test_grey_expands_limited_range_and_rounds_high_depths(tmp_path: Path) -> None:
    def grey(value: int, bits: int, full_range: bool) -> int:
        luma = np.full((2, 3), value, np.uint8) if bits == 8 else np.full((2, 3), value, np.uint16)
        frame = FilmFrame(
            luma=luma, bit_depth=bits, full_range=full_range, pts=0, duration=1, time_base=Fraction(1, 25)
        )
        result = frame.grey()
        assert result.shape == (2, 3)
        assert result.dtype == np.uint8
        return int(result[1, 2])

    # ITU-R BT.709-6 and BT.2100-2, quantisation: limited black 16, white 235, times 2^(n-8)
    assert [grey(code, 8, False) for code in (0, 16, 17, 126, 235, 255)] == [0, 0, 1, 128, 255, 255]
    assert [grey(code, 10, False) for code in (0, 64, 502, 940, 1023)] == [0, 0, 128, 255, 255]
    assert [grey(code, 8, True) for code in (0, 16, 255)] == [0, 16, 255]
    assert [grey(code, 10, True) for code in (0, 2, 3, 1021, 1023)] == [0, 0, 1, 255, 255]
    assert [grey(code, 16, True) for code in (0, 128, 129, 65535)] == [0, 0, 1, 255]
    assert [grey(code, 12, False) for code in (256, 3760)] == [0, 255]


# Chroma, range, formats


@pytest.mark.parametrize(
    ("bits", "full_range", "expected"),
    [
        (8, False, (100, 160)),
        (10, False, (400, 640)),
        (8, True, (round(128 - 28 * 255 / 224), round(128 + 32 * 255 / 224))),
        (10, True, (round(512 - 28 * 1023 / 224), round(512 + 32 * 1023 / 224))),
    ],
)
def test_chroma_is_written_in_depth_and_range_of_the_film(
    tmp_path: Path, bits: int, full_range: bool, expected: tuple[int, int]
) -> None:
    form = "yuv420p" if bits == 8 else "yuv420p10le"
    make_film(tmp_path / "in.mkv", pixel_format=form, full_range=full_range, pts=range(3))

    colour(tmp_path / "in.mkv", tmp_path / "out.mkv", encoder="ffv1")

    _, cb, cr = planes(tmp_path / "out.mkv")
    assert (np.unique(cb).tolist(), np.unique(cr).tolist()) == ([expected[0]], [expected[1]])


def test_odd_sizes_repeat_chroma_into_444(tmp_path: Path) -> None:
    make_film(tmp_path / "in.mkv", width=9, height=7, pts=range(1))
    chroma = np.arange(40, 80, dtype=np.uint8).reshape(2, 4, 5)

    with FilmReader(tmp_path / "in.mkv") as source, FilmWriter(tmp_path / "out.mkv", source, encoder="ffv1") as film:
        for frame in source:
            film.write(frame, chroma)

    _, cb, cr = planes(tmp_path / "out.mkv")
    assert cb[:2].tolist() == [[40, 40, 41, 41, 42, 42, 43, 43, 44]] * 2
    assert cb[6].tolist() == [55, 55, 56, 56, 57, 57, 58, 58, 59]
    assert cr[6].tolist() == [75, 75, 76, 76, 77, 77, 78, 78, 79]


@pytest.mark.parametrize("size", [(64, 48), (63, 47)], ids=str)
def test_side_by_side_is_grey_then_colour(tmp_path: Path, size: tuple[int, int]) -> None:
    luma = make_film(tmp_path / "in.mkv", width=size[0], height=size[1], pts=range(2))

    colour(tmp_path / "in.mkv", tmp_path / "out.mkv", encoder="ffv1", side_by_side=True)

    y, cb, cr = planes(tmp_path / "out.mkv")
    assert np.array_equal(y, np.hstack([luma[0], luma[0]]))
    half = cb.shape[1] // 2
    assert (cb[:, :half] == 128).all()
    assert (cr[:, :half] == 128).all()
    assert (cb[:, half:] == 100).all()
    assert (cr[:, half:] == 160).all()


def test_pixel_format_can_be_chosen_with_other_depth(tmp_path: Path) -> None:
    luma = make_film(tmp_path / "in.mkv", pixel_format="yuv420p12le", pts=range(3))

    colour(tmp_path / "in.mkv", tmp_path / "out.mp4", quality=0, pixel_format="yuv422p10le", preset="ultrafast")

    now = read(tmp_path / "out.mp4")
    assert np.array_equal([frame.luma for frame in now], np.minimum((luma + 2) >> 2, 1023))
    assert planes(tmp_path / "out.mp4")[1].shape == (48, 32)


def test_aspect_rotation_and_colour_tags_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    make_film(source, encoder="libx264", rotation=90, aspect=Fraction(4, 3), primaries=6, transfer=6, full_range=True)

    for suffix in (".mp4", ".mov", ".mkv"):
        output = tmp_path / f"out{suffix}"
        assert colour(source, output, preset="ultrafast") == []
        with FilmReader(output) as film, av.open(str(output)) as container:
            assert (film.info.rotation, film.info.sample_aspect_ratio) == (90, Fraction(4, 3))
            picture = next(container.decode(video=0))
            assert (picture.color_primaries, picture.color_trc, picture.colorspace) == (6, 6, 1)
            assert picture.color_range == ColorRange.JPEG

    assert "the rotation by 90°" in " ".join(colour(tmp_path / "in.mp4", tmp_path / "out.avi", preset="ultrafast"))


# Times


VARIABLE = [0, 1, 7, 8, 100, 101, 350, 351, 352, 1000, 1040, 2000]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("begin", [0, 1500])
def test_variable_frame_rate_is_kept(tmp_path: Path, suffix: str, begin: int) -> None:
    pts = [begin + time for time in VARIABLE]
    make_film(tmp_path / "in.mkv", pts=pts, time_base=Fraction(1, 1000))

    colour(tmp_path / "in.mkv", tmp_path / f"out{suffix}", preset="veryfast")

    assert times(read(tmp_path / f"out{suffix}")) == [Fraction(time, 1000) for time in pts]


def test_ntsc_times_are_exact_with_b_frames(tmp_path: Path) -> None:
    tick = Fraction(1001, 30000)
    make_film(tmp_path / "in.mp4", encoder="libx264", options={}, time_base=tick, rate=1 / tick, pts=range(40))

    assert colour(tmp_path / "in.mp4", tmp_path / "out.mp4", preset="medium") == []

    assert times(read(tmp_path / "out.mp4")) == [index * tick for index in range(40)]
    with FilmReader(tmp_path / "out.mp4") as film:
        assert (film.info.frame_rate, film.info.frame_count) == (Fraction(30000, 1001), 40)
        assert film.info.duration_s == pytest.approx(float(40 * tick))


def test_avi_says_that_it_cannot_hold_variable_frame_rate(tmp_path: Path) -> None:
    make_film(tmp_path / "in.mkv", pts=[0, 40, 90, 160], time_base=Fraction(1, 1000))

    assert "fixed frame rate" in " ".join(colour(tmp_path / "in.mkv", tmp_path / "out.avi", encoder="ffv1"))

    make_film(tmp_path / "close.mkv", pts=[0, 1, 2, 400], time_base=Fraction(1, 1000))
    with pytest.raises(FilmError, match="cannot tell this picture's time"):
        colour(tmp_path / "close.mkv", tmp_path / "close.avi", encoder="ffv1")


# Trimming


@pytest.mark.parametrize("encoder", ["libx264", "ffv1"])
@pytest.mark.parametrize(
    ("start_s", "end_s", "first", "last"),
    [(None, 1.1, 0, 11), (1.1, None, 11, 120), (5.0, 7.0, 50, 70), (4.95, 7.01, 50, 71), (11.9, 99, 119, 120)],
)
def test_trimming_is_exact(
    tmp_path: Path, encoder: str, start_s: float | None, end_s: float | None, first: int, last: int
) -> None:
    luma = make_film(
        tmp_path / "in.mkv", encoder=encoder, options={"crf": "0"} if encoder == "libx264" else {}, rate=Fraction(10),
        time_base=Fraction(1, 10), pts=range(120), gop=37, tone_s=(0, 12),
    )  # fmt: skip

    colour(tmp_path / "in.mkv", tmp_path / "out.mkv", start_s=start_s, end_s=end_s, encoder="ffv1")

    frames = read(tmp_path / "out.mkv")
    assert np.array_equal([frame.luma for frame in frames], luma[first:last])
    assert times(frames) == [Fraction(index, 10) for index in range(last - first)]
    was, now = packets(tmp_path / "in.mkv", "audio")[0], packets(tmp_path / "out.mkv", "audio")[0]
    cut = Fraction(first, 10)
    limit = math.inf if end_s is None else Fraction(end_s).limit_denominator(1000)
    assert now == [(time - cut, data) for time, data in was if time is not None and cut <= time < limit]
    assert now


def test_trimming_where_no_seeking_is_possible(tmp_path: Path) -> None:
    luma = make_film(tmp_path / "in.h264", encoder="libx264", pts=range(150), gop=250)

    frames = read(tmp_path / "in.h264", start_s=5.0)

    assert np.array_equal([frame.luma for frame in frames], luma[125:])


def test_a_range_without_pictures_is_an_error(tmp_path: Path) -> None:
    make_film(tmp_path / "in.mkv")

    with pytest.raises(FilmError, match="no picture in it from 60 s on"):
        FilmReader(tmp_path / "in.mkv", start_s=60)
    with pytest.raises(InvalidRequest, match="nothing lies between"):
        FilmReader(tmp_path / "in.mkv", start_s=2, end_s=1)


# Other streams


def rich_film(path: Path) -> None:
    """A film with two sounds, subtitles, attachment, chapters and tags."""
    luma = pictures(75, 64, 48)
    with av.open(str(path), "w", container_options={"default_mode": "passthrough"}) as film:
        video = film.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height = 64, 48
        sounds = [film.add_stream("aac", rate=48000), film.add_stream("ac3", rate=48000)]
        for sound, language in zip(sounds, ("eng", "deu"), strict=True):
            sound.layout = "stereo"
            sound.metadata["language"] = language
        sounds[1].disposition = Disposition.comment
        sounds[1].metadata["title"] = "Kommentar"
        text = film.add_mux_stream("mov_text" if path.suffix == ".mp4" else "subrip")
        text.time_base = Fraction(1, 1000)
        text.metadata["language"] = "fra"
        if path.suffix == ".mkv":
            film.add_attachment("type.ttf", "application/x-truetype-font", b"letters" * 9)
        film.metadata.update(title="A film", artist="Someone", reel="seven")
        film.set_chapters([
            {"id": 1, "start": 0, "end": 1000, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}},
            {"id": 2, "start": 1000, "end": 3000, "time_base": Fraction(1, 1000), "metadata": {"title": "two"}},
        ])  # fmt: skip
        film.start_encoding()
        noise = np.random.default_rng(0).normal(0, 0.1, (75, 2, 1920)).astype(np.float32)
        for index in range(75):
            picture = VideoFrame(64, 48, "yuv420p")
            for part in range(3):
                plane(picture, part)[:] = luma[index] if part == 0 else 128
            picture.pts, picture.time_base = index, Fraction(1, 25)
            film.mux(video.encode(picture))
            for sound in sounds:
                block = av.AudioFrame.from_ndarray(noise[index], "fltp", "stereo")
                block.sample_rate, block.pts, block.time_base = 48000, index * 1920, Fraction(1, 48000)
                film.mux(sound.encode(block))
            if index in (10, 50):
                words = b"Words"
                packet = av.Packet(struct.pack(">H", len(words)) + words if path.suffix == ".mp4" else words)
                packet.pts = packet.dts = index * 40
                packet.duration, packet.time_base, packet.stream = 1000, Fraction(1, 1000), text
                film.mux(packet)
        film.mux(video.encode(None))
        for sound in sounds:
            film.mux(sound.encode(None))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_all_other_streams_are_copied(tmp_path: Path, suffix: str) -> None:
    source, output = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    rich_film(source)

    assert colour(source, output, preset="ultrafast") == []

    for kind in ("audio", "subtitle"):
        was, now = packets(source, kind), packets(output, kind)
        assert len(was) == len(now) == (2 if kind == "audio" else 1)
        if kind == "subtitle":  # MP4 fills the gaps with empty ones
            was, now = ([[entry for entry in one if len(entry[1]) > 2] for one in each] for each in (was, now))
        assert was == now
    with av.open(str(source)) as one, av.open(str(output)) as other:
        assert [chapter["metadata"] for chapter in other.chapters()] == [{"title": "one"}, {"title": "two"}]
        assert [c["start"] * c["time_base"] for c in other.chapters() if c["time_base"]] == [0, 1]
        assert other.metadata["title"] == "A film"
        assert {k.lower(): v for k, v in other.metadata.items()}.items() >= {"artist": "Someone"}.items()
        for was_stream, stream in zip(one.streams, other.streams, strict=True):
            assert (stream.type, stream.language) == (was_stream.type, was_stream.language)
            assert stream.disposition == was_stream.disposition
        assert other.streams.audio[1].metadata.get("title", other.streams.audio[1].metadata.get("name")) == "Kommentar"
        assert [item.data for item in other.streams.attachments] == [item.data for item in one.streams.attachments]
        if suffix == ".mkv":
            assert other.metadata["REEL"] == "seven"
            assert other.streams.attachments[0].data == b"letters" * 9


def test_what_the_container_cannot_hold_is_named(tmp_path: Path) -> None:
    rich_film(tmp_path / "in.mkv")

    warnings = " ".join(colour(tmp_path / "in.mkv", tmp_path / "out.mp4", preset="ultrafast"))

    assert "stream 3 (subtitle, srt, fra) is left out" in warnings
    assert "type.ttf" in warnings
    with av.open(str(tmp_path / "out.mp4")) as film:
        assert film.metadata["REEL"] == "seven"
        assert film.metadata["artist"] == "Someone"
        assert len(film.streams.audio) == 2


def test_sound_without_a_channel_layout_goes_into_mp4(tmp_path: Path) -> None:
    make_film(tmp_path / "in.mkv", tone_s=(0, 0.8))

    assert colour(tmp_path / "in.mkv", tmp_path / "out.mp4", preset="ultrafast") == []

    was, now = packets(tmp_path / "in.mkv", "audio"), packets(tmp_path / "out.mp4", "audio")
    assert len(now) == 2
    assert [b"".join(data for _, data in one) for one in now] == [b"".join(data for _, data in one) for one in was]


def test_subtitles_and_chapters_are_trimmed(tmp_path: Path) -> None:
    rich_film(tmp_path / "in.mkv")

    colour(tmp_path / "in.mkv", tmp_path / "out.mkv", start_s=0.8, end_s=2.4, preset="ultrafast")

    with av.open(str(tmp_path / "out.mkv")) as film:
        spans = [
            (packet.pts * packet.time_base, ((packet.pts or 0) + (packet.duration or 0)) * packet.time_base)
            for packet in film.demux(subtitles=0)
            if packet.pts is not None
        ]
        assert spans == [(0, Fraction(6, 10)), (Fraction(12, 10), Fraction(16, 10))]
        assert [(c["start"], c["end"]) for c in film.chapters()] == [(0, 200_000_000), (200_000_000, 1_600_000_000)]


@pytest.mark.parametrize("begin_s", [-0.5, 0.75])
def test_sound_keeps_its_offset_to_the_picture(tmp_path: Path, begin_s: float) -> None:
    make_film(tmp_path / "in.mov", encoder="libx264", pts=range(50), tone_s=(begin_s, 2.0))
    was = packets(tmp_path / "in.mov", "audio")

    assert colour(tmp_path / "in.mov", tmp_path / "out.mov", preset="ultrafast") == []

    assert packets(tmp_path / "out.mov", "audio") == was
    assert was[0][0][0] == pytest.approx(begin_s, abs=0.2)
    assert times(read(tmp_path / "out.mov"))[0] == 0


def test_cover_art_is_copied_and_not_coloured(tmp_path: Path) -> None:
    write_still(tmp_path / "cover.png", np.full((20, 30, 3), 90, np.uint8))
    make_film(tmp_path / "plain.mp4", encoder="libx264")
    with (
        av.open(str(tmp_path / "plain.mp4")) as plain,
        av.open(str(tmp_path / "cover.png")) as cover,
        av.open(str(tmp_path / "in.mp4"), "w") as film,
    ):
        art = film.add_stream_from_template(cover.streams.video[0], opaque=True)
        art.disposition = Disposition.attached_pic
        video = film.add_stream_from_template(plain.streams.video[0], opaque=True)
        for container, stream in ((cover, art), (plain, video)):
            for packet in container.demux():
                if packet.size:
                    packet.stream = stream
                    film.mux(packet)

    assert colour(tmp_path / "in.mp4", tmp_path / "out.mp4", preset="ultrafast") == []

    with av.open(str(tmp_path / "out.mp4")) as film:
        arts = [stream for stream in film.streams.video if stream.disposition & Disposition.attached_pic]
        assert len(film.streams.video) == 2
        assert [(art.width, art.height) for art in arts] == [(30, 20)]

    with av.open(str(tmp_path / "song.mp4"), "w") as song, av.open(str(tmp_path / "cover.png")) as cover:
        art = song.add_stream_from_template(cover.streams.video[0], opaque=True)
        art.disposition = Disposition.attached_pic
        for packet in cover.demux():
            if packet.size:
                packet.stream = art
                song.mux(packet)
    with pytest.raises(FilmError, match="no video stream"):
        FilmReader(tmp_path / "song.mp4")


def test_badly_interleaved_sound_does_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_film(tmp_path / "video.mkv", pts=range(100))
    make_film(tmp_path / "sound.mkv", pts=range(1), tone_s=(0, 30))
    with (
        av.open(str(tmp_path / "in.mkv"), "w", container_options={"max_interleave_delta": "1"}) as film,
        av.open(str(tmp_path / "video.mkv")) as one,
        av.open(str(tmp_path / "sound.mkv")) as other,
    ):
        video = film.add_stream_from_template(one.streams.video[0], opaque=True)
        sound = film.add_stream_from_template(other.streams.audio[0], opaque=True)
        film.start_encoding()
        for container, stream, kind in ((other, sound, "audio"), (one, video, "video")):
            for packet in container.demux(**{kind: 0}):
                if packet.size:
                    packet.stream = stream
                    film.mux(packet)
    was = packets(tmp_path / "in.mkv", "audio")
    total = sum(len(data) for _, data in was[0])
    monkeypatch.setattr(_film_write, "_QUEUE_BYTES", 50_000)
    assert total > 400_000

    peak = 0
    with FilmReader(tmp_path / "in.mkv") as source, FilmWriter(tmp_path / "out.mkv", source, encoder="ffv1") as output:
        for frame in source:
            peak = max(peak, output._queued_bytes)
            output.write(frame, chroma_for(64, 48))

    assert peak <= 50_000
    assert packets(tmp_path / "out.mkv", "audio") == was


# Errors


def test_unreadable_inputs_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no film\n" * 99)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.mkv").touch()
    with av.open(str(tmp_path / "sound.wav"), "w") as sound:
        stream = sound.add_stream("pcm_s16le", rate=8000)
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), "s16", "stereo")
        block.sample_rate = 8000
        sound.mux(stream.encode(block))

    for name, problem in {
        "none.mp4": "no such file",
        "text.txt": "not a video",
        "noise.mp4": "not a video",
        "empty.mkv": "not a video",
        "sound.wav": "no video stream",
        ".": "directory",
    }.items():
        with pytest.raises(FilmError, match=problem) as caught:
            FilmReader(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_a_film_without_pictures_is_an_error(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mkv"), "w") as film:
        video = film.add_stream("ffv1", rate=25)
        video.width, video.height = 64, 48
        film.start_encoding()

    with pytest.raises(FilmError, match=r"no picture in it|not a video"):
        FilmReader(tmp_path / "in.mkv")


@pytest.mark.parametrize("at", [30, 57, 59])
def test_a_damaged_packet_stops_and_keeps_the_partial_film(tmp_path: Path, at: int) -> None:
    source = damaged(tmp_path, at)

    with pytest.raises(FilmError, match="cannot be decoded") as caught:
        colour(source, tmp_path / "out.mp4", preset="ultrafast")

    assert caught.value.path == source
    assert caught.value.time_s == pytest.approx((at - 1) / 25)
    assert f"{at} pictures are kept in {tmp_path / 'out.partial.mp4'}" in str(caught.value)
    assert not (tmp_path / "out.mp4").exists()
    assert len(read(tmp_path / "out.partial.mp4")) == at


def test_a_damaged_packet_can_be_passed_over(tmp_path: Path) -> None:
    source = damaged(tmp_path, 30)

    with FilmReader(source, strict=False) as film:
        frames = list(film)

    assert len(frames) == 59
    assert any("a picture after this cannot be decoded" in warning for warning in film.warnings)
    assert Fraction(30, 25) not in times(frames)


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".nut"])
def test_a_wrong_checksum_is_damage(tmp_path: Path, suffix: str) -> None:
    """FFmpeg decodes such a picture and says nothing."""
    options = {"level": "3", "slices": "4", "slicecrc": "1"}
    data, packet = hurt(tmp_path / f"in{suffix}", 30, encoder="ffv1", pts=range(60), options=options)
    data[packet.stop - 9] ^= 1
    (tmp_path / f"in{suffix}").write_bytes(data)

    with pytest.raises(FilmError, match="the checksum of a picture is wrong") as caught:
        colour(tmp_path / f"in{suffix}", tmp_path / "out.mkv")

    assert caught.value.time_s == pytest.approx(30 / 25)
    assert len(read(tmp_path / "out.partial.mkv")) == 30
    with FilmReader(tmp_path / f"in{suffix}", strict=False) as film:
        assert len(list(film)) == 60
    assert film.warnings == ["the checksum of a picture is wrong here at 1.200 s"]


@pytest.mark.parametrize("options", [{"level": "1"}, {"level": "3", "slicecrc": "0"}])
def test_ffv1_without_checksums_is_read(tmp_path: Path, options: dict[str, str]) -> None:
    make_film(tmp_path / "in.mkv", options=options)

    with FilmReader(tmp_path / "in.mkv") as film:
        assert len(list(film)) == 20
    assert film.warnings == []


def test_damage_in_the_first_packet_is_told(tmp_path: Path) -> None:
    data, packet = hurt(tmp_path / "mpeg2.mkv", 0, encoder="mpeg2video", pts=range(48), gop=12)
    data[packet] = bytes(len(data[packet]))
    (tmp_path / "mpeg2.mkv").write_bytes(data)
    with FilmReader(tmp_path / "mpeg2.mkv") as film:
        assert len(list(film)) == 36
    assert film.warnings == ["packet without a picture at 0.000 s, and 11 times more"]

    with pytest.raises(FilmError, match="cannot be decoded") as caught:
        FilmReader(damaged(tmp_path, 0))
    assert caught.value.time_s == 0
    with FilmReader(tmp_path / "in.mp4", strict=False) as film:
        assert len(list(film)) == 48


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_truncated_film_is_an_error(tmp_path: Path, suffix: str) -> None:
    make_film(
        tmp_path / f"whole{suffix}", encoder="libx264", pts=range(100),
        container={"movflags": "+faststart"} if suffix == ".mp4" else {},
    )  # fmt: skip
    data = (tmp_path / f"whole{suffix}").read_bytes()
    (tmp_path / f"in{suffix}").write_bytes(data[: len(data) // 2])

    with pytest.raises(FilmError, match=r"truncated|breaks off|cannot be decoded") as caught:
        colour(tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", preset="ultrafast")

    assert caught.value.time_s is not None
    assert 0.5 < caught.value.time_s < 3
    assert len(read(tmp_path / f"out.partial{suffix}")) > 20
    assert not (tmp_path / f"out{suffix}").exists()
    with FilmReader(tmp_path / f"in{suffix}", strict=False) as film:
        list(film)
    told = [warning for warning in film.warnings if "truncated" in warning]
    assert all(re.fullmatch(r"it is truncated \(.*\) at [\d.]+ s", warning) for warning in told)
    assert told or suffix == ".mp4"


def test_a_truncated_film_without_its_index_cannot_be_opened(tmp_path: Path) -> None:
    make_film(tmp_path / "whole.mp4", encoder="libx264")
    (tmp_path / "in.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:9000])

    with pytest.raises(FilmError, match="not a video that can be read"):
        FilmReader(tmp_path / "in.mp4")


def test_a_change_of_size_in_the_middle_is_an_error(tmp_path: Path) -> None:
    data = b""
    for name, width in (("one", 64), ("two", 96)):
        make_film(tmp_path / f"{name}.h264", encoder="libx264", width=width, options={"preset": "ultrafast"})
        data += (tmp_path / f"{name}.h264").read_bytes()
    (tmp_path / "in.h264").write_bytes(data)

    with pytest.raises(FilmError, match="changes to 96x48"):
        read(tmp_path / "in.h264")


def test_wrong_outputs_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    make_film(tmp_path / "in.mkv")
    (tmp_path / "link.mkv").symlink_to(tmp_path / "in.mkv")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "old.mp4").write_bytes(b"what was there")
    before = sorted(tmp_path.iterdir())

    with FilmReader(tmp_path / "in.mkv") as source:
        refused: list[tuple[str, dict[str, Any], str]] = [
            ("in.mkv", {}, "overwrite the film"),
            ("link.mkv", {}, "overwrite the film"),
            ("folder.mp4", {}, "it is a folder"),
            ("none/out.mp4", {}, "there is no folder"),
            ("out.film", {}, "names no container"),
            ("out.png", {}, "names no film container"),
            ("old.mp4", {"encoder": "libx999"}, "no encoder 'libx999'"),
            ("old.mp4", {"encoder": "aac"}, "no video encoder"),
            ("old.mp4", {"pixel_format": "yuv999p"}, "no pixel format 'yuv999p'"),
            ("old.mp4", {"pixel_format": "yuv410p"}, "libx264 has no pixel format yuv410p"),
            ("old.mp4", {"pixel_format": "nv12"}, "not planar YUV"),
            ("old.mp4", {"preset": "soon"}, "libx264 refuses .*preset=soon"),
            ("out.webm", {}, "does not support 'libx264'"),
        ]
        for output, options, problem in refused:
            with pytest.raises(InvalidRequest, match=problem) as caught:
                FilmWriter(tmp_path / output, source, **options)
            assert str(tmp_path / output) in str(caught.value)
            assert sorted(tmp_path.iterdir()) == before

    make_film(tmp_path / "deep.mkv", pixel_format="yuv420p12le")
    with FilmReader(tmp_path / "deep.mkv") as source, pytest.raises(InvalidRequest, match="12-bit luma"):
        FilmWriter(tmp_path / "old.mp4", source)
    assert (tmp_path / "old.mp4").read_bytes() == b"what was there"


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    make_film(tmp_path / "in.mkv")

    with FilmReader(tmp_path / "in.mkv") as source, pytest.raises(FilmError, match="cannot be written there"):
        FilmWriter("/proc/out.mkv", source, encoder="ffv1")
    with pytest.raises(FilmError, match="cannot be written"):
        write_still("/proc/out.png", np.zeros((2, 2, 3), np.uint8))


def test_missing_pictures_are_an_error_and_leave_the_old_film(tmp_path: Path) -> None:
    make_film(tmp_path / "in.mkv")
    output = tmp_path / "out.mkv"
    output.write_bytes(b"what was there")

    def write(pictures_kept: Sequence[int], *, fail: bool = False) -> Path:
        with FilmReader(tmp_path / "in.mkv") as source, FilmWriter(output, source, encoder="ffv1") as film:
            for index, frame in enumerate(source):
                if index in pictures_kept:
                    film.write(frame, chroma_for(64, 48))
                elif fail:
                    raise RuntimeError("ours")
                elif not pictures_kept:
                    break
        return film.partial_path

    with pytest.raises(FilmError, match="20 pictures were read, but 19 written; 19 pictures are kept in"):
        write([*range(7), *range(8, 20)])
    with pytest.raises(FilmError, match="not read to its end"):
        write([])
    with pytest.raises(RuntimeError, match="ours"):
        write(range(5), fail=True)

    assert output.read_bytes() == b"what was there"
    assert [len(read(tmp_path / f"out.partial{number}.mkv")) for number in ("", 2)] == [19, 5]
    colour(tmp_path / "in.mkv", output, encoder="ffv1")
    assert len(read(output)) == 20
    assert not (tmp_path / "out.partial3.mkv").exists()


def test_no_file_that_is_there_becomes_the_partial_one(tmp_path: Path) -> None:
    """Not the source, not what an earlier run kept, not what another run is writing."""
    source = tmp_path / "reel.partial.mkv"
    make_film(source)
    before = source.read_bytes()

    with FilmReader(source) as film:
        with pytest.raises(InvalidRequest, match="no encoder"):
            FilmWriter(tmp_path / "reel.mkv", film, encoder="libx246")
        FilmWriter(tmp_path / "reel.mkv", film).abandon()
        assert list(tmp_path.iterdir()) == [source]
        with FilmReader(source) as same, FilmWriter(tmp_path / "reel.mkv", same) as other:
            assert other.partial_path == tmp_path / "reel.partial2.mkv"
            with FilmWriter(tmp_path / "reel.mkv", film, encoder="ffv1") as writer:
                for frame in film:
                    writer.write(frame, chroma_for(64, 48))
            other.abandon()

    assert source.read_bytes() == before
    assert len(read(tmp_path / "reel.mkv")) == 20
    assert len(list(tmp_path.iterdir())) == 2
    still = tmp_path / "a.partial.png"
    write_still(still, np.zeros((2, 2, 3), np.uint8))
    before = still.read_bytes()
    write_still(tmp_path / "a.png", np.full((2, 2, 3), 99, np.uint8))
    assert still.read_bytes() == before


@pytest.mark.parametrize("letters", [247, 300])
def test_too_long_a_name_is_an_error(tmp_path: Path, letters: int) -> None:
    make_film(tmp_path / "in.mkv")

    with FilmReader(tmp_path / "in.mkv") as source, pytest.raises(FilmError, match="File name too long"):
        FilmWriter(tmp_path / f"{'n' * letters}.mkv", source)
    with pytest.raises(FilmError, match="File name too long"):
        write_still(tmp_path / f"{'n' * letters}.png", np.zeros((2, 2, 3), np.uint8))


def test_chroma_of_another_shape_is_an_invalid_request(tmp_path: Path) -> None:
    make_film(tmp_path / "in.mkv")

    with FilmReader(tmp_path / "in.mkv") as source:
        film = FilmWriter(tmp_path / "out.mkv", source, encoder="ffv1")
        frame = next(iter(source))
        for chroma in (np.zeros((2, 48, 64), np.uint8), np.zeros((2, 24, 32), np.float32)):
            with pytest.raises(InvalidRequest, match="chroma is"):
                film.write(frame, chroma)  # type: ignore[arg-type]
        with pytest.raises(FilmError, match="not read to its end"):
            film.close()
    assert not film.partial_path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="file size limits are a POSIX matter")
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_no_space_left_is_an_error_and_says_where(tmp_path: Path, suffix: str) -> None:
    make_film(tmp_path / "in.mkv", pts=range(60), width=320, height=240)
    script = textwrap.dedent(f"""
        import resource
        import numpy as np
        from reeltint._errors import FilmError
        from reeltint._film import FilmReader, FilmWriter
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            with FilmReader({str(tmp_path / "in.mkv")!r}) as source:
                with FilmWriter({str(tmp_path / "out") + suffix!r}, source, quality=0, preset="ultrafast") as film:
                    for frame in source:
                        film.write(frame, np.full((2, 120, 160), 99, np.uint8))
        except FilmError as error:
            print(error)
    """)

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert "cannot be written (File too large)" in done.stdout
    assert f"what could be written is kept in {tmp_path / 'out'}.partial{suffix}, but may not play" in done.stdout
    assert f"{tmp_path / 'out'}{suffix} at " in done.stdout
    assert done.stderr == ""
    assert not (tmp_path / f"out{suffix}").exists()
    assert (tmp_path / f"out.partial{suffix}").stat().st_size <= 100_000


def test_libav_is_silent(tmp_path: Path) -> None:
    source = damaged(tmp_path, 30)
    script = textwrap.dedent(f"""
        import numpy as np
        from reeltint._film import FilmReader, FilmWriter
        for encoder in ("libx264", "libx265"):
            with FilmReader({str(source)!r}, strict=False) as film:
                with FilmWriter({str(tmp_path / "out.mp4")!r}, film, encoder=encoder, preset="ultrafast") as out:
                    for frame in film:
                        out.write(frame, np.full((2, 24, 32), 99, np.uint8))
    """)

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout == ""
    assert all(line.startswith(str(source)) for line in done.stderr.splitlines())  # our warning, through logging


# Stills


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_stills_go_out_and_come_back(tmp_path: Path, suffix: str) -> None:
    rows, columns = np.mgrid[0:47, 0:63]
    rgb = np.stack([rows * 4, columns * 4, 200 - rows * 2], -1).astype(np.uint8)

    write_still(tmp_path / f"still{suffix}", rgb)

    assert [path.name for path in tmp_path.iterdir()] == [f"still{suffix}"]
    lossy = suffix in {".jpg", ".webp"}
    with av.open(str(tmp_path / f"still{suffix}")) as container:
        picture = next(container.decode(video=0))
        back = picture.to_ndarray(format="rgb24", src_colorspace=Colorspace.ITU601)
    assert np.abs(back.astype(int) - rgb).mean() < (4 if lossy else 0.01)
    weights = [0.299, 0.587, 0.114] if lossy else [0.2126, 0.7152, 0.0722]  # JFIF and WebP: BT.601
    error = np.abs(read_still(tmp_path / f"still{suffix}") - rgb @ np.array(weights))
    assert error.mean() < (3 if lossy else 0.6)
    assert error.max() < (16 if lossy else 1.6)


@pytest.mark.parametrize("pixel_format", ["gray", "gray16be", "ya8", "monob"])
def test_grey_stills_are_taken_as_they_are(tmp_path: Path, pixel_format: str) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frame = VideoFrame.from_ndarray(values, "gray")
    if pixel_format == "monob":
        values = np.repeat(np.array([[0, 255]], np.uint8), 8, 1).repeat(16, 0)
        frame = VideoFrame(16, 16, "monob")
        np.frombuffer(frame.planes[0], np.uint8).reshape(16, -1)[:, :2] = (0, 255)  # type: ignore[call-overload]
    elif pixel_format == "gray16be":
        frame = VideoFrame(16, 16, "gray16be")
        plane(frame, 0)[:] = (values.astype(np.uint16) * 257).byteswap()
    elif pixel_format == "ya8":
        frame = VideoFrame(16, 16, "ya8")
        raw = np.frombuffer(frame.planes[0], np.uint8).reshape(16, -1)  # type: ignore[call-overload]
        raw[:, 0:32:2], raw[:, 1:32:2] = values, 255
    context = av.Codec("png", "w").create("video")
    context.width, context.height, context.pix_fmt, context.time_base = 16, 16, pixel_format, Fraction(1)
    (tmp_path / "in.png").write_bytes(
        b"".join(bytes(packet) for packet in context.encode(frame) + context.encode(None))
    )

    assert np.array_equal(read_still(tmp_path / "in.png"), values)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).T),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turn: Any) -> None:
    """Orientations as in EXIF 2.32, 4.6.4 A."""
    rgb = np.zeros((32, 48, 3), np.uint8)
    rgb[:8, :8], rgb[-8:, :8], rgb[:8, -8:] = 250, 170, 90
    write_still(tmp_path / "plain.jpg", rgb)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    data = (tmp_path / "plain.jpg").read_bytes()
    (tmp_path / "in.jpg").write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])

    still = read_still(tmp_path / "in.jpg")

    expected = turn(rgb[:, :, 0])
    assert still.shape == expected.shape
    assert np.abs(still.astype(int) - expected).max() < 40
    assert np.abs(still.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_of_a_tiff_is_applied(tmp_path: Path, order: str) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    tags = {256: 3, 257: 2, 258: 8, 259: 1, 262: 1, 273: 8, 274: 6, 277: 1, 278: 2, 279: 6}  # TIFF 6.0, section 8
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 16)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    (tmp_path / "in.tif").write_bytes(start + values.tobytes() + bytes(2) + directory)

    assert np.array_equal(read_still(tmp_path / "in.tif"), np.rot90(values, -1))


def test_still_errors_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "story.txt").write_text("words\n" * 50)
    for name in ("none.png", "text.png", "empty.jpg", "story.txt", "."):
        with pytest.raises(FilmError):
            read_still(tmp_path / name)
    with pytest.raises(InvalidRequest, match="suffix"):
        write_still(tmp_path / "out.doc", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(InvalidRequest, match="cannot be written"):
        write_still(tmp_path / "none" / "out.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(InvalidRequest):
        write_still(tmp_path / "out.png", np.zeros((2, 2), np.uint8))


# Real films


@pytest.mark.skipif(not CLIPS.exists(), reason=f"{CLIPS.name} is not beside the repository")
@pytest.mark.parametrize("name", ["bw/abomb_effects_0.mp4", "bw/oldfilm_003.mp4", "color/moviepy_airplane.mp4"])
def test_real_clips_keep_luma_and_times(tmp_path: Path, name: str) -> None:
    with tarfile.open(CLIPS) as clips:
        clips.extract(name, tmp_path, filter="data")

    assert colour(tmp_path / name, tmp_path / "out.mp4", quality=0, preset="ultrafast") == []

    was, now = read(tmp_path / name), read(tmp_path / "out.mp4")
    assert times(was) == times(now)
    assert all(np.array_equal(one.luma, other.luma) for one, other in zip(was, now, strict=True))
