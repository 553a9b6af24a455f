"""What a Colorizer counts, for Prometheus."""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from reeltint._errors import InvalidRequest, ReeltintError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class ClientMetrics:
    """Calls to the server as the client sees them; make one a process and give it to every Colorizer.

    Needs the extra `metrics` (prometheus-client).

    - `reeltint_client_request_seconds{model}`: histogram of calls that were answered, retries and their delays included
    - `reeltint_client_frames_total{model}`: frames in them
    - `reeltint_client_errors_total{model, error}`: calls that ended with an error, by its class
    - `reeltint_client_retries_total{model, error}`: attempts after the first, by what made them necessary
    - `reeltint_client_in_flight{model}`: calls under way

    >>> metrics = ClientMetrics()  # doctest: +SKIP
    >>> metrics.serve(9101)  # doctest: +SKIP
    >>> with Colorizer("localhost:8001", metrics=metrics) as colorizer:  # doctest: +SKIP
    ...     film = list(colorizer.stream(batches))
    """

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        """Make the metrics in `registry`, by default the process's own.

        Raises:
            ReeltintError: The extra `metrics` is not installed.
            InvalidRequest: The registry has these metrics already.
        """
        try:
            from prometheus_client import REGISTRY, Counter, Gauge, Histogram
        except ImportError as error:
            raise ReeltintError('metrics need an extra: pip install "reeltint[metrics]"') from error
        self.registry = registry or REGISTRY
        prefix, model, by_error = "reeltint_client_", ("model",), ("model", "error")
        try:
            self._seconds = Histogram(
                prefix + "request_seconds", "Calls that were answered", model, buckets=_SECONDS, registry=self.registry
            )
            self._frames = Counter(prefix + "frames", "Frames in answered calls", model, registry=self.registry)
            self._errors = Counter(prefix + "errors", "Calls that failed", by_error, registry=self.registry)
            self._retries = Counter(prefix + "retries", "Attempts after the first", by_error, registry=self.registry)
            self._in_flight = Gauge(prefix + "in_flight", "Calls under way", model, registry=self.registry)
        except ValueError as error:
            raise InvalidRequest("metrics: this registry has a ClientMetrics already; share that one") from error

    def serve(self, port: int, host: str = "127.0.0.1") -> int:
        """Answer Prometheus on http://host:port/metrics, on a thread that ends with the process; return the port.

        Args:
            port: 0 takes a free one.
            host: Address to listen on.

        Raises:
            InvalidRequest: The port cannot be used.
        """
        from prometheus_client import start_http_server

        try:
            server, _ = start_http_server(port, host, self.registry)
        except (OSError, OverflowError) as error:
            raise InvalidRequest(f"metrics: cannot use port {port} of {host}: {error}") from error
        return int(server.server_port)

    @contextlib.contextmanager
    def call(self, model: str, frames: int) -> Iterator[None]:
        """Count the call in the body of `with`.

        Args:
            model: The model called.
            frames: Pictures in the request; 0 is a question about the model, of which only failure counts.
        """
        start = time.perf_counter()
        with self._in_flight.labels(model).track_inprogress():
            try:
                yield
            except ReeltintError as error:
                self._errors.labels(model, type(error).__name__).inc()
                raise
        if frames:
            self._seconds.labels(model).observe(time.perf_counter() - start)
            self._frames.labels(model).inc(frames)

    def retried(self, model: str, error: ReeltintError) -> None:
        """Count an attempt that `error` made necessary."""
        self._retries.labels(model, type(error).__name__).inc()
