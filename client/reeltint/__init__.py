"""Colour for black-and-white film, served by NVIDIA Triton."""

from reeltint._codec import ColorBatch, Reference
from reeltint._colorizer import AsyncColorizer, Colorizer
from reeltint._errors import (
    DeadlineExceeded,
    FilmError,
    InvalidRequest,
    LibraryError,
    ModelNotFound,
    ReeltintError,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    TransportError,
)
from reeltint._metrics import ClientMetrics
from reeltint._tls import Tls

__all__ = [
    "AsyncColorizer",
    "ClientMetrics",
    "ColorBatch",
    "Colorizer",
    "DeadlineExceeded",
    "FilmError",
    "InvalidRequest",
    "LibraryError",
    "ModelNotFound",
    "ReeltintError",
    "Reference",
    "ServerBusy",
    "ServerError",
    "ServerUnreachable",
    "Tls",
    "TransportError",
]
