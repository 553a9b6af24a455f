"""ClientMetrics on real calls."""

import asyncio
import socket
import urllib.request

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from reeltint import AsyncColorizer, ClientMetrics, Colorizer, InvalidRequest, ServerUnreachable

FRAMES = np.zeros((3, 40, 60), np.uint8)
CHROMA, RGB = {"model": "colorize_chroma"}, {"model": "colorize"}


@pytest.fixture
def metrics() -> ClientMetrics:
    return ClientMetrics(CollectorRegistry())


def test_calls_and_frames_are_counted(triton: str, metrics: ClientMetrics) -> None:
    value = metrics.registry.get_sample_value
    with Colorizer(triton, metrics=metrics) as colorizer:
        assert len(list(colorizer.stream(FRAMES for _ in range(5)))) == 5
        colorizer.colorize(FRAMES, output="rgb")
        with pytest.raises(InvalidRequest):
            colorizer.colorize(FRAMES[:0])  # not sent, so not counted
    assert value("reeltint_client_frames_total", CHROMA) == 15
    assert value("reeltint_client_request_seconds_count", CHROMA) == 5
    assert 0 < (value("reeltint_client_request_seconds_sum", CHROMA) or 0) < 60
    assert value("reeltint_client_frames_total", RGB) == 3
    assert value("reeltint_client_in_flight", CHROMA) == 0
    assert "error=" not in str(list(metrics.registry.collect()))


def test_two_colorizers_share_one(triton: str, metrics: ClientMetrics) -> None:
    async def both() -> None:
        async with AsyncColorizer(triton, metrics=metrics) as one, AsyncColorizer(triton, metrics=metrics) as other:
            await asyncio.gather(one.colorize(FRAMES), other.colorize(FRAMES))

    asyncio.run(both())
    assert metrics.registry.get_sample_value("reeltint_client_frames_total", CHROMA) == 6


def test_retries_and_errors_are_counted_by_class(metrics: ClientMetrics) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with (
            Colorizer(address, retries=2, backoff_s=0.01, metrics=metrics) as colorizer,
            pytest.raises(ServerUnreachable),
        ):
            colorizer.colorize(FRAMES)
    value, unreachable = metrics.registry.get_sample_value, {**CHROMA, "error": "ServerUnreachable"}
    assert value("reeltint_client_retries_total", unreachable) == 2
    assert value("reeltint_client_errors_total", unreachable) == 1
    assert value("reeltint_client_frames_total", CHROMA) is None


def test_prometheus_reads_them(triton: str, metrics: ClientMetrics) -> None:
    with Colorizer(triton, metrics=metrics) as colorizer:
        colorizer.colorize(FRAMES)
    port = metrics.serve(0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert 'reeltint_client_frames_total{model="colorize_chroma"} 3.0' in answer.read().decode()
    with pytest.raises(InvalidRequest, match=f"cannot use port {port}"):
        metrics.serve(port)
