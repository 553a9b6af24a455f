"""`reeltint serve`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltint._errors import ReeltintError
from reeltint._tls import Tls

if TYPE_CHECKING:
    from reeltint_local import LocalTriton


def local_server(models: Path | None, **options: Any) -> "LocalTriton":
    """Make a local server, not started yet; `options` are those of `LocalTriton`.

    Raises:
        ReeltintError: The extra `local` is not installed.
    """
    try:
        from reeltint_local import LocalTriton
    except ImportError as error:
        raise ReeltintError('the local server needs an extra: pip install "reeltint[local]"') from error
    return LocalTriton(models, **options)


def tls_of(ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    """The three TLS options of a command; None where none is given.

    Raises:
        InvalidRequest: A file cannot be read, or a certificate comes without its key.
    """
    return Tls(ca=ca, certificate=certificate, key=key) if ca or certificate or key else None


def serve(
    models: Annotated[Path | None, typer.Option(help="Model repository; without it the one that is shipped.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Load this model only; may be given more than once.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every interface.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of gRPC; 0: a free one.")] = 8001,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of HTTP; 0: a free one.")] = 8000,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the metrics; 0: a free one.")] = 8002,
    tls_cert: Annotated[Path | None, typer.Option(help="Encrypt gRPC with this certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of --tls-cert (PEM).")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Let in clients with a certificate of this authority only.")
    ] = None,
    admin_key: Annotated[
        str | None,
        typer.Option(envvar="REELTINT_ADMIN_KEY", help="Who sends it may control models, shared memory and logs."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Triton's whole log.")] = False,
) -> None:
    """Serve the models on this machine with NVIDIA Triton, until Ctrl-C or SIGTERM."""
    ports = {"grpc_port": grpc_port, "http_port": http_port, "metrics_port": metrics_port}
    tls = tls_of(tls_ca, tls_cert, tls_key)
    options: dict[str, Any] = {"host": host, **ports, "tls": tls, "admin_key": admin_key, "verbose": verbose}
    with local_server(models, only=only or (), log=sys.stderr, **options) as server:
        print(f"gRPC     {server.address}")
        print(f"HTTP     http://{server.http_address}")
        print(f"metrics  http://{server.metrics_address}/metrics", flush=True)
        server.wait()
