"""How sure the network is of a reference: a clip's own first frame in colour, another clip's, its key frame coloured.

Each clip's middle frame, in grey, is coloured by the three. Where the
mean confidence of right and wrong references parts is `reeltint._references.LOW_CONFIDENCE`.
"""

import tarfile
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
from common import CLIPS, MODELS
from numpy.typing import NDArray
from reeltint import Colorizer, Reference
from reeltint._references import LOW_CONFIDENCE
from reeltint._thumbnail import at_most
from reeltint_local import LocalTriton

_Picture = NDArray[np.uint8]


def _ends(path: Path) -> tuple[_Picture, _Picture]:
    """First and middle frame, RGB, at most 640 pixels wide."""
    with av.open(str(path)) as film:
        count = sum(1 for _ in film.decode(video=0))
    with av.open(str(path)) as film:
        wanted = [f.to_ndarray(format="rgb24") for n, f in enumerate(film.decode(video=0)) if n in (0, count // 2)]
    first, middle = (at_most(np.asarray(each, np.uint8), 640) for each in wanted)
    return first, middle


def _confidence(colorizer: Colorizer, grey: _Picture, reference: Reference) -> float:
    found = colorizer.colorize(grey[None], output="ab", reference=reference).confidence
    assert found is not None
    return float(found.mean())


def measure() -> dict[str, Any]:
    """Mean confidences by kind of reference."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(CLIPS) as tar:
        tar.extractall(folder, filter="data")
        clips = [_ends(path) for path in sorted(Path(folder).rglob("color/*.mp4"))]
    greys = [(middle @ np.array([0.2126, 0.7152, 0.0722]) + 0.5).astype(np.uint8) for _, middle in clips]
    result: dict[str, Any] = {"own first frame": [], "another clip's": [], "key frame coloured": []}
    with LocalTriton(MODELS) as server, Colorizer(server.address) as colorizer:
        references = [colorizer.reference(first) for first, _ in clips]
        for index, grey in enumerate(greys):
            coloured = colorizer.colorize(grey[None], output="rgb").rgb
            assert coloured is not None
            result["own first frame"].append(_confidence(colorizer, grey, references[index]))
            for step in (7, 13):
                other = references[(index + step) % len(references)]
                result["another clip's"].append(_confidence(colorizer, grey, other))
            result["key frame coloured"].append(_confidence(colorizer, grey, colorizer.reference(coloured[0])))
    return result


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [f"| reference | least | median | most | below {LOW_CONFIDENCE:g} |", "|---|---|---|---|---|"]
    for name, values in result.items():
        low = sum(value < LOW_CONFIDENCE for value in values)
        least, median, most = np.percentile(values, [0, 50, 100])
        lines.append(f"| {name} | {least:.3f} | {median:.3f} | {most:.3f} | {low} of {len(values)} |")
    return "\n".join(lines)
