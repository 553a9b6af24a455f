"""Versions change under load: no request fails, and every answer is that of one version."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import graphs
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from reeltint_export.publish import promote, publish, rollback
from reeltint_export.repository import repository_files
from reeltint_local import LocalTriton, ServeError

A = {1: 20.0, 2: 30.0, 3: 40.0}
Mode = Callable[[Path], AbstractContextManager[tuple[str, Callable[[], None]]]]
FRAMES = np.full((2, 48, 64), 255, np.uint8)  # L* = 100: ab is (a, 2 a)


def files(version: int) -> dict[str, bytes]:
    from reeltint_export.colour_graphs import lab_split

    models = {"lab_split": lab_split(graphs.SIZE), "colorizer": graphs.colorizer(a=A[version])}
    written = repository_files(models, version)
    return {name: content for name, content in written.items() if version == 1 or not name.startswith("lab_split/")}


class Load:
    """Threads that send one request after the other; what they got, by the version that gave it."""

    def __init__(self, address: str) -> None:
        self.answers: list[int] = []
        self.errors: list[BaseException] = []
        self._address, self._stop = address, threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(3)]

    def _send(self) -> None:
        with grpcclient.InferenceServerClient(self._address) as client:
            while not self._stop.is_set():
                try:
                    self.answers.append(_version(client))
                except Exception as error:  # noqa: BLE001 - whatever went wrong is the finding
                    self.errors.append(error)

    def until(self, version: int, timeout_s: float = 30) -> None:
        """Wait for ten answers in a row of this version."""
        deadline = time.monotonic() + timeout_s
        while self.answers[-10:] != [version] * 10:
            assert time.monotonic() < deadline, (self.answers[-10:], self.errors[:1])
            time.sleep(0.02)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _version(client: grpcclient.InferenceServerClient) -> int:
    frames = grpcclient.InferInput("frames", FRAMES.shape, "UINT8")
    frames.set_data_from_numpy(FRAMES)
    ab: NDArray[np.float32] = client.infer("colorize_ab", [frames]).as_numpy("ab")
    assert ab.shape == (2, 2, 8, 8)
    for version, a in A.items():
        if np.allclose(ab[:, 0], a, atol=0.01) and np.allclose(ab[:, 1], 2 * a, atol=0.02):
            return version
    raise AssertionError(f"an answer of no version: {ab[0, :, 0, 0]}")


@contextmanager
def polling(repository: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    arguments = ("--model-control-mode=poll", "--repository-poll-secs=1")
    with LocalTriton(repository, arguments=arguments) as server:
        yield server.address, lambda: None


@contextmanager
def explicit(repository: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    with (
        LocalTriton(repository, only=["colorize_ab"]) as server,
        grpcclient.InferenceServerClient(server.address) as client,
    ):
        yield server.address, lambda: client.load_model("colorizer")


@pytest.mark.parametrize("mode", [explicit, polling])
def test_no_request_fails_while_versions_change(tmp_path: Path, mode: Mode) -> None:
    publish(tmp_path, files(1))
    with mode(tmp_path) as (address, take), Load(address) as load:
        load.until(1)
        publish(tmp_path, files(2))
        take()
        load.until(2)
        publish(tmp_path, files(3))
        take()
        load.until(3)
        assert rollback(tmp_path, "colorizer") == ([3], 2)
        take()
        load.until(2)
        promote(tmp_path, "colorizer", 3)
        take()
        load.until(3)
    assert load.errors == []
    assert set(load.answers) == {1, 2, 3}


def test_a_server_refuses_what_is_not_as_its_manifest_says(tmp_path: Path) -> None:
    publish(tmp_path, files(1))
    (tmp_path / "colorizer/1/model.onnx").write_bytes(graphs.colorizer(a=21.0).SerializeToString())
    with pytest.raises(ServeError, match=r"^a model of .* is unfit: colorizer: 1/model\.onnx .*SHA-256 differs$"):
        LocalTriton(tmp_path, only=["colorize_ab"]).start()
    with LocalTriton(tmp_path, only=["lab_split"]):  # which is as it should be
        pass
