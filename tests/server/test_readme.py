"""The README's first screen does what it says."""

import re
from typing import Any

import numpy as np
from support import ROOT


def test_the_first_example_runs(triton: str) -> None:
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert example is not None
    assert "localhost:8001" in example[1]
    written: list[Any] = []

    class Encoder:
        write = written.append

    batches = [np.full((2, 48, 64), grey, np.uint8) for grey in (20, 200)]
    given = {"batches": batches, "photograph": np.full((40, 50, 3), 90, np.uint8), "encoder": Encoder}
    exec(example[1].replace("localhost:8001", triton), given)
    assert [chroma.shape for chroma in written] == [(2, 2, 24, 32)] * 2
