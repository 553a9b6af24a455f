"""One store of embeddings in a process of its own, for library.py: build it, or open and ask it; prints JSON.

    library_stores.py build|ask STORE FOLDER COUNT

Nothing of the project is imported but its own library, so that the others run in any Python that has them.
"""

import json
import resource
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

D, QUERIES, NEAREST = 320, 31, 5

Search = Callable[[Any], "list[tuple[str, float]]"]  # a vector to paths and distances


def vectors(count: int, folder: Path) -> Any:
    """Generated embeddings [count, D] of length 1, in clusters as photographs are; made once, kept in `folder`."""
    kept = folder / f"{count}.npy"
    if not kept.exists():
        rng = np.random.default_rng(7)
        centres = rng.standard_normal((200, D)).astype(np.float32)
        points = centres[rng.integers(0, 200, count)] + 0.8 * rng.standard_normal((count, D)).astype(np.float32)
        np.save(kept, points / np.linalg.norm(points, axis=1, keepdims=True))
    return np.load(kept)


def path_of(number: int) -> str:
    """A photograph's path."""
    return f"/photographs/{number:06}.jpg"


def build(store: str, folder: Path, count: int) -> None:
    """Make the store, with what a photograph's row needs: path and digest."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = vectors(count, folder.parent)
    if store == "reeltint":
        from reeltint._library import Library, NewPhotograph

        with Library(folder, create=True) as library:
            library.insert(
                NewPhotograph(path=Path(path_of(n)), digest=n.to_bytes(32, "little"), width=1, height=1, embedding=v)
                for n, v in enumerate(found)
            )
    elif store == "faiss":
        import faiss

        index = faiss.IndexIDMap2(faiss.IndexFlatL2(D))
        index.add_with_ids(found, np.arange(count))
        faiss.write_index(index, str(folder / "vectors.faiss"))
        database = sqlite3.connect(folder / "photographs.sqlite")
        database.execute("CREATE TABLE photographs (id INTEGER PRIMARY KEY, path TEXT, digest BLOB UNIQUE)")
        rows = ((n, path_of(n), n.to_bytes(32, "little")) for n in range(count))
        database.executemany("INSERT INTO photographs VALUES (?, ?, ?)", rows)
        database.commit()
        database.close()
    else:
        import lancedb
        import pyarrow

        columns = {
            "path": [path_of(n) for n in range(count)],
            "digest": [n.to_bytes(32, "little") for n in range(count)],
            "vector": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(found.ravel()), D),
        }
        table = lancedb.connect(str(folder)).create_table("photographs", pyarrow.table(columns))
        if store == "lancedb index":
            table.create_index(metric="l2", vector_column_name="vector")


def opened(store: str, folder: Path) -> Search:
    """The store as a function that finds the nearest photographs."""
    if store == "reeltint":
        from reeltint._library import Library

        library = Library(folder)
        return lambda query: [(str(m.photograph.path), m.distance) for m in library.search(query, NEAREST)]
    if store == "faiss":
        import faiss

        index = faiss.read_index(str(folder / "vectors.faiss"), faiss.IO_FLAG_MMAP_IFC)
        database = sqlite3.connect(folder / "photographs.sqlite")

        def by_faiss(query: Any) -> list[tuple[str, float]]:
            squared, ids = index.search(query[None], NEAREST)
            ask = "SELECT path FROM photographs WHERE id = ?"
            paths = [database.execute(ask, (int(n),)).fetchone()[0] for n in ids[0]]
            return list(zip(paths, np.sqrt(squared[0]).tolist(), strict=True))

        return by_faiss
    import lancedb

    table = lancedb.connect(str(folder)).open_table("photographs")

    def by_lance(query: Any) -> list[tuple[str, float]]:
        found = table.search(query).distance_type("l2").limit(NEAREST).select(["path"]).to_list()
        return [(row["path"], row["_distance"] ** 0.5) for row in found]

    return by_lance


def ask(store: str, folder: Path, count: int) -> dict[str, float]:
    """Open the store, search; milliseconds, and how many of the truly nearest were found."""
    known = vectors(count, folder.parent)
    rng = np.random.default_rng(8)
    queries = known[rng.integers(0, count, QUERIES)] + 0.03 * rng.standard_normal((QUERIES, D)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    nearest = np.argpartition(-(queries @ known.T), NEAREST, axis=1)[:, :NEAREST]
    del known
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    search = opened(store, folder)
    ready = time.perf_counter()
    search(queries[0])
    first = time.perf_counter()
    taken, right = [], 0
    for query, expected in zip(queries[1:], nearest[1:], strict=True):
        start = time.perf_counter()
        found = search(query)
        taken.append(time.perf_counter() - start)
        right += len({path for path, _ in found} & {path_of(n) for n in expected})
    return {
        "open_ms": 1e3 * (ready - begun),
        "first_ms": 1e3 * (first - ready),
        "median_ms": 1e3 * float(np.median(taken)),
        "slowest_ms": 1e3 * max(taken),
        "recall": right / (NEAREST * len(taken)),
        "memory_mib": max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


if __name__ == "__main__":
    _, what, name, where, number = sys.argv
    if what == "build":
        started = time.perf_counter()
        build(name, Path(where), int(number))
        print(json.dumps({"build_s": time.perf_counter() - started}))
    else:
        print(json.dumps(ask(name, Path(where), int(number))))
