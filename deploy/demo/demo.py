"""`make demo`: a black-and-white film from the photographs that scikit-image ships, and what reeltint makes of it.

usage: demo.py FOLDER [FILM]
"""

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from reeltint._cli import main as reeltint
from reeltint._film import write_still
from skimage import data

WIDTH, HEIGHT, RATE, SECONDS = 480, 360, 24, 3
Picture = NDArray[np.uint8]  # [H, W, 3] sRGB


def pan(photograph: Picture, reverse: bool) -> Iterator[Picture]:
    """A scene: a window of four fifths of the photograph, gliding over it."""
    height = int(min(photograph.shape[0], photograph.shape[1] * HEIGHT / WIDTH) * 0.8)
    width = height * WIDTH // HEIGHT
    room = np.array([photograph.shape[0] - height, photograph.shape[1] - width])
    count = RATE * SECONDS
    for index in range(count):
        share = (count - 1 - index if reverse else index) / (count - 1)
        top, left = (room * share).round().astype(int)
        yield photograph[top : top + height, left : left + width]


def grey_film(path: Path) -> None:
    """Write the demo film: three scenes, luma only, with a quiet note to hear whether sound stays in sync."""
    with av.open(str(path), "w") as film:
        picture = film.add_stream("libx264", rate=RATE, options={"crf": "12"})
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = film.add_stream("aac", rate=44100)
        scenes = (pan(data.astronaut(), False), pan(data.chelsea(), True), pan(data.coffee(), False))
        for index, window in enumerate(crop for scene in scenes for crop in scene):
            crop = av.VideoFrame.from_ndarray(np.ascontiguousarray(window), "rgb24")
            frame = crop.reformat(WIDTH, HEIGHT, "gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            film.mux(picture.encode(frame))
        film.mux(picture.encode(None))
        samples = np.arange(44100 * SECONDS * len(scenes))
        note = 220 * 2 ** (samples // (44100 * SECONDS) / 4)
        wave = (0.05 * np.sin(2 * np.pi * note * samples / 44100)).astype(np.float32)
        for begin in range(0, len(wave), 1024):
            part = av.AudioFrame.from_ndarray(wave[None, begin : begin + 1024], "fltp", "mono")
            part.sample_rate, part.pts, part.time_base = 44100, begin, Fraction(1, 44100)
            film.mux(sound.encode(part))
        film.mux(sound.encode(None))


def contact_sheet(grey: Path, colour: Path, path: Path, columns: int = 6) -> None:
    """Write a PNG of frames evenly spread over the film: the grey ones above the coloured ones."""
    rows = []
    for film in (grey, colour):
        frames: list[Picture] = []
        with av.open(str(film)) as container:
            stream = container.streams.video[0]
            total = stream.frames or sum(1 for _ in container.decode(stream))
            container.seek(0)
            wanted = {int((k + 0.5) * total / columns) for k in range(columns)}
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    width = 240
                    height = round(width * frame.height / frame.width)
                    frames.append(np.asarray(frame.reformat(width, height, "rgb24").to_ndarray(), np.uint8))
        rows.append(np.concatenate(frames, 1))
    write_still(path, np.concatenate(rows))


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 2 and sys.argv[2]:
        grey = Path(sys.argv[2])
        colour = folder / f"{grey.stem}.color{grey.suffix}"
    else:
        grey, colour = folder / "grey.mp4", folder / "color.mp4"
        grey_film(grey)
    sys.argv = ["reeltint", "colorize", str(grey), str(colour), "--overwrite"]
    try:
        reeltint()
    except SystemExit as end:
        if end.code:
            raise
    sheet = colour.with_suffix(".png")
    contact_sheet(grey, colour, sheet)
    print(f"film:          {colour}\ncontact sheet: {sheet}")


if __name__ == "__main__":
    main()
