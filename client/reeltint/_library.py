"""A library of colour photographs with an embedding each, on disk, searched by Euclidean distance (paper 3, Eq. 4).

A library is a folder of two files. `library.sqlite` lists the photographs and says which vectors count; in
`vectors.f32` number n's embedding stands at place n - 1, float32. Vectors reach the disk before the transaction that
lists them is committed, so after a crash a photograph is there whole or not at all; SQLite's locks keep writers apart,
and readers see what was committed when they asked. Numbers are never used twice, and a removed photograph's vector
stays in the file (1,280 bytes at D = 320) without being found.

Search is exact: one matrix product over the mapped file. The photographs stay where they are, only their paths are
kept.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reeltint._closing import Closing
from reeltint._errors import FilmError, InvalidRequest, LibraryError
from reeltint._film_still import STILL_SUFFIXES, read_still_rgb
from reeltint._thumbnail import embedding_frame

Vectors = NDArray[np.float32]
Embed = Callable[[NDArray[np.uint8]], Vectors]
"""Frames [B, H, W] uint8 to embeddings [B, D] of length 1: `Colorizer.embed`."""

BATCH = 16
"""Photographs embedded and committed at a time."""
SAME_EMBEDDER = 0.02
"""How far apart one embedder's answers to the test picture may be: float16 and other hosts' arithmetic give 0.005."""

_FORMAT = 1
_WAIT_S = 60  # for another process that writes
_COLOURLESS = 8  # of 255 between the largest and the smallest of R, G and B at the 99th percentile
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS photographs ("
    "id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, path TEXT NOT NULL, "
    "width INTEGER NOT NULL, height INTEGER NOT NULL, added_s REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS removed (id INTEGER PRIMARY KEY)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """A photograph of the library.

    Attributes:
        id: Its number, from 1; never used again.
        path: Where it was when it was added.
        width: In pixels.
        height: In pixels.
        added_s: When, seconds since 1970 (UTC).
    """

    id: int
    path: Path
    width: int
    height: int
    added_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A photograph and how far its embedding is from what was searched: 0 (the same) to 2."""

    photograph: Photograph
    distance: float

    @property
    def similarity(self) -> float:
        """Cosine between the two embeddings."""
        return 1 - self.distance**2 / 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewPhotograph:
    """What `Library.insert` takes: a photograph's file, the sha-256 of its content, its size and its embedding."""

    path: Path
    digest: bytes
    width: int
    height: int
    embedding: Vectors


@dataclass(slots=True)
class Added:
    """What `Library.add` did.

    Attributes:
        added: Photographs that are new.
        known: Photographs that were there already, by their content.
        failures: Photographs that were left out, and why.
    """

    added: int = 0
    known: int = 0
    failures: list[FilmError] = field(default_factory=list)


def default_folder() -> Path:
    """$XDG_DATA_HOME/reeltint/library, or the same below ~/.local/share.

    Raises:
        InvalidRequest: There is no home folder.
    """
    try:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError as error:
        raise InvalidRequest("there is no home folder to have a library in; name a folder (--library)") from error
    return data / "reeltint" / "library"


def photographs_in(source: Path) -> list[Path]:
    """The photographs of a folder and all folders in it, sorted; or the one file.

    Raises:
        InvalidRequest: No such file or folder, or no photograph in it.
    """
    if not source.is_dir():
        if not source.exists():
            raise InvalidRequest(f"{source}: no such file or folder")
        return [source]
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in STILL_SUFFIXES and p.is_file())
    if not found:
        raise InvalidRequest(f"{source}: no photographs in this folder ({', '.join(sorted(STILL_SUFFIXES))})")
    return found


def read_colours(path: Path | str) -> NDArray[np.uint8]:
    """A still whose colours a scene can take: sRGB, (H, W, 3), 0..255.

    Raises:
        FilmError: It cannot be read, or is grey.
    """
    rgb = read_still_rgb(path)
    sample = rgb[:: max(1, rgb.shape[0] // 256), :: max(1, rgb.shape[1] // 256)]
    if np.percentile(np.ptp(sample, axis=-1), 99) < _COLOURLESS:
        raise FilmError(path, "it has no colour to give")
    return rgb


def check_colours(path: Path | str) -> None:
    """Raise what `read_colours` raises; a still that has not changed since is not read again."""
    try:
        stat = Path(path).stat()
    except OSError:
        read_colours(path)  # it tells
    else:
        _has_colours(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(4096)
def _has_colours(path: Path | str, _changed: int, _size: int) -> None:
    read_colours(path)


def embed_still(path: Path | str, embed: Embed) -> Vectors:
    """Embedding [D] of a still, colour or grey.

    Raises:
        FilmError: It cannot be read.
        ReeltintError: As `embed`.
    """
    return np.asarray(embed(embedding_frame(read_still_rgb(path))[None])[0], np.float32)


class Library(Closing):
    """An open library; use as a context manager, from one thread. Other processes may use it at the same time.

    Args:
        folder: Where it is.
        embed: What makes embeddings: needed to `add`, and checked against what made those in the library.
        create: Make the library where there is none.

    Raises:
        InvalidRequest: There is no library.
        LibraryError: It is damaged or of another format, or was made with another embedder.
    """

    def __init__(self, folder: Path | str, embed: Embed | None = None, *, create: bool = False) -> None:
        self.folder = Path(folder)
        self._embed = embed
        self._vectors: Vectors | None = None
        self._removed = np.zeros(0, np.int64)
        file = self.folder / "library.sqlite"
        try:
            if create:
                self.folder.mkdir(parents=True, exist_ok=True)
            elif not file.is_file():
                known = ""
                with suppress(InvalidRequest):
                    if ((default := default_folder()) / file.name).is_file():
                        known = f"; the default one is {default}"
                raise InvalidRequest(f"{self.folder}: there is no library here{known}")
            mode = "rwc" if create else "rw" if os.access(self.folder, os.W_OK) and os.access(file, os.W_OK) else "ro"
            self._writable = mode != "ro"
            uri = f"{file.absolute().as_uri()}?mode={mode}"
            self._data = sqlite3.connect(uri, uri=True, timeout=_WAIT_S, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error
        try:
            with self._told():
                if create:
                    with self._transaction():
                        for statement in _SCHEMA:
                            self._data.execute(statement)
                        self._data.execute("INSERT OR IGNORE INTO about VALUES ('format', ?)", (_FORMAT,))
                found = self._about("format")
                if found != _FORMAT:
                    raise LibraryError(f"{self.folder}: a library of format {found}; format {_FORMAT} can be read")
            self._file = self.folder / "vectors.f32"
            if embed is not None:
                self._check_embedder(embed)
        except BaseException:
            self._data.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self._vectors = None
        self._data.close()

    def __len__(self) -> int:
        with self._told():
            return int(self._data.execute("SELECT count(*) FROM photographs").fetchone()[0])

    @property
    def dimension(self) -> int | None:
        """D of its embeddings; None while it is empty and no embedder is known."""
        with self._told():
            found = self._about("dimension")
        return None if found is None else int(found)

    def photographs(self) -> list[Photograph]:
        """All photographs, by number."""
        with self._told():
            rows = self._data.execute("SELECT id, path, width, height, added_s FROM photographs ORDER BY id").fetchall()
        return [_photograph(row) for row in rows]

    def add(self, paths: Iterable[Path | str], *, on_photograph: Callable[[int], None] | None = None) -> Added:
        """Read, embed and list photographs; those that cannot be read or have no colour do not stop the others.

        What is in the library already, under whatever name, is not added again; where its file has gone from its old
        path, the new path is kept. `BATCH` photographs are committed at a time: after an interruption, add again.

        Args:
            paths: Picture files.
            on_photograph: Called with how many have been looked at.

        Raises:
            InvalidRequest: The library was opened without an embedder.
            LibraryError: It cannot be written.
            ReeltintError: As the embedder; what was committed before stays.
        """
        if self._embed is None:
            raise InvalidRequest("add: the library was opened without an embedder")
        result, looked_at = Added(), 0
        remaining = iter(paths)
        while batch := [Path(path).absolute() for path in islice(remaining, BATCH)]:
            read: list[tuple[Path, bytes, tuple[int, int], NDArray[np.uint8]]] = []
            for path in batch:
                try:
                    str(path).encode()
                    digest = hashlib.sha256(path.read_bytes()).digest()
                    if self._knows(digest, path) or any(digest == other for _, other, _, _ in read):
                        result.known += 1
                        continue
                    rgb = read_colours(path)
                    read.append((path, digest, (rgb.shape[1], rgb.shape[0]), embedding_frame(rgb)))
                except UnicodeEncodeError:
                    result.failures.append(FilmError(path, "its name is not UTF-8: not added; rename it"))
                except OSError as error:
                    result.failures.append(FilmError(path, f"cannot be read ({error.strerror})"))
                except FilmError as error:
                    result.failures.append(error)
            if read:
                embeddings = self._embed(np.stack([frame for *_, frame in read]))
                added = self.insert(
                    NewPhotograph(path=path, digest=digest, width=width, height=height, embedding=embedding)
                    for (path, digest, (width, height), _), embedding in zip(read, embeddings, strict=True)
                )
                result.added += added
                result.known += len(read) - added
            looked_at += len(batch)
            if on_photograph:
                on_photograph(looked_at)
        return result

    def insert(self, photographs: Iterable[NewPhotograph]) -> int:
        """List photographs whose embeddings are known, all or none; those whose digest is known are passed over.

        Returns:
            How many are new.

        Raises:
            InvalidRequest: An embedding is not float32 [D] of length 1.
            LibraryError: The library cannot be written, or holds embeddings of another D.
        """
        photographs = list(photographs)
        for each in photographs:
            _check_vector(each.embedding, str(each.path))
        added = 0
        with self._told(), self._transaction():
            descriptor = -1
            try:
                for each in photographs:
                    self._fix_dimension(len(each.embedding))
                    known = self._data.execute("SELECT 1 FROM photographs WHERE digest = ?", (each.digest,)).fetchone()
                    if known is not None:  # asked, not left to the index: a refused insert would use up a number
                        continue
                    done = self._data.execute(
                        "INSERT INTO photographs (digest, path, width, height, added_s) VALUES (?, ?, ?, ?, ?)",
                        (each.digest, str(each.path), each.width, each.height, time.time()),
                    )
                    assert done.lastrowid is not None
                    if descriptor < 0:
                        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
                    _write_all(descriptor, each.embedding.tobytes(), (done.lastrowid - 1) * each.embedding.nbytes)
                    added += 1
                if descriptor >= 0:
                    os.fsync(descriptor)
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        return added

    def remove(self, number: int) -> None:
        """Take a photograph out of the library; its file stays.

        Raises:
            InvalidRequest: There is no such photograph.
            LibraryError: The library cannot be written.
        """
        with self._told(), self._transaction():
            if not self._data.execute("DELETE FROM photographs WHERE id = ?", (number,)).rowcount:
                raise InvalidRequest(f"{self.folder}: there is no photograph {number}")
            self._data.execute("INSERT INTO removed VALUES (?)", (number,))

    def search(self, embedding: Vectors, count: int = 5) -> list[Match]:
        """The photographs nearest to an embedding, nearest first.

        Args:
            embedding: [D] float32 of length 1.
            count: How many, at most.

        Raises:
            InvalidRequest: `embedding` is no such vector.
            LibraryError: The library cannot be read, or holds embeddings of another D.
        """
        _check_vector(embedding, "embedding")
        if count < 1:
            raise InvalidRequest(f"count: at least 1, not {count}")
        with self._told(), self._transaction("DEFERRED"):
            dimension = self._about("dimension")
            if dimension is not None and dimension != len(embedding):
                raise self._other_dimension(int(dimension), len(embedding))
            vectors = self._mapped(len(embedding))
            if not len(vectors):
                return []
            closeness = vectors @ embedding  # of unit vectors: the larger, the nearer
            closeness[self._removed - 1] = -np.inf
            few = min(count + 8, len(vectors))
            near = np.argpartition(closeness, -few)[-few:]
            near = near[closeness[near] > -np.inf]
            distance = np.linalg.norm(vectors[near] - embedding, axis=1)
            order = np.lexsort((near, distance))[:count]
            matches = []
            for place, away in zip(near[order], distance[order], strict=True):
                row = self._data.execute(
                    "SELECT id, path, width, height, added_s FROM photographs WHERE id = ?", (int(place) + 1,)
                ).fetchone()
                if row is None:
                    raise LibraryError(f"{self.folder}: damaged, photograph {int(place) + 1} is not listed")
                matches.append(Match(photograph=_photograph(row), distance=float(away)))
        return matches

    def _mapped(self, dimension: int) -> Vectors:
        """All vectors that are listed or were, [n, D]; `_removed` is brought up to date."""
        row = self._data.execute("SELECT seq FROM sqlite_sequence WHERE name = 'photographs'").fetchone()
        count = 0 if row is None else int(row[0])
        removed = int(self._data.execute("SELECT count(*) FROM removed").fetchone()[0])
        if removed != len(self._removed):
            rows = self._data.execute("SELECT id FROM removed").fetchall()
            self._removed = np.array(rows, np.int64).reshape(-1)
        if count == 0:
            return np.zeros((0, dimension), np.float32)
        if self._vectors is None or len(self._vectors) != count:
            if not self._file.is_file() or self._file.stat().st_size < 4 * dimension * count:
                raise LibraryError(f"{self.folder}: damaged, vectors.f32 holds fewer than the {count} vectors listed")
            mapped = np.memmap(self._file, np.float32, "r", shape=(count, dimension))
            self._vectors = mapped.view(np.ndarray)
        return self._vectors

    def _knows(self, digest: bytes, path: Path) -> bool:
        """Whether a photograph of this content is listed; takes the new path where the old one is gone."""
        with self._told():
            row = self._data.execute("SELECT id, path FROM photographs WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                return False
            if row[1] != str(path) and not Path(row[1]).is_file():
                with self._transaction():
                    self._data.execute("UPDATE photographs SET path = ? WHERE id = ?", (str(path), row[0]))
        return True

    def _check_embedder(self, embed: Embed) -> None:
        """Compare what `embed` says of a test picture with what the first embedder said, which is kept."""
        answer = np.asarray(embed(_test_picture()[None])[0], np.float32)
        _check_vector(answer, "the embedder's answer")
        with self._told():
            if self._about("test_picture") is None and self._writable:
                with self._transaction():
                    self._fix_dimension(len(answer))
                    insert = "INSERT OR IGNORE INTO about VALUES ('test_picture', ?)"
                    self._data.execute(insert, (answer.tobytes(),))
            dimension, stored = self._about("dimension"), self._about("test_picture")
        if dimension is not None and dimension != len(answer):
            raise self._other_dimension(int(dimension), len(answer))
        if stored is None:
            return
        away = float(np.linalg.norm(np.frombuffer(stored, np.float32) - answer))
        if not away <= SAME_EMBEDDER:
            raise LibraryError(
                f"{self.folder}: made with another scene_embedder: a test picture lies {away:.2f} from where it lay "
                "then; add the photographs to a new library"
            )

    def _fix_dimension(self, dimension: int) -> None:
        self._data.execute("INSERT OR IGNORE INTO about VALUES ('dimension', ?)", (dimension,))
        found = int(self._about("dimension"))
        if found != dimension:
            raise self._other_dimension(found, dimension)

    def _other_dimension(self, own: int, other: int) -> LibraryError:
        return LibraryError(
            f"{self.folder}: made with another scene_embedder: its embeddings have {own} numbers, this one's {other}; "
            "add the photographs to a new library"
        )

    def _about(self, name: str) -> Any:
        row = self._data.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._data.execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            if self._data.in_transaction:
                self._data.execute("ROLLBACK")
            raise
        self._data.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn errors of the files into a LibraryError."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> LibraryError:
        said = getattr(error, "strerror", None) or str(error)
        if "locked" in said:
            said = f"another process has been writing for {_WAIT_S} s"
        elif "malformed" in said or "not a database" in said or "no such table" in said:
            said = f"not a library, or damaged ({said})"
        return LibraryError(f"{self.folder}: {said}")


def _photograph(row: Sequence[Any]) -> Photograph:
    number, path, width, height, added_s = row
    return Photograph(id=number, path=Path(path), width=width, height=height, added_s=added_s)


def _check_vector(vector: Vectors, label: str) -> None:
    if not isinstance(vector, np.ndarray) or vector.dtype != np.float32 or vector.ndim != 1 or not vector.size:
        what = f"{vector.dtype} {list(vector.shape)}" if isinstance(vector, np.ndarray) else type(vector).__name__
        raise InvalidRequest(f"{label}: an embedding, float32 [D], was expected, not {what}")
    length = float(np.linalg.norm(vector))
    if not abs(length - 1) < 0.01:
        raise InvalidRequest(f"{label}: an embedding has length 1, this one has {length:.3g}")


def _test_picture() -> NDArray[np.uint8]:
    """Discs on a slope: a picture that is the same everywhere."""
    y, x = np.mgrid[0:192, 0:256]
    picture = 40 + x * 0.5 + y * 0.25
    for row, column, radius, level in ((60, 70, 34, 230), (120, 180, 50, 20), (150, 60, 22, 140)):
        picture[(y - row) ** 2 + (x - column) ** 2 < radius**2] = level
    return np.asarray(picture, np.uint8)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
