"""The library of photographs: on disk, exact, crash-safe, shared between processes."""

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from reeltint._cli import main
from reeltint._errors import FilmError, InvalidRequest, LibraryError, ReeltintError
from reeltint._library import BATCH, Library, NewPhotograph, default_folder, embed_still, photographs_in
from skimage import data
from support import ROOT
from typer.main import get_command
from typer.testing import CliRunner

library_commands = sys.modules["reeltint._cli.library"]  # the package has an application under that name
D = 24
ADD = """
    import sys
    import numpy as np
    from pathlib import Path
    from reeltint._library import Library, NewPhotograph

    def vector(number):
        v = np.random.default_rng(number).standard_normal(24).astype(np.float32)
        return v / np.linalg.norm(v)

    def photograph(number):
        digest = number.to_bytes(32, "little")
        return NewPhotograph(path=Path(f"/{number}.jpg"), digest=digest, width=1, height=1, embedding=vector(number))
"""


def _unit(seed: int, dimension: int = D) -> NDArray[np.float32]:
    vector = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def _generated(number: int, dimension: int = D) -> NewPhotograph:
    digest = number.to_bytes(32, "little")
    path = Path(f"/{number}.jpg")
    return NewPhotograph(path=path, digest=digest, width=4, height=3, embedding=_unit(number, dimension))


def _embedder(seed: int, dimension: int = D) -> Any:
    """A stand-in for the served network: a fixed random projection of the picture, of length 1."""
    weights = np.random.default_rng(seed).standard_normal((64, dimension)).astype(np.float32)

    def embed(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        count, height, width = frames.shape
        rows = np.linspace(0, height - 1, 8).astype(int)
        columns = np.linspace(0, width - 1, 8).astype(int)
        values = (frames[:, rows][:, :, columns].reshape(count, 64).astype(np.float32) - 128) @ weights
        return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))

    return embed


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photographs, a copy of one, a broken one, an empty one, a grey one and a text."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for name in ("astronaut", "coffee", "rocket"):
        Image.fromarray(getattr(data, name)()[:120, :160]).save(folder / f"{name}.png")
    shutil.copy(folder / "coffee.png", folder / "deeper" / "again.PNG")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (folder / "empty.png").touch()
    Image.fromarray(data.camera()[:90, :90]).save(folder / "grey.jpg")
    (folder / "notes.txt").write_text("not a photograph")
    return folder


def test_photographs_are_added_found_and_removed(photos: Path, tmp_path: Path) -> None:
    embed = _embedder(0)
    with Library(tmp_path / "library", embed, create=True) as library:
        seen: list[int] = []
        result = library.add(photographs_in(photos), on_photograph=seen.append)
        assert (result.added, result.known, seen) == (3, 1, [7])
        assert [failure.path.name for failure in result.failures] == ["broken.jpg", "empty.png", "grey.jpg"]
        assert "not a picture" in str(result.failures[0])
        assert "no colour" in str(result.failures[2])
        assert len(library) == 3
        listed = library.photographs()
        assert {photo.path.name for photo in listed} >= {"astronaut.png", "rocket.png"}
        assert all((photo.width, photo.height) == (160, 120) for photo in listed)
        first, *others = library.search(embed_still(photos / "rocket.png", embed), 5)
        assert first.photograph.path == photos / "rocket.png"
        assert first.distance == pytest.approx(0, abs=1e-3)
        assert first.similarity == pytest.approx(1, abs=1e-3)
        assert len(others) == 2
        library.remove(first.photograph.id)
        left = library.search(embed_still(photos / "rocket.png", embed), 5)
        assert [match.photograph.path for match in left] == [match.photograph.path for match in others]
        with pytest.raises(InvalidRequest, match=f"no photograph {first.photograph.id}"):
            library.remove(first.photograph.id)


def test_adding_twice_is_harmless_and_a_moved_photograph_is_found_again(photos: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "library", _embedder(0), create=True) as library:
        library.add(photographs_in(photos))
        before = library.photographs()
        again = library.add(photographs_in(photos))
        assert (again.added, again.known) == (0, 4)
        assert library.photographs() == before
        (photos / "rocket.png").rename(photos / "moved.png")
        assert library.add([photos / "moved.png"]).known == 1
        names = {photo.path.name.replace("again.PNG", "coffee.png") for photo in library.photographs()}
        assert names == {"astronaut.png", "coffee.png", "moved.png"}


def test_a_name_that_is_not_utf_8_is_told(photos: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png"))
    (photos / "coffee.png").rename(odd)
    (photos / "deeper" / "again.PNG").unlink()
    with Library(tmp_path / "library", _embedder(0), create=True) as library:
        result = library.add(photographs_in(photos))
        assert (result.added, len(library)) == (2, 2)
    assert [str(failure) for failure in result.failures if failure.path == odd] == [
        f"{odd}: its name is not UTF-8: not added; rename it"
    ]


def test_search_is_exact_and_by_euclidean_distance(tmp_path: Path) -> None:
    """Against distances computed one by one, with removed photographs among the nearest."""
    vectors = np.stack([_unit(number) for number in range(400)])
    with Library(tmp_path, create=True) as library:
        assert library.insert(_generated(number) for number in range(400)) == 400
        query = _unit(12345)
        distances = [float(sum((a - b) ** 2 for a, b in zip(query, v, strict=True)) ** 0.5) for v in vectors]
        order = sorted(range(400), key=distances.__getitem__)
        found = library.search(query, 7)
        assert [match.photograph.path.name for match in found] == [f"{n}.jpg" for n in order[:7]]
        assert [match.distance for match in found] == pytest.approx([distances[n] for n in order[:7]], abs=1e-5)
        for number in order[:30:2]:
            library.remove(number + 1)
        found = library.search(query, 7)
        assert [match.photograph.path.name for match in found] == [f"{n}.jpg" for n in order[1:15:2]]
        assert len(library.search(query, 1000)) == 385
        assert len(library) == 385


def test_numbers_are_not_used_twice(tmp_path: Path) -> None:
    with Library(tmp_path, create=True) as library:
        library.insert([_generated(0), _generated(1)])
        library.remove(2)
        assert library.insert([_generated(0)]) == 0
        library.insert([_generated(1), _generated(2)])
        assert [photo.id for photo in library.photographs()] == [1, 3, 4]
        assert library.search(_unit(2), 1)[0].photograph.id == 4
        assert library.search(_unit(1), 1)[0].photograph.id == 3


def test_an_empty_library_finds_nothing(tmp_path: Path) -> None:
    with Library(tmp_path, create=True) as library:
        assert (len(library), library.dimension, library.search(_unit(0))) == (0, None, [])


def test_another_embedder_is_refused(tmp_path: Path) -> None:
    Library(tmp_path / "a", _embedder(0), create=True).close()
    Library(tmp_path / "a", _embedder(0)).close()
    with pytest.raises(LibraryError, match=r"another scene_embedder: its embeddings have 24 numbers, this one's 32"):
        Library(tmp_path / "a", _embedder(0, 32))
    with pytest.raises(LibraryError, match="another scene_embedder: a test picture lies"):
        Library(tmp_path / "a", _embedder(1))
    exact = _embedder(0)

    def half(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(exact(frames).astype(np.float16), np.float32)

    Library(tmp_path / "a", half).close()  # the same network in half precision is the same embedder
    with Library(tmp_path / "a") as library:
        with pytest.raises(LibraryError, match="have 24 numbers, this one's 8"):
            library.search(_unit(0, 8))
        with pytest.raises(LibraryError, match="have 24 numbers, this one's 8"):
            library.insert([_generated(3, 8)])
        assert len(library) == 0


def test_wrong_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(InvalidRequest, match=r"there is no library here$"):
        Library(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    Library(default_folder(), create=True).close()
    with pytest.raises(InvalidRequest, match=f"there is no library here; the default one is {default_folder()}$"):
        Library(tmp_path / "nowhere")
    with pytest.raises(InvalidRequest, match="no such file or folder"):
        photographs_in(tmp_path / "nowhere")
    with pytest.raises(InvalidRequest, match="no photographs in this folder"):
        photographs_in(tmp_path)
    with Library(tmp_path / "a", create=True) as library:
        with pytest.raises(InvalidRequest, match="without an embedder"):
            library.add([tmp_path / "x.png"])
        wrongs: list[Any] = [
            np.zeros(D, np.float32),
            _unit(0) * np.float32("nan"),
            _unit(0).astype(float),
            _unit(0)[None],
        ]
        for wrong in wrongs:
            with pytest.raises(InvalidRequest, match="embedding"):
                library.search(wrong)
        with pytest.raises(InvalidRequest, match="count"):
            library.search(_unit(0), 0)
        two = [_generated(0), _generated(1, 8)]
        with pytest.raises(LibraryError):
            library.insert(two)  # all or none
        assert len(library) == 0


def test_a_failing_embedder_keeps_what_was_committed(photos: Path, tmp_path: Path) -> None:
    inner, calls = _embedder(0), 0

    def failing(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ReeltintError("the server went away")
        answer: NDArray[np.float32] = inner(frames)
        return answer

    noise = np.random.default_rng(0)
    for number in range(BATCH + 3):
        Image.fromarray(noise.integers(0, 256, (9, 9, 3), np.uint8)).save(photos / f"0{number:02}.png")
    with Library(tmp_path / "library", failing, create=True) as library:
        with pytest.raises(ReeltintError, match="went away"):
            library.add(photographs_in(photos))
        assert len(library) == BATCH
        assert library.add(photographs_in(photos)).known == BATCH + 1


def test_damage_is_told(tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        with Library(tmp_path / name, create=True) as library:
            library.insert(_generated(number) for number in range(10))
        return tmp_path / name

    short = fresh("short")
    os.truncate(short / "vectors.f32", 4 * D * 9)
    with Library(short) as library, pytest.raises(LibraryError, match="fewer than the 10 vectors"):
        library.search(_unit(0))
    gone = fresh("gone")
    (gone / "vectors.f32").unlink()
    with Library(gone) as library, pytest.raises(LibraryError, match="fewer than the 10 vectors"):
        library.search(_unit(0))
    text = fresh("text")
    (text / "library.sqlite").write_text("nothing of the kind" * 100)
    with pytest.raises(LibraryError, match="not a library, or damaged"):
        Library(text)
    other = fresh("other")
    with sqlite3.connect(other / "library.sqlite") as database:
        database.execute("UPDATE about SET value = 9 WHERE name = 'format'")
    database.close()
    with pytest.raises(LibraryError, match="format 9; format 1 can be read"):
        Library(other)


def test_what_an_interrupted_writer_left_behind_the_last_vector_is_written_over(tmp_path: Path) -> None:
    with Library(tmp_path, create=True) as library:
        library.insert([_generated(0)])
        with (tmp_path / "vectors.f32").open("ab") as file:
            file.write(b"\xff" * 777)
        assert [match.photograph.id for match in library.search(_unit(0), 9)] == [1]
        library.insert([_generated(1), _generated(2)])
        found = library.search(_unit(2), 9)
        assert found[0].photograph.id == 3
        assert np.isfinite([match.distance for match in found]).all()


def _start(code: str, *arguments: object) -> subprocess.Popen[str]:
    program = textwrap.dedent(ADD) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True, bufsize=1
    )


def test_a_killed_writer_leaves_whole_photographs_only(tmp_path: Path) -> None:
    """kill -9 in the middle of adding, five times; transactions of 7, so half of one would show."""
    code = """
        with Library(sys.argv[1], create=True) as library:
            for first in range(int(sys.argv[2]), 10**6, 7):
                library.insert([photograph(number) for number in range(first, first + 7)])
                print(first, flush=True)
    """
    counts = [0]
    for attempt in range(5):
        writer = _start(code, tmp_path, counts[-1])
        assert writer.stdout is not None
        for _ in range(2 + attempt):
            writer.stdout.readline()
        time.sleep(0.003 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert writer.returncode == -signal.SIGKILL
        with Library(tmp_path) as library:
            listed = library.photographs()
            assert len(listed) % 7 == 0
            assert len(listed) >= counts[-1] + 7 * (1 + attempt)
            assert [photo.path.name for photo in listed] == [f"{number}.jpg" for number in range(len(listed))]
            for number in range(0, len(listed), 5):
                (match,) = library.search(_unit(number), 1)
                assert match.photograph.path.name == f"{number}.jpg"
                assert match.distance < 1e-3
            counts.append(len(listed))


def test_two_processes_may_add_search_and_remove_at_once(tmp_path: Path) -> None:
    code = """
        with Library(sys.argv[1], create=True) as library:
            print("open", flush=True)
            sys.stdin.readline()
            added = 0
            for first in range(int(sys.argv[2]), int(sys.argv[3]), 5):
                added += library.insert([photograph(number) for number in range(first, first + 5)])
                assert library.search(vector(first), 1)[0].distance < 1e-3
                if first % 50 == 0:
                    library.remove(library.search(vector(first), 1)[0].photograph.id)
            print(added)
    """
    program = textwrap.dedent(ADD) + textwrap.dedent(code)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), *ends],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for ends in (("0", "105"), ("1000", "1105"), ("60", "105"))
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
    answers = [writer.communicate("go\n") for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], answers
    with Library(tmp_path) as library:
        listed = [photo.path.name for photo in library.photographs()]
        assert len(listed) == len(set(listed)) == len(library)
        expected = {f"{number}.jpg" for number in (*range(105), *range(1000, 1105))}
        removed = {f"{number}.jpg" for number in (0, 50, 100, 1000, 1050, 1100)}
        assert expected - removed <= set(listed) <= expected
        for name in listed:
            (match,) = library.search(_unit(int(name.removesuffix(".jpg"))), 1)
            assert match.photograph.path.name == name


def test_a_reader_sees_what_another_process_added(tmp_path: Path) -> None:
    with Library(tmp_path, create=True) as reader, Library(tmp_path) as writer:
        writer.insert([_generated(0)])
        assert len(reader.search(_unit(0), 9)) == 1
        writer.insert([_generated(number) for number in range(1, 50)])
        assert reader.search(_unit(33), 1)[0].photograph.path.name == "33.jpg"
        writer.remove(34)
        assert reader.search(_unit(33), 1)[0].photograph.path.name != "33.jpg"


def test_a_library_on_a_read_only_disk_is_searched(tmp_path: Path) -> None:
    with Library(tmp_path, create=True) as library:
        library.insert([_generated(0)])
    code = """
        import os
        os.access = lambda *_: False  # root may write anywhere
        with Library(sys.argv[1]) as library:
            print(library.search(vector(0), 1)[0].photograph.id)
            try:
                library.remove(1)
            except Exception as error:
                print(type(error).__name__, error)
    """
    output, _ = _start(code, tmp_path).communicate()
    assert output.startswith("1\nLibraryError ")
    assert "readonly" in output


def test_where_the_library_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "reeltint" / "library"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_folder() == Path("/home/someone/.local/share/reeltint/library")


def test_the_digest_is_of_the_content(photos: Path, tmp_path: Path) -> None:
    with Library(tmp_path / "library", _embedder(0), create=True) as library:
        library.add([photos / "rocket.png"])
    database = sqlite3.connect(tmp_path / "library" / "library.sqlite")
    ((digest,),) = database.execute("SELECT digest FROM photographs").fetchall()
    database.close()
    assert digest == hashlib.sha256((photos / "rocket.png").read_bytes()).digest()


def test_a_still_that_cannot_be_read(photos: Path) -> None:
    with pytest.raises(FilmError, match=r"broken\.jpg"):
        embed_still(photos / "broken.jpg", _embedder(0))


def test_several_photographs_are_added_and_the_far_ones_marked(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = contextlib.nullcontext(SimpleNamespace(embed=_embedder(0)))
    monkeypatch.setattr(library_commands, "connect", lambda *_: server)
    for arguments in (["add", photos / "rocket.png", photos / "astronaut.png"], ["search", photos / "rocket.png"]):
        result = CliRunner().invoke(main, ["library", *map(str, arguments), "--library", str(tmp_path / "library")])
        assert result.exit_code == 0, result.stderr
    near, far = result.stdout.splitlines()
    assert near.endswith("/rocket.png")
    assert far.endswith("/astronaut.png  (too far for a scene)")


def test_every_library_command_has_help_and_is_documented() -> None:
    page = (ROOT / "docs/scenes.md").read_text()
    commands = getattr(getattr(get_command(main), "commands", {})["library"], "commands", {})
    assert list(commands) == ["add", "list", "search", "remove"]
    for name, command in commands.items():
        assert command.help, name
        assert f"reeltint library {name}" in page
        assert all(getattr(option, "help", None) for option in command.params), name


def test_without_a_home_folder_a_library_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InvalidRequest, match="there is no home folder to have a library in"):
        default_folder()
    with pytest.raises(InvalidRequest, match=r"nowhere: there is no library here$"):
        Library(tmp_path / "nowhere")
