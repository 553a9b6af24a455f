"""Starts and stops the tritonserver of the nvidia-pytriton wheel, with our backend named `onnxruntime`."""

import contextlib
import http.client
import importlib.util
import logging
import os
import platform
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from reeltint._errors import InvalidRequest, ReeltintError
from reeltint._tls import Tls

logger = logging.getLogger("reeltint")

_HERE = Path(__file__).parent
_EXTRA = 'the local server needs the extra "local": pip install "reeltint[local]"'
_MIB = 2**20
_SHM = Path("/dev/shm")
_SYSTEM_LIBRARIES = [Path(f"/usr/lib/{platform.machine()}-linux-gnu"), Path("/usr/lib64"), Path("/usr/lib")]
_REGION_MIB = 64  # shared memory of one model instance at start: 8 frames of 1080p in, their chroma out
_POLL_S = 0.05
_ADMIN = "model-repository,shared-memory,trace,logging"
_ADMIN_HEADER = "admin-key"  # of HTTP; of gRPC it is triton-grpc-protocol-admin-key
_ANSWERS_LEAVE_S = 0.1  # the last answers are on their way out
# Not worth a reader's time: info lines and tables; what Triton says about a missing GPU; and that it was told to stop.
_DETAIL = re.compile(r"I\d{4} |[+|]|$")
_HARMLESS = re.compile(
    r"^Signal \(|allocate pinned system memory|CUDA driver version is insufficient|CudaDriverHelper has not been"
    r"|initialize NVML|DCGM unable"
)
_PLAIN = re.compile(r"[\w./+-]+", re.ASCII)  # the Python backend starts its processes by a shell that reads their paths
_DRAINED = '"All models are stopped, unloading models"'  # Triton's line: no request is in flight any more


class ServeError(ReeltintError):
    """The local server cannot start, or ended by itself; the message is one sentence."""


class TextSink(Protocol):
    """What log lines are written to: an open text file."""

    def write(self, text: str, /) -> object: ...


def default_models() -> Path:
    """Return the model repository that comes with reeltint: in the wheel beside this package, else the checkout's.

    Raises:
        ServeError: There is neither.
    """
    for folder in (_HERE / "model_repository", _HERE.parents[2] / "model_repository"):
        if folder.is_dir():
            return folder
    raise ServeError(f"no model repository beside {_HERE}: name a folder of models")


class LocalTriton:
    """NVIDIA Triton as a child process; a context manager.

    >>> with LocalTriton("model_repository") as server:  # doctest: +SKIP
    ...     colorizer = Colorizer(server.address)

    The server and all it leaves behind (processes, shared memory, its folder) are gone after `stop`, and shortly after
    the end of this process, SIGKILL included.

    Attributes:
        address: "HOST:PORT" of gRPC.
        http_address: "HOST:PORT" of HTTP.
        metrics_address: "HOST:PORT" of the Prometheus metrics, path /metrics.
        pid: tritonserver's process id; None while it does not run.
    """

    def __init__(
        self,
        models: Path | str | None = None,
        *,
        only: Sequence[str] = (),
        host: str = "127.0.0.1",
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        tls: Tls | None = None,
        admin_key: str | None = None,
        arguments: Sequence[str] = (),
        log: Callable[[str], object] | TextSink | None = None,
        verbose: bool = False,
        start_timeout_s: float = 120.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        """Take the settings; nothing is started yet.

        Args:
            models: Model repository; None is `default_models()`.
            only: Names of the models to load (and what they are made of); empty loads all.
            host: IPv4 address or name to listen on; "0.0.0.0" is every interface.
            grpc_port: Port of gRPC; 0 takes a free one, as for the two others.
            http_port: Port of HTTP.
            metrics_port: Port of the metrics.
            tls: The server's certificate and key for gRPC, and with `ca` the authority whose clients alone it lets in.
                HTTP, which Triton cannot encrypt, is then on the loopback interface only; the metrics are as ever.
            admin_key: Who sends it may load and unload models and use shared memory, trace and log settings: metadata
                `triton-grpc-protocol-admin-key` of gRPC, header `admin-key` of HTTP. None leaves all that open on the
                loopback interface and closes it on others.
            arguments: Further arguments of tritonserver, as they are.
            log: Where Triton's log goes, line by line: a function (called on another thread) or an open text file. One
                that raises is given no more lines.
            verbose: Forward the whole log, from the start; else its warnings and errors, once the server is ready
                (what goes wrong before is in the `ServeError`).
            start_timeout_s: How long the models may take to load.
            stop_timeout_s: How long requests in flight may take at the end before the server is killed.

        Raises:
            InvalidRequest: `tls` lacks the certificate, or `admin_key` is not one.
        """
        if tls is not None and tls.certificate is None:
            raise InvalidRequest("tls: a server needs a certificate and its key")
        if admin_key is not None and not re.fullmatch(r"[\w.~-]{16,}", admin_key, re.ASCII):
            raise InvalidRequest("admin_key: at least 16 letters, digits or -._~")
        self._models, self._only, self._host = models, tuple(only), host
        self._ports = {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
        self._hosts = dict.fromkeys(self._ports, host) | ({"http": "127.0.0.1"} if tls else {})
        self._arguments = (*_encrypted(tls), *_restricted(admin_key, host), *arguments)
        self._log, self._verbose = log, verbose
        self._start_timeout_s, self._stop_timeout_s = start_timeout_s, stop_timeout_s
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=500)
        self._bound: dict[str, int] = {}
        self._linked = "", ""  # where Triton sees the model repository, and where it is
        self.pid: int | None = None
        self._stopping: int | None = None
        self._served = False

    @property
    def address(self) -> str:
        return self._address("grpc")

    @property
    def http_address(self) -> str:
        return self._address("http")

    @property
    def metrics_address(self) -> str:
        return self._address("metrics")

    def __enter__(self) -> "LocalTriton":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> "LocalTriton":
        """Start the server and wait until every model is ready.

        Raises:
            InvalidRequest: The model repository is none, or lacks a model of `only`.
            ServeError: It cannot start; the message says why.
        """
        if self._supervisor is not None:
            raise ServeError("the server runs already")
        models = _models(default_models() if self._models is None else Path(self._models), self._only)
        wheel = _wheel()
        _fit(models, self._only)
        stub, environment = _stub(wheel), _environment(wheel)
        attempts = 3 if 0 in self._ports.values() else 1  # a free port may be taken before Triton gets to it
        for attempt in range(attempts):
            self._bound = _ports(self._hosts, self._ports)
            try:
                self._launch(models, wheel, stub, environment)
                self._wait_until_ready(models)
            except _PortLostError:
                self.stop()
                if attempt == attempts - 1:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return self
        raise AssertionError("unreachable")

    def wait(self) -> None:
        """Block while the server runs.

        Raises:
            ServeError: It ended by itself.
        """
        supervisor, reader = self._running(), self._reader
        supervisor.wait()
        if self._supervisor is supervisor and reader is not None:
            reader.join()
            raise ServeError(self._death("Triton ended by itself"))

    def stop(self) -> None:
        """Stop the server and clear up; does nothing when it does not run."""
        supervisor, self._supervisor = self._supervisor, None
        self._stopping, self.pid = self.pid, None
        if supervisor is None:
            return
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        assert supervisor.stderr is not None
        supervisor.stdin.close()  # the sign to stop, unless a process that the caller forked holds the pipe as well
        if self._stopping is not None:  # the supervisor has told it: its handler of signals is there
            supervisor.terminate()
        try:
            supervisor.wait(self._stop_timeout_s + 10)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
        if self._reader is not None:
            self._reader.join()
        supervisor.stdout.close()
        supervisor.stderr.close()

    def _address(self, service: str) -> str:
        if service not in self._bound:
            raise ServeError("the server has not been started")
        host = "127.0.0.1" if self._hosts[service] == "0.0.0.0" else self._hosts[service]
        return f"{host}:{self._bound[service]}"

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._supervisor is None:
            raise ServeError("the server does not run")
        return self._supervisor

    def _launch(self, models: Path, wheel: Path, stub: Path, environment: dict[str, str]) -> None:
        prefix = f"reeltint_{os.getpid()}_{secrets.token_hex(4)}_"
        default_mib, growth_mib = self._shared_memory(models)
        plain = "/tmp" if _PLAIN.fullmatch(tempfile.gettempdir()) is None else None
        folder = Path(tempfile.mkdtemp(prefix=f"reeltint-server-{os.getpid()}-", dir=plain))
        backends = _assemble(folder, wheel, stub)
        linked = folder / "models"
        linked.symlink_to(models)
        self._linked = str(linked), str(models)
        command: list[str | Path] = [
            wheel / "bin/tritonserver",
            f"--model-repository={linked}",
            f"--backend-directory={backends}",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={max(1, int(self._stop_timeout_s) - 2)}",
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            f"--backend-config=python,shm-default-byte-size={default_mib * _MIB}",
            f"--backend-config=python,shm-growth-byte-size={growth_mib * _MIB}",
            *(f"--{service}-address={self._hosts[service]}" for service in self._bound),
            *(f"--{service}-port={port}" for service, port in self._bound.items()),
        ]
        command += self._arguments
        if self._only:
            command += ["--model-control-mode=explicit", *(f"--load-model={name}" for name in self._only)]
        self._lines.clear()
        self._served = False
        self._stopping = None
        self._supervisor = supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", _HERE / "_supervisor.py", folder, prefix, str(self._stop_timeout_s), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the caller, who stops the server in order
        )
        self._reader = threading.Thread(target=self._read_log, args=(supervisor,), name="triton-log", daemon=True)
        self._reader.start()
        assert supervisor.stdout is not None
        self.pid = int(supervisor.stdout.readline() or 0) or None

    def _shared_memory(self, models: Path) -> tuple[int, int]:
        """Return MiB of shared memory for each instance: at the start, and what it grows by."""
        instances = 0
        for config in models.glob("*/config.pbtxt"):
            text = config.read_text(errors="replace")
            instances += sum(map(int, re.findall(r"\bcount:\s*(\d+)", text))) or "ensemble_scheduling" not in text
        free_mib = shutil.disk_usage(_SHM).free // _MIB
        if free_mib < 2 * instances:
            raise ServeError(
                f"{_SHM} has {free_mib} MiB free and {instances} model instances need 1 MiB each and room for frames: "
                "free some, or start the container with --shm-size=1g"
            )
        default_mib = max(1, min(_REGION_MIB, free_mib // (4 * instances or 1)))
        if default_mib < _REGION_MIB:
            self._emit(
                f"{_SHM} has only {free_mib} MiB free: large batches will fail; --shm-size=1g helps in a container"
            )
        return default_mib, max(1, default_mib // 4)

    def _wait_until_ready(self, models: Path) -> None:
        supervisor, deadline = self._running(), time.monotonic() + self._start_timeout_s
        while not (self._ready() and supervisor.poll() is None):
            if supervisor.poll() is not None:
                assert self._reader is not None
                self._reader.join()
                raise self._start_error(models)
            if time.monotonic() > deadline:
                raise ServeError(f"Triton was not ready after {self._start_timeout_s:g} s{self._said()}")
            time.sleep(_POLL_S)
        self._served = True

    def _ready(self) -> bool:
        host, _, port = self.http_address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status != 200:
                return False
            host, _, port = self.metrics_address.rpartition(":")  # the last service that Triton starts
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def _start_error(self, models: Path) -> ServeError:
        log = "\n".join(self._lines)
        if lost := re.search(r"failed to start (\w+) service|Socket '([^']*)' already in use", log):
            return _PortLostError(f"a port of {self._bound} on {self._host} is in use ({lost[0]})")
        failed = dict(re.findall(r"failed to load '([^']+)' version \d+: (.*)", log))
        failed |= {
            Path(folder).name: why
            for folder, why in re.findall(r"[Pp]oll failed for model directory '([^']+)': (.*)", log)
        }
        if failed:
            parse = re.search(r"Error parsing text-format \S+ (\d+:\d+: .*)", log)
            reasons = (f"{name}: {_reason(why)}" for name, why in failed.items())
            return ServeError(
                f"a model of {models} does not load: {'; '.join(reasons)}" + (f" ({parse[1]})" if parse else "")
            )
        return ServeError(self._death("Triton ended before it was ready"))

    def _death(self, what: str) -> str:
        assert self._supervisor is not None
        return f"{what} (exit code {self._supervisor.poll()}){self._said()}"

    def _said(self) -> str:
        """Triton's last error, to end a sentence; nothing where it has told none."""
        wrong = re.compile(r"[EF]\d{4} |error:|bash: |.*: error ")
        said = [line for line in list(self._lines) if wrong.match(line) and not _HARMLESS.search(line)]
        return f": {_reason(said[-1])}" if said else ""

    def _read_log(self, supervisor: "subprocess.Popen[bytes]") -> None:
        assert supervisor.stderr is not None
        for raw in supervisor.stderr:
            line = raw.decode(errors="replace").rstrip("\n").replace(*self._linked)
            self._lines.append(line)
            if self._verbose or (self._served and not (_DETAIL.match(line) or _HARMLESS.search(line))):
                self._emit(line)
            if self._stopping and _DRAINED in line:
                # Unloading takes Triton some seconds, to free what the supervisor clears up at once.
                time.sleep(_ANSWERS_LEAVE_S)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._stopping, signal.SIGKILL)

    def _emit(self, line: str) -> None:
        try:
            if callable(self._log):
                self._log(line)
            elif self._log is not None:
                self._log.write(line + "\n")
        except Exception as error:  # noqa: BLE001 # whatever it is: Triton stands still when nobody reads its log
            self._log = None
            logger.warning("Triton's log goes nowhere from here on, it cannot be written (%s)", error)


class _PortLostError(ServeError):
    """A port was taken between our choice and Triton's start."""


def _models(folder: Path, only: Sequence[str]) -> Path:
    if not folder.is_dir():
        raise InvalidRequest(f"the model repository {folder} does not exist")
    names = {config.parent.name for config in folder.glob("*/config.pbtxt")}
    if not names:
        raise InvalidRequest(f"the model repository {folder} holds no model (a folder with a config.pbtxt)")
    if missing := sorted(set(only) - names):
        raise InvalidRequest(f"no model {', '.join(missing)} in {folder}, which has {', '.join(sorted(names))}")
    return folder.resolve()


def _fit(models: Path, only: Sequence[str]) -> None:
    """Compare what the export wrote with its manifests and configs, before Triton sees it."""
    from reeltint_export.check import start_problems

    if found := start_problems(models, only):
        more = f", and {len(found) - 1} more: reeltint-export check {models}" if len(found) > 1 else ""
        raise ServeError(f"a model of {models} is unfit: {found[0]}{more}")


def _wheel() -> Path:
    """Return the folder `tritonserver` of the nvidia-pytriton wheel, without importing that package."""
    if any(importlib.util.find_spec(name) is None for name in ("pytriton", "onnxruntime", "numpy")):
        raise ServeError(_EXTRA)
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tritonserver"


def _stub(wheel: Path, version: str = f"{sys.version_info.major}.{sys.version_info.minor}") -> Path:
    stubs = wheel / "python_backend_stubs"
    stub = stubs / version / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted((entry.name for entry in stubs.glob("3.*")), key=lambda name: int(name[2:]))
        raise ServeError(
            f"the Triton of nvidia-pytriton has no backend for Python {version}, only for {', '.join(known)}"
        )
    return stub


def _reason(logged: str) -> str:
    """Return Triton's reason in one line: without its prefixes, its quoting and the Python stack."""
    text = logged.split(r"\n\nAt:")[0].replace(r"\n", " ").replace(r"\"", '"').rstrip('"')
    text = re.sub(r'^[EF]\d{4} \S+ \d+ \S+\] "?|^error: |^E\w+: ', "", text)
    text = re.sub(r"^(Internal|Invalid argument|Not found|Unavailable|Unknown)( - |: )", "", text)
    return " ".join(re.sub(r"^\w+(Error|Exception): ", "", text).split())


def _encrypted(tls: Tls | None) -> list[str]:
    if tls is None:
        return []
    files = {"server-cert": tls.certificate, "server-key": tls.key, "root-cert": tls.ca}
    return [
        "--grpc-use-ssl=true" if tls.ca is None else "--grpc-use-ssl-mutual=true",
        *(f"--grpc-{name}={Path(file).resolve()}" for name, file in files.items() if file is not None),
    ]


def _restricted(key: str | None, host: str) -> list[str]:
    if key is None and (host == "localhost" or host.startswith("127.")):
        return []
    rule = f"{_ADMIN}:{_ADMIN_HEADER}={key or secrets.token_urlsafe()}"
    return [f"--grpc-restricted-protocol={rule}", f"--http-restricted-api={rule}"]


def _ports(hosts: dict[str, str], wanted: dict[str, int]) -> dict[str, int]:
    """Return the wanted ports, each checked to be free; 0 becomes a free one."""
    bound: dict[str, int] = {}
    for service, port in wanted.items():
        host = hosts[service]
        # Outside the range from which the kernel gives ports to outgoing connections.
        candidates = [port] if port else random.sample(range(20_000, 32_000), 50)
        for candidate in candidates:
            try:
                if candidate in bound.values():
                    raise OSError(0, "it is asked for twice")
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not stopped by TIME_WAIT
                    probe.bind((host, candidate))
            except (OSError, OverflowError) as error:
                if candidate == candidates[-1]:
                    why = error.strerror if isinstance(error, OSError) else str(error)
                    raise ServeError(f"cannot use port {candidate} of {host} for {service}: {why}") from error
            else:
                bound[service] = candidate
                break
    return bound


def _assemble(folder: Path, wheel: Path, stub: Path) -> Path:
    """Lay out the backends as tritonserver wants them: real files, as it refuses links that lead out of the folder."""
    backends = folder / "backends"
    shutil.copytree(wheel / "backends/python", backends / "python", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(stub, backends / "python")
    shutil.copytree(
        _HERE / "backends/onnxruntime", backends / "onnxruntime", ignore=shutil.ignore_patterns("__pycache__")
    )
    return backends


def _environment(wheel: Path) -> dict[str, str]:
    """Return the variables under which the backend's processes run this Python with its packages."""
    environment = dict(os.environ)
    libraries = [wheel.parents[1] / "nvidia_pytriton.libs"]
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    directories = [Path(sysconfig.get_config_var("LIBDIR") or ""), *_SYSTEM_LIBRARIES]
    found = next((directory for directory in directories if (directory / name).is_file()), None)
    if found is None:
        raise ServeError(
            f"Triton's Python backend needs {name}, which this Python lacks: apt install {name.split('.so')[0]}"
        )
    if found not in _SYSTEM_LIBRARIES:
        libraries.append(found)
    environment["LD_LIBRARY_PATH"] = ":".join(
        [*map(str, libraries), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
    )
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    # Keep the memory of one batch for the next: fresh pages for every 10 MB tensor cost more than the arithmetic.
    environment |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(16 * _MIB)}
    return environment
