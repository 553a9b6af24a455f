"""File to file at 1080p: frames/s and where the time goes; and the client's memory against the film's length."""

import json
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from common import MODELS, SIZES, grey_frames
from reeltint_local import LocalTriton

RATE = 24
_CHILD = """
import json, re, sys
from reeltint import Colorizer
from reeltint._colorize import colorize_film
with Colorizer(sys.argv[3]) as colorizer:
    report = colorize_film(sys.argv[1], sys.argv[2], colorizer)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"frames": report.frames, "elapsed_s": report.elapsed_s, "decode_s": report.decode_s,
                  "colour_s": report.colour_s, "encode_s": report.encode_s, "peak_mib": peak}))
"""


def write_film(path: Path, seconds: int, height: int, width: int) -> None:
    """A grey H.264 film that pans to and fro over a photograph."""
    frames = grey_frames(2 * RATE, height, width)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(seconds * RATE):
            place = index % (4 * RATE)
            grey = frames[place if place < 2 * RATE else 4 * RATE - 1 - place]
            frame = av.VideoFrame.from_ndarray(grey, "gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))


def run(source: Path, target: Path, address: str) -> dict[str, Any]:
    """Colour a film in a process of its own and return what it reports."""
    output = subprocess.run(
        [sys.executable, "-c", _CHILD, str(source), str(target), address], check=True, capture_output=True, text=True
    )
    return json.loads(output.stdout)  # type: ignore[no-any-return]


def measure() -> dict[str, Any]:
    """1080p for 10 s; memory at 240p for 60 s and 600 s."""
    with tempfile.TemporaryDirectory() as name, LocalTriton(MODELS) as server:
        folder = Path(name)
        result: dict[str, Any] = {}
        films = {"1080p": (10, *SIZES["1080p"]), "60 s": (60, 240, 426), "600 s": (600, 240, 426)}
        for film, (seconds, height, width) in films.items():
            write_film(folder / "grey.mp4", seconds, height, width)
            result[film] = run(folder / "grey.mp4", folder / "color.mp4", server.address)
    return result


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| film | frames/s | decode | wait for colour | encode | client's peak MiB |", "|---|---|---|---|---|---|"]
    for film, row in result.items():
        decode, colour, encode = (row[f"{part}_s"] / row["elapsed_s"] for part in ("decode", "colour", "encode"))
        speed = row["frames"] / row["elapsed_s"]
        lines.append(f"| {film} | {speed:.1f} | {decode:.0%} | {colour:.0%} | {encode:.0%} | {row['peak_mib']:.0f} |")
    return "\n".join(lines)
