"""Scene detection: cuts and gradual transitions found in joined shots, clean and damaged; and its speed.

The film is made by tests/scene_films.py of the half of the clips that nothing was tuned on; without the clips, of pans
over photographs, which the result says. A cut is found when one is reported within 1 frame of it, a dissolve or fade
when one of either kind is reported whose frames in common are at least half of those that either has (intersection over
union >= 0.5); each answer counts once. PySceneDetect's detectors run with their defaults, but for the shortest scene, 3
frames as ours; they report single frames.
"""

import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import ROOT
from numpy.typing import NDArray
from reeltint._scenes import Detector, PaperDetector, Scene, SceneDetector, luma_thumbnail
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector, HashDetector, HistogramDetector

sys.path.append(str(ROOT / "tests"))
from scene_films import CLIPS, Frames, Join, clips, damage, draw_shots, joins, render, write_film

HALF, SEED, TRANSITIONS = 1, 1, 220
SHAPE = (360, 640)
SHORTEST = 3
RIVALS = {
    "PySceneDetect Content": ContentDetector,
    "PySceneDetect Adaptive": AdaptiveDetector,
    "PySceneDetect Hash": HashDetector,
    "PySceneDetect Histogram": HistogramDetector,
}
Interval = tuple[int, int]


class Rival:
    """A detector of PySceneDetect, on frames reduced to 256 columns as its scene manager does."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        self._detector = kind(min_scene_len=SHORTEST)
        self.cuts: list[int] = []
        self._frames = 0

    def push(self, colour: NDArray[np.uint8]) -> None:
        """Take a frame, BGR."""
        found = self._detector.process_frame(FrameTimecode(self._frames, 24.0), colour)
        self.cuts += [time.frame_num for time in found]
        self._frames += 1

    def finish(self) -> list[int]:
        """Return the cuts."""
        self.cuts += [time.frame_num for time in self._detector.post_process(FrameTimecode(self._frames, 24.0))]
        return self.cuts


def scenes_of(thumbnails: Iterable[NDArray[np.uint8]], detector: Detector) -> list[Scene]:
    found = [scene for thumbnail in thumbnails for scene in detector.push(thumbnail)]
    return found + detector.finish()


def shares(found: int, answers: int, truth: int) -> dict[str, float]:
    """Precision, recall and F1."""
    return {
        "precision": found / answers if answers else 0.0,
        "recall": found / truth,
        "f1": 2 * found / (answers + truth),
    }


def matched_cuts(answers: Iterable[int], truth: Iterable[int]) -> int:
    free = set(truth)
    for answer in answers:
        near = [cut for cut in free if abs(cut - answer) <= 1]
        if near:
            free.remove(min(near, key=lambda cut: abs(cut - answer)))
    return len(set(truth)) - len(free)


def matched_intervals(answers: Iterable[Interval], truth: Iterable[Interval]) -> int:
    free = list(truth)
    count = 0
    for start, end in answers:
        for known in free:
            common = min(end, known[1]) - max(start, known[0])
            if common > 0 and 2 * common >= max(end, known[1]) - min(start, known[0]):
                free.remove(known)
                count += 1
                break
    return count


def judged(cuts: Sequence[int], gradual: Sequence[Interval], truth: Sequence[Join]) -> dict[str, Any]:
    true_cuts = [join.start for join in truth if join.kind == "cut"]
    true_gradual = [(join.start, join.end) for join in truth if join.kind != "cut"]
    return {
        "cuts": shares(matched_cuts(cuts, true_cuts), len(cuts), len(true_cuts)),
        "gradual": shares(matched_intervals(gradual, true_gradual), len(gradual), len(true_gradual)),
    }


def compare(frames: Iterator[Frames], truth: Sequence[Join]) -> dict[str, Any]:
    """All detectors on one film."""
    rivals = {name: Rival(kind) for name, kind in RIVALS.items()}
    thumbnails = []
    for frame in frames:
        thumbnails.append(luma_thumbnail(frame))
        small: Any = cv2.resize(frame, (256, 144), interpolation=cv2.INTER_LINEAR)
        colour: Any = cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
        for rival in rivals.values():
            rival.push(colour)
    result: dict[str, Any] = {}
    for name, detector in (("SceneDetector", SceneDetector()), ("PaperDetector", PaperDetector())):
        begun = time.perf_counter()
        found = scenes_of(thumbnails, detector)
        taken = time.perf_counter() - begun
        cuts = [scene.start for scene in found if scene.transition == "cut"]
        gradual = [(b.start, a.end) for a, b in itertools.pairwise(found) if b.transition in {"dissolve", "fade"}]
        result[name] = judged(cuts, gradual, truth) | {"ms a frame": 1000 * taken / len(thumbnails)}
    for name, rival in rivals.items():
        result[name] = judged(rival.finish(), [], truth)
    return result


def speed(frames: Iterator[Frames], count: int = 3000) -> dict[str, Any]:
    """Frames/s of the command `reeltint scenes` at 360p, H.264, Python's start included; and the CPU time it takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_film(path, itertools.islice(frames, count), crf=20)
        command = [sys.executable, "-c", "from reeltint._cli import main; main()", "scenes", str(path), "--json"]
        wall, cpu = [], []
        for _ in range(3):
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            begun = time.perf_counter()
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            wall.append(time.perf_counter() - begun)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu.append(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)
        assert json.loads(output)["frames"] == count
        megabits = 8e-6 * path.stat().st_size * 24 / count
    return {
        "frames": count,
        "megabits/s": megabits,
        "frames/s": count / min(wall),
        "CPU ms a frame": 1000 * min(cpu) / count,
    }


def measure() -> dict[str, Any]:
    """Quality on clean and damaged film, and speed on the clean one."""
    sources = clips(*SHAPE, half=HALF)
    shots = draw_shots(sources, TRANSITIONS, seed=SEED)
    truth = joins(shots)
    kinds = {kind: sum(join.kind == kind for join in truth) for kind in ("cut", "dissolve", "fade")}
    return {
        "shots": "clips" if CLIPS.exists() else "pans over photographs",
        "transitions": kinds,
        "frames": sum(1 for _ in render(sources, shots)),
        "clean": compare(render(sources, shots), truth),
        "damaged": compare(damage(render(sources, shots), seed=SEED), truth),
        "speed at 360p": speed(render(sources, shots)),
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    kinds = ", ".join(f"{count} {kind}s" for kind, count in result["transitions"].items())
    lines = [
        f"{result['frames']} frames of {result.get('shots', 'clips')}, {kinds}. P / R / F1:",
        "",
        "| detector | cuts, clean | cuts, damaged | gradual, clean | gradual, damaged |",
        "|---|---|---|---|---|",
    ]
    for name in result["clean"]:
        cells = [result[film][name][kind] for kind in ("cuts", "gradual") for film in ("clean", "damaged")]
        texts = [" / ".join(f"{cell[share]:.3f}" for share in ("precision", "recall", "f1")) for cell in cells]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    fast = result["speed at 360p"]
    ours = result["clean"]["SceneDetector"]["ms a frame"]
    lines += [
        "",
        f"`reeltint scenes`, 360p, {fast['megabits/s']:.1f} Mbit/s: {fast['frames/s']:.0f} frames/s, "
        f"{fast['CPU ms a frame']:.2f} ms of CPU a frame; SceneDetector alone {ours:.2f} ms a frame",
    ]
    return "\n".join(lines)
