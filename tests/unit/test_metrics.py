"""ClientMetrics by itself; tests/server counts real calls."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from reeltint._errors import InvalidRequest, ServerBusy
from reeltint._metrics import ClientMetrics


def test_an_answered_call() -> None:
    metrics = ClientMetrics(CollectorRegistry())
    value = metrics.registry.get_sample_value
    with metrics.call("colorize", 8):
        assert value("reeltint_client_in_flight", {"model": "colorize"}) == 1
    assert value("reeltint_client_in_flight", {"model": "colorize"}) == 0
    assert value("reeltint_client_frames_total", {"model": "colorize"}) == 8
    assert value("reeltint_client_request_seconds_count", {"model": "colorize"}) == 1


def test_a_failed_call_is_counted_by_its_error_and_raised() -> None:
    metrics = ClientMetrics(CollectorRegistry())
    metrics.retried("colorize", ServerBusy("full"))
    with pytest.raises(ServerBusy), metrics.call("colorize", 8):
        raise ServerBusy("full")
    value, busy = metrics.registry.get_sample_value, {"model": "colorize", "error": "ServerBusy"}
    assert value("reeltint_client_errors_total", busy) == 1
    assert value("reeltint_client_retries_total", busy) == 1
    assert value("reeltint_client_in_flight", {"model": "colorize"}) == 0
    assert value("reeltint_client_frames_total", {"model": "colorize"}) is None
    assert value("reeltint_client_request_seconds_count", {"model": "colorize"}) is None


def test_one_a_registry() -> None:
    registry = CollectorRegistry()
    ClientMetrics(registry)
    with pytest.raises(InvalidRequest, match="has a ClientMetrics already"):
        ClientMetrics(registry)


def test_the_page_parses_as_prometheus_text() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    metrics = ClientMetrics(CollectorRegistry())
    with metrics.call("colorize_chroma", 3):
        pass
    families = {
        family.name: family.type
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
    }
    assert families == {
        "reeltint_client_request_seconds": "histogram",
        "reeltint_client_request_seconds_created": "gauge",
        "reeltint_client_frames": "counter",
        "reeltint_client_frames_created": "gauge",
        "reeltint_client_errors": "counter",
        "reeltint_client_retries": "counter",
        "reeltint_client_in_flight": "gauge",
    }
