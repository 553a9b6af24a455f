"""The server as deploy/ runs it: Kubernetes' arguments, the GPU variant of the configs, mTLS and keys.

In configs/tensorrt.pbtxt, ONNX Runtime stands here for TensorRT; tensors, batching and warm-up are as they are there.
"""

import http.client
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpcclient
import yaml
from manifests import DEPLOY, dashboards
from reeltint import Colorizer, ServerUnreachable, Tls
from reeltint._cli.colorize import connect
from reeltint_export.profiles import profiles
from reeltint_export.tensorrt_configs import tensorrt_config
from reeltint_local import LocalTriton, default_models
from tritonclient.utils import InferenceServerException

KEY = "0123456789abcdef-only-for-tests"
MODELS = ("lab_split", "colorizer", "chroma_merge", "colorize_chroma")
OURS = ("--model-repository", "--http-address", "--metrics-address", "--exit-timeout-secs")  # LocalTriton sets these


def arguments() -> list[str]:
    """Triton's arguments in Kubernetes, but for what LocalTriton chooses."""
    deployment = yaml.safe_load((DEPLOY / "kubernetes/base/deployment.yaml").read_text())
    given: list[str] = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return [argument.replace("$(ADMIN_KEY)", KEY) for argument in given if not argument.startswith(OURS)]


def gpu_variants(folder: Path) -> Path:
    """A repository whose configs/tensorrt.pbtxt name ONNX Runtime on the CPU in place of TensorRT on a GPU."""
    for name in MODELS:
        shutil.copytree(default_models() / name, folder / name)
        shutil.rmtree(folder / name / "configs", ignore_errors=True)
    graphs = {path.parts[-3]: onnx.load(path) for path in folder.glob("*/*/model.onnx")}
    for name in graphs:
        text = tensorrt_config((folder / name / "config.pbtxt").read_text(), profiles(name, graphs, batch=(1, 2, 32)))
        text = text.replace('platform: "tensorrt_plan"', 'backend: "onnxruntime"')
        text = re.sub(r"kind: KIND_GPU profile: \[.*?\]", "kind: KIND_CPU", text)
        (folder / name / "configs").mkdir()
        (folder / name / "configs/tensorrt.pbtxt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("ours", "other"):
        command = [str(DEPLOY / "tls/make_certificates.sh"), str(folder / name), "triton.example.org"]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def _tls(folder: Path, end: str, authority: Path | None = None) -> Tls:
    return Tls(ca=(authority or folder) / "ca.pem", certificate=folder / f"{end}.pem", key=folder / f"{end}.key")


@pytest.fixture(scope="module")
def deployed(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    models = gpu_variants(tmp_path_factory.mktemp("models"))
    options = [*arguments(), "--model-config-name=tensorrt"]
    with LocalTriton(models, tls=_tls(certificates / "ours", "server"), arguments=options) as server:
        yield server


@pytest.fixture(scope="module")
def client(deployed: LocalTriton, certificates: Path) -> Iterator[grpcclient.InferenceServerClient]:
    files = {
        "root_certificates": certificates / "ours/ca.pem",
        "private_key": certificates / "ours/client.key",
        "certificate_chain": certificates / "ours/client.pem",
    }
    with grpcclient.InferenceServerClient(
        deployed.address, ssl=True, **{name: str(path) for name, path in files.items()}
    ) as client:
        yield client


def test_both_ends_certificates_colour(deployed: LocalTriton, certificates: Path, triton: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 90, 120), np.uint8)
    with Colorizer(triton) as plain, Colorizer(deployed.address, tls=_tls(certificates / "ours", "client")) as secure:
        wanted, found = plain.colorize(frames).chroma, secure.colorize(frames).chroma
    assert wanted is not None
    assert found is not None
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("wrong", ["no TLS", "no certificate", "another authority's certificate", "another server"])
def test_what_is_not_ours_is_refused(deployed: LocalTriton, certificates: Path, wrong: str) -> None:
    ours, other = certificates / "ours", certificates / "other"
    tls = {
        "no TLS": None,
        "no certificate": Tls(ca=ours / "ca.pem"),
        "another authority's certificate": _tls(other, "client", authority=ours),
        "another server": _tls(ours, "client", authority=other),
    }[wrong]
    said = "handshake failed" if wrong == "another server" else "does it want TLS, or another certificate"
    with Colorizer(deployed.address, tls=tls, retries=0) as colorizer, pytest.raises(ServerUnreachable, match=said):
        colorizer.colorize(np.zeros((1, 8, 8), np.uint8))


def test_the_commands_connection(deployed: LocalTriton, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, frames = certificates / "ours", np.zeros((1, 8, 8), np.uint8)
    with connect(deployed.address, None, tls=_tls(ours, "client")) as colorizer:
        assert colorizer.colorize(frames).chroma is not None
    for name, file in {"CA": "ca.pem", "CERT": "client.pem", "KEY": "client.key"}.items():
        monkeypatch.setenv(f"REELTINT_TLS_{name}", str(ours / file))
    with connect(deployed.address, None) as colorizer:
        assert colorizer.colorize(frames).chroma is not None


CONTROLS: dict[str, Callable[[grpcclient.InferenceServerClient, Any], object]] = {
    "index": lambda client, headers: client.get_model_repository_index(headers=headers),
    "load": lambda client, headers: client.load_model("lab_split", headers=headers),
    "shared memory": lambda client, headers: client.get_system_shared_memory_status(headers=headers),
    "log": lambda client, headers: client.get_log_settings(headers=headers),
    "trace": lambda client, headers: client.get_trace_settings(headers=headers),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_controls_need_the_key(client: grpcclient.InferenceServerClient, control: str) -> None:
    for headers in (None, {"triton-grpc-protocol-admin-key": "wrong"}, {"admin-key": KEY}):
        with pytest.raises(InferenceServerException, match="protocol is restricted"):
            CONTROLS[control](client, headers)
    CONTROLS[control](client, {"triton-grpc-protocol-admin-key": KEY})
    assert client.is_model_ready("colorize_chroma")


def test_http_tells_health_alone(deployed: LocalTriton) -> None:
    assert deployed.http_address.startswith("127.0.0.1:")

    def status(path: str, headers: dict[str, str]) -> int:
        connection = http.client.HTTPConnection(deployed.http_address, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    assert status("/v2/health/ready", {}) == 200
    for path in ("/v2", "/v2/models/colorizer/config", "/v2/models/stats"):
        assert (status(path, {}), status(path, {"admin-key": KEY})) == (403, 200)


def test_the_kubelets_grpc_probe(triton: str) -> None:
    """grpc.health.v1.Health/Check with an empty request; the answer's field 1 is 1, SERVING."""
    with grpc.insecure_channel(triton) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01"


def test_the_variant_is_what_runs(client: grpcclient.InferenceServerClient) -> None:
    headers = {"triton-grpc-protocol-admin-key": KEY}
    for name, sizes in (("colorizer", {(1, 160, 160)}), ("chroma_merge", {(480, 854), (1080, 1920)})):
        config = client.get_model_config(name, headers=headers).config
        assert config.HasField("dynamic_batching")
        first = config.input[0].name
        assert {tuple(sample.inputs[first].dims) for sample in config.model_warmup} == sizes
    ensemble = client.get_model_config("colorize_chroma", headers=headers).config
    assert ensemble.platform == "ensemble"  # it has no variant: config.pbtxt is taken


def test_requests_of_one_size_share_an_execution(deployed: LocalTriton, certificates: Path) -> None:
    before = _metric(deployed, "nv_inference_exec_count", "colorizer")
    frames = np.zeros((1, 16, 16), np.uint8)
    with Colorizer(deployed.address, tls=_tls(certificates / "ours", "client"), in_flight=16) as colorizer:
        assert len(list(colorizer.stream(frames for _ in range(32)))) == 32
    assert _metric(deployed, "nv_inference_exec_count", "colorizer") - before < 32


def _metric(server: LocalTriton, name: str, model: str) -> float:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(rf'^{name}\{{model="{model}".*\}} (\S+)', text, re.MULTILINE)))


def test_dashboards_and_rules_read_what_triton_writes(deployed: LocalTriton) -> None:
    with urllib.request.urlopen(f"http://{deployed.metrics_address}/metrics", timeout=10) as answer:
        written = set(re.findall(r"^# TYPE (\S+)", answer.read().decode(), re.MULTILINE))
    queries = [
        target["expr"] for board in dashboards() for panel in board["panels"] for target in panel.get("targets", ())
    ]
    texts = [
        *queries,
        *(
            path.read_text()
            for path in (DEPLOY / "prometheus/rules.yml", DEPLOY / "kubernetes/prometheus-adapter.yaml")
        ),
    ]
    read = {name for text in texts for name in re.findall(r"\bnv_(?!gpu|energy)\w+", text)}
    assert len(read) > 8
    assert read <= written
