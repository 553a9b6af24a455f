"""Films and stills as luma: decoding, trimming, and the packets of the streams that are only copied."""

from __future__ import annotations  # av.Packet is generic only to type checkers

import logging
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reeltint._closing import Closing
from reeltint._errors import FilmError, InvalidRequest

logger = logging.getLogger("reeltint.film")

Luma = NDArray[np.uint8] | NDArray[np.uint16]

# Formats whose luma shares its plane with other components: samples from one luma value to the next, and the first.
_PACKED = {
    "yuyv422": (2, 0), "yvyu422": (2, 0), "uyvy422": (2, 1), "ya8": (2, 0), "ya16": (2, 0),
    "y210": (2, 0), "y212": (2, 0), "y216": (2, 0), "xv36": (4, 1), "xv48": (4, 1),
    "vuya": (4, 2), "vuyx": (4, 2), "ayuv": (4, 1), "uyva": (4, 1), "vyu444": (3, 1), "ayuv64": (4, 1),
}  # fmt: skip
_HIGH_BITS = ("p0", "p2", "p4", "y21", "xv36")  # formats that keep the value in the high bits of 16
_SEEK_MARGIN_S = 2  # decoding starts this much early: pictures after an open GOP's key frame need the GOP before it
_OVERRUN_S = 5  # how far past the end of a trimmed range packets of other streams are looked for
_LARGEST_STEP_BACK_S = 1
_SHORTFALL_S = Fraction(1, 2)  # a file that ends this much before its stated duration is truncated


_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def reason(error: Exception) -> str:
    """Tell what a libav error says, without its number and file name."""
    return getattr(error, "strerror", None) or str(error)


@cache
def code_table(bits: int, full_range: bool, to_bits: int, to_full_range: bool) -> Luma:
    """Lookup table from luma codes of one depth and range to another, (2**bits,), rounded to nearest and clipped.

    Black and white are 0 and 2**n - 1 in full range, 16 * 2**(n-8) and 235 * 2**(n-8) in limited range (ITU-R BT.709,
    BT.2100 table 9); limited codes outside black and white stay outside where the target has room for them.

    >>> code_table(10, False, 8, True)[[64, 502, 940]].tolist()
    [0, 128, 255]
    """

    def ends(n: int, full: bool) -> tuple[int, int]:
        return (0, (1 << n) - 1) if full else (16 << (n - 8), 235 << (n - 8))

    black, white = ends(bits, full_range)
    low, high = ends(to_bits, to_full_range)
    scaled = np.floor((np.arange(1 << bits) - black) * ((high - low) / (white - black)) + low + 0.5)
    table: Luma = np.clip(scaled, 0, (1 << to_bits) - 1).astype(np.uint8 if to_bits == 8 else np.uint16)
    table.flags.writeable = False
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmInfo:
    """What a film is, as its container and its first picture say."""

    path: Path
    codec: str
    pixel_format: str
    width: int  # of the coded luma plane: rotation and sample aspect ratio are not applied
    height: int
    frame_rate: Fraction | None  # average, frames per second
    duration_s: float | None  # of the selected range
    frame_count: int | None  # of the selected range; stated by the container, or duration times frame rate
    bit_depth: int  # of the luma codes as read: 8, 9, 10, 12, 14 or 16
    full_range: bool  # luma from 0 to 2**bit_depth - 1, not 16 to 235 (times 2**(bit_depth - 8))
    rotation: int  # counterclockwise degrees by which a player turns the picture
    sample_aspect_ratio: Fraction  # width to height of a pixel
    copied_streams: int  # audio, subtitle, data, attachment and further video streams


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilmFrame:
    """One picture: its luma codes as the source has them, (H, W), read-only."""

    luma: Luma
    bit_depth: int
    full_range: bool
    pts: int  # in units of time_base, on the source's clock
    duration: int
    time_base: Fraction

    @property
    def time_s(self) -> float:
        """Presentation time on the source's clock, in seconds."""
        return float(self.pts * self.time_base)

    def grey(self) -> NDArray[np.uint8]:
        """Return the picture as full-range grey, (H, W), 0..255: what the server is sent.

        Limited range is expanded (16..235 to 0..255, beyond clipped) and more than 8 bits are rounded.
        """
        if self.bit_depth == 8 and self.full_range:
            return np.ascontiguousarray(self.luma, np.uint8)
        return np.asarray(code_table(self.bit_depth, self.full_range, 8, True)[self.luma], np.uint8)


class LumaExtractor:
    """Takes the luma plane out of decoded pictures; keeps swscale's context for those that have none."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, *, rgb_to_full_range: bool = False) -> tuple[Luma, int, bool]:
        """Luma (H, W), its bit depth, and whether it is full range.

        A luma plane is taken as it is, as a view where possible. RGB, palette, Bayer, XYZ, float and one-bit formats
        are reduced by swscale with BT.709 to limited (or full) range, 8 bits, or 10 where they have more.
        """
        form = frame.format
        name = form.name.removesuffix("le").removesuffix("be")
        bits = form.components[0].bits if form.components else 0
        shared = any(other.plane == 0 for other in form.components[1:])
        indirect = form.is_rgb or form.is_bayer or form.has_palette or name.startswith("xyz") or "f16" in name
        if indirect or not 8 <= bits <= 16 or (shared and name not in _PACKED):
            wide = bits > 8
            frame = self._reformatter.reformat(
                frame,
                format="yuv444p10le" if wide else "yuv444p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.JPEG if rgb_to_full_range else ColorRange.MPEG,
                interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
            )
            return _samples(frame, 10 if wide else 8, False, 1, 0), 10 if wide else 8, rgb_to_full_range
        step, first = _PACKED.get(name, (1, 0))
        luma = _samples(frame, bits, form.is_big_endian, step, first)
        if bits < 16 and (name.startswith(_HIGH_BITS) or "msb" in name):
            luma = np.right_shift(luma, 16 - bits)
            luma.flags.writeable = False
        return luma, bits, _is_full_range(frame)


def _is_full_range(frame: VideoFrame) -> bool:
    """Untagged pictures are limited, but yuvj and grey ones full, as everywhere in FFmpeg."""
    if frame.color_range:
        return frame.color_range == ColorRange.JPEG
    return frame.format.name.startswith(("yuvj", "gray", "ya"))


def _samples(frame: VideoFrame, bits: int, big_endian: bool, step: int, first: int) -> Luma:
    """Every `step`-th sample of the first plane, (H, W): a read-only view, or a copy in native byte order."""
    plane = frame.planes[0]
    size = 1 if bits == 8 else 2
    line = abs(plane.line_size)
    samples: Luma = np.ndarray(
        (frame.height, frame.width),
        np.uint8 if size == 1 else np.dtype(">u2" if big_endian else "<u2"),
        buffer=plane,  # type: ignore[arg-type]  # it has the buffer protocol
        offset=first * size,
        strides=(line, step * size),
    )
    if plane.line_size < 0:
        samples = samples[::-1]
    if size == 2:
        samples = samples.astype(np.uint16, copy=False)
    samples.flags.writeable = False  # the decoder still predicts from this memory
    return samples


class FilmReader(Closing):
    """Iterates over the pictures of a film, from the start each time.

    Use as a context manager. A `FilmWriter` made from it takes the packets of all other streams while it is iterated;
    without one they are passed over.

    Trimming keeps the pictures with `start_s` <= time < `end_s`, in seconds from the film's first picture, exact to
    the picture. With `start_s` the output starts at time 0; without it all times stay as they are.

    Damage: a packet that the decoder refuses, a wrong checksum (FFV1) and an end before the stated one are a FilmError,
    or, with `strict=False`, warnings, and what can be read is read. Pictures that the decoder repaired, packets without
    a picture and mended time stamps are counted in `warnings`.

    Rotation is not applied to the luma; the writer passes it on. Interlaced pictures stay woven.
    """

    def __init__(
        self, path: Path | str, *, start_s: float | None = None, end_s: float | None = None, strict: bool = True
    ) -> None:
        """Open a film and decode its first picture.

        Args:
            path: A local video file.
            start_s: First moment to keep, seconds from the film's first picture.
            end_s: First moment to leave out.
            strict: Stop at the first packet that cannot be decoded.

        Raises:
            InvalidRequest: `end_s` does not come after `start_s`.
            FilmError: no such file, not a video, no video stream, no decoder, no picture (in the range).
        """
        self.path = Path(path)
        self.start_s, self.end_s, self.strict = start_s, end_s, strict
        self.frames_read = 0
        self.finished = False
        self._notes: dict[str, tuple[int, float | None]] = {}
        self._sink: Callable[[Packet[Stream]], None] | None = None
        self._wanted: frozenset[int] = frozenset()
        if start_s is not None and end_s is not None and end_s <= start_s:
            raise InvalidRequest(f"{path}: nothing lies between {start_s} s and {end_s} s")
        # Microseconds: 1.1 means 11/10, not the binary number nearest to it.
        self._begin = None if start_s is None else Fraction(start_s).limit_denominator(1_000_000)
        self._end = None if end_s is None else Fraction(end_s).limit_denominator(1_000_000)
        self._seekable = self._begin is not None and self._begin > _SEEK_MARGIN_S
        self._origin: Fraction | None = None
        self._container = self._open()
        # Chapter tracks, which the demuxer reads for itself.
        self._hidden = {stream.index for stream in self._container.streams if stream.discard == Discard.all}
        try:
            self._index = self._choose(self._container)
            self._origin = self._stated_origin()
            self._first_picture, self._first_pts = self._first()
            self._shift = self._first_time() if self._begin is not None else Fraction(0)
            self._notes.clear()
            self.info = self._describe(self._first_picture)
        except BaseException:
            self._container.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __iter__(self) -> Iterator[FilmFrame]:
        """Pictures in presentation order.

        Raises:
            FilmError: damaged or truncated film, with the time where it stopped; a change of size in the middle.
        """
        self.frames_read, self.finished = 0, False
        self._notes.clear()
        extract = LumaExtractor()
        with self._open() as container:
            time_base = self._time_base(container)
            for picture, pts in self._pictures(container):
                luma, bits, full_range = extract(picture)
                if (luma.shape, bits, full_range) != (
                    (self.info.height, self.info.width), self.info.bit_depth, self.info.full_range,
                ):  # fmt: skip
                    problem = f"the picture changes to {picture.width}x{picture.height} {picture.format.name} here"
                    raise FilmError(self.path, problem, self._seconds(pts * time_base))
                self.frames_read += 1
                yield FilmFrame(
                    luma=luma,
                    bit_depth=bits,
                    full_range=full_range,
                    pts=pts,
                    duration=picture.duration or self._tick(container),
                    time_base=time_base,
                )
        self.finished = True
        for warning in self.warnings:
            logger.warning("%s: %s", self.path, warning)

    @property
    def warnings(self) -> list[str]:
        """What was wrong with the film and could be mended, a sentence each."""
        return [
            what + ("" if at is None else f" at {at:.3f} s") + (f", and {count - 1} times more" if count > 1 else "")
            for what, (count, at) in self._notes.items()
        ]

    def _open(self) -> InputContainer:
        try:
            container = av.open(f"file:{self.path}", metadata_errors="replace")
        except (FFmpegError, OSError, ValueError) as error:
            missing = isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError))
            problem = reason(error).lower() if missing else f"not a video that can be read ({reason(error)})"
            raise FilmError(self.path, problem) from error
        if container.format.name == "tty":  # FFmpeg shows text files as a picture of a terminal
            container.close()
            raise FilmError(self.path, "not a video, a text file")
        return container

    def _choose(self, container: InputContainer) -> int:
        with suppress(FFmpegError):
            stream = container.streams.best("video")
            if stream is not None and not stream.disposition & Disposition.attached_pic:
                return stream.index
        if any(stream.type == "video" and stream.codec_context is None for stream in container.streams):
            raise FilmError(self.path, "there is no decoder for its video")
        raise FilmError(self.path, "it has no video stream")

    def _video(self, container: InputContainer) -> VideoStream:
        stream = container.streams[self._index]
        assert isinstance(stream, VideoStream)
        return stream

    def _time_base(self, container: InputContainer) -> Fraction:
        base = self._video(container).time_base
        assert base is not None
        return base

    def _tick(self, container: InputContainer) -> int:
        """One picture's duration in the stream's time base, for those that state none."""
        rate = self._video(container).average_rate
        return max(1, round(1 / (rate * self._time_base(container)))) if rate else 1

    def _seconds(self, time: Fraction) -> float:
        """Seconds from the film's first picture, for messages."""
        return float(time - (self._origin or 0))

    def _stated_origin(self) -> Fraction | None:
        start = self._video(self._container).start_time
        return None if start is None else start * self._time_base(self._container)

    def _first_time(self) -> Fraction:
        return self._first_pts * self._time_base(self._container)

    def _first(self) -> tuple[VideoFrame, int]:
        """Decode the first picture of the range; finds out on the way whether the film can be sought in."""
        while True:
            try:
                return next(self._pictures(self._container))
            except StopIteration:
                lost = bool(self._notes)
                where = "" if self._begin is None else f" from {self.start_s} s on"
                problem = f"no picture in it can be decoded{where}" if lost else f"there is no picture in it{where}"
                raise FilmError(self.path, problem) from None
            except _CannotSeek:
                self._seekable = False
                self._container.close()
                self._container = self._open()

    def _describe(self, first: VideoFrame) -> FilmInfo:
        container, video = self._container, self._video(self._container)
        luma, bits, full_range = LumaExtractor()(first)
        rate = video.average_rate or video.guessed_rate
        stated = self._stated_duration(container)
        whole = stated is None and container.duration is not None
        length = Fraction(container.duration or 0, av.time_base) if whole else stated
        count: int | None = video.frames or None
        if length is not None:
            length = max(Fraction(0), min(length, self._end if self._end is not None else length) - (self._begin or 0))
            if not count or self._begin is not None or self._end is not None:
                count = math.ceil(length * rate) if rate else None
        return FilmInfo(
            path=self.path,
            codec=video.codec_context.name,
            pixel_format=first.format.name,
            width=luma.shape[1],
            height=luma.shape[0],
            frame_rate=rate,
            duration_s=None if length is None else float(length),
            frame_count=count,
            bit_depth=bits,
            full_range=full_range,
            rotation=first.rotation,
            sample_aspect_ratio=video.sample_aspect_ratio or Fraction(1),
            copied_streams=len(container.streams) - len(self._hidden) - 1,
        )

    def _stated_duration(self, container: InputContainer) -> Fraction | None:
        """Look up the video stream's own duration in seconds; Matroska keeps it in a tag."""
        video = self._video(container)
        if "matroska" not in container.format.name:
            return None if video.duration is None else video.duration * self._time_base(container)
        with suppress(KeyError, ValueError):
            hours, minutes, seconds = video.metadata["DURATION"].split(":")
            return (int(hours) * 60 + int(minutes)) * 60 + Fraction(seconds)
        return None

    def _pictures(self, container: InputContainer) -> Iterator[tuple[VideoFrame, int]]:
        """Pictures of the range with repaired time stamps; hands packets of the wanted streams to the sink."""
        video, time_base = self._video(container), self._time_base(container)
        video.thread_type = "AUTO"
        for stream in container.streams:
            if stream.index != self._index and stream.index not in self._wanted:
                stream.discard = Discard.all
        if self._seekable and self._begin is not None:
            try:
                target = (self._origin or 0) + self._begin - _SEEK_MARGIN_S
                container.seek(math.floor(target / time_base), stream=video)
            except FFmpegError as error:
                raise _CannotSeek from error

        pending: set[int] = set()  # time stamps of packets whose picture is still to come
        waiting = set(self._wanted)  # copied streams that have not reached the end of the range
        packets = container.demux()
        packets_read, decoded, done, interlaced = 0, 0, False, False
        sought = self._seekable and self._begin is not None
        start_s = max(0.0, float(self._begin or 0) - _SEEK_MARGIN_S) if sought else 0.0
        checksums = _Checksums() if video.codec_context.name == "ffv1" else None
        wrong: set[int | None] = set()  # time stamps of the packets whose checksum is
        previous: int | None = None
        reached = Fraction(0)
        while True:
            at = start_s if previous is None else self._seconds(previous * time_base)
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                self._fail(f"it breaks off here ({reason(error)})", at, error)
                break
            if packet is None:
                break
            time = packet.dts if packet.pts is None or "avi" in container.format.name else packet.pts
            if time is not None:  # AVI has no presentation times: they are guessed
                reached = max(reached, (time + (packet.duration or 0)) * packet.time_base)
            if packet.stream_index != self._index:
                if self._sink is not None and packet.stream_index in self._wanted and packet.size:
                    if self._past_end(packet):
                        waiting.discard(packet.stream_index)
                    else:
                        self._sink(packet)
                if done and not waiting:
                    break
                continue
            flushing = packet.size == 0 and packet.dts is None
            packets_read += not flushing
            if done:
                if packet.dts is not None and self._past_end(packet, _OVERRUN_S):
                    break
                continue
            if packet.pts is not None and not packet.is_discard and packet.size:
                pending.add(packet.pts)
            if checksums is not None and checksums.are_wrong(packet):
                wrong.add(packet.dts if packet.pts is None else packet.pts)
            try:
                pictures = video.decode(packet)
            except av.error.EOFError:
                pictures = []
            except FFmpegError as error:
                self._fail(f"a picture after this cannot be decoded ({reason(error)})", at, error)
                continue
            for picture in pictures:
                pts = self._mended(picture, previous, container)
                self._drop_passed(pending, picture, reported=not sought or decoded > 0)
                interlaced = interlaced or picture.interlaced_frame
                if self._origin is None:
                    self._origin = pts * time_base
                moment = pts * time_base - self._origin
                if decoded == 0 and self._seekable and self._begin is not None and moment > self._begin:
                    raise _CannotSeek
                decoded += 1
                previous = pts
                if self._end is not None and moment >= self._end:
                    done = True
                    break
                if self._begin is not None and moment < self._begin:
                    continue
                if wrong and (picture.dts if picture.pts is None else picture.pts) in wrong:
                    self._fail("the checksum of a picture is wrong here", self._seconds(pts * time_base))
                if picture.is_corrupt:
                    self._note("damaged picture, repaired by the decoder,", self._seconds(pts * time_base))
                yield picture, pts
            if done and not waiting:
                break
        if interlaced:
            self._note("interlaced pictures, written woven, as progressive", None)
        if not done and previous is not None:
            self._check_end(container, previous, reached, packets_read, pending if not interlaced else set())

    def _mended(self, picture: VideoFrame, previous: int | None, container: InputContainer) -> int:
        """Return the picture's time stamp, made to come after the previous one."""
        pts = picture.pts if picture.pts is not None else picture.dts
        tick = self._tick(container)
        if pts is None:
            at = None if previous is None else self._seconds(previous * self._time_base(container))
            self._note("picture without a time stamp, put after its predecessor", at)
            return 0 if previous is None else previous + tick
        if previous is None or pts > previous:
            return pts
        time_base = self._time_base(container)
        if (previous - pts) * time_base > _LARGEST_STEP_BACK_S:
            problem = f"the time stamps jump back by {float((previous - pts) * time_base):.3f} s here"
            raise FilmError(self.path, problem, self._seconds(previous * time_base))
        at = self._seconds(previous * time_base)
        self._note("picture with a time stamp not after its predecessor's, moved behind it", at)
        return previous + 1

    def _drop_passed(self, pending: set[int], picture: VideoFrame, *, reported: bool) -> None:
        """Forget the packets whose picture has come or cannot come any more, and count the latter where `reported`."""
        passed = set(pending) if picture.pts is None else {pts for pts in pending if pts < picture.pts}
        pending -= passed | {picture.pts}
        if picture.pts is not None and passed and picture.time_base and reported and not picture.interlaced_frame:
            self._note("packet without a picture", self._seconds(min(passed) * picture.time_base), len(passed))

    def _check_end(
        self, container: InputContainer, last: int, reached: Fraction, packets_read: int, pending: set[int]
    ) -> None:
        """Tell a film that is whole from one that was cut off.

        `last` is the time stamp of the last picture, `reached` the end of the last packet of all streams.
        """
        at = self._seconds(last * self._time_base(container))
        family, frames = container.format.name, self._video(container).frames
        late = sum(pts > last for pts in pending)
        problem = None
        if late:
            problem = f"the last {late} pictures cannot be decoded"
        elif "mp4" in family and not self._seekable and packets_read < frames:
            problem = f"it is truncated ({packets_read} of {frames} pictures are there)"
        elif any(name in family for name in ("matroska", "avi", "flv", "asf")):
            if len(self._wanted | self._hidden) + 1 == len(container.streams):
                stated = None if container.duration is None else Fraction(container.duration, av.time_base)
            else:
                stated = self._stated_duration(container)
            # Some muxers count from the first packet, some from 0.
            if stated is not None and stated - max(reached, reached - (self._origin or 0)) > _SHORTFALL_S:
                problem = f"it is truncated (it should last {float(stated):.3f} s)"
        if problem is not None:
            self._fail(problem, at)

    def _fail(self, problem: str, at: float | None, error: Exception | None = None) -> None:
        """Raise for damage, or count it when not strict."""
        if self.strict:
            raise FilmError(self.path, problem, at) from error
        self._note(problem, at)

    def _note(self, what: str, at: float | None, count: int = 1) -> None:
        before, first = self._notes.get(what, (0, at))
        self._notes[what] = (before + count, first)

    def _past_end(self, packet: Packet[Stream], margin_s: int = 0) -> bool:
        time = packet.pts if packet.pts is not None else packet.dts
        if self._end is None or time is None or self._origin is None:
            return False
        return time * packet.time_base - self._origin >= self._end + margin_s


class _Checksums:
    """The checksums in FFV1's packets, which FFmpeg compares without telling (RFC 9043, 4.9)."""

    def __init__(self) -> None:
        self._there = False  # a film may be without them

    def are_wrong(self, packet: Packet[Stream]) -> bool:
        """Whether a slice of the picture is not as it was written."""
        data = bytes(packet)
        end, right = len(data), []
        while end >= 8:  # a slice's footer: 3 bytes of size, 1 of status, 4 of checksum
            start = end - 8 - int.from_bytes(data[end - 8 : end - 5], "big")
            if start < 0:
                break
            # CRC-32 from 0, highest bit first; zlib's goes lowest bit first, from all ones to all ones. It ends at 0.
            right.append(zlib.crc32(data[start:end].translate(_MIRRORED), 0xFFFFFFFF) == 0xFFFFFFFF)
            end = start
        self._there = self._there or any(right)
        return self._there and bool(data) and not (end == 0 and all(right))


class _CannotSeek(Exception):
    """The container cannot be sought in, or not exactly."""


def display_matrix(picture: VideoFrame) -> list[int] | None:
    """Find the picture's display matrix, nine numbers in FFmpeg's layout; None where it has none."""
    try:
        for data in list(picture.side_data):
            if data.type.name == "DISPLAYMATRIX":  # type: ignore[attr-defined]
                return [int(value) for value in np.frombuffer(data, np.int32)]  # type: ignore[call-overload]
    except ValueError:  # other side data that PyAV has no name for; it still tells the angle
        if picture.rotation:
            cosine, sine = (round(f(math.radians(picture.rotation)) * 65536) for f in (math.cos, math.sin))
            return [cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30]
    return None
