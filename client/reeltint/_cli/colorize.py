"""`reeltint colorize`."""

import contextlib
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from reeltint._colorize import STILL_SUFFIXES, Report, colorize_film, colorize_stills
from reeltint._colorizer import Colorizer
from reeltint._errors import FilmError, InvalidRequest
from reeltint._film import FilmReader

_console = Console(stderr=True)


def seconds(text: str) -> float:
    """Read a time: seconds ("90.5") or [hours:]minutes:seconds ("1:30.5").

    Raises:
        typer.BadParameter: Neither.
    """
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or not all(0 <= part < math.inf for part in parts):
        raise typer.BadParameter(f"{text!r} is no time: seconds or [hours:]minutes:seconds")
    return math.fsum(part * 60.0**power for power, part in enumerate(reversed(parts)))


@contextlib.contextmanager
def connect(server: str | None, models: Path | None) -> Iterator[Colorizer]:
    """A Colorizer on `server`, or on a local server started for the time being.

    Raises:
        ReeltintError: The local server does not start, or its extra is not installed.
    """
    if server:
        with Colorizer(server) as colorizer:
            yield colorizer
        return
    from reeltint._cli.serve import local_server

    local = local_server(models)
    try:
        with _console.status("starting the local server"):
            local.start()
        with Colorizer(local.address) as colorizer:
            yield colorizer
    finally:
        local.stop()


def colorize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A film, a still, or a folder of stills.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The result; its suffix chooses the format.")],
    server: Annotated[str | None, typer.Option(help="HOST:PORT of gRPC; else a local one starts.")] = None,
    models: Annotated[Path | None, typer.Option(help="Model repository for the local server.")] = None,
    start: Annotated[float | None, typer.Option(parser=seconds, metavar="TIME", help="From: 90.5 or 1:30.5.")] = None,
    end: Annotated[float | None, typer.Option(parser=seconds, metavar="TIME", help="Up to here.")] = None,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Grey and colour beside each other.")] = False,
    encoder: Annotated[str, typer.Option(help="FFmpeg's name of the video encoder.")] = "libx264",
    quality: Annotated[float, typer.Option(min=0, help="CRF, CQ or qscale: lower is better.")] = 18,
    preset: Annotated[str | None, typer.Option(help="The encoder's speed preset.")] = None,
    pixel_format: Annotated[str | None, typer.Option(help="Default: 4:2:0 at the source's bit depth.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Frames a request; by default some 4 MiB of them.")] = None,
    tolerate_damage: Annotated[
        bool, typer.Option("--tolerate-damage", help="Go on past damaged parts of a film, naming them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object on stdout.")] = False,
) -> None:
    """Colour a film, a still or a folder of stills."""
    logging.basicConfig(
        format="%(message)s", handlers=[RichHandler(console=_console, show_time=False, show_path=False)]
    )
    if not source.exists():
        raise InvalidRequest(f"{source}: no such file or folder")
    if source.is_dir() or source.suffix.lower() in STILL_SUFFIXES:
        if start is not None or end is not None:
            raise InvalidRequest("--start and --end are for films; this is a still or a folder of stills")
        stills = _stills(source, target)
        with connect(server, models) as colorizer, _progress("still", len(stills)) as (progress, task):
            reports, failures = colorize_stills(
                stills,
                colorizer,
                side_by_side=side_by_side,
                on_still=lambda done: progress.update(task, completed=done),
            )
    else:
        with FilmReader(source, start_s=start, end_s=end) as reader:
            total = reader.info.frame_count
        with connect(server, models) as colorizer, _progress("frame", total) as (progress, task):
            report = colorize_film(
                source,
                target,
                colorizer,
                start_s=start,
                end_s=end,
                side_by_side=side_by_side,
                encoder=encoder,
                quality=quality,
                preset=preset,
                pixel_format=pixel_format,
                batch=batch,
                tolerate_damage=tolerate_damage,
                on_frame=lambda done, _: progress.update(task, completed=done),
            )
        reports, failures = [report], []
    _tell(reports, failures, target, as_json)
    if failures:
        raise typer.Exit(1)


def _stills(source: Path, target: Path) -> dict[Path, Path]:
    if not source.is_dir():
        return {source: target}
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in STILL_SUFFIXES)
    if not found:
        raise InvalidRequest(f"{source}: no stills in this folder ({', '.join(sorted(STILL_SUFFIXES))})")
    targets: dict[Path, Path] = {}
    for path in found:
        relative = path.relative_to(source)
        png = target / relative.with_suffix(".png")
        targets[path] = png if png not in targets.values() else target / relative.with_name(relative.name + ".png")
    return targets


@contextlib.contextmanager
def _progress(unit: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console, transient=True) as progress:
        yield progress, progress.add_task(unit, total=total)


def _tell(reports: list[Report], failures: list[FilmError], target: Path, as_json: bool) -> None:
    for error in failures:
        _console.print(f"reeltint: {error}", style="red", highlight=False, soft_wrap=True)
    frames, elapsed = sum(r.frames for r in reports), sum(r.elapsed_s for r in reports)
    if as_json:
        whole = {"reports": [asdict(r) for r in reports], "failures": [str(e) for e in failures]}
        typer.echo(json.dumps(whole, default=str))
    elif reports:
        speed = frames / max(elapsed, 1e-9)
        _console.print(f"{target}: {frames} frames in {elapsed:.1f} s ({speed:.1f} frames/s)", highlight=False)
