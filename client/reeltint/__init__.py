"""Colour for black-and-white film, served by NVIDIA Triton."""

from reeltint._codec import ColorBatch
from reeltint._colorizer import AsyncColorizer, Colorizer
from reeltint._errors import (
    DeadlineExceeded,
    FilmError,
    InvalidRequest,
    ModelNotFound,
    ReeltintError,
    ServerBusy,
    ServerError,
    ServerUnreachable,
    TransportError,
)

__all__ = [
    "AsyncColorizer",
    "ColorBatch",
    "Colorizer",
    "DeadlineExceeded",
    "FilmError",
    "InvalidRequest",
    "ModelNotFound",
    "ReeltintError",
    "ServerBusy",
    "ServerError",
    "ServerUnreachable",
    "TransportError",
]
