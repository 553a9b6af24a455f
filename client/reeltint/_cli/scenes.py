"""`reeltint scenes`."""

import csv
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from reeltint._cli.colorize import _progress, check_free, connect, tell_library
from reeltint._errors import InvalidRequest, ReeltintError
from reeltint._film import FilmReader, write_still
from reeltint._film_partial import create_partial
from reeltint._film_still import STILL_SUFFIXES
from reeltint._library import Library
from reeltint._project import write_project
from reeltint._references import plan, wants_a_person
from reeltint._scene_sheet import contact_sheet
from reeltint._scenes import Scene, SceneDetector, find_scenes

_console = Console(stderr=True)


def timecode(frame: int, rate: Fraction) -> str:
    """Hours, minutes, seconds and frames of a frame's number, counted in whole frames per second, none dropped.

    >>> timecode(90 * 24 + 5, Fraction(24000, 1001))
    '00:01:30:05'
    """
    whole = max(1, round(rate))
    seconds, frames = divmod(frame, whole)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}:{frames:02}"


def scenes(
    film: Annotated[Path, typer.Argument(metavar="FILM", help="The film.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Write a picture with one frame a scene.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a picture that is there already; a scenes file never.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Write a new scenes file, to edit and for colorize --scenes.")
    ] = None,
    min_scene: Annotated[int, typer.Option(min=1, help="Frames of the shortest scene; shorter ones are joined.")] = 3,
    library: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Library to find references in, for --out.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="HOST:PORT of gRPC, to compare scenes for --out; else a local one starts.")
    ] = None,
    models: Annotated[Path | None, typer.Option(help="Model repository for the local server.")] = None,
    no_server: Annotated[
        bool, typer.Option("--no-server", help="Compare no scenes for --out: each is coloured by its own key frame.")
    ] = False,
    tolerate_damage: Annotated[
        bool, typer.Option("--tolerate-damage", help="Go on past damaged parts of a film, naming them.")
    ] = False,
) -> None:
    """Find the scenes of a film: where they begin and end, and how."""
    if as_json and as_csv:
        raise InvalidRequest("--json and --csv do not go together")
    for name, given in (("--library", library), ("--server", server), ("--models", models), ("--no-server", no_server)):
        if given and out is None:
            raise InvalidRequest(f"{name} is for --out")
        if given and no_server and name != "--no-server":
            raise InvalidRequest(f"{name} does not go with --no-server")
    if overwrite and sheet is None:
        raise InvalidRequest("--overwrite is for --sheet")
    if not film.exists():
        raise InvalidRequest(f"{film}: no such file")
    _check_targets(sheet, out)
    check_free([] if sheet is None else [sheet], overwrite=overwrite)
    detector = SceneDetector(min_scene=min_scene)
    strict = not tolerate_damage
    with ExitStack() as opened:
        reader = opened.enter_context(FilmReader(film, strict=strict))
        colorizer = photographs = project = None
        if out is not None and not no_server:
            try:
                colorizer = opened.enter_context(connect(server, models))
            except ReeltintError as error:
                error.add_note("--no-server does without, and no scene takes another's reference")
                raise
            photographs = opened.enter_context(Library(library, colorizer.embed)) if library else None
        progress, task = opened.enter_context(_progress("frame", reader.info.frame_count))

        def tell(done: int) -> None:
            if done % 32 == 0:
                progress.update(task, completed=done)

        if out is None:
            found: Sequence[Scene] = find_scenes(reader, detector, tell)
        else:
            project = plan(film, colorizer, detector=detector, library=photographs, strict=strict, on_frame=tell)
            found = [planned.scene for planned in project.scenes]
    try:
        if out is not None and project is not None:
            write_project(out, project)
        if sheet is not None:
            with FilmReader(film, strict=strict) as reader:
                write_still(sheet, contact_sheet(reader, found))
    finally:
        _tell(film, found, reader.info.frame_rate, "json" if as_json else "csv" if as_csv else "text")
    if project is not None:
        for number, why in wants_a_person(project).items():
            _console.print(f"scene {number}: {why}", highlight=False, soft_wrap=True)
        if not no_server:
            tell_library(project, library)


def _check_targets(sheet: Path | None, out: Path | None) -> None:
    """Find out what cannot be written before the pass over the film; a scenes file may hold hours of handwork."""
    if sheet is not None and sheet.suffix.lower() not in STILL_SUFFIXES:
        raise InvalidRequest(f"--sheet {sheet}: the suffix is none of {', '.join(sorted(STILL_SUFFIXES))}")
    for path in (sheet, out):
        if path is not None:
            create_partial(path).unlink()
    if out is not None and out.exists():
        raise InvalidRequest(f"--out {out}: is there already; choose another name, or move it away")


def _tell(film: Path, found: Sequence[Scene], rate: Fraction | None, form: str) -> None:
    rows = [_row(number, scene, found, rate) for number, scene in enumerate(found, 1)]
    if form == "json":
        whole = {
            "film": str(film),
            "frames": found[-1].end if found else 0,
            "frame_rate": None if rate is None else str(rate),
            "scenes": rows,
        }
        typer.echo(json.dumps(whole))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        typer.echo("scene  first        last         frames           transition")
        for row in rows:
            last = "-" if rate is None else timecode(row["end"] - 1, rate)
            times = f"{row['start_time'] or '-':<13}{last:<13}"
            frames = f"{row['start']}..{row['end'] - 1}"
            length = f" of {row['transition_frames']} frames" if row["transition_frames"] else ""
            typer.echo(f"{row['scene']:<7}{times}{frames:<17}{row['transition']}{length}")


def _row(number: int, scene: Scene, found: Sequence[Scene], rate: Fraction | None) -> dict[str, Any]:
    """Print the scene's frames [start, end), and the frames of the transition into it."""
    return {
        "scene": number,
        "start": scene.start,
        "end": scene.end,
        "start_time": None if rate is None else timecode(scene.start, rate),
        "end_time": None if rate is None else timecode(scene.end, rate),
        "transition": scene.transition,
        "transition_frames": max(0, found[number - 2].end - scene.start) if number > 1 else 0,
    }
