"""Real inputs for every model of a repository: pictures, through the models before it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from reeltint_export.half import session

_BATCHES = (1, 4)


class Chain:
    """Real inputs of every model: pictures, through the models before it in ONNX Runtime.

    Args:
        models: Graphs by name.
        pictures: [H, W, 3].
    """

    def __init__(self, models: Mapping[str, onnx.ModelProto], pictures: Sequence[NDArray[np.uint8]]) -> None:
        self._models, self._pictures = models, pictures
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
            return np.repeat(codes[None], _BATCHES[index % len(_BATCHES)], 0)
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
