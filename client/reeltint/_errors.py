"""Every error that a caller of reeltint can meet.

ReeltintError
├── InvalidRequest (ValueError)     nothing was sent
├── ServerError                     the server refused
│   ├── ModelNotFound               the model is not in its repository, or not loaded
│   └── ServerBusy                  queue full, or queue time over; try later
├── TransportError                  no usable answer
│   ├── ServerUnreachable (ConnectionError)
│   └── DeadlineExceeded (TimeoutError)
├── LibraryError                    the library of photographs is damaged, or of another embedder
└── FilmError                       unreadable or unwritable video, with path and time stamp
"""

from pathlib import Path
from typing import Any


class ReeltintError(Exception):
    """Base of all errors raised by reeltint."""


class InvalidRequest(ReeltintError, ValueError):
    """The request cannot be right: nothing was sent."""


class ServerError(ReeltintError):
    """The server answered, and refused."""


class ModelNotFound(ServerError):
    """The server has no such model, or has not loaded it."""


class ServerBusy(ServerError):
    """The server's queue is full or the request waited in it too long; trying later may work."""


class TransportError(ReeltintError):
    """There was no usable answer."""


class ServerUnreachable(TransportError, ConnectionError):
    """Nothing answers at the server's address, or the connection broke."""


class DeadlineExceeded(TransportError, TimeoutError):
    """The answer did not come in time."""


class LibraryError(ReeltintError):
    """A library of photographs cannot be read or written, or was made with another embedder."""


class FilmError(ReeltintError):
    """A video cannot be read or written.

    Attributes:
        path: The file.
        time_s: Where in the film, seconds from its start; None where no one place is to blame.
    """

    def __init__(self, path: Path | str, problem: str, time_s: float | None = None) -> None:
        self.path, self.time_s = Path(path), time_s
        at = "" if time_s is None else f" at {time_s:.3f} s"
        super().__init__(f"{path}{at}: {problem}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[FilmError], args: tuple[Any, ...]) -> FilmError:
    """A pickled error by its text, which has grown where a partial film was kept."""
    return kind.__new__(kind, *args)
