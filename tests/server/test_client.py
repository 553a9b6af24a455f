"""The client against the real server."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reeltint import (
    AsyncColorizer,
    ColorBatch,
    Colorizer,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerUnreachable,
)
from reeltint_local import LocalTriton
from skimage import color, data

Frames = NDArray[Any]


@pytest.fixture(scope="module")
def photograph() -> Frames:
    grey: Frames = (color.rgb2gray(data.coffee()) * 255).round().astype(np.uint8)
    return grey


def chroma(batch: ColorBatch) -> Frames:
    assert batch.chroma is not None
    return batch.chroma


def _batches(photograph: Frames, count: int, size: int = 3) -> list[Frames]:
    """Batches that all differ: the photograph, shifted further each time."""
    return [np.stack([np.roll(photograph, 7 * (size * n + k), 1) for k in range(size)]) for n in range(count)]


def test_chroma_comes_back_in_order_and_is_colour(triton: str, photograph: Frames) -> None:
    batches = _batches(photograph, 6)
    with Colorizer(triton, in_flight=3) as colorizer:
        assert colorizer.is_ready()
        alone = [colorizer.colorize(batch) for batch in batches]
        streamed = list(colorizer.stream(iter(batches)))
    assert len(streamed) == len(batches)
    for batch, one, other in zip(batches, alone, streamed, strict=True):
        assert other.frames is batch
        assert chroma(other).shape == (3, 2, 200, 300)
        assert np.array_equal(chroma(one), chroma(other))
    assert np.abs(chroma(streamed[0]).astype(int) - 128).mean() > 2  # not grey


def test_rgb_keeps_the_lightness(triton: str, photograph: Frames) -> None:
    with Colorizer(triton) as colorizer:
        rgb = colorizer.colorize(photograph[None], output="rgb").rgb
    assert rgb is not None
    lightness = color.rgb2lab(rgb[0])[..., 0]
    truth = color.rgb2lab(np.repeat(photograph[..., None], 3, 2))[..., 0]
    assert np.quantile(np.abs(lightness - truth), 0.99) < 1.0  # the rest left the sRGB gamut and was clipped
    assert np.abs(rgb[0].astype(int) - rgb[0].mean(-1, keepdims=True)).mean() > 2


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 7), (1, 5, 1), (1, 31, 33), (3, 239, 321)])
def test_any_size(triton: str, shape: tuple[int, int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    count, height, width = shape
    with Colorizer(triton) as colorizer:
        half = chroma(colorizer.colorize(frames))
        rgb = colorizer.colorize(frames, output="rgb").rgb
    assert half.shape == (count, 2, (height + 1) // 2, (width + 1) // 2)
    assert rgb is not None
    assert rgb.shape == (count, height, width, 3)


def test_asyncio_gives_the_same(triton: str, photograph: Frames) -> None:
    batches = _batches(photograph, 5)

    async def run() -> list[Frames]:
        async with AsyncColorizer(triton, in_flight=2) as colorizer:
            assert await colorizer.is_ready()
            return [chroma(batch) async for batch in colorizer.stream(batches)]

    with Colorizer(triton) as colorizer:
        for one, other in zip(asyncio.run(run()), colorizer.stream(batches), strict=True):
            assert np.array_equal(one, chroma(other))


def test_no_more_than_in_flight_batches_are_read_ahead(triton: str, photograph: Frames) -> None:
    read = 0

    def source() -> Iterator[Frames]:
        nonlocal read
        for batch in _batches(photograph, 8, size=1):
            read += 1
            yield batch

    with Colorizer(triton, in_flight=2) as colorizer:
        for done, _ in enumerate(colorizer.stream(source()), 1):
            assert read <= done + 1


def test_a_stream_left_early_can_be_followed_by_another(triton: str, photograph: Frames) -> None:
    with Colorizer(triton) as colorizer:
        for _ in colorizer.stream(_batches(photograph, 6)):
            break
        assert len(list(colorizer.stream(_batches(photograph, 2)))) == 2


def test_closing_ends_the_calls_under_way(triton: str, photograph: Frames) -> None:
    with Colorizer(triton) as colorizer:
        stream = colorizer.stream(_batches(photograph, 6))
        next(stream)
        waiting = colorizer._run(colorizer._colorizer.colorize(photograph[None]))
    with pytest.raises(CancelledError):
        waiting.result(5)


def test_what_cannot_be_right_is_not_sent(triton: str) -> None:
    with Colorizer(triton) as colorizer:
        with pytest.raises(InvalidRequest, match="more than the 32"):
            colorizer.colorize(np.zeros((33, 8, 8), np.uint8))
        with pytest.raises(InvalidRequest, match="'lab'"):
            colorizer.colorize(np.zeros((1, 8, 8), np.uint8), output="lab")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="closed"):
        colorizer.is_ready()


def test_nothing_at_the_address() -> None:
    with Colorizer("127.0.0.1:9", retries=1, backoff_s=0.01, deadline_s=2) as colorizer:
        assert not colorizer.is_ready()
        with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"):
            colorizer.colorize(np.zeros((1, 8, 8), np.uint8))


def test_no_proxy_is_asked_for_a_local_server(triton: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for address in (triton, triton.replace("127.0.0.1", "localhost")):
        with Colorizer(address, retries=0) as colorizer:
            assert colorizer.max_batch() > 0


def test_a_deadline_that_cannot_be_met(triton: str) -> None:
    with Colorizer(triton) as colorizer:
        colorizer.max_batch()
        colorizer._colorizer.deadline_s = 0.002
        with pytest.raises(DeadlineExceeded):
            colorizer.colorize(np.zeros((16, 1080, 1920), np.uint8))


def test_errors_of_the_source_reach_the_caller(triton: str, photograph: Frames) -> None:
    def source() -> Iterator[Frames]:
        yield photograph[None]
        yield photograph[None]
        raise OSError("the film tore")

    async def run() -> None:
        async with AsyncColorizer(triton) as colorizer:
            stream = colorizer.stream(source())
            assert np.array_equal(chroma(await anext(stream)), chroma(await anext(stream)))
            with pytest.raises(OSError, match="tore"):
                await anext(stream)

    with Colorizer(triton) as colorizer:
        stream = colorizer.stream(source())
        assert np.array_equal(chroma(next(stream)), chroma(next(stream)))  # what came before is not lost
        with pytest.raises(OSError, match="tore"):
            next(stream)
    asyncio.run(run())


def test_a_missing_model_and_a_server_that_comes_back(photograph: Frames, tmp_path: Path) -> None:
    """Without `colorize` its name is in the error; a restart on the same port is survived by retries."""
    frames = photograph[None, :64, :64]
    with LocalTriton(only=["colorize_chroma"]) as server:
        port = int(server.address.rpartition(":")[2])
        colorizer = Colorizer(server.address, retries=40, backoff_s=0.2, backoff_cap_s=0.5)
        with pytest.raises(ModelNotFound, match="colorize"):
            colorizer.colorize(frames, output="rgb")
        first = chroma(colorizer.colorize(frames))
    with colorizer:
        answer = colorizer._run(colorizer._colorizer.colorize(frames))
        time.sleep(1.0)
        assert not answer.done()  # waiting for the server
        with LocalTriton(only=["colorize_chroma"], grpc_port=port):
            assert np.array_equal(chroma(answer.result(60)), first)
