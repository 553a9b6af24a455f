"""`reeltint colorize`."""

import contextlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from reeltint._cli.serve import tls_of
from reeltint._colorize import (
    Report,
    check_project,
    check_stills,
    check_target,
    colorize_film,
    colorize_stills,
)
from reeltint._colorizer import Colorizer
from reeltint._errors import FilmError, InvalidRequest, ModelNotFound, ReeltintError
from reeltint._film import FilmReader
from reeltint._film_still import STILL_SUFFIXES
from reeltint._library import Library, default_folder
from reeltint._metrics import ClientMetrics
from reeltint._tls import Tls

if TYPE_CHECKING:
    from reeltint._project import Project

_console = Console(stderr=True)
_SCENES_TOLD = 30


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
def connect(
    server: str | None, models: Path | None, *, tls: Tls | None = None, metrics_port: int | None = None
) -> Iterator[Colorizer]:
    """A Colorizer on `server`, or on a local server started for the time being.

    Args:
        server: "HOST:PORT"; None starts a local one.
        models: Model repository for the local server.
        tls: Certificates for `server`; None takes those that the environment names, if any (`REELTINT_TLS_CA`,
            `REELTINT_TLS_CERT`, `REELTINT_TLS_KEY`).
        metrics_port: Where Prometheus finds this process's figures; None counts nothing.

    Raises:
        InvalidRequest: `tls` for a local server; a certificate or the port cannot be used.
        ReeltintError: The local server does not start, or an extra is not installed.
    """
    from reeltint._cli.serve import local_server

    metrics = None
    if metrics_port is not None:
        metrics = ClientMetrics()
        metrics.serve(metrics_port, "0.0.0.0")
    if server:
        files = (os.environ.get(f"REELTINT_TLS_{name}") for name in ("CA", "CERT", "KEY"))
        tls = tls or tls_of(*(Path(file) if file else None for file in files))
        with Colorizer(server, tls=tls, metrics=metrics) as colorizer:
            yield colorizer
        return
    if tls is not None:
        raise InvalidRequest("--tls-ca, --tls-cert and --tls-key are for --server")

    local = local_server(models)
    try:
        with _console.status("starting the local server") if _console.is_terminal else contextlib.nullcontext():
            local.start()
        with Colorizer(local.address, metrics=metrics) as colorizer:
            yield colorizer
    finally:
        local.stop()


def references(texts: Iterable[str]) -> tuple[Path | None, dict[int, Path]]:
    """Read `--reference`: "still.png" for the film, "3=still.png" for a scene.

    Returns:
        The film's reference, and those of scenes by their numbers.

    Raises:
        InvalidRequest: A scene, or the film, has two; a scene's number is not from 1 on; no such file.
    """
    film: Path | None = None
    scenes: dict[int, Path] = {}
    for text in texts:
        match = re.fullmatch(r"(\d+)=(.+)", text)
        path = Path(match[2] if match else text)
        if not path.is_file():
            raise InvalidRequest(f"--reference {text}: no such file: {path}")
        if match is None:
            if film is not None:
                raise InvalidRequest(
                    f"--reference {text}: the film has one already ({film}); for a scene write N={text}"
                )
            film = path
            continue
        number = int(match[1])
        if number < 1:
            raise InvalidRequest(f"--reference {text}: scenes are counted from 1")
        if number in scenes:
            raise InvalidRequest(f"--reference {text}: scene {number} has one already ({scenes[number]})")
        scenes[number] = path
    return film, scenes


def numbers(text: str) -> list[int]:
    """Read numbers of scenes: "3,7".

    Raises:
        InvalidRequest: Not whole numbers from 1 on.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InvalidRequest(f"--only {text}: numbers of scenes were expected, like 3,7")
    return sorted({int(part) for part in parts})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choices:
    """The options that are about scenes."""

    film_still: Path | None
    scene_stills: dict[int, Path]
    library: Path | None
    scenes: Path | None
    only: list[int]
    saturation: float | None
    smoothing: float | None
    min_scene: int | None

    def named(self, but: str = "") -> str:
        """The first of these options that was given."""
        given = {
            "--reference N=STILL": bool(self.scene_stills),
            "--reference": self.film_still is not None,
            "--library": self.library is not None,
            "--scenes": self.scenes is not None,
            "--only": bool(self.only),
            "--saturation": self.saturation is not None,
            "--smoothing": self.smoothing is not None,
            "--min-scene": self.min_scene is not None,
        }
        return next((name for name, is_given in given.items() if is_given and name != but), "")

    def follow(self) -> "Project | None":
        """The scenes file, with what other options change in it; None where there is none.

        Raises:
            InvalidRequest: The file is wrong, or an option does not go with it.
        """
        if self.scenes is None:
            return None
        from reeltint._project import ReferenceChoice, read_project

        for name, given in (("--reference STILL", self.film_still), ("--library", self.library)):
            if given is not None:
                raise InvalidRequest(f"{name} does not go with --scenes, which names the references; N=STILL does")
        if self.min_scene is not None:
            raise InvalidRequest("--min-scene does not go with --scenes, which names the scenes")
        project = read_project(self.scenes)
        planned = list(project.scenes)
        for number, still in self.scene_stills.items():
            if number > len(planned):
                raise InvalidRequest(f"--reference {number}={still}: {self.scenes} has {len(planned)} scenes")
            planned[number - 1] = replace(planned[number - 1], reference=ReferenceChoice(origin="given", path=still))
        for name in ("saturation", "smoothing"):
            if (value := getattr(self, name)) is not None:
                planned = [replace(each, **{name: value}) for each in planned]
        return replace(project, scenes=tuple(planned))

    def plan(self, film: Path, colorizer: Colorizer, **options: Any) -> "Project":
        """Find the film's scenes and choose their references; damage in it is for the colouring pass to tell.

        Raises:
            ReeltintError: The film, the library or the server failed.
        """
        from reeltint._references import plan

        for name in ("saturation", "smoothing"):
            if (value := getattr(self, name)) is not None:
                options[name] = value
        if self.min_scene is not None:
            from reeltint._scenes import SceneDetector

            options["detector"] = SceneDetector(min_scene=self.min_scene)
        with contextlib.ExitStack() as opened:
            library = opened.enter_context(Library(self.library, colorizer.embed)) if self.library else None
            return plan(
                film,
                colorizer,
                given=self.film_still,
                given_by_scene=self.scene_stills,
                library=library,
                strict=False,
                **options,
            )


def colorize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A film, a still, or a folder of stills.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The result; its suffix chooses the format.")],
    server: Annotated[str | None, typer.Option(help="HOST:PORT of gRPC; else a local one starts.")] = None,
    models: Annotated[Path | None, typer.Option(help="Model repository for the local server.")] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="[N=]STILL", help="Colour like this photograph: the film, or scene N. May be repeated."),
    ] = None,
    library: Annotated[Path | None, typer.Option(help="Find references in this library of photographs.")] = None,
    scenes: Annotated[Path | None, typer.Option(help="Follow this scenes file (reeltint scenes --out).")] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Colour these scenes of OUT anew; the others keep theirs. Not with --start, --end, --side-by-side.",
        ),
    ] = None,
    saturation: Annotated[
        float | None, typer.Option(min=0, max=2, help="Of all scenes; 1 by default, 0 is grey.")
    ] = None,
    smoothing: Annotated[
        float | None, typer.Option(min=0, max=1, help="Hold colours still in time, in all scenes; 0 is off.")
    ] = None,
    min_scene: Annotated[int | None, typer.Option(min=1, help="Frames of the shortest scene.")] = None,
    no_scenes: Annotated[
        bool, typer.Option("--no-scenes", help="Colour every frame for itself: one pass, no references.")
    ] = False,
    start: Annotated[float | None, typer.Option(parser=seconds, metavar="TIME", help="From: 90.5 or 1:30.5.")] = None,
    end: Annotated[float | None, typer.Option(parser=seconds, metavar="TIME", help="Up to here.")] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Grey and colour beside each other; not with --only.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an OUT that is there already.")] = False,
    encoder: Annotated[str, typer.Option(help="FFmpeg's name of the video encoder.")] = "libx264",
    quality: Annotated[float, typer.Option(min=0, help="CRF, CQ or qscale: lower is better.")] = 18,
    preset: Annotated[str | None, typer.Option(help="The encoder's speed preset.")] = None,
    pixel_format: Annotated[str | None, typer.Option(help="Default: 4:2:0 at the source's bit depth.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Frames a request; by default some 8 MiB of them.")] = None,
    tolerate_damage: Annotated[
        bool, typer.Option("--tolerate-damage", help="Go on past damaged parts of a film, naming them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object on stdout.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="Who signed the certificate of --server (PEM).")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="The certificate to show to --server (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of --tls-cert (PEM).")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Show Prometheus here, on every interface, what the client counts."),
    ] = None,
) -> None:
    """Colour a film, a still or a folder of stills."""
    if _console.is_terminal:
        handler = RichHandler(console=_console, show_time=False, show_path=False)
        logging.basicConfig(format="%(message)s", handlers=[handler])
    else:
        logging.basicConfig(format="reeltint: %(message)s")
    if not source.exists():
        raise InvalidRequest(f"{source}: no such file or folder")
    connection: dict[str, Any] = {"tls": tls_of(tls_ca, tls_cert, tls_key), "metrics_port": metrics_port}
    film_still, scene_stills = references(reference or ())
    chosen = _Choices(
        film_still=film_still,
        scene_stills=scene_stills,
        library=library,
        scenes=scenes,
        only=numbers(only) if only is not None else [],
        saturation=saturation,
        smoothing=smoothing,
        min_scene=min_scene,
    )
    if source.is_dir() or source.suffix.lower() in STILL_SUFFIXES:
        if start is not None or end is not None:
            raise InvalidRequest("--start and --end are for films; this is a still or a folder of stills")
        if named := chosen.named(but="--reference"):
            raise InvalidRequest(f"{named} is for films; this is a still or a folder of stills")
        stills = _stills(source, target)
        check_free(stills.values(), overwrite=overwrite)
        with connect(server, models, **connection) as colorizer, _progress("still", len(stills)) as (progress, task):
            reports, failures = colorize_stills(
                stills,
                colorizer,
                reference=film_still,
                side_by_side=side_by_side,
                on_still=lambda done: progress.update(task, completed=done),
            )
    else:
        if no_scenes and (named := chosen.named()):
            raise InvalidRequest(f"{named} does not go with --no-scenes")
        for name, given in (
            ("--side-by-side", side_by_side),
            ("--start", start is not None),
            ("--end", end is not None),
        ):
            if chosen.only and given:
                raise InvalidRequest(f"--only does not go with {name}: it colours scenes of a whole film anew")
        if chosen.only and not target.is_file():
            raise InvalidRequest(f"--only: there is no {target} whose other scenes could be kept")
        project, planned_s = chosen.follow(), 0.0
        output: dict[str, Any] = {
            "side_by_side": side_by_side,
            "encoder": encoder,
            "quality": quality,
            "preset": preset,
            "pixel_format": pixel_format,
        }
        with FilmReader(source, start_s=start, end_s=end, strict=not tolerate_damage) as reader:
            total = reader.info.frame_count
            if project is not None and scenes is not None:
                check_project(project, scenes, reader)
            with _quietly():
                check_target(target, reader, recoloured=bool(chosen.only), **output)
        check_free([target], overwrite=overwrite or bool(chosen.only))
        with connect(server, models, **connection) as colorizer:
            if project is None and not no_scenes:
                begun = time.perf_counter()
                with _quietly(), _progress("plan", total) as (progress, task):
                    project = chosen.plan(
                        source,
                        colorizer,
                        start_s=start,
                        end_s=end,
                        on_frame=lambda done: progress.update(task, completed=done),
                    )
                planned_s = time.perf_counter() - begun
                tell_library(project, library)
            with _progress("frame", total) as (progress, task):
                report = colorize_film(
                    source,
                    target,
                    colorizer,
                    project=project,
                    project_of_range=scenes is None,
                    only=chosen.only,
                    start_s=start,
                    end_s=end,
                    batch=batch,
                    tolerate_damage=tolerate_damage,
                    on_frame=lambda done, _: progress.update(task, completed=done),
                    **output,
                )
        reports, failures = [replace(report, plan_s=planned_s)], []
    _tell(reports, failures, target, as_json)
    if failures:
        raise typer.Exit(1)


def tell_library(project: "Project", library: Path | None) -> None:
    """Say on stderr that there is a default library, where none was searched and a scene found no reference."""
    if library is not None or all(planned.reference.origin != "automatic" for planned in project.scenes):
        return
    with contextlib.suppress(ReeltintError), Library(default_folder()) as opened:
        if count := len(opened):
            told = f"--library {opened.folder} would search your library, photographs in it: {count}"
            _console.print(told, highlight=False, markup=False, soft_wrap=True)


def check_free(targets: Collection[Path], *, overwrite: bool) -> None:
    """Refuse to replace what is there.

    Raises:
        InvalidRequest: One of the targets is there, and `overwrite` is not given.
    """
    there = [] if overwrite else [target for target in targets if target.exists()]
    if there:
        more = f", and {len(there) - 1} more like it" if len(there) > 1 else ""
        raise InvalidRequest(f"{there[0]}: is there already{more}; --overwrite replaces {'them' if more else 'it'}")


def _stills(source: Path, target: Path) -> dict[Path, Path]:
    """What to read, and where to write it; in a folder not what lies below an OUT inside of it."""
    if not source.is_dir():
        check_stills({source: target})
        return {source: target}
    folder, out = source.resolve(), target.resolve()
    if folder == out:
        raise InvalidRequest(f"{target}: OUT is IN: the coloured stills want a folder of their own")
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in STILL_SUFFIXES)
    if out.is_relative_to(folder):
        found = [path for path in found if not path.parent.resolve().is_relative_to(out)]
    if not found:
        raise InvalidRequest(f"{source}: no stills in this folder ({', '.join(sorted(STILL_SUFFIXES))})")
    targets: dict[Path, Path] = {}
    for path in found:
        relative = path.relative_to(source)
        png = target / relative.with_suffix(".png")
        targets[path] = png if png not in targets.values() else target / relative.with_name(relative.name + ".png")
    check_stills(targets)
    return targets


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep warnings about the film back, which come later again; say what helps where models are missing."""
    logger = logging.getLogger("reeltint.film")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except ModelNotFound as error:
        error.add_note("--no-scenes does without the models for scenes")
        raise
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _progress(unit: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console, transient=True, disable=not _console.is_terminal) as progress:
        yield progress, progress.add_task(unit, total=total)


def _tell(reports: list[Report], failures: list[FilmError], target: Path, as_json: bool) -> None:
    for error in failures:
        _console.print(f"reeltint: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    for report in reports:
        _tell_scenes(report)
    frames, elapsed = sum(r.frames for r in reports), sum(r.plan_s + r.elapsed_s for r in reports)
    if as_json:
        whole = {"reports": [asdict(r) for r in reports], "failures": [str(e) for e in failures]}
        typer.echo(json.dumps(whole, default=str))
    elif reports:
        speed = frames / max(elapsed, 1e-9)
        told = f"{target}: {frames} frames in {elapsed:.1f} s ({speed:.1f} frames/s)"
        _console.print(told, highlight=False, markup=False, soft_wrap=True)


def _tell_scenes(report: Report) -> None:
    """Say on stderr how the scenes were coloured, and which of them a person should look at."""

    def told(line: str, style: str = "") -> None:
        _console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    coloured = [scene for scene in report.scenes if scene.confidence is not None]
    for scene in coloured[:_SCENES_TOLD]:
        similarity = "" if scene.similarity is None else f", similarity {scene.similarity:.2f}"
        where = f"scene {scene.number}, frames {scene.start} to {scene.end - 1}"
        told(f"{where}: {scene.origin} {scene.reference}{similarity}, confidence {scene.confidence:.2f}")
    if len(coloured) > _SCENES_TOLD:
        told(f"… and {len(coloured) - _SCENES_TOLD} more scenes: --json tells all of them")
    for number, why in report.needs_person.items():
        told(f"scene {number} wants a look: {why}", "yellow")
