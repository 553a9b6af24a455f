"""The compose files: against the Compose specification's schema, and what they promise."""

import sys

import pytest
from manifests import DEPLOY, compose, run


@pytest.mark.parametrize("name", ["compose.yaml", "compose.tls.yaml"])
def test_compose_schema(name: str) -> None:
    """check-jsonschema carries the specification's schema."""
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    done = run(*check, DEPLOY / name)
    assert done.returncode == 0, done.stdout


def test_triton_starts_only_behind_the_check() -> None:
    services = compose("compose.yaml")["services"]
    # restart: a new image's models are served by a Triton that started after them
    assert services["triton"]["depends_on"] == {
        "export": {"condition": "service_completed_successfully", "restart": True}
    }
    assert services["export"]["command"] == ["--engines", "/models/current"]
    assert services["export"]["environment"] == {"ENGINE_OPTIONS": "${REELTINT_ENGINE_OPTIONS:-}"}
    assert services["export"]["restart"] == "no"
    for service in (services["triton"], compose("compose.tls.yaml")["services"]["triton"]):
        assert "--model-repository=/models/current" in service["command"]
    assert services["triton"]["volumes"] == ["models:/models:ro"]


def test_services_are_locked_down() -> None:
    services = compose("compose.yaml")["services"]
    for name in ("export", "triton", "prometheus", "grafana"):
        assert services[name]["read_only"] is True, name
        assert services[name]["cap_drop"] == ["ALL"], name
        assert services[name]["security_opt"] == ["no-new-privileges:true"], name
    for name in ("export", "triton"):
        assert services[name]["user"] == "1000:1000", name
        assert services[name]["shm_size"], name
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert all(port.startswith(("127.0.0.1:", "${REELTINT_LISTEN:-127.0.0.1}:")) for port in published)
    assert all(":8000" not in port and ":8002" not in port for port in published)


def test_triton_is_stopped_in_order() -> None:
    triton = compose("compose.yaml")["services"]["triton"]
    [exit_s] = [int(o.partition("=")[2]) for o in triton["command"] if o.startswith("--exit-timeout-secs=")]
    assert int(triton["stop_grace_period"].removesuffix("s")) > exit_s
    assert triton["healthcheck"]["test"][-1] == "http://127.0.0.1:8000/v2/health/ready"
    assert "--http-address=127.0.0.1" in triton["command"]


def test_tls_is_the_same_server_and_certificates() -> None:
    plain, encrypted = (compose(name)["services"]["triton"] for name in ("compose.yaml", "compose.tls.yaml"))
    more = encrypted["command"][len(plain["command"]) :]
    assert encrypted["command"][: len(plain["command"])] == plain["command"]
    assert more[0] == "--grpc-use-ssl-mutual=true"
    files = {option.rpartition("/")[2] for option in more[1:]}
    assert files == set(encrypted["secrets"]) == set(compose("compose.tls.yaml")["secrets"])
