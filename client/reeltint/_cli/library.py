"""`reeltint library`: photographs that scenes take their colours from."""

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from reeltint._cli.colorize import _progress, connect
from reeltint._errors import InvalidRequest
from reeltint._library import Library, Photograph, default_folder, embed_still, photographs_in
from reeltint._references import NEAR_PHOTOGRAPH

_console = Console(stderr=True)
_Folder = Annotated[
    Path | None, typer.Option("--library", metavar="DIR", help="The library; else ~/.local/share/reeltint/library.")
]
_Server = Annotated[str | None, typer.Option(help="HOST:PORT of gRPC; else a local one starts.")]
_Models = Annotated[Path | None, typer.Option(help="Model repository for the local server.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def add(
    source: Annotated[list[Path], typer.Argument(metavar="PHOTOS", help="Folders of photographs, or photographs.")],
    library: _Folder = None,
    server: _Server = None,
    models: _Models = None,
    as_json: _Json = False,
) -> None:
    """Add photographs in colour; what is there already is passed over, what cannot be read is named."""
    paths = [path for each in source for path in photographs_in(each)]
    with (
        connect(server, models) as colorizer,
        Library(library or default_folder(), colorizer.embed, create=True) as opened,
    ):
        with _progress("photograph", len(paths)) as (progress, task):
            result = opened.add(paths, on_photograph=lambda done: progress.update(task, completed=done))
        count = len(opened)
    for failure in result.failures:
        _console.print(f"reeltint: {failure}", style="red", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        failures = [str(failure) for failure in result.failures]
        whole = {"added": result.added, "known": result.known, "photographs": count, "failures": failures}
        typer.echo(json.dumps(whole))
    else:
        left = f", {len(result.failures)} left out" if result.failures else ""
        told = f"{result.added} added, {result.known} there already{left}; {count} photographs in {opened.folder}"
        _console.print(told, highlight=False, markup=False, soft_wrap=True)
    if result.failures and not result.added and not result.known:
        raise typer.Exit(1)


def list_photographs(library: _Folder = None, as_json: _Json = False) -> None:
    """List the photographs: number, size, when they were added, where they are."""
    with Library(library or default_folder()) as opened:
        photographs = opened.photographs()
    if as_json:
        typer.echo(json.dumps({"photographs": [_told(each) for each in photographs]}))
        return
    for each in photographs:
        added = datetime.fromtimestamp(each.added_s, timezone.utc).strftime("%Y-%m-%d")
        gone = "" if each.path.is_file() else "  (not there any more)"
        typer.echo(f"{each.id:6}  {each.width}x{each.height}  {added}  {each.path}{gone}")


def search(
    still: Annotated[Path, typer.Argument(metavar="STILL", help="A picture, grey or in colour.")],
    library: _Folder = None,
    count: Annotated[int, typer.Option(min=1, help="How many to show.")] = 5,
    server: _Server = None,
    models: _Models = None,
    as_json: _Json = False,
) -> None:
    """Find the photographs that look most like a still: number, distance, similarity, where they are."""
    if not still.is_file():
        raise InvalidRequest(f"{still}: no such file")
    with connect(server, models) as colorizer, Library(library or default_folder(), colorizer.embed) as opened:
        matches = opened.search(embed_still(still, colorizer.embed), count)
    if as_json:
        found = [
            {**_told(match.photograph), "distance": match.distance, "similarity": match.similarity} for match in matches
        ]
        typer.echo(json.dumps({"matches": found}))
        return
    for match in matches:
        photograph = match.photograph
        far = "  (too far for a scene)" if match.distance > NEAR_PHOTOGRAPH else ""
        typer.echo(f"{photograph.id:6}  {match.distance:.3f}  {match.similarity:.3f}  {photograph.path}{far}")
    if not matches:
        _console.print("the library is empty", highlight=False)


def remove(
    number: Annotated[list[int], typer.Argument(metavar="ID", help="Numbers, as `list` shows them.")],
    library: _Folder = None,
) -> None:
    """Take photographs out of the library; their files stay."""
    with Library(library or default_folder()) as opened:
        for each in number:
            opened.remove(each)


def _told(photograph: Photograph) -> dict[str, Any]:
    return {
        "id": photograph.id,
        "path": str(photograph.path),
        "width": photograph.width,
        "height": photograph.height,
        "added_s": photograph.added_s,
    }


commands: dict[str, Callable[..., None]] = {"add": add, "list": list_photographs, "search": search, "remove": remove}
