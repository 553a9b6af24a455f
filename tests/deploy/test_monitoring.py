"""Prometheus' own tool on its configuration, its rules and every query of the dashboards."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from manifests import DEPLOY, Manifest, dashboards, run
from prometheus_client import CollectorRegistry
from reeltint._metrics import ClientMetrics

PROMETHEUS = DEPLOY / "prometheus"
# NVIDIA's list for 24.10, docs/user_guide/metrics.md; those of a CPU are checked against a real server in tests/server.
GPU_METRICS = {
    "nv_gpu_utilization", "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage",
    "nv_gpu_power_limit", "nv_energy_consumption",
}  # fmt: skip


def _panels() -> Iterator[Manifest]:
    for dashboard in dashboards():
        yield from dashboard["panels"]


def _queries() -> list[str]:
    return [target["expr"] for panel in _panels() for target in panel.get("targets", ())]


def test_configuration_and_rules_are_prometheus_own() -> None:
    done = run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_reckon_and_alert_as_they_should() -> None:
    done = run("promtool", "test", "rules", "rules_test.yml", cwd=PROMETHEUS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case() -> None:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts


def test_every_query_of_the_dashboards_parses(tmp_path: Path) -> None:
    queries = [query.replace("$__rate_interval", "1m").replace("$instance", ".*") for query in _queries()]
    assert len(queries) > 15
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    done = run("promtool", "check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules[:1]}]}) + ")")
    assert run("promtool", "check", "rules", tmp_path / "rules.yml").returncode != 0


def test_every_metric_exists() -> None:
    """Those of Triton on a CPU: tests/server/test_deployed.py."""
    texts = [*_queries(), (PROMETHEUS / "rules.yml").read_text()]
    used = {name for text in texts for name in re.findall(r"\b(?:nv_gpu|nv_energy|reeltint_client)_\w+", text)}
    metrics = ClientMetrics(CollectorRegistry())
    families = {family.name: family.type for family in metrics.registry.collect()}
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    ours = {name + suffix for name, kind in families.items() for suffix in suffixes[kind]}
    assert used - ours <= GPU_METRICS
    assert {name for name in used if name.startswith("reeltint")} <= ours
    assert {name.removesuffix("_bucket") for name in used if name.startswith("reeltint")} == {
        name + {"counter": "_total"}.get(kind, "") for name, kind in families.items()
    }


def test_panels_lie_beside_each_other() -> None:
    """Grafana shows a panel that lies over another, and says nothing."""
    taken: set[tuple[int, int]] = set()
    for panel in _panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in _panels()]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("path", sorted((DEPLOY / "grafana/provisioning").rglob("*.yml")), ids=lambda path: path.name)
def test_provisioning_names_what_is_there(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert content["apiVersion"] == 1
    for source in content.get("datasources", ()):
        used = {panel["datasource"]["uid"] for panel in _panels() if "datasource" in panel}
        assert used == {source["uid"]}
    for provider in content.get("providers", ()):
        mounted = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
        assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounted
