"""Colouring by a reference: served frames/s against the automatic way, a film of many scenes from file to file, and
the client's memory against the film's length.
"""

import json
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from common import MODELS, SIZES, grey_frames, take_turns
from reeltint import Colorizer
from reeltint._colorize import default_batch
from reeltint_local import LocalTriton
from skimage import color, data

RATE, SCENE_S = 24, 4
FRAMES = 48  # a turn
FILMS = {"1080p": (10, *SIZES["1080p"]), "60 s": (60, 120, 160), "600 s": (600, 120, 160)}
_CHILD = """
import json, re, sys, time
from reeltint import Colorizer
from reeltint._colorize import colorize_film
from reeltint._film import FilmReader
from reeltint._references import plan
from reeltint._scenes import find_scenes
source, target, address = sys.argv[1:]
with FilmReader(source) as film:
    begun = time.perf_counter()
    sum(1 for _ in film)
    decoded = time.perf_counter()
    find_scenes(film)
    found = time.perf_counter()
with Colorizer(address) as colorizer:
    project = plan(source, colorizer)
    planned = time.perf_counter()
    report = colorize_film(source, target, colorizer, project=project)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"frames": report.frames, "scenes": len(project.scenes), "decode_s": decoded - begun,
                  "find_s": found - decoded, "plan_s": planned - found, "colour_s": report.elapsed_s,
                  "peak_mib": peak}))
"""


def scenes_film(path: Path, seconds: int, height: int, width: int) -> None:
    """A grey H.264 film that cuts from photograph to photograph every four seconds, gliding over each."""
    photographs = []
    for picture in (data.coffee(), data.chelsea(), data.astronaut()):
        grey = (color.rgb2gray(picture) * 255).round().astype(np.uint8)
        large = av.VideoFrame.from_ndarray(grey, "gray").reformat(width + 2 * RATE * SCENE_S, height)
        photographs.append(large.to_ndarray())
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(seconds * RATE):
            scene, place = divmod(index, RATE * SCENE_S)
            window = np.ascontiguousarray(photographs[scene % 3][:, 2 * place : 2 * place + width])
            frame = av.VideoFrame.from_ndarray(window, "gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))


def served(colorizer: Colorizer) -> dict[str, Any]:
    """Frames/s of both ways by frame size, and the ratio of their times."""
    reference = colorizer.reference(data.coffee())
    result = {}
    for name, (height, width) in SIZES.items():
        frames = grey_frames(FRAMES, height, width)
        size = default_batch(height, width)
        batches = [frames[k : k + size] for k in range(0, FRAMES, size)]
        seconds = take_turns(
            {
                "automatic": lambda b=batches: list(colorizer.stream(b)),  # type: ignore[misc]
                "by reference": lambda b=batches: list(colorizer.stream(b, reference=reference)),  # type: ignore[misc]
            },
            rounds=11,
        )
        speed = {way: FRAMES / taken for way, taken in seconds.items()}
        result[name] = {**speed, "time ratio": seconds["by reference"] / seconds["automatic"]}
    return result


def measure() -> dict[str, Any]:
    """Both ways in turns; then films of many scenes, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name, LocalTriton(MODELS) as server:
        with Colorizer(server.address) as colorizer:
            result: dict[str, Any] = {"served": served(colorizer), "films": {}}
        source, target = Path(name, "grey.mp4"), Path(name, "color.mp4")
        for film, (seconds, height, width) in FILMS.items():
            scenes_film(source, seconds, height, width)
            command = [sys.executable, "-c", _CHILD, str(source), str(target), server.address]
            output = subprocess.run(command, check=True, capture_output=True, text=True)
            result["films"][film] = json.loads(output.stdout)
    return result


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| frames/s | automatic | by reference | time by reference / automatic |", "|---|---|---|---|"]
    for name, row in result["served"].items():
        lines.append(f"| {name} | {row['automatic']:.1f} | {row['by reference']:.1f} | {row['time ratio']:.2f} |")
    lines += [
        "",
        "| film | scenes | frames/s, both passes | scene detection beside decoding | planning pass | peak MiB |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for name, row in result["films"].items():
        whole = row["plan_s"] + row["colour_s"]
        detection = max(0.0, row["find_s"] - row["decode_s"])
        lines.append(
            f"| {name} | {row['scenes']} | {row['frames'] / whole:.1f} | {detection / whole:.0%} "
            f"| {row['plan_s'] / whole:.0%} | {row['peak_mib']:.0f} |"
        )
    return "\n".join(lines)
