"""Films and stills with colour: the source's luma and new chroma encoded, everything else copied."""

from __future__ import annotations  # av.Packet is generic only to type checkers

import io
import math
import os
import threading
from collections import deque
from contextlib import suppress
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.error import FFmpegError
from av.format import Flags as FormatFlags
from av.packet import Packet
from av.rational import AVRational
from av.stream import Disposition, Stream
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from numpy.typing import NDArray

from reeltint._errors import FilmError, InvalidRequest
from reeltint._film_partial import create_partial
from reeltint._film_read import FilmFrame, FilmReader, code_table, display_matrix, logger, reason

if TYPE_CHECKING:
    from av.container.core import Chapter

_MATRIX_BT709 = 1  # ISO/IEC 23091-2
_QUEUE_BYTES = 32 << 20
_FIXED_RATE_TOLERANCE_S = Fraction(1, 1000)
QP_TO_LAMBDA = 118  # FF_QP2LAMBDA
_QSCALE_ENCODERS = {"mpeg1video", "mpeg2video", "mpeg4", "msmpeg4", "libxvid", "mjpeg"}
_PACKETS_TRIED = 2000
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
_PRESETS = {"libx264": "superfast", "libx265": "veryfast"}
_VARIABLE_RATE = cast(int, FormatFlags.variable_fps.value)
_LOOSE_TIMES = cast(int, FormatFlags.ts_nonstrict.value)

_WRITTEN_BY_MUXERS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
_STATISTICS = ("DURATION", "BPS", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "_STATISTICS_")
_MP4_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
    "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "track", "disc", "creation_time",
}  # fmt: skip


class FilmWriter:
    """Writes a colour film: the luma of `source` unchanged, given chroma, and all of its other streams.

    Use as a context manager inside the source's. Pictures are written to a new file, `<stem>.partial<suffix>` beside
    the output (or `.partial2`, `.partial3`, …), which takes its name only at a clean close, when every picture that the
    source gave has been encoded. After an error what was written so far is finished and kept under the partial name,
    and a FilmError says so.

    What is kept: time stamps of every picture (as exactly as the container can: 1 ms in Matroska, whole pictures in
    AVI), sample aspect ratio, rotation (as a display matrix; luma is stored as it was), colour range, primaries and
    transfer; the matrix is BT.709, as the chroma is. Audio, subtitle, data, attachment and further video streams are
    copied packet by packet with their languages, dispositions and tags, chapters and the film's tags too. What the
    container cannot hold is named in `warnings`, and logged.

    Pixel format: 4:2:0 in the source's bit depth, or the next higher that the encoder has. With odd width or height,
    where 4:2:0 would lose a row or column, 4:4:4 (which fewer players show), each chroma value repeated.
    """

    def __init__(
        self,
        path: Path | str,
        source: FilmReader,
        *,
        encoder: str = "libx264",
        quality: float = 18,
        pixel_format: str | None = None,
        preset: str | None = None,
        side_by_side: bool = False,
    ) -> None:
        """Open the partial file and write its header.

        Args:
            path: The film to write; its suffix chooses the container.
            source: Where the frames come from; not yet iterated.
            encoder: Name of a video encoder of FFmpeg.
            quality: The encoder's constant quality (crf, cq or qscale; smaller is better). 0 is lossless with libx264
                and libx265. Encoders without one of these, such as ffv1 and prores_ks, pass over it.
            pixel_format: Planar YUV format, such as yuv420p10le, instead of the default; luma is converted if its
                depth differs.
            preset: The encoder's speed preset; by default superfast for libx264, which at the same quality needs 60 %
                of the time of veryfast and 15 % more space, and veryfast for libx265.
            side_by_side: Write grey | colour, twice as wide.

        Raises:
            InvalidRequest: the output is a folder, has none to lie in, is the source itself or has an unknown
                container; unknown encoder or pixel format, or one that the container or the luma's bit depth rules out.
            FilmError: the output cannot be written there.
        """
        self.path = Path(path)
        self.frames_written = 0
        self.warnings: list[str] = []
        self._source = source
        self._side_by_side = side_by_side
        self._lock = threading.RLock()  # the source may be iterated in another thread
        self._closed = False
        self._packets_encoded = 0
        self._last_pts: int | None = None
        self._time_s: float | None = None
        self._queues: dict[int, deque[Packet[Stream]]] = {}
        self._queued_bytes = 0
        self._outputs: dict[int, Stream] = {}
        self._last_dts: dict[int, int] = {}
        if self.path.resolve() == source.path.resolve():
            raise InvalidRequest(f"{self.path}: the output would overwrite the film that is being read")
        self.partial_path = create_partial(self.path)
        try:
            self._container = self._open()
        except BaseException:
            self.partial_path.unlink()
            raise
        try:
            self._video = self._add_streams(encoder, quality, pixel_format, preset)
            self._add_tags()
            self._start()
        except BaseException:
            self._discard()
            raise
        source._wanted = frozenset(self._outputs)
        source._sink = self._take

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            kept = self._keep_partial()
            if kept and isinstance(error, FilmError):
                error.args = (f"{error}; {kept}", *error.args[1:])
            elif kept and error is not None:
                error.add_note(f"{self.path}: {kept}")

    def write(self, frame: FilmFrame, chroma: NDArray[np.uint8]) -> None:
        """Encode one picture; frames come in the source's order, each once.

        Args:
            frame: As read from the source.
            chroma: (2, ceil(H/2), ceil(W/2)): Cb, Cr, BT.709 limited range, 16..240, neutral 128.

        Raises:
            InvalidRequest: `chroma` has another shape or type.
            FilmError: the picture cannot be encoded or written, or its time cannot be told from the previous one's.
        """
        height, width = frame.luma.shape
        shape = (2, (height + 1) // 2, (width + 1) // 2)
        if chroma.shape != shape or chroma.dtype != np.uint8:
            raise InvalidRequest(f"chroma is {chroma.dtype} {chroma.shape}, not uint8 {shape}")
        with self._lock:
            if self._closed:
                raise FilmError(self.path, "it is closed already")
            picture = self._picture(frame, chroma)
            picture.pts = frame.pts - round(self._source._shift / frame.time_base)
            picture.time_base, picture.duration = frame.time_base, frame.duration
            self._time_s = float(picture.pts * frame.time_base)
            self._check_time(picture.pts * frame.time_base)
            try:
                self._mux(self._video.encode(picture))
            except (FFmpegError, ValueError) as error:
                raise FilmError(self.path, f"cannot be written ({reason(error)})", self._time_s) from error
            self.frames_written += 1

    def close(self) -> None:
        """Finish the film, check that it has every picture, and give it its name.

        Raises:
            FilmError: the source was not read to its end, pictures are missing, or the end cannot be written.
        """
        with self._lock:
            if self._closed:
                return
            try:
                self._check_whole()
                self._finish()
                if self._packets_encoded != self.frames_written:
                    problem = f"the encoder made {self._packets_encoded} pictures of {self.frames_written}"
                    raise FilmError(self.path, problem, self._time_s)
                self._inspect()
                self.partial_path.replace(self.path)
            except (FilmError, FFmpegError, OSError, ValueError) as error:
                kept = self._keep_partial()
                problem = error.args[0] if isinstance(error, FilmError) else f"cannot be written ({reason(error)})"
                if isinstance(error, FilmError):
                    error.args = (f"{problem}; {kept}" if kept else problem, *error.args[1:])
                    raise
                raise FilmError(self.path, f"{problem}; {kept}" if kept else problem, self._time_s) from error
            self._detach()

    def abandon(self) -> None:
        """Leave no film: remove the partial file."""
        with self._lock:
            if not self._closed:
                self._discard()
                self._detach()

    # Opening

    def _open(self) -> OutputContainer:
        options = {}
        suffix = self.path.suffix.lower()
        if suffix in {".mkv", ".mka", ".webm"}:
            options["default_mode"] = "passthrough"  # dispositions as in the source
        elif suffix in {".mp4", ".m4v", ".mov"}:
            if set(self._tags()) - _MP4_TAGS:
                options["movflags"] = "use_metadata_tags"
        elif suffix in {".ts", ".m2ts", ".mts"}:
            options["mpegts_copyts"] = "1"
        try:
            container = av.open(f"file:{self.partial_path}", "w", container_options=options)
        except (FFmpegError, ValueError) as error:
            raise InvalidRequest(f"{self.path}: the suffix {suffix!r} names no container ({reason(error)})") from error
        if container.format.no_file or "image" in container.format.name:
            raise InvalidRequest(f"{self.path}: the suffix {suffix!r} names no film container")
        return container

    def _add_streams(self, encoder: str, quality: float, pixel_format: str | None, preset: str | None) -> VideoStream:
        video: VideoStream | None = None
        samples = self._first_sounds()
        for template in self._source._container.streams:
            if template.index == self._source._index:
                video = self._add_video(encoder, quality, pixel_format, preset)
            elif template.index not in self._source._hidden:
                self._add_copy(template, samples.get(template.index))
        assert video is not None
        return video

    def _add_video(self, encoder: str, quality: float, pixel_format: str | None, preset: str | None) -> VideoStream:
        info, first = self._source.info, self._source._first_picture
        template = self._source._video(self._source._container)
        try:
            codec = av.Codec(encoder, "w")
        except UnknownCodecError as error:
            raise InvalidRequest(f"{self.path}: there is no encoder {encoder!r}") from error
        if codec.type != "video":
            raise InvalidRequest(f"{self.path}: {encoder} is no video encoder")
        self._format = self._choose_format(codec, pixel_format)
        self._bits = self._format.components[0].bits
        time_base = self._source._time_base(self._source._container)
        if not self._container.format.flags & _VARIABLE_RATE and info.frame_rate:
            time_base = 1 / info.frame_rate
        try:
            stream = self._container.add_stream(
                encoder, rate=info.frame_rate, time_base=time_base, width=self._format.width, height=self._format.height
            )
        except (FFmpegError, ValueError) as error:
            raise InvalidRequest(f"{self.path}: {reason(error)}") from error
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.pix_fmt = self._format.name
        context.thread_type = "AUTO"
        context.flags |= av.codec.context.Flags.frame_duration
        if self._container.format.name == "avi":
            context.max_b_frames = 0  # AVI has no presentation times
        context.sample_aspect_ratio = info.sample_aspect_ratio
        context.color_range = ColorRange.JPEG if info.full_range else ColorRange.MPEG
        context.colorspace = _MATRIX_BT709
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        context.options = self._encoder_options(codec, quality, preset)
        if codec.name in _QSCALE_ENCODERS:
            context.qscale, context.global_quality = True, round(quality * QP_TO_LAMBDA)
        matrix = display_matrix(first)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        self._describe(stream, template)
        try:
            context.open()
        except (FFmpegError, ValueError) as error:
            settings = ", ".join(f"{key}={value}" for key, value in context.options.items())
            shape = f"{self._format.width}x{self._format.height} {self._format.name}"
            raise InvalidRequest(f"{self.path}: {encoder} refuses {shape} with {settings} ({reason(error)})") from error
        return stream

    def _choose_format(self, codec: av.Codec, wanted: str | None) -> VideoFormat:
        info = self._source.info
        width = info.width * (2 if self._side_by_side else 1)
        offered = {form.name for form in codec.video_formats or []}
        if wanted is not None:
            try:
                form = VideoFormat(wanted, width, info.height)
            except ValueError as error:
                raise InvalidRequest(f"{self.path}: there is no pixel format {wanted!r}") from error
            if offered and wanted not in offered:
                has = ", ".join(sorted(offered))
                raise InvalidRequest(f"{self.path}: {codec.name} has no pixel format {wanted}; it has {has}")
            planes = [part.plane for part in form.components]
            if form.is_rgb or planes != [0, 1, 2] or form.is_big_endian:
                raise InvalidRequest(f"{self.path}: {wanted} is not planar YUV")
            return form
        odd = info.width % 2 or info.height % 2
        samplings = ("yuv444p", "yuv420p", "yuv422p") if odd else ("yuv420p", "yuv422p", "yuv444p")
        for bits in range(info.bit_depth, 17):
            for sampling in samplings:
                name = sampling if bits == 8 else f"{sampling}{bits}le"
                if name in offered:
                    return VideoFormat(name, width, info.height)
        problem = f"{codec.name} cannot hold its {info.bit_depth}-bit luma; ask for an encoder that can, such as ffv1"
        raise InvalidRequest(f"{self.path}: {problem}, or for a pixel format with fewer bits, such as yuv420p10le")

    @staticmethod
    def _encoder_options(codec: av.Codec, quality: float, preset: str | None) -> dict[str, str]:
        known = {option.name for option in codec.create("video").supported_options.private}
        options = {}
        if codec.name == "libx264" and quality == 0:
            options["qp"] = "0"  # in 10 bits crf 0 is not lossless
        elif codec.name == "libx265":
            options["x265-params"] = "log-level=none" + (":lossless=1" if quality == 0 else "")
            options["crf"] = str(quality)
        else:
            options.update({name: str(quality) for name in ("crf", "cq") if name in known})
        if codec.name == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # its own log, to stderr: errors only
        if preset is not None:
            options["preset"] = preset
        elif codec.name in _PRESETS:
            options["preset"] = _PRESETS[codec.name]
        return options

    def _add_copy(self, template: Stream, sample: Packet[Stream] | None) -> None:
        if template.type == "data" and "timecode" in template.metadata:
            return  # the muxer makes it anew from the video's tag of that name
        name = template.metadata.get("filename") or template.language or ""
        codec = getattr(template.codec_context, "name", None) or template.name or "unknown"
        label = f"stream {template.index} ({template.type}, {codec}{', ' + name if name else ''})"
        refusal = self._refusal(template, sample)
        if refusal is None:
            try:
                stream = _add_like(self._container, template)
            except (FFmpegError, ValueError) as error:
                refusal = reason(error)
        if refusal is not None:
            self._warn(f"{label} is left out: {self._container.format.name} cannot hold it ({refusal})")
            return
        self._describe(stream, template)
        self._outputs[template.index] = stream
        self._queues[template.index] = deque()

    def _first_sounds(self) -> dict[int, Packet[Stream]]:
        """Read a packet of every audio stream that begins within the first packets of the film."""
        found: dict[int, Packet[Stream]] = {}
        with suppress(FFmpegError), self._source._open() as container:
            wanted = {stream.index for stream in container.streams.audio}
            if wanted:
                for packet in islice(container.demux(), _PACKETS_TRIED):
                    if packet.stream_index in wanted and packet.size:
                        found.setdefault(packet.stream_index, packet)
                    if len(found) == len(wanted):
                        break
        return found

    def _refusal(self, template: Stream, sample: Packet[Stream] | None) -> str | None:
        """Find out why the container cannot hold the stream, by writing it with one packet into memory.

        Some muxers tell only when they write the index, at the end of the film.
        """
        trial = av.open(io.BytesIO(), "w", format=self._container.format.name)
        try:
            stream = _add_like(trial, template)
            trial.start_encoding()
            if sample is not None:
                sample.stream = stream
                trial.mux_one(sample)
                trial.close()
        except (FFmpegError, ValueError) as error:
            return reason(error)
        finally:
            with suppress(FFmpegError, ValueError):
                trial.close()
        return None

    def _describe(self, stream: Stream, template: Stream) -> None:
        skipped = _STATISTICS if template.index == self._source._index or self._trimmed else ()
        for key, value in template.metadata.items():
            if key.lower() in _WRITTEN_BY_MUXERS or key.startswith(skipped) or (key == "timecode" and self._trimmed):
                continue
            stream.metadata["title" if key == "name" else key] = value  # MP4 tracks are read with a name
        stream.disposition = template.disposition

    @property
    def _trimmed(self) -> bool:
        return self._source.start_s is not None or self._source.end_s is not None

    def _tags(self) -> dict[str, str]:
        tags = self._source._container.metadata
        return {
            key.lower() if key.lower() in _MP4_TAGS else key: value
            for key, value in tags.items()
            if key.lower() not in _WRITTEN_BY_MUXERS
        }

    def _add_tags(self) -> None:
        self._container.metadata.update(self._tags())
        source = self._source
        chapters: list[Chapter] = []
        for chapter in source._container.chapters():
            base = chapter["time_base"]
            if base is None:
                continue
            begin = source._shift
            end = None if source._end is None else source._end + (source._origin or 0)
            if chapter["end"] * base <= begin or (end is not None and chapter["start"] * base >= end):
                continue
            first = max(chapter["start"] * base, begin) if self._trimmed else chapter["start"] * base
            last = min(chapter["end"] * base, end) if end is not None else chapter["end"] * base
            chapters.append(
                {
                    "id": chapter["id"],
                    "start": round((first - begin) / base),
                    "end": round((last - begin) / base),
                    "time_base": base,
                    "metadata": chapter["metadata"],
                }
            )
        self._container.set_chapters(chapters)
        self._chapters = len(chapters)

    def _start(self) -> None:
        try:
            self._container.start_encoding()
        except (FFmpegError, ValueError) as error:
            raise FilmError(self.path, f"cannot be written there ({reason(error)})") from error

    # Writing

    def _picture(self, frame: FilmFrame, chroma: NDArray[np.uint8]) -> VideoFrame:
        width = frame.luma.shape[1]
        picture = VideoFrame(self._format.width, self._format.height, self._format.name)
        picture.color_range = self._video.codec_context.color_range
        picture.colorspace = _MATRIX_BT709
        picture.color_primaries = self._video.codec_context.color_primaries
        picture.color_trc = self._video.codec_context.color_trc
        luma: NDArray[Any] = frame.luma
        if frame.bit_depth != self._bits:
            luma = code_table(frame.bit_depth, frame.full_range, self._bits, frame.full_range)[luma]
        left = width if self._side_by_side else 0
        plane = _plane(picture, 0)
        plane[:, :left] = luma[:, :left]
        plane[:, left:] = luma
        values = _chroma_table(self._bits, frame.full_range)[chroma]
        for index in (1, 2):
            plane = _plane(picture, index)
            rows, columns = plane.shape
            left = columns // 2 if self._side_by_side else 0
            part: NDArray[Any] = values[index - 1]
            if rows > part.shape[0]:
                part = part.repeat(2, axis=0)
            if columns - left > part.shape[1]:
                part = part.repeat(2, axis=1)
            plane[:, :left] = 1 << (self._bits - 1)
            plane[:, left:] = part[:rows, : columns - left]
        return picture

    def _check_time(self, time: Fraction) -> None:
        base = self._video.time_base
        assert base is not None
        pts = round(time / base)
        if self._last_pts is not None and pts <= self._last_pts:
            problem = f"{self._container.format.name} cannot tell this picture's time from the one before: choose mp4"
            raise FilmError(self.path, problem, self._time_s)
        if abs(pts * base - time) > _FIXED_RATE_TOLERANCE_S:
            self._warn(f"{self._container.format.name} holds a fixed frame rate: times are rounded to 1/{1 / base} s")
        self._last_pts = pts

    def _take(self, packet: Packet[Stream]) -> None:
        """Take a packet of a copied stream from the source, until the video reaches its time."""
        with self._lock:
            if self._closed:
                return
            self._queues[packet.stream_index].append(packet)
            self._queued_bytes += packet.size
            while self._queued_bytes > _QUEUE_BYTES:  # badly interleaved: let the muxer write it out of order
                self._mux_next(min((queue[0] for queue in self._queues.values() if queue), key=_time))

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            self._drain(_time(packet) + self._source._shift)
            self._container.mux_one(packet)
            self._packets_encoded += 1

    def _drain(self, until: Fraction | None) -> None:
        for queue in self._queues.values():
            while queue and (until is None or _time(queue[0]) <= until):
                self._mux_next(queue[0])

    def _mux_next(self, packet: Packet[Stream]) -> None:
        """Copy the packet at the head of its queue into the film, in the film's time."""
        index = packet.stream_index
        self._queues[index].popleft()
        self._queued_bytes -= packet.size
        stream = self._outputs[index]
        if stream.type == "subtitle" and packet.pts is not None and self._source._end is not None:
            end = math.ceil((self._source._end + (self._source._origin or 0)) / packet.time_base)
            packet.duration = min(packet.duration or 0, end - packet.pts)
        if self._source.start_s is not None and not self._moved_to_start(packet, stream):
            return
        base = stream.time_base
        assert base is not None
        packet.rescale_ts(AVRational(base))
        if packet.dts is not None:
            loose = bool(self._container.format.flags & _LOOSE_TIMES)
            least = self._last_dts.get(index, packet.dts - 1) + (not loose)
            if packet.dts < least:
                if packet.pts is not None:
                    packet.pts = max(packet.pts, least)
                packet.dts = least
                self._warn(f"stream {index} has time stamps out of order, which were moved")
            self._last_dts[index] = packet.dts
        packet.stream = stream
        try:
            self._container.mux_one(packet)
        except (FFmpegError, ValueError) as error:
            problem = f"stream {index} ({stream.type}) cannot be copied ({reason(error)})"
            raise FilmError(self.path, problem, self._time_s) from error

    def _moved_to_start(self, packet: Packet[Stream], stream: Stream) -> bool:
        """Shift a packet by the cut at the start; False for one that lies before it. A subtitle is shortened."""
        shift = round(self._source._shift / packet.time_base)
        if packet.pts is None or stream.disposition & Disposition.attached_pic:
            return True
        if packet.pts < shift:
            last = packet.pts + (packet.duration or 0)
            if stream.type != "subtitle" or last <= shift:
                return False
            packet.pts = packet.dts = shift
            packet.duration = last - shift
        packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift
        return True

    # Closing

    def _check_whole(self) -> None:
        source = self._source
        if not source.finished:
            problem = f"the source was not read to its end: {self.frames_written} pictures written"
            raise FilmError(self.path, problem, self._time_s)
        if source.frames_read != self.frames_written:
            problem = f"{source.frames_read} pictures were read, but {self.frames_written} written"
            raise FilmError(self.path, problem, self._time_s)

    def _finish(self) -> None:
        self._mux(self._video.encode(None))
        self._drain(None)
        self._container.close()

    def _inspect(self) -> None:
        """Read the written film's header and first picture again, and name what the container did not keep."""
        source, was = self._source, self._source.info
        with FilmReader(self.partial_path) as film:
            now = film.info
            lost = [
                what
                for what, kept in {
                    f"the rotation by {was.rotation}°": now.rotation == was.rotation,
                    f"the sample aspect ratio {was.sample_aspect_ratio}": now.sample_aspect_ratio
                    == was.sample_aspect_ratio,
                    "the full range": now.full_range == was.full_range,
                    "the colour primaries": film._first_picture.color_primaries
                    == source._first_picture.color_primaries,
                    "the transfer curve": film._first_picture.color_trc == source._first_picture.color_trc,
                    "the chapters": self._chapters == len(film._container.chapters()),
                }.items()
                if not kept
            ]
            tags = {key.lower() for key in film._container.metadata}
            lost += [f"the tag {key!r}" for key in self._tags() if key.lower() not in tags]
            for kind in ("audio", "subtitle", "attachment"):
                copies = [stream for stream in self._outputs.values() if stream.type == kind]
                found = [stream for stream in film._container.streams if stream.type == kind]
                if len(found) != len(copies):
                    lost.append(f"{len(copies) - len(found)} {kind} streams as such")
                    continue
                for copy, stream in zip(copies, found, strict=True):
                    language = copy.language or "und"
                    if (stream.language or "und") != language:
                        lost.append(f"the language {language} of a stream ({kind})")
            moved = film._first_time() - (source._first_time() - source._shift)
        if lost:
            self._warn(f"{self._container.format.name} does not keep {', '.join(lost)}")
        if abs(moved) > _FIXED_RATE_TOLERANCE_S:
            self._warn(
                f"{self._container.format.name} moves all times, of picture and sound alike, by {float(moved):.3f} s"
            )

    def _keep_partial(self) -> str | None:
        """Make what there is a film, as far as it goes; says where it is."""
        with self._lock:
            finished = False
            with suppress(FFmpegError, FilmError, ValueError):
                self._finish()
                finished = True
            with suppress(FFmpegError, ValueError):
                self._container.close()
            self._detach()
            if not self.frames_written:
                self._discard()
            if not self.partial_path.exists():
                return None
            if not finished:
                return f"what could be written is kept in {self.partial_path}, but may not play"
            return f"{self.frames_written} pictures are kept in {self.partial_path}"

    def _discard(self) -> None:
        with suppress(FFmpegError, ValueError):
            self._container.close()
        self.partial_path.unlink(missing_ok=True)

    def _detach(self) -> None:
        self._closed = True
        self._source._sink, self._source._wanted = None, frozenset()
        self._queues.clear()

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)
            logger.warning("%s: %s", self.path, text)


def _add_like(container: OutputContainer, template: Stream) -> Stream:
    """Add a stream to copy packets into; sound without a channel layout, which MP4 refuses, gets the usual one."""
    stream = container.add_stream_from_template(template, opaque=True)
    if isinstance(stream, AudioStream) and stream.layout.name.endswith(" channels"):
        layout = _LAYOUTS.get(stream.layout.nb_channels)
        if layout is not None:
            stream.codec_context.layout = layout
    return stream


def _time(packet: Packet[Any]) -> Fraction:
    time = packet.dts if packet.dts is not None else packet.pts
    return Fraction(-1 << 40) if time is None else time * packet.time_base


def _plane(picture: VideoFrame, index: int) -> NDArray[Any]:
    """Give a writable view of one plane, (h, w)."""
    plane = picture.planes[index]
    kind = np.dtype(np.uint8 if picture.format.components[0].bits == 8 else np.uint16)
    return np.ndarray(
        (plane.height, plane.width), kind, buffer=plane, strides=(plane.line_size, kind.itemsize)  # type: ignore[arg-type]
    )  # fmt: skip


@cache
def _chroma_table(bits: int, full_range: bool) -> NDArray[Any]:
    """Table from 8-bit limited chroma codes to another depth or range (ITU-R BT.709; full range as in JFIF)."""
    centred = np.arange(256) - 128
    scale = ((1 << bits) - 1) / 224 if full_range else 1 << (bits - 8)
    values = np.floor(centred * scale + (1 << (bits - 1)) + 0.5)
    table: NDArray[Any] = np.clip(values, 0, (1 << bits) - 1).astype(np.uint8 if bits == 8 else np.uint16)
    return table
