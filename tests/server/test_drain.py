"""A server leaves while a film is being coloured: the headless service, the drain hook and SIGTERM, on loopback.

Two servers stand behind one name, as two pods behind a headless service: 127.0.0.1 and 127.0.0.2 with the same port.
"""

import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from manifests import DEPLOY
from reeltint import Colorizer, ReeltintError
from reeltint_local import LocalTriton

DRAIN = DEPLOY / "kubernetes/base/drain.py"
AGE_MS = 1000
HOSTS = ("127.0.0.1", "127.0.0.2")


class Names(threading.Thread):
    """A name server on loopback: to every question for an IPv4 address it answers `addresses`."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(daemon=True)
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def run(self) -> None:
        while query := self._socket.recvfrom(512):
            message, peer = query
            if not message:
                break
            end = message.index(b"\0", 12) + 5  # header of 12 bytes; name, type, class
            [kind] = struct.unpack(">H", message[end - 4 : end - 2])
            found = [socket.inet_aton(address) for address in self.addresses] if kind == 1 else []
            answer = message[:2] + struct.pack(">HHHHH", 0x8580, 1, len(found), 0, 0) + message[12:end]
            answer += b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + address for address in found)
            self._socket.sendto(answer, peer)
        self._socket.close()

    def stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self.join()


@pytest.fixture
def names() -> Iterator[Names]:
    server = Names(list(HOSTS))
    server.start()
    yield server
    server.stop()


class Film(threading.Thread):
    """Batches without end, coloured until `stop`."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.address, self.coloured = address, 0
        self.error: ReeltintError | None = None
        self._end = threading.Event()

    def run(self) -> None:
        frames = np.zeros((1, 60, 80), np.uint8)
        try:
            with Colorizer(self.address, retries=0) as colorizer:
                for _ in colorizer.stream(frames for _ in iter(self._end.is_set, True)):
                    self.coloured += 1
        except ReeltintError as error:
            self.error = error

    def stop(self) -> None:
        self._end.set()
        self.join(30)


def _drain(server: LocalTriton, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-I",
        "-S",
        str(DRAIN),
        "--metrics",
        f"http://{server.metrics_address}/metrics",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_server_leaves_and_no_request_fails(names: Names) -> None:
    options = [f"--grpc-max-connection-age={AGE_MS}", "--grpc-max-connection-age-grace=60000"]
    leaving = LocalTriton(only=["colorize_chroma"], host=HOSTS[0], arguments=options)
    with leaving:
        port = int(leaving.address.rpartition(":")[2])
        with LocalTriton(only=["colorize_chroma"], host=HOSTS[1], grpc_port=port, arguments=options) as staying:
            film = Film(f"dns://127.0.0.1:{names.port}/reeltint.test:{port}")
            film.start()
            try:
                time.sleep(1.5)
                assert _drain(leaving, "--quiet-s=2", "--timeout-s=2.5").returncode == 1  # in the service: still busy
                names.addresses.remove(HOSTS[0])  # what Kubernetes does with a pod that is to end
                done = _drain(leaving, "--quiet-s=2", "--timeout-s=60")
                assert done.returncode == 0, done.stderr
                assert film.error is None
                before = film.coloured
                leaving.stop()
                time.sleep(0.5)
            finally:
                film.stop()
            assert film.error is None
            assert film.coloured > before > 10
            start = time.monotonic()
            assert _drain(staying, "--quiet-s=0.5", "--timeout-s=5").returncode == 0
            assert _drain(staying, "--quiet-s=0.5", "--at-least-s=3", "--timeout-s=5").returncode == 0
            assert time.monotonic() - start > 3.5
    assert _drain(leaving, "--timeout-s=5").returncode == 0  # gone is idle


def test_wrong_use() -> None:
    done = subprocess.run([sys.executable, DRAIN, "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
