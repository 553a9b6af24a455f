"""Colour for black-and-white film, served by NVIDIA Triton."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from reeltint._film import FilmReader
    from reeltint._library import Library
    from reeltint._scenes import PaperDetector, Scene, SceneDetector, find_scenes

__all__ = [
    "AsyncColorizer",
    "ClientMetrics",
    "ColorBatch",
    "Colorizer",
    "DeadlineExceeded",
    "FilmError",
    "FilmReader",
    "InvalidRequest",
    "Library",
    "LibraryError",
    "ModelNotFound",
    "PaperDetector",
    "ReeltintError",
    "Reference",
    "Scene",
    "SceneDetector",
    "ServerBusy",
    "ServerError",
    "ServerUnreachable",
    "Tls",
    "TransportError",
    "find_scenes",
]
_LATER = {
    "FilmReader": "_film",
    "Library": "_library",
    "PaperDetector": "_scenes",
    "Scene": "_scenes",
    "SceneDetector": "_scenes",
    "find_scenes": "_scenes",
}

if not TYPE_CHECKING:  # it would make every name one that is there

    def __getattr__(name: str) -> Any:
        """What needs FFmpeg's libraries is imported when it is first asked for: a service with frames does without."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
