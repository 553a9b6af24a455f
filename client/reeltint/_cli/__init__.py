"""`reeltint`: colour films and stills, and serve the models.

Exit codes: 0 done; 1 the film, the server or its models failed; 2 wrong use; 3 try again later (server busy, not
reachable or too slow); 130 interrupted.
"""

import sys

import typer

from reeltint._cli.colorize import colorize
from reeltint._cli.serve import serve

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)
app.command()(colorize)
app.command()(serve)


def main() -> None:
    """Entry point of the `reeltint` command."""
    from reeltint._errors import InvalidRequest, ReeltintError, ServerBusy, TransportError

    try:
        app()
    except ReeltintError as error:
        print(f"reeltint: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InvalidRequest) else 3 if isinstance(error, ServerBusy | TransportError) else 1)
    except KeyboardInterrupt:
        print("reeltint: interrupted", file=sys.stderr)
        sys.exit(130)
