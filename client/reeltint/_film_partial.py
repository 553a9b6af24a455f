"""Where a film or a still is written until it is whole."""

from contextlib import suppress
from itertools import count
from pathlib import Path

from reeltint._errors import FilmError, InvalidRequest
from reeltint._film_read import reason


def create_partial(path: Path) -> Path:
    """Create an empty file beside `path`, to take its name when it is whole.

    It is `<stem>.partial<suffix>`, or `<stem>.partial2<suffix>` and so on: no file that is there is touched.

    Raises:
        InvalidRequest: `path` is a folder, or there is none for it.
        FilmError: No file can be made there.
    """
    try:
        if path.is_dir():
            raise InvalidRequest(f"{path}: it is a folder")
        if not path.parent.is_dir():
            raise InvalidRequest(f"{path}: cannot be written: there is no folder {path.parent}")
        for number in count(1):
            partial = path.with_name(f"{path.stem}.partial{'' if number == 1 else number}{path.suffix}")
            with suppress(FileExistsError):
                partial.touch(exist_ok=False)
                return partial
    except OSError as error:
        raise FilmError(path, f"cannot be written there ({reason(error)})") from error
    raise AssertionError
