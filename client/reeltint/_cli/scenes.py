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

from reeltint._cli.colorize import _progress, connect
from reeltint._errors import InvalidRequest
from reeltint._film import FilmReader, write_still
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
    out: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Write a scenes file to edit and for colorize --scenes.")
    ] = None,
    min_scene: Annotated[int, typer.Option(min=1, help="Frames of the shortest scene; shorter ones are joined.")] = 3,
    library: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Library to find references in, for --out.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="HOST:PORT of gRPC, to find scenes that look alike for --out; not needed.")
    ] = None,
    tolerate_damage: Annotated[
        bool, typer.Option("--tolerate-damage", help="Go on past damaged parts of a film, naming them.")
    ] = False,
) -> None:
    """Find the scenes of a film: where they begin and end, and how."""
    if as_json and as_csv:
        raise InvalidRequest("--json and --csv do not go together")
    if server and out is None:
        raise InvalidRequest("--server is for --out")
    if library and out is None:
        raise InvalidRequest("--library is for --out")
    if not film.exists():
        raise InvalidRequest(f"{film}: no such file")
    detector = SceneDetector(min_scene=min_scene)
    strict = not tolerate_damage
    with FilmReader(film, strict=strict) as reader, _progress("frame", reader.info.frame_count) as (progress, task):

        def tell(done: int) -> None:
            if done % 32 == 0:
                progress.update(task, completed=done)

        if out is None:
            found: Sequence[Scene] = find_scenes(reader, detector, tell)
        else:
            with ExitStack() as opened:
                colorizer = opened.enter_context(connect(server, None)) if server or library else None
                photographs = opened.enter_context(Library(library, colorizer.embed)) if library and colorizer else None
                project = plan(film, colorizer, detector=detector, library=photographs, strict=strict, on_frame=tell)
            write_project(out, project)
            found = [planned.scene for planned in project.scenes]
            for number, why in wants_a_person(project).items():
                _console.print(f"scene {number}: {why}", highlight=False, soft_wrap=True)
        rate = reader.info.frame_rate
    if sheet is not None:
        with FilmReader(film, strict=strict) as reader:
            write_still(sheet, contact_sheet(reader, found))
    _tell(film, found, rate, "json" if as_json else "csv" if as_csv else "text")


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
        typer.echo("scene  from         to           frames           transition")
        for row in rows:
            times = f"{row['start_time'] or '-':<13}{row['end_time'] or '-':<13}"
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
