"""Colorizer and AsyncColorizer: frames out to a Triton server, colour back. Only input and output; see `_codec`."""

import asyncio
import contextlib
import itertools
import random
import re
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from ipaddress import ip_address
from types import TracebackType
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from reeltint._closing import Closing
from reeltint._codec import (
    EMBEDDER,
    ENCODER,
    MODELS,
    ColorBatch,
    Frames,
    Output,
    Reference,
    decode,
    decode_embed,
    decode_merge,
    decode_reference,
    encode,
    encode_embed,
    encode_merge,
    encode_reference,
    error_of,
    merge_of,
    model_of,
)
from reeltint._errors import InvalidRequest, ModelNotFound, ServerBusy, ServerUnreachable
from reeltint._metrics import ClientMetrics
from reeltint._tls import Tls

_T = TypeVar("_T")
_END: Any = object()
_PICTURES: tuple[Output, ...] = ("chroma", "rgb")
_SPLIT, _NETWORK = "lab_split", "colorizer"
_USUAL_BATCH = 32
_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.optimization_target", "throughput"),
    ("grpc.http2.write_buffer_size", 2**22),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),  # to leave a server that is going
    ("grpc.use_local_subchannel_pool", 1),  # a fresh channel is then a fresh connection
)


class AsyncColorizer:
    """Colours batches of grey frames by a Triton server, for asyncio.

    Args:
        address: "host:port" of Triton's gRPC endpoint; a DNS name with several addresses is used round robin.
        in_flight: Batches sent and not yet handed out, at most; bounds memory on both sides.
        deadline_s: Seconds until one attempt of a call is given up.
        retries: Further attempts after `ServerBusy` and `ServerUnreachable`; other errors are raised at once.
        backoff_s: Delay before the first retry, in seconds; doubles each time, with up to half of it random.
        backoff_cap_s: Longest delay, in seconds.
        tls: Certificates of an encrypted connection; None is an open one.
        metrics: Counts the calls, see `ClientMetrics`.

    Raises:
        InvalidRequest: An option is out of range.
    """

    def __init__(
        self,
        address: str,
        *,
        in_flight: int = 6,
        deadline_s: float = 60.0,
        retries: int = 5,
        backoff_s: float = 0.2,
        backoff_cap_s: float = 5.0,
        tls: Tls | None = None,
        metrics: ClientMetrics | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or re.match("(http|grpc)s?://", address, re.IGNORECASE):
            raise InvalidRequest(f'address: "host:port" was expected, not {address!r}')
        if in_flight < 1:
            raise InvalidRequest(f"in_flight: at least 1, not {in_flight}")
        if deadline_s <= 0:
            raise InvalidRequest(f"deadline_s: more than 0, not {deadline_s}")
        if min(retries, backoff_s, backoff_cap_s) < 0:
            raise InvalidRequest("retries, backoff_s and backoff_cap_s: 0 or more")
        self.address, self.in_flight, self.deadline_s = address, in_flight, deadline_s
        self.retries, self.backoff_s, self.backoff_cap_s = retries, backoff_s, backoff_cap_s
        self._metrics = metrics
        self._credentials = tls and grpc.ssl_channel_credentials(*tls.read())
        self._channel: grpc.aio.Channel | None = None
        self._retired: deque[tuple[float, grpc.aio.Channel]] = deque()
        self._configs: dict[str, Any] = {}

    async def __aenter__(self) -> "AsyncColorizer":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the next call would open a new one."""
        channels = [channel for _, channel in self._retired]
        if self._channel is not None:
            channels.append(self._channel)
        self._channel = None
        self._retired.clear()
        for channel in channels:
            await channel.close()

    async def is_ready(self) -> bool:
        """Whether the server answers and can colour: `colorize` and `colorize_chroma` are loaded."""
        try:
            stub = GRPCInferenceServiceStub(self._connected())
            requests = [messages.ModelReadyRequest(name=MODELS[output]) for output in _PICTURES]
            return all([(await stub.ModelReady(each, timeout=self.deadline_s)).ready for each in requests])
        except grpc.RpcError:
            return False

    async def max_batch(self, *, output: Output = "chroma") -> int:
        """The largest batch that the server takes, by the configuration of its model.

        Raises:
            ModelNotFound: The server has no such model.
            TransportError: No usable answer.
        """
        return await self._limit(model_of(output, None))

    async def colorize(
        self, frames: Frames, *, output: Output = "chroma", reference: Reference | None = None
    ) -> ColorBatch:
        """Colour one batch.

        Args:
            frames: [B, H, W] uint8, grey sRGB code values 0..255, full range.
            output: "chroma" for Cb and Cr at half size (a video encoder's 4:2:0), "rgb" for whole pictures, "ab" for
                what the network says, at its own size: for `merge`.
            reference: Colour by this, see `reference`; the result then has a `confidence`. None: automatically.

        Raises:
            InvalidRequest: `frames`, `output` or `reference` cannot be right; nothing was sent.
            ServerError: The server refused; `ServerBusy` after all retries.
            TransportError: No usable answer; `ServerUnreachable` after all retries, `DeadlineExceeded`.
        """
        model = model_of(output, reference)
        request = encode(frames, output, await self._limit(model), reference)
        if reference is not None:
            await self._check_reference(model, reference)
        return decode(await self._call(model, _infer, request, frames=len(frames)), frames, output, reference)

    async def merge(self, frames: Frames, ab: NDArray[np.float32], *, output: Output = "chroma") -> ColorBatch:
        """Put frames and colour together, without the network.

        Between `colorize(..., output="ab")` and this, ab may be changed: saturated, smoothed, cross-faded.

        Args:
            frames: As for `colorize`.
            ab: [B, 2, h, w] float32, a* and b* (CIELAB, D65) of any size: the rectangle is the whole frame.
            output: "chroma" or "rgb".

        Raises:
            InvalidRequest: The arrays cannot be right or do not agree; nothing was sent.
            ReeltintError: As `colorize`.
        """
        model = merge_of(output)
        request = encode_merge(frames, ab, output, await self._limit(model))
        return decode_merge(await self._call(model, _infer, request, frames=len(frames)), frames, output)

    async def reference(self, picture: NDArray[np.uint8], *, origin: str = "") -> Reference:
        """Read the colours of a photograph, once a scene; then colour the scene's batches by it.

        Args:
            picture: [h, w, 3] uint8, sRGB.
            origin: Where it is from, for messages and reports.

        Raises:
            InvalidRequest: `picture` cannot be right; nothing was sent.
            ReeltintError: As `colorize`.
        """
        request = encode_reference(picture)
        return decode_reference(await self._call(ENCODER, _infer, request, frames=1), origin)

    async def embed(self, frames: Frames) -> NDArray[np.float32]:
        """Describe frames by vectors that lie close together where the pictures look alike.

        Args:
            frames: As for `colorize`.

        Returns:
            [B, D], each of Euclidean length 1.

        Raises:
            InvalidRequest: `frames` cannot be right; nothing was sent.
            ReeltintError: As `colorize`.
        """
        request = encode_embed(frames, await self._limit(EMBEDDER))
        return decode_embed(await self._call(EMBEDDER, _infer, request, frames=len(frames)), frames)

    async def stream(
        self,
        batches: Iterable[Frames] | AsyncIterable[Frames],
        *,
        output: Output = "chroma",
        reference: Reference | None = None,
    ) -> AsyncIterator[ColorBatch]:
        """Colour batches as they come; results in order, at most `in_flight` batches under way.

        Args:
            batches: Arrays as for `colorize`; a plain iterable is read in a worker thread.
            output: As for `colorize`.
            reference: As for `colorize`, for all of them.

        Yields:
            One `ColorBatch` a batch.

        Raises:
            ReeltintError: As `colorize`; what was handed out before stays good.
            Exception: Whatever `batches` raised, after the results of all that came before.
        """
        under_way: deque[asyncio.Task[ColorBatch]] = deque()
        source, failure = _each(batches), None
        try:
            while True:
                try:
                    frames = await anext(source, _END)
                except Exception as error:  # noqa: BLE001 # raised below, when what is under way has been handed out
                    frames, failure = _END, error
                if frames is _END:
                    break
                under_way.append(asyncio.create_task(self.colorize(frames, output=output, reference=reference)))
                if len(under_way) == self.in_flight:
                    yield await under_way.popleft()
            while under_way:
                yield await under_way.popleft()
            if failure is not None:
                raise failure
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _config(self, model: str) -> Any:
        """The model's configuration, asked for once."""
        if model not in self._configs:
            request = messages.ModelConfigRequest(name=model)
            answer = await self._call(model, lambda channel: GRPCInferenceServiceStub(channel).ModelConfig, request)
            self._configs[model] = answer.config
        return self._configs[model]

    async def _limit(self, model: str) -> int:
        """The largest batch that the server takes for the model.

        A model that is told whole shapes, because its reference has no batch, states none: that of the network counts.
        """
        size = (await self._config(model)).max_batch_size
        if size == 0 and model != _NETWORK:
            with contextlib.suppress(ModelNotFound):
                size = await self._limit(_NETWORK)
        return size or _USUAL_BATCH

    async def _check_reference(self, model: str, reference: Reference) -> None:
        """Refuse a reference that another network made: the server would say no more than that a shape is wrong."""
        made = {"reference_keys": reference.keys.shape, "reference_ab": reference.ab.shape}
        for tensor in (await self._config(model)).input:
            shape = made.get(tensor.name, tuple(tensor.dims))
            if len(shape) != len(tensor.dims) or any(-1 != a != b for a, b in zip(tensor.dims, shape, strict=True)):
                problem = f"{tensor.name} is {list(shape)}, {model} takes {list(tensor.dims)}"
                raise InvalidRequest(f"reference: it was made by a server with another network ({problem})")

    async def _network_side(self) -> int | None:
        """S, the side of the square that the network sees; None where the server does not say."""
        with contextlib.suppress(ModelNotFound):
            for tensor in (await self._config(_SPLIT)).output:
                if tensor.name == "lightness" and tensor.dims[-1] > 0:
                    return int(tensor.dims[-1])
        return None

    def _connected(self) -> grpc.aio.Channel:
        if self._channel is None:
            # gRPC would ask the proxy of `http_proxy` for this machine's own server.
            options = (*_CHANNEL, ("grpc.enable_http_proxy", int(not _is_loopback(self.address))))
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self.address, options=options)
            else:
                self._channel = grpc.aio.secure_channel(self.address, self._credentials, options=options)
        return self._channel

    async def _call(
        self, model: str, method: Callable[[grpc.aio.Channel], Any], request: Any, *, frames: int = 0
    ) -> Any:
        if self._metrics is None:
            return await self._attempts(model, method, request)
        with self._metrics.call(model, frames):
            return await self._attempts(model, method, request)

    async def _attempts(self, model: str, method: Callable[[grpc.aio.Channel], Any], request: Any) -> Any:
        for attempt in itertools.count():
            channel = self._connected()
            try:
                return await method(channel)(request, timeout=self.deadline_s)
            except grpc.RpcError as failure:
                error = error_of(failure, self.address, model)
                if not self._configs and "Socket closed" in str(error):  # all that gRPC tells of a server's refusal
                    hint = "does it want TLS, or another certificate? (tls; --tls-ca, --tls-cert)"
                    error = ServerUnreachable(f"{error}; {hint}")
                if attempt >= self.retries or not isinstance(error, ServerBusy | ServerUnreachable):
                    raise error from failure
                if isinstance(error, ServerUnreachable) and attempt > 0 and self._channel is channel:
                    await self._retire(channel)
                if self._metrics is not None:
                    self._metrics.retried(model, error)
            delay = min(self.backoff_cap_s, self.backoff_s * 2**attempt)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
        raise AssertionError

    async def _retire(self, channel: grpc.aio.Channel) -> None:
        """Leave a channel that stayed broken though its server may be back; it is closed when no call can be on it."""
        self._channel = None
        now = time.monotonic()
        self._retired.append((now, channel))
        while now - self._retired[0][0] > self.deadline_s:
            await self._retired.popleft()[1].close()


class Colorizer(Closing):
    """Colours batches of grey frames by a Triton server; `AsyncColorizer` without asyncio, same names and options."""

    def __init__(
        self,
        address: str,
        *,
        in_flight: int = 6,
        deadline_s: float = 60.0,
        retries: int = 5,
        backoff_s: float = 0.2,
        backoff_cap_s: float = 5.0,
        tls: Tls | None = None,
        metrics: ClientMetrics | None = None,
    ) -> None:
        self._colorizer = AsyncColorizer(
            address,
            in_flight=in_flight,
            deadline_s=deadline_s,
            retries=retries,
            backoff_s=backoff_s,
            backoff_cap_s=backoff_cap_s,
            tls=tls,
            metrics=metrics,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reeltint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the connection and end the thread behind it."""
        if self._thread.is_alive():
            self._run(self._end()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._colorizer.close()

    def is_ready(self) -> bool:
        """See `AsyncColorizer.is_ready`."""
        return self._run(self._colorizer.is_ready()).result()

    def max_batch(self, *, output: Output = "chroma") -> int:
        """See `AsyncColorizer.max_batch`."""
        return self._run(self._colorizer.max_batch(output=output)).result()

    def colorize(self, frames: Frames, *, output: Output = "chroma", reference: Reference | None = None) -> ColorBatch:
        """See `AsyncColorizer.colorize`."""
        return self._run(self._colorizer.colorize(frames, output=output, reference=reference)).result()

    def merge(self, frames: Frames, ab: NDArray[np.float32], *, output: Output = "chroma") -> ColorBatch:
        """See `AsyncColorizer.merge`."""
        return self._run(self._colorizer.merge(frames, ab, output=output)).result()

    def reference(self, picture: NDArray[np.uint8], *, origin: str = "") -> Reference:
        """See `AsyncColorizer.reference`."""
        return self._run(self._colorizer.reference(picture, origin=origin)).result()

    def embed(self, frames: Frames) -> NDArray[np.float32]:
        """See `AsyncColorizer.embed`."""
        return self._run(self._colorizer.embed(frames)).result()

    def stream(
        self, batches: Iterable[Frames], *, output: Output = "chroma", reference: Reference | None = None
    ) -> Iterator[ColorBatch]:
        """See `AsyncColorizer.stream`; `batches` is read in the calling thread."""
        return self._in_order(
            self._colorizer.colorize(frames, output=output, reference=reference) for frames in batches
        )

    def _network_side(self) -> int | None:
        return self._run(self._colorizer._network_side()).result()

    def _in_order(self, calls: Iterable[Coroutine[Any, Any, _T]]) -> Iterator[_T]:
        """Start calls as they come, at most `in_flight` of them under way, and hand out their results in order.

        What `calls` raises is raised here after the results of all that came before.
        """
        under_way: deque[Future[_T]] = deque()
        source, failure = iter(calls), None
        try:
            while True:
                try:
                    call = next(source, _END)
                except Exception as error:  # noqa: BLE001 # raised below, when what is under way has been handed out
                    call, failure = _END, error
                if call is _END:
                    break
                under_way.append(self._run(call))
                if len(under_way) == self._colorizer.in_flight:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for future in under_way:
                future.cancel()

    def _run(self, coroutine: Coroutine[Any, Any, _T]) -> "Future[_T]":
        if not self._thread.is_alive():
            coroutine.close()
            raise InvalidRequest("this Colorizer is closed")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _infer(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        response_deserializer=messages.ModelInferResponse.FromString,
    )


async def _each(batches: Iterable[Frames] | AsyncIterable[Frames]) -> AsyncIterator[Frames]:
    if isinstance(batches, AsyncIterable):
        async for frames in batches:
            yield frames
        return
    iterator = iter(batches)
    while (frames := await asyncio.to_thread(next, iterator, _END)) is not _END:
        yield frames
