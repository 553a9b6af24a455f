"""LocalTriton and its backend against small ONNX models made here."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from reeltint_local import LocalTriton, ServeError
from tritonclient.utils import InferenceServerException

Floats = NDArray[np.float32]

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join(str(ROOT / folder) for folder in ("client", "deploy/local"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [PATH, os.environ.get("PYTHONPATH")]))}

CONFIG = """
name: "{name}"
backend: "onnxruntime"
max_batch_size: 32
input [ {{ name: "x" data_type: {dtype} dims: [ {dims} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 4, -1 ] }} ]
instance_group [ {{ count: {count} }} ]
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
"""


def _model(
    folder: Path,
    name: str = "product",
    *,
    dtype: str = "TYPE_FP32",
    dims: str = "3, -1",
    count: int = 1,
    delay_us: int = 0,
) -> Path:
    """Write y = A x, A[i, j] = 3 i + j: x FP32 [B,3,N] to y FP32 [B,4,N]. Return `folder`."""
    matrix = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "a")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "x"], ["y"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3, "N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4, "N"])],
        [matrix],
    )
    (folder / name / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / name / "1/model.onnx")
    text = CONFIG.format(name=name, dtype=dtype, dims=dims, count=count, delay_us=delay_us)
    (folder / name / "config.pbtxt").write_text(text)
    return folder


def _infer(client: grpcclient.InferenceServerClient, x: Floats, model: str = "product") -> Floats:
    tensor = grpcclient.InferInput("x", x.shape, "FP32")
    tensor.set_data_from_numpy(x)
    return np.asarray(client.infer(model, [tensor]).as_numpy("y"))


def _truth(x: Floats) -> Floats:
    return np.asarray(np.einsum("ij,bjn->bin", np.arange(12).reshape(4, 3), x))


def _descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def _left_behind(processes: list[int], owner: int) -> list[str]:
    """List what is still there of the servers that process `owner` started."""
    left = [f"process {pid}" for pid in processes if Path(f"/proc/{pid}").exists() and not _is_zombie(pid)]
    left += map(str, Path("/dev/shm").glob(f"reeltint_{owner}_*"))
    return left + list(map(str, Path(tempfile.gettempdir()).glob(f"reeltint-server-{owner}-*")))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _eventually(check: Callable[[], bool], timeout_s: float = 15) -> bool:
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    _model(folder)
    return _model(folder, "patient", delay_us=300_000)


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[LocalTriton]:
    with LocalTriton(repository) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: LocalTriton) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(server.address) as client:
        yield client


@pytest.mark.parametrize("shape", [(1, 3, 1), (5, 3, 7), (2, 3, 0), (32, 3, 50_000)])
def test_answers_are_right(client: grpcclient.InferenceServerClient, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    np.testing.assert_allclose(_infer(client, x), _truth(x), rtol=1e-4, atol=1e-4)


def test_requests_that_wait_together_run_as_one(client: grpcclient.InferenceServerClient) -> None:
    rng = np.random.default_rng(1)
    inputs = [rng.standard_normal((1 + n % 3, 3, 5), np.float32) for n in range(12)]
    with ThreadPoolExecutor(len(inputs)) as pool:
        answers = list(pool.map(lambda x: _infer(client, x, "patient"), inputs))
    for x, y in zip(inputs, answers, strict=True):
        np.testing.assert_allclose(y, _truth(x), rtol=1e-4, atol=1e-4)
    statistics = client.get_inference_statistics("patient").model_stats[0]
    assert statistics.inference_count == sum(map(len, inputs))
    assert statistics.execution_count < len(inputs)


def test_a_bad_input_is_an_error_and_the_server_goes_on(client: grpcclient.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"unexpected shape|\[-1,3,-1\]"):
        _infer(client, np.zeros((1, 2, 4), np.float32))
    assert _infer(client, np.ones((1, 3, 1), np.float32)).shape == (1, 4, 1)


def test_what_onnx_runtime_refuses_is_an_error_and_the_server_goes_on(tmp_path: Path) -> None:
    """The config lets any height in, the graph does not: the refusal is ONNX Runtime's, at run time."""
    _model(tmp_path)
    model = onnx.load(tmp_path / "product/1/model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "H"
    onnx.save(model, tmp_path / "product/1/model.onnx")
    config = tmp_path / "product/config.pbtxt"
    config.write_text(config.read_text().replace("[ 3, -1 ]", "[ -1, -1 ]"))
    with LocalTriton(tmp_path) as server, grpcclient.InferenceServerClient(server.address) as client:
        with pytest.raises(InferenceServerException, match="MatMul"):
            _infer(client, np.zeros((1, 2, 4), np.float32))
        assert _infer(client, np.ones((1, 3, 1), np.float32)).ravel().tolist() == [3, 12, 21, 30]


def test_two_servers_at_once(repository: Path, server: LocalTriton) -> None:
    with LocalTriton(repository, only=["product"]) as other:
        addresses = {s.address for s in (server, other)} | {s.http_address for s in (server, other)}
        assert len(addresses | {server.metrics_address, other.metrics_address}) == 6
        for each, has_patient in ((server, True), (other, False)):
            with grpcclient.InferenceServerClient(each.address) as client:
                assert _infer(client, np.ones((1, 3, 1), np.float32)).ravel().tolist() == [3, 12, 21, 30]
                assert client.is_model_ready("patient") == has_patient


ENSEMBLE = """
name: "whole"
platform: "ensemble"
max_batch_size: 32
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4, -1 ] } ]
ensemble_scheduling { step [ {
  model_name: "product" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" }
} ] }
"""


def test_an_ensemble_brings_its_models(tmp_path: Path) -> None:
    _model(_model(tmp_path), "other")
    (tmp_path / "whole/1").mkdir(parents=True)
    (tmp_path / "whole/config.pbtxt").write_text(ENSEMBLE)
    log: list[str] = []
    with LocalTriton(tmp_path, only=["whole"], log=log.append) as server:
        client = grpcclient.InferenceServerClient(server.address)
        assert _infer(client, np.ones((2, 3, 1), np.float32), "whole")[1].ravel().tolist() == [3, 12, 21, 30]
        assert client.is_model_ready("product")
        assert not client.is_model_ready("other")
        client.close()
    assert log == []  # nothing about GPUs on a host without one
    (tmp_path / "product/1/model.onnx").unlink()
    with pytest.raises(ServeError, match=r"product: .*model.onnx is missing"):
        LocalTriton(tmp_path, only=["whole"]).start()


def test_stop_leaves_nothing_and_start_works_again(repository: Path, server: LocalTriton) -> None:
    mine = LocalTriton(repository, only=["product"])
    others = set(_left_behind([], os.getpid()))
    for _ in range(2):
        mine.start()
        assert mine.pid is not None
        processes = [mine.pid, *_descendants(mine.pid)]
        assert len(processes) == 2  # Triton and the stub of one instance
        assert set(_left_behind(processes, os.getpid())) > others
        with pytest.raises(ServeError, match="runs already"):
            mine.start()
        mine.stop()
        assert set(_left_behind(processes, os.getpid())) == others


def test_stop_waits_for_the_request_in_flight(repository: Path) -> None:
    with LocalTriton(repository, only=["patient"]) as server, ThreadPoolExecutor(1) as pool:
        client = grpcclient.InferenceServerClient(server.address)
        answer = pool.submit(_infer, client, np.ones((1, 3, 1), np.float32), "patient")  # waits 0.3 s in the queue
        time.sleep(0.15)
        server.stop()
        assert answer.result().ravel().tolist() == [3, 12, 21, 30]
        client.close()


def test_port_in_use(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"cannot use port {port} of 127.0.0.1 for http: Address already in use"):
            LocalTriton(repository, http_port=port).start()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"dtype": "TYPE_UINT8"}, r"product: input 'x' is TYPE_UINT8 in config.pbtxt, tensor\(float\) in model.onnx$"),
        ({"dims": "5, -1"}, r"product: input 'x' is \[-1, 5, -1\] in config.pbtxt, \[-1, 3, -1\] in model.onnx"),
        ({"dims": "3"}, r"product: input 'x' is \[-1, 3\] in config.pbtxt, \[-1, 3, -1\] in model.onnx"),
        ({"dims": "3, "}, r"product: .*config.pbtxt.*\(\d+:\d+: Expected"),
        ({"count": "two"}, r"product: .*config.pbtxt.*\(\d+:\d+: Expected integer"),
    ],
)
def test_a_config_that_is_not_the_models(tmp_path: Path, damage: dict[str, str], said: str) -> None:
    _model(tmp_path, **damage)  # type: ignore[arg-type]
    with pytest.raises(ServeError, match=said) as caught:
        LocalTriton(tmp_path).start()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("a model of ")


def test_a_model_file_that_is_broken_or_missing(tmp_path: Path) -> None:
    _model(_model(tmp_path), "absent")
    (tmp_path / "product/1/model.onnx").write_bytes(b"no protobuf")
    (tmp_path / "absent/1/model.onnx").unlink()
    with pytest.raises(
        ServeError, match=r"(?=.*product: .*[Pp]rotobuf)(?=.*absent: .*model.onnx is missing)"
    ) as caught:
        LocalTriton(tmp_path).start()
    assert "\n" not in str(caught.value)
    assert not Path(f"/dev/shm/reeltint_{os.getpid()}").exists()


def test_any_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's Python backend pastes paths into a command line of the shell."""
    (tmp_path / "temporary (2)").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary (2)"))
    for folder, only in ((tmp_path / "models b (1)", []), (tmp_path / "$(touch x)", ["product"])):
        server = LocalTriton(_model(folder), only=only, start_timeout_s=30)
        with server, grpcclient.InferenceServerClient(server.address) as client:
            assert _infer(client, np.ones((1, 3, 1), np.float32)).ravel().tolist() == [3, 12, 21, 30]


def test_a_server_that_dies_is_an_error(repository: Path) -> None:
    log: list[str] = []
    with LocalTriton(repository, only=["product"], log=log.append) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServeError, match=r"Triton ended by itself \(exit code 137\)"):
            server.wait()
    assert log == []


def test_too_slow_a_start(repository: Path) -> None:
    with pytest.raises(ServeError, match=r"not ready after 0\.001 s$"):
        LocalTriton(repository, start_timeout_s=0.001).start()


PARENT = """
import sys, time
from reeltint_local import LocalTriton
with LocalTriton(sys.argv[1], only=["product"]) as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_parent(repository: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT, str(repository)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        processes = [*_descendants(parent.pid)]
        assert pid in processes
        assert len(processes) == 3  # supervisor, Triton, stub
        assert len(_left_behind(processes, parent.pid)) == 5  # and a shared memory segment and a folder
        parent.send_signal(number)
        assert _eventually(lambda: _left_behind(processes, parent.pid) == [])
        assert parent.wait(10) == -number


SERVE = "from reeltint._cli import main; main()"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_serve_command(repository: Path, number: signal.Signals, code: int) -> None:
    ports = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"]
    command = [sys.executable, "-c", SERVE, "serve", "--models", str(repository), "--only", "product", *ports]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = dict(process.stdout.readline().split() for _ in range(3))
        with grpcclient.InferenceServerClient(lines["gRPC"]) as client:
            assert client.is_server_ready()
        processes = _descendants(process.pid)
        process.send_signal(number)
        assert process.wait(15) == code
        assert _left_behind(processes, process.pid) == []
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_the_serve_command_says_in_one_sentence_why_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVE, "serve", "--models", str(tmp_path)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"reeltint: the model repository {tmp_path} holds no model (a folder with a config.pbtxt)\n"
