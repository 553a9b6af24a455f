"""Films with known scenes: real shots joined by cuts, dissolves and fades, clean or damaged as old film is.

None of the clips in ../shared/data/clips.tar has a cut inside it (looked at, every tenth frame or closer).
"""

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.frame import VideoFrame
from films import plane
from numpy.typing import NDArray
from skimage import color, data
from support import SHARED

Frames = NDArray[np.uint8]  # (count, H, W), grey
Kind = Literal["cut", "dissolve", "fade"]
CLIPS = SHARED / "data/clips.tar"
_PHOTOGRAPHS = (
    "astronaut",
    "camera",
    "coffee",
    "chelsea",
    "rocket",
    "coins",
    "immunohistochemistry",
    "hubble_deep_field",
)
_PANNED = 150  # frames over a photograph; two dissolves and what must show between them take 110
_SAME_PLACE = ("intel_asl",)  # clips of one person in one room: a cut between them would be a jump cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """How two shots meet: frames `start` up to, not including, `end` are of both; a cut has start == end."""

    kind: Kind
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """Frames of a clip, and how the film comes to it from the shot before."""

    clip: str
    first: int
    count: int  # the frames of both its transitions included
    kind: Kind = "cut"
    length: int = 0  # of the transition into it, frames; a fade takes half of it from each shot


def clips(height: int, width: int, *, half: int | None = None) -> dict[str, Frames]:
    """Decode the clips, or pan over scikit-image's photographs where they are absent.

    Args:
        height: Of every frame; clips of other shapes are stretched.
        width: Alike.
        half: 0 or 1: every second clip; clips of one place stay together. None: all.
    """
    found: dict[str, Frames] = {}
    if not CLIPS.exists():
        every = photographs()
        path = [(k / (_PANNED - 1), 0.5, 1.5) for k in range(_PANNED)]
        chosen = list(every)[half or 0 :: 1 if half is None else 2]
        return {name: np.stack(list(pan(every[name], height, width, path))) for name in chosen}
    with tarfile.open(CLIPS) as tar:
        members = sorted((m for m in tar if m.name.endswith(".mp4")), key=lambda m: m.name)
        for group, members_of_group in enumerate(_groups([m.name for m in members])):
            for name in members_of_group if half in {None, group % 2} else []:
                file = tar.extractfile(name)
                assert file is not None
                with av.open(io.BytesIO(file.read()), "r") as film:
                    pictures = [p.reformat(width, height, "gray") for p in film.decode(video=0)]
                found[Path(name).stem] = np.stack([p.to_ndarray() for p in pictures])
    return found


def _groups(names: Sequence[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        stem = Path(name).stem
        groups.setdefault(next((p for p in _SAME_PLACE if stem.startswith(p)), stem), []).append(name)
    return list(groups.values())


def draw_shots(
    sources: Mapping[str, Frames],
    transitions: int,
    *,
    seed: int = 0,
    gradual: float = 0.4,
    short: float = 0.15,
    shortest_dissolve: int = 8,
) -> list[Shot]:
    """Draw a film of `transitions` + 1 shots.

    Args:
        sources: The clips to draw from; neighbours are never of one clip, nor of one place.
        transitions: How many.
        seed: Of everything drawn.
        gradual: Share of transitions that are not cuts: of these two thirds are dissolves of up to 48 frames, the
            others fades to and from black of 16 to 54.
        short: Share of shots between two cuts that last 3 to 10 frames only; others show 14 to 90 frames of their own,
            as far as their clip has them.
        shortest_dissolve: Frames.
    """
    rng = np.random.default_rng(seed)
    kinds: list[Kind] = ["cut" if rng.random() >= gradual else "dissolve" for _ in range(transitions)]
    kinds = ["fade" if kind == "dissolve" and rng.random() < 1 / 3 else kind for kind in kinds]
    lengths = [
        {"cut": 0, "dissolve": int(rng.integers(shortest_dissolve, 49)), "fade": int(rng.integers(16, 55))}[k]
        for k in kinds
    ]
    shots: list[Shot] = []
    place = ""
    for index in range(transitions + 1):
        before = (kinds[index - 1], lengths[index - 1]) if index else ("cut", 0)
        after = (kinds[index], lengths[index]) if index < transitions else ("cut", 0)
        shared = sum((length + 1) // 2 if kind == "fade" else length for kind, length in (before, after))
        alone = int(rng.integers(3, 11)) if not shared and rng.random() < short else int(rng.integers(14, 91))
        fitting = [n for n, f in sources.items() if len(f) >= shared + 14 and _place(n) != place]
        clip = fitting[rng.integers(len(fitting))]
        place = _place(clip)
        count = min(shared + alone, len(sources[clip]))
        first = int(rng.integers(0, len(sources[clip]) - count + 1))
        shots.append(Shot(clip=clip, first=first, count=count, kind=before[0], length=before[1]))
    return shots


def _place(clip: str) -> str:
    return next((place for place in _SAME_PLACE if clip.startswith(place)), clip)


def joins(shots: Sequence[Shot]) -> list[Join]:
    """Where the shots meet."""
    found = []
    end = shots[0].count
    for shot in shots[1:]:
        start = end - _lead(shot)
        found.append(Join(kind=shot.kind, start=start, end=start + shot.length))
        end = found[-1].end - _tail(shot) + shot.count
    return found


def _lead(shot: Shot) -> int:
    """Frames of the transition into `shot` that the shot before it has."""
    return shot.length // 2 if shot.kind == "fade" else shot.length


def _tail(shot: Shot) -> int:
    """Frames of the transition into `shot` that itself has."""
    return shot.length - shot.length // 2 if shot.kind == "fade" else shot.length


def render(sources: Mapping[str, Frames], shots: Sequence[Shot]) -> Iterator[Frames]:
    """Frames of the film, (H, W) each, one after another.

    A dissolve of n frames shows (k + 1) / (n + 1) of the new shot in its k-th frame; a fade goes linearly to black in
    its first half and comes back in its second.
    """
    for index, shot in enumerate(shots):
        source = sources[shot.clip][shot.first : shot.first + shot.count]
        following = shots[index + 1] if index + 1 < len(shots) else None
        leaving = _lead(following) if following else 0
        begin = _tail(shot) if shot.kind == "fade" else shot.length
        if shot.kind == "fade":
            for k in range(begin):
                yield _scaled(source[k], k / begin)
        yield from source[begin : shot.count - leaving]
        if following is None:
            continue
        last = source[shot.count - leaving :]
        if following.kind == "fade":
            for k in range(leaving):
                yield _scaled(last[k], (leaving - 1 - k) / leaving)
        elif following.kind == "dissolve":
            coming = sources[following.clip][following.first : following.first + leaving]
            for k in range(leaving):
                share = (k + 1) / (leaving + 1)
                mixed = last[k] * np.float32(1 - share) + coming[k] * np.float32(share)
                yield (mixed + 0.5).astype(np.uint8)


def _scaled(frame: Frames, share: float) -> Frames:
    return (frame * np.float32(share) + 0.5).astype(np.uint8)


def damage(
    frames: Iterator[Frames],
    *,
    seed: int = 0,
    flicker: float = 0.08,
    grain: float = 8.0,
    jitter: int = 2,
    flashes: float = 1 / 150,
) -> Iterator[Frames]:
    """Damage frames as age does, each with: flicker, grain, scratches, dust, jitter, and now and then a flash.

    Args:
        frames: The film.
        seed: Of everything drawn.
        flicker: Standard deviation of the gain, new for each frame.
        grain: Standard deviation of the noise, grey levels.
        jitter: Largest displacement, pixels, both ways and both axes, new for each frame.
        flashes: Chance that one to three frames from here on are twice as bright and 40 levels up.
    """
    rng = np.random.default_rng(seed)
    noise = None
    scratches: list[list[float]] = []  # column, drift, brightness, frames left
    flash = 0
    for frame in frames:
        height, width = frame.shape
        if noise is None:
            noise = rng.normal(0, grain, (4, 2 * height, 2 * width)).astype(np.float32)
        y, x = rng.integers(0, height), rng.integers(0, width)
        picture = frame * np.float32(np.clip(rng.normal(1, flicker), 1 - 2.5 * flicker, 1 + 2.5 * flicker))
        if jitter:
            dy, dx = rng.integers(-jitter, jitter + 1, 2)
            picture = np.pad(picture, jitter, "edge")[jitter + dy :, jitter + dx :][:height, :width]
        picture = picture + noise[rng.integers(4), y : y + height, x : x + width]
        flash = flash - 1 if flash else int(rng.integers(1, 4)) if rng.random() < flashes else 0
        if flash:
            picture = picture * 2 + 40
        if rng.random() < 0.1:
            column, drift = rng.uniform(0, width), rng.normal(0, width / 600)
            scratches.append([column, drift, rng.choice([-70.0, 90.0]), rng.integers(5, 40)])
        for scratch in scratches:
            column = int(scratch[0]) % width
            picture[:, column : column + max(1, width // 500)] += scratch[2]
            scratch[0] += scratch[1]
            scratch[3] -= 1
        scratches = [scratch for scratch in scratches if scratch[3] > 0]
        for _ in range(rng.poisson(3)):
            size = rng.integers(1, max(2, width // 60), 2)
            top, left = rng.integers(0, height - size[0]), rng.integers(0, width - size[1])
            picture[top : top + size[0], left : left + size[1]] = rng.choice([15, 240])
        yield np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def write_film(
    path: Path, frames: Iterator[Frames] | Sequence[Frames], *, rate: Fraction = Fraction(24), crf: int = 16
) -> None:
    """Write grey frames as H.264, limited range."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": str(crf)})
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(frames):
            if not index:
                stream.height, stream.width = frame.shape
            picture = VideoFrame(frame.shape[1], frame.shape[0], "yuv420p")
            plane(picture, 0)[:, : frame.shape[1]] = np.rint(frame * (219 / 255) + 16)
            for chroma in (1, 2):
                plane(picture, chroma)[:] = 128
            picture.pts, picture.time_base = index, 1 / rate
            film.mux(stream.encode(picture))
        film.mux(stream.encode(None))


def pan(photograph: Frames, height: int, width: int, path: Sequence[tuple[float, float, float]]) -> Iterator[Frames]:
    """Move over a photograph: for each frame the window's left and top, in parts of what is free, and its zoom >= 1."""
    tall, wide = photograph.shape
    for left, top, zoom in path:
        h, w = round(tall / zoom), round(wide / zoom)
        h, w = min(h, round(w * height / width)), min(w, round(h * width / height))
        y, x = round(top * (tall - h)), round(left * (wide - w))
        window = np.ascontiguousarray(photograph[y : y + h, x : x + w])
        frame = VideoFrame.from_ndarray(window, "gray").reformat(width, height)
        yield np.asarray(frame.to_ndarray(), np.uint8)


def cover(frames: Iterator[Frames], start: int, length: int, moving: int = 6) -> Iterator[Frames]:
    """Hold a hand over the lens for `length` frames; it takes `moving` more to come from the right, and to go."""
    for index, frame in enumerate(frames):
        hidden = min(index - start + moving, start + length + moving - index) / moving
        if hidden > 0:
            height, width = frame.shape
            edge = width * (1 - min(1.0, hidden))
            slanted = edge + 0.2 * width * (np.linspace(-0.5, 0.5, height)[:, None] if hidden < 1 else 0)
            share = np.clip((np.arange(width) - slanted) / (0.1 * width), 0, 1) if hidden < 1 else 1.0
            frame = (frame * (1 - share) + 14 * share).astype(np.uint8)
        yield frame


def photographs() -> dict[str, Frames]:
    """scikit-image's photographs, grey."""
    found = {}
    for name in _PHOTOGRAPHS:
        picture = getattr(data, name)()
        found[name] = picture if picture.ndim == 2 else (color.rgb2gray(picture) * 255).round().astype(np.uint8)
    return found
