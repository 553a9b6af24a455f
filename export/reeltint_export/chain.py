"""Real inputs for every model of a repository: pictures, through the models before it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image, ImageOps

from reeltint_export.half import session
from reeltint_export.pictures import Pictures
from reeltint_export.profiles import Shape

_BATCHES = (1, 4)
_MOST_PICTURES = 16  # every pixel's difference is kept, at 1080p too


def fitted(pictures: Pictures, sizes: Sequence[Shape]) -> Pictures:
    """Some of the pictures [H, W, 3], cropped and resized to each of `sizes` (rows, columns) in turn; all are there."""
    chosen = pictures[:: -(-len(pictures) // _MOST_PICTURES)]
    found = []
    for index in range(max(len(chosen), len(_BATCHES) * len(sizes))):
        rows, columns = sizes[index % len(sizes)]
        found.append(np.array(ImageOps.fit(Image.fromarray(chosen[index % len(chosen)]), (columns, rows))))
    return found


class Chain:
    """Real inputs of every model: pictures, through the models before it in ONNX Runtime.

    Args:
        models: Graphs by name.
        pictures: [H, W, 3].
        sizes: How many sizes they come in, in turn: see `fitted`.
    """

    def __init__(
        self, models: Mapping[str, onnx.ModelProto], pictures: Sequence[NDArray[np.uint8]], sizes: int = 1
    ) -> None:
        self._models, self._pictures, self._sizes = models, pictures, sizes
        self._known: dict[tuple[str, int], NDArray[Any]] = {}
        self._sessions: dict[str, Any] = {}

    def requests(self, name: str, count: int) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Inputs of `name` for every picture, each with the profile to run it in, of `count`, in turn."""
        for index in range(len(self._pictures)):
            yield (
                index % count,
                {value.name: self._tensor(value.name, index) for value in self._models[name].graph.input},
            )

    def _tensor(self, name: str, index: int) -> NDArray[Any]:
        if (name, index) in self._known:
            return self._known[name, index]
        picture = self._pictures[index]
        if name == "reference":
            return np.ascontiguousarray(picture[:, ::-1])
        if name == "frames":
            codes = np.array(Image.fromarray(picture).convert("L"))
            return np.repeat(codes[None], _BATCHES[index // self._sizes % len(_BATCHES)], 0)
        makers = [
            maker
            for maker, model in self._models.items()
            if name in (value.name for value in model.graph.output) and maker != "scene_embedder"
        ]
        if not makers:
            raise ValueError(f"no model of the repository gives {name!r}")
        maker = makers[0]
        inputs = {value.name: self._tensor(value.name, index) for value in self._models[maker].graph.input}
        if maker not in self._sessions:
            self._sessions[maker] = session(self._models[maker])
        runner = self._sessions[maker]
        outputs = [value.name for value in runner.get_outputs()]
        for output, value in zip(outputs, runner.run(outputs, inputs), strict=True):
            self._known[output, index] = value
        return self._known[name, index]
