"""The manifests as kustomize renders them: against Kubernetes' own schemas, and against each other."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from manifests import DEPLOY, Manifest, compose, one, rendered, run, server_options
from support import ROOT

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = {
    "cpu": ("cpu",),
    "gpu": ("gpu",),
    "gpu with TLS": ("gpu", "tls"),
    "gpu from S3": ("gpu", "s3"),
    "cpu from GCS with TLS": ("cpu", "gcs", "tls"),
    "export to S3": ("export-job/s3",),
    "export to GCS": ("export-job/gcs",),
}
SERVERS = [name for name in OVERLAYS if "export" not in name]
VERSIONS = ("1.29", "1.33", "1.37")
NAME = {"app.kubernetes.io/name": "reeltint"}


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """Every overlay rendered, those with components as a team's own kustomization would have them."""
    found = {}
    for name, (base, *components) in OVERLAYS.items():
        folder = tmp_path_factory.mktemp("overlay")
        up = "/".join([".."] * (len(folder.parts) - 1))  # kustomize wants relative paths
        text = {
            "resources": [f"{up}{KUBERNETES / base}"],
            "components": [f"{up}{KUBERNETES / 'components' / component}" for component in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
        found[name] = rendered(folder)
    return found


def _containers(manifest: Manifest) -> list[Manifest]:
    pod = manifest["spec"]["template"]["spec"]
    return [*pod.get("initContainers", ()), *pod["containers"]]


def _triton(manifests: list[Manifest]) -> Manifest:
    [container] = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "triton"
    return dict(container)


def _number(arguments: list[str], option: str) -> float:
    [value] = [argument.partition("=")[2] for argument in arguments if argument.startswith(option + "=")]
    return float(value)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_schema(overlays: dict[str, list[Manifest]], overlay: str, version: str) -> None:
    for manifest in overlays[overlay]:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_would_say_no(overlays: dict[str, list[Manifest]]) -> None:
    manifest = one(overlays["cpu"], "PodDisruptionBudget")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest | {"spec": {"maxUnavailabel": 1}}, VERSIONS[0], strict=True)


@pytest.mark.parametrize("overlay", SERVERS)
def test_the_pods_are_those_that_everything_else_means(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    manifests = overlays[overlay]
    deployment = one(manifests, "Deployment")
    assert deployment["spec"]["template"]["metadata"]["labels"] == NAME
    assert deployment["spec"]["selector"]["matchLabels"] == NAME
    assert one(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == NAME
    service = one(manifests, "Service")["spec"]
    assert (service["selector"], service["clusterIP"]) == (NAME, "None")
    named = {port["name"]: port["containerPort"] for port in _triton(manifests)["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["ports"]}.items() <= named.items()
    policy = one(manifests, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == NAME
    clients, prometheus = policy["ingress"]
    assert clients["from"][0]["podSelector"]["matchLabels"] == {"reeltint-client": "true"}
    assert [rule["ports"] for rule in (clients, prometheus)] == [[{"port": "grpc"}], [{"port": "metrics"}]]
    assert (policy["egress"] == []) == ("from" not in overlay)
    scaled = one(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", deployment["metadata"]["name"])


@pytest.mark.parametrize("overlay", SERVERS)
def test_a_pod_has_time_to_drain(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    triton = _triton(overlays[overlay])
    pod = one(overlays[overlay], "Deployment")["spec"]["template"]["spec"]
    hook = triton["lifecycle"]["preStop"]["exec"]["command"]
    drain_s, exit_s = _number(hook, "--timeout-s"), _number(triton["args"], "--exit-timeout-secs")
    assert pod["terminationGracePeriodSeconds"] > drain_s + exit_s + 10
    # A client that is silent for a while comes back on the connection it has, until that is too old.
    age_s = _number(triton["args"], "--grpc-max-connection-age") / 1000 * 1.1  # gRPC adds up to a tenth
    assert drain_s > _number(hook, "--at-least-s") > age_s
    # Clients ask for addresses once their connection is too old, at the latest 30 s after they last did.
    assert drain_s > age_s + 30 + _number(hook, "--quiet-s")
    files = one(overlays[overlay], "ConfigMap")["data"]
    [mount] = [mount for mount in triton["volumeMounts"] if mount["name"] == "drain"]
    assert hook[:2] == ["python3", f"{mount['mountPath']}/drain.py"]
    assert files["drain.py"] == (KUBERNETES / "base/drain.py").read_text()


@pytest.mark.parametrize("overlay", SERVERS)
def test_health_is_asked_where_it_can_be(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    """The kubelet's gRPC probe knows no TLS."""
    triton = _triton(overlays[overlay])
    encrypted = "TLS" in overlay
    assert encrypted == ("--grpc-use-ssl-mutual=true" in triton["args"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert ("httpGet" in triton[probe], "grpc" in triton[probe]) == (encrypted, not encrypted)
    variables = {variable["name"]: variable.get("value") for variable in triton["env"]}
    assert variables["HTTP_ADDRESS"] == ("0.0.0.0" if encrypted else "127.0.0.1")
    [closed] = [argument for argument in triton["args"] if argument.startswith("--http-restricted-api=")]
    assert "health" not in closed.partition(":")[0]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_to_the_restricted_standard(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    """Kubernetes' pod security standard "restricted", which the namespace enforces; and read-only besides."""
    [workload] = [manifest for manifest in overlays[overlay] if manifest["kind"] in ("Deployment", "Job")]
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all(volume.keys() & {"emptyDir", "configMap", "secret"} for volume in pod["volumes"])
    for container in _containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        mounts = [mount["name"] for mount in container["volumeMounts"]]
        assert set(mounts) <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_models_are_checked_before_they_are_served(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    [workload] = [manifest for manifest in overlays[overlay] if manifest["kind"] in ("Deployment", "Job")]
    names = [container["name"] for container in _containers(workload)]
    arguments = {container["name"]: container.get("args", []) for container in _containers(workload)}
    if workload["kind"] == "Job":
        assert (names, arguments["export"]) == (["export", "upload"], ["--engines", "/models/current"])
    elif "from" in overlay:
        assert (names, arguments["models"]) == (["fetch", "models", "triton"], ["--check-only", "/models/current"])
    else:
        engines = ["--engines"] if "gpu" in overlay else []
        assert (names, arguments["models"]) == (["models", "triton"], [*engines, "/models/current"])
    if workload["kind"] == "Deployment":
        assert "--model-repository=/models/current" in _triton(overlays[overlay])["args"]
        [models] = [container for container in _containers(workload) if container["name"] == "models"]
        variant = [{"name": "MODEL_CONFIG_NAME", "value": "tensorrt"}] if "gpu" in overlay else []
        assert models.get("env", []) == variant
    assert all(re.search(r":[\w.-]*\d[\w.-]*$", container["image"]) for container in _containers(workload))


@pytest.mark.parametrize("overlay", ["export to S3", "export to GCS"])
def test_an_upload_touches_nothing_that_is_served(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    """It has an address of its own, and deletes nothing there."""
    [upload] = one(overlays[overlay], "Job")["spec"]["template"]["spec"]["containers"]
    assert upload["envFrom"] == [{"secretRef": {"name": "reeltint-upload"}}]
    assert upload["command"][-2:] == ["/models/current", "$(UPLOAD_URL)"]
    assert not any("delete" in word for word in upload["command"])
    text = (ROOT / "docs/deploy.md").read_text()
    assert text.index("delete --ignore-not-found job reeltint-export") < text.index("apply -k reeltint-job/")


def test_the_documents_kustomization(overlays: dict[str, list[Manifest]], tmp_path: Path) -> None:
    """docs/deploy.md's, with this checkout in place of the repository's address."""
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    up = "/".join([".."] * (len(tmp_path.parts) - 1))
    text, count = re.subn(r"https://git\.example\.org/reeltint/(/[^?]+)\?ref=\S+", rf"{up}{ROOT}\1", text)
    assert count == 3
    (tmp_path / "kustomization.yaml").write_text(text)
    manifests = rendered(tmp_path)
    images = {container["image"] for container in _containers(one(manifests, "Deployment"))}
    assert len([image for image in images if image.startswith("registry.example.org/reeltint-export:")]) == 1
    secrets = set(re.findall(r"secret generic (\S+)", (ROOT / "docs/deploy.md").read_text()))
    texts = yaml.safe_dump_all([*manifests, *overlays["export to S3"]])
    named = set(re.findall(r"reeltint-(?:admin|tls|storage|upload)", texts))
    assert named == secrets


def test_options_are_tritons() -> None:
    known = server_options()
    assert {"--model-config-name", "--grpc-restricted-protocol"} <= known
    texts = [path.read_text() for path in (*KUBERNETES.rglob("*.yaml"), *DEPLOY.glob("compose*.yaml"))]
    used = {option for text in texts for option in re.findall(r"(?:- |value: )(--[a-z-]+)(?==)", text)}
    drain = {"--config", "--storage"}  # of Prometheus
    assert len(used) > 12
    assert {option for option in used if not option.startswith(tuple(drain))} <= known


def test_one_release_of_nvidias_containers(overlays: dict[str, list[Manifest]]) -> None:
    """An engine runs only in the TensorRT that built it."""
    dockerfile = (DEPLOY / "export/Dockerfile").read_text()
    [release] = re.findall(r"^ARG RELEASE=([\d.]+)$", dockerfile, re.MULTILINE)
    services = compose("compose.yaml")["services"]
    assert services["export"]["build"]["args"]["RELEASE"] == release
    images = [_triton(overlays["gpu"])["image"], services["triton"]["image"], services["volume"]["image"]]
    assert set(images) == {f"nvcr.io/nvidia/tritonserver:{release}-py3"}


def test_our_image_has_the_version_of_the_project(overlays: dict[str, list[Manifest]]) -> None:
    """Where a new version is to be written: kubernetes/base, kubernetes/export-job/base, compose.yaml."""
    [version] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    images = {compose("compose.yaml")["services"]["export"]["image"]}
    for name in OVERLAYS:
        for manifest in overlays[name]:
            if manifest["kind"] in ("Deployment", "Job"):
                images |= {c["image"] for c in _containers(manifest) if c["image"].startswith("reeltint")}
    assert images == {f"reeltint-export:{version}"}


def test_the_autoscalers_metric_is_the_adapters(overlays: dict[str, list[Manifest]], tmp_path: Path) -> None:
    [rule] = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    [metric] = one(overlays["cpu"], "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    # As the adapter fills it in; two pods, one with 30 ms a request in the queue of its slowest step, one idle.
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="reeltint",pod=~"a|b"')
    series = {
        ("success", "a", "colorizer"): "0+10x40",
        ("success", "a", "lab_split"): "0+10x40",
        ("success", "b", "colorizer"): "5x40",
        ("queue", "a", "colorizer"): "0+300000x40",
        ("queue", "a", "lab_split"): "0+1000x40",
        ("queue", "b", "colorizer"): "5000x40",
    }
    names = {"success": "nv_inference_request_success", "queue": "nv_inference_queue_duration_us"}
    test = {
        "rule_files": [],
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": f'{names[kind]}{{namespace="reeltint", pod="{pod}", model="{model}"}}', "values": values}
                    for (kind, pod, model), values in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": query,
                        "eval_time": "8m",
                        "exp_samples": [
                            {"labels": '{pod="a"}', "value": 0.03},
                            {"labels": '{pod="b"}', "value": 0},
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = run("promtool", "test", "rules", "test.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
