"""`reeltint`: colour films and stills, and serve the models.

Exit codes: 0 done; 1 the film, the server or its models failed; 2 wrong use; 3 try again later (server busy, not
reachable or too slow); 130 interrupted; 128 + n stopped by signal n (143 SIGTERM, 129 SIGHUP).
"""

import functools
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from reeltint._cli.colorize import colorize
from reeltint._cli.library import commands as library_commands
from reeltint._cli.scenes import scenes
from reeltint._cli.serve import serve
from reeltint._errors import InvalidRequest, ReeltintError, ServerBusy, TransportError


def orderly(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors of a command, and signals, into one line each on stderr and an exit code."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        caught = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
        for number in caught:  # not one that is ignored: nohup
            signal.signal(number, _leave)
        try:
            command(*arguments, **options)
        except (ReeltintError, KeyboardInterrupt, SystemExit) as error:
            stopped = not isinstance(error, ReeltintError)
            for line in ["interrupted" if stopped else str(error), *getattr(error, "__notes__", [])]:
                print(f"reeltint: {line}", file=sys.stderr)
            wrong, later = isinstance(error, InvalidRequest), isinstance(error, ServerBusy | TransportError)
            left = int(error.code or 0) if isinstance(error, SystemExit) else 130
            raise typer.Exit(left if stopped else 2 if wrong else 3 if later else 1) from error
        finally:
            for number in caught:
                signal.signal(number, signal.SIG_DFL)

    return run


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


main = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"reeltint {version('reeltint')}")
        raise typer.Exit


@main.callback(help=__doc__)
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version.")
    ] = False,
) -> None: ...


for command in (colorize, scenes, serve):
    main.command()(orderly(command))
library = typer.Typer(
    no_args_is_help=True, help="Photographs that scenes take their colours from.", rich_markup_mode=None
)
for name, action in library_commands.items():
    library.command(name)(orderly(action))
main.add_typer(library, name="library")
