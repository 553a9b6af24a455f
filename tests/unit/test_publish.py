"""Publication: a version is there whole or not at all, whatever happens to the process that writes it."""

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import graphs
import pytest
from reeltint_export._cli import app
from reeltint_export.check import problems
from reeltint_export.manifest import file_facts, file_problems, read_manifest, seal
from reeltint_export.publish import (
    STAGING,
    PublishError,
    RepositoryBusyError,
    pinned,
    promote,
    publish,
    publish_into_versions,
    rollback,
    served,
)
from reeltint_export.repository import ENSEMBLES, repository_files
from typer.testing import CliRunner

TESTS = Path(__file__).parents[1]


def files(a: float = 20.0, version: int = 1, size: int = graphs.SIZE) -> dict[str, bytes]:
    return repository_files({"colorizer": graphs.colorizer(size, a)}, version)


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    publish(tmp_path, files())
    return tmp_path


def test_a_new_version_stands_beside_the_old_and_is_served(repository: Path) -> None:
    old = state(repository / "colorizer/1")
    publish(repository, files(30.0, 2))
    assert problems(repository) == []
    assert state(repository / "colorizer/1") == old
    assert served(repository / "colorizer") == [2]
    assert sorted(path.name for path in (repository / "colorizer").iterdir()) == ["1", "2", "config.pbtxt", "configs"]
    assert (repository / "colorizer/2/model.onnx").read_bytes() == files(30.0)["colorizer/1/model.onnx"]


def test_the_same_again_touches_nothing(repository: Path) -> None:
    before = state(repository)
    time.sleep(1.1)  # the manifest tells the second
    publish(repository, files())
    assert state(repository) == before


def test_another_content_replaces_the_version_whole(repository: Path) -> None:
    (repository / "colorizer/1/model.plan").write_bytes(b"an engine of the old graph")
    publish(repository, files(30.0))
    assert problems(repository) == []
    assert not (repository / "colorizer/1/model.plan").exists()


def test_folders_change_places_where_the_kernel_cannot(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())  # a C library without renameat2
    publish(repository, files(30.0))
    assert problems(repository) == []
    assert (repository / "colorizer/1/model.onnx").read_bytes() == files(30.0)["colorizer/1/model.onnx"]


def test_an_engine_goes_into_the_version_it_was_built_from(repository: Path) -> None:
    folder = repository / "colorizer/1"
    manifest = read_manifest(folder)
    engine = {
        "onnx_sha256": manifest["files"]["model.onnx"]["sha256"],
        "profiles": [{"lightness": [[1, 1, 32, 32], [8, 1, 32, 32], [32, 1, 32, 32]]}],
    }
    listed = manifest["files"] | {"model.plan": file_facts(b"engine")}
    added = seal(manifest | {"files": listed, "engines": {"model.plan": engine}})
    content = {folder: {"model.plan": b"engine", "manifest.json": added}}
    publish_into_versions(repository, content, {folder: manifest}, {})
    assert problems(repository, "tensorrt") == []
    assert (folder / "model.onnx").read_bytes() == files()["colorizer/1/model.onnx"]
    publish(repository, files())  # the same export again keeps it
    assert (folder / "model.plan").is_file()
    with pytest.raises(PublishError, match="colorizer 1 was replaced while work on it went on"):
        publish_into_versions(repository, {folder: {"model.plan": b"late"}}, {folder: manifest}, {})
    assert (folder / "model.plan").read_bytes() == b"engine"


def test_promote_and_rollback_write_the_policy_of_every_config(repository: Path) -> None:
    publish(repository, files(30.0, 2))
    publish(repository, files(40.0, 3))
    configs = [repository / "colorizer/config.pbtxt", repository / "colorizer/configs/tensorrt.pbtxt"]
    assert rollback(repository, "colorizer") == ([3], 2)
    assert [pinned(path.read_text()) for path in configs] == [[2], [2]]
    assert problems(repository) == []
    assert rollback(repository, "colorizer") == ([2], 1)
    with pytest.raises(PublishError, match="colorizer has no version before 1"):
        rollback(repository, "colorizer")
    assert promote(repository, "colorizer", 3) == [1]
    assert [pinned(path.read_text()) for path in configs] == [[3], [3]]
    assert configs[0].read_text().count("version_policy") == 1
    publish(repository, files(50.0, 4))  # what a person pinned stays
    assert served(repository / "colorizer") == [3]
    assert problems(repository) == []


def test_a_policy_of_several_lines_is_replaced(repository: Path) -> None:
    publish(repository, files(30.0, 2))
    config = repository / "colorizer/config.pbtxt"
    config.write_text(config.read_text() + "version_policy: {\n  specific: {\n    versions: [ 1 ]\n  }\n}  # for now\n")
    assert served(repository / "colorizer") == [1]
    (repository / "colorizer/configs/tensorrt.pbtxt").unlink()
    promote(repository, "colorizer", 2)
    assert problems(repository) == []
    assert config.read_text().count("version_policy") == 1


def test_what_cannot_be_promoted(repository: Path) -> None:
    publish(repository, files(30.0, 2))
    with pytest.raises(PublishError, match="has no model 'painter'"):
        promote(repository, "painter", 1)
    with pytest.raises(PublishError, match="colorizer has no version 7, only 1, 2"):
        promote(repository, "colorizer", 7)
    (repository / "colorizer/1/model.onnx").write_bytes(b"cut short")
    with pytest.raises(PublishError, match=r"colorizer 1: model\.onnx has 9 bytes"):
        rollback(repository, "colorizer")
    assert served(repository / "colorizer") == [2]
    publish(repository, files(30.0, 3, size=64))
    with pytest.raises(PublishError, match="has other tensors than version 3"):
        promote(repository, "colorizer", 2)


def test_a_version_of_another_shape_does_not_go_beside_a_pinned_one(repository: Path) -> None:
    promote(repository, "colorizer", 1)
    before = state(repository)
    with pytest.raises(PublishError, match="colorizer: version 1 is pinned and has other tensors than version 2"):
        publish(repository, files(20.0, 2, size=64))
    assert state(repository) == before
    assert not list(repository.rglob(STAGING))


def test_what_would_be_unfit_changes_nothing(tmp_path: Path) -> None:
    publish(tmp_path, repository_files(graphs.networks()), check=problems)
    before = state(tmp_path)
    with pytest.raises(PublishError, match="the repository would be unfit, nothing was changed"):
        publish(tmp_path, repository_files(graphs.all_models() | {"colorizer": graphs.colorizer(64)}), check=problems)
    publish(tmp_path, repository_files(graphs.networks(), 2), check=problems)
    with pytest.raises(PublishError, match=r"colorizer: 2/model\.onnx input 'lightness' is"):
        publish(tmp_path, files(size=64), check=problems)  # a config that does not fit version 2, which is served
    assert {name: state(tmp_path)[name] for name in before} == before
    assert not list(tmp_path.rglob(STAGING))


def test_a_model_is_there_before_the_ensembles_that_call_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr("reeltint_export.publish._move_in", lambda _, model: order.append(model.name))
    publish(tmp_path, repository_files(graphs.all_models()))
    assert order == [*graphs.all_models(), *ENSEMBLES]


def test_a_version_that_was_to_be_new_is_not_replaced(repository: Path) -> None:
    """Two exports that began with version 1 there, one after the other."""
    publish(repository, files(30.0, 2), new=True)
    before = state(repository)
    with pytest.raises(RepositoryBusyError, match="version 2 of colorizer was written by another export meanwhile"):
        publish(repository, files(40.0, 2), new=True)
    assert state(repository) == before


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("", [3]),
        ("version_policy { all { } }", [1, 2, 3]),
        ("version_policy: { latest { num_versions: 2 } }", [2, 3]),
        ("  version_policy {\n specific { versions: 1 versions: 2 } }", [1, 2]),
    ],
)
def test_what_triton_would_serve(repository: Path, policy: str, wanted: list[int]) -> None:
    for number in (2, 3):
        publish(repository, files(10.0 * number, number))
    for path in (repository / "colorizer").rglob("*.pbtxt"):
        path.write_text(path.read_text() + policy + "\n")
    assert served(repository / "colorizer") == wanted
    assert problems(repository) == []
    config = repository / "colorizer/config.pbtxt"
    config.write_text(config.read_text().replace("[ 1, 32, 32 ]", "[ 1, 64, 64 ]"))
    unfit = {int(line[11]) for line in problems(repository) if "input 'lightness' is [1, 32, 32]" in line}
    assert unfit == set(wanted)
    config.write_text("stale")
    with pytest.raises(PublishError, match=r"colorizer: config\.pbtxt does not parse"):
        served(repository / "colorizer")


def test_the_commands(repository: Path) -> None:
    publish(repository, files(30.0, 2))
    done = CliRunner().invoke(app, ["rollback", str(repository), "colorizer"])
    assert (done.exit_code, done.stderr) == (0, "colorizer: 1 is served, before it was 2\n")
    done = CliRunner().invoke(app, ["promote", str(repository), "colorizer", "2"])
    assert (done.exit_code, done.stderr) == (0, "colorizer: 2 is served, before it was 1\n")
    done = CliRunner().invoke(app, ["promote", str(repository), "colorizer", "3"])
    assert (done.exit_code, done.stderr) == (1, "colorizer has no version 3, only 1, 2\n")


PUBLISHER = """
import sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
import graphs
from reeltint_export.publish import publish
from reeltint_export.repository import repository_files
two = [repository_files(graphs.networks() | {"colorizer": graphs.colorizer(a=a)}) for a in (20.0, 30.0)]
print("ready", flush=True)
while True:
    for files in two:
        publish(Path(sys.argv[2]), files)
"""


def test_killed_at_any_moment_it_leaves_no_half_version(tmp_path: Path) -> None:
    publish(tmp_path, repository_files(graphs.networks()))
    whole = {files(a)["colorizer/1/model.onnx"] for a in (20.0, 30.0)}
    seen, rng = set(), random.Random(0)
    for _ in range(6):
        command = [sys.executable, "-c", PUBLISHER, str(TESTS), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.0, 0.2))
            process.kill()
            assert process.wait() == -signal.SIGKILL
        folder = tmp_path / "colorizer/1"
        assert list(file_problems(folder, read_manifest(folder))) == []
        assert problems(tmp_path) == []  # as Triton would load it now, what is left aside included
        seen.add((folder / "model.onnx").read_bytes())
    assert seen <= whole
    publish(tmp_path, repository_files(graphs.networks()))
    assert not list(tmp_path.rglob(STAGING))


FULL = """
import resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
import graphs
from reeltint_export.publish import publish
from reeltint_export.repository import repository_files
files = repository_files({"colorizer": graphs.colorizer(a=30.0)}, 2)
limit = len(files["colorizer/2/model.onnx"])  # the manifest, which comes after it, has more
assert limit < len(files["colorizer/2/manifest.json"])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    publish(Path(sys.argv[2]), files)
except OSError as error:
    print(error)
"""


def test_a_file_that_cannot_be_written_leaves_all_as_it_was(repository: Path) -> None:
    before = state(repository)
    command = [sys.executable, "-c", FULL, str(TESTS), str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert state(repository) == before
    assert not list(repository.rglob(STAGING))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk takes root and mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_leaves_all_as_it_was(small_disk: Path) -> None:
    publish(small_disk, files())
    before = state(small_disk)
    everything = repository_files(graphs.all_models() | {"colorizer": graphs.colorizer(a=30.0)})
    with pytest.raises(OSError, match="No space left"):
        publish(small_disk, everything)
    assert state(small_disk) == before
    assert problems(small_disk) == []


HOLDER = """
import sys, time
from pathlib import Path
from reeltint_export.publish import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_at_once(repository: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(repository)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        before = state(repository)
        with pytest.raises(RepositoryBusyError, match=r"another export is writing into .*: try again"):
            publish(repository, files(30.0))
        done = CliRunner().invoke(app, ["promote", str(repository), "colorizer", "1"])
        assert done.exit_code == 3
        assert "another export" in done.stderr
        assert state(repository) == before
        other.kill()
    publish(repository, files(30.0, 2))  # the lock went with its process
    assert problems(repository) == []
