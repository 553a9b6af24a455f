"""Finding a reference among 2,000 and 100,000 photographs, by store; embedding not included.

The vectors are generated, 320 numbers each as the shipped embedder's. Each store is opened and asked in a fresh
process; opening includes the import of what it needs. Rivals are left out where they are not installed; RIVALS_PYTHON
names a Python that has them: pip install "numpy<2" "pyarrow<22" lancedb faiss-cpu
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COUNTS = (2_000, 100_000)
BARS_MS = {2_000: 50, 100_000: 100}
STORES = ("reeltint", "faiss", "lancedb", "lancedb index")
NAMES = {
    "reeltint": "reeltint: vectors mapped, SQLite",
    "faiss": "faiss-cpu (flat) and SQLite",
    "lancedb": "LanceDB, no index",
    "lancedb index": "LanceDB, IVF_PQ",
}
PAPER_S = (73, 98)


def _run(what: str, store: str, folder: Path, count: int) -> dict[str, float]:
    python = sys.executable if store == "reeltint" else os.environ.get("RIVALS_PYTHON", sys.executable)
    script = Path(__file__).with_name("library_stores.py")
    command = [python, str(script), what, store, str(folder), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ImportError(lines[-1] if lines else f"exit code {done.returncode}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure() -> dict[str, Any]:
    """Milliseconds by count and store: the median of three processes each, taking turns."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            built: dict[str, dict[str, float]] = {}
            missing: dict[str, str] = {}
            for store in STORES:
                try:
                    built[store] = _run("build", store, Path(folder) / f"{store}-{count}", count)
                except ImportError as error:
                    missing[store] = str(error)
            runs: dict[str, list[dict[str, float]]] = {store: [] for store in built}
            for _ in range(3):
                for store, each in runs.items():
                    each.append(_run("ask", store, Path(folder) / f"{store}-{count}", count))
            rows = {
                store: {**built[store], **{key: sorted(run[key] for run in each)[1] for key in each[0]}}
                for store, each in runs.items()
            }
            result[str(count)] = {"stores": rows, "missing": missing}
    return result


def table(result: dict[str, Any]) -> str:
    """The result as Markdown, the paper's figure beside it."""
    lines = [
        "| photographs | store | open ms | first search ms | search ms | slowest ms | recall@5 | build s | bar ms |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| 2,000 | paper 3, embedding included | | {PAPER_S[0]},000 to {PAPER_S[1]},000 | | | | | |",
    ]
    for count, found in result.items():
        for store, row in found["stores"].items():
            figures = f"{row['open_ms']:.0f} | {row['first_ms']:.1f} | {row['median_ms']:.1f} | {row['slowest_ms']:.0f}"
            tail = f"{row['recall']:.2f} | {row['build_s']:.1f} | {BARS_MS[int(count)]}"
            lines.append(f"| {int(count):,} | {NAMES[store]} | {figures} | {tail} |")
        lines += [f"| {int(count):,} | {NAMES[store]}: not here | | | | | | | |" for store in found["missing"]]
    return "\n".join(lines)
