"""The project of a film: its scenes, the reference of each, how strong its colours are; a file to edit by hand.

    {
      "reeltint": 1,
      "film": "reel.mov",
      "frames": 330,
      "frame_rate": "24000/1001",
      "scenes": [
        {"start": 0, "end": 120, "transition": "start", "reference": {"origin": "given", "path": "harbour.png"},
         "saturation": 1.0, "smoothing": 0.8},
        {"start": 100, "end": 250, "transition": "dissolve", "reference": {"origin": "automatic", "frame": 180},
         "saturation": 0.8, "smoothing": 0.8},
        {"start": 250, "end": 330, "transition": "cut", "reference": {"origin": "earlier", "scene": 1,
         "similarity": 0.97}, "saturation": 1.0, "smoothing": 0.8}
      ]
    }

`docs/scenes.md` says what each field means. Paths are relative to the file's folder. `saturation`, `smoothing` and a
reference's `similarity` may be left out, `frame_rate` may be null; anything else that is missing, unknown or impossible
is an error that names the line and the field.
"""

import json
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from reeltint._errors import FilmError, InvalidRequest
from reeltint._film_partial import create_partial
from reeltint._library import check_colours
from reeltint._scenes import Scene, Transition

Origin = Literal["given", "earlier", "library", "automatic"]
FORMAT = 1
DEFAULT_SMOOTHING = 0.8
_GRADUAL = ("dissolve", "fade")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceChoice:
    """Where a scene's colours come from.

    Attributes:
        origin: "given" by a person, that of an "earlier" scene that looks like this one, a photograph of the
            "library", or the scene's own key frame coloured by the "automatic" network.
        path: The photograph; given and library only.
        scene: Number of the earlier scene, from 1; earlier only.
        frame: The key frame, counted from 0 in the film; automatic only.
        similarity: Cosine between the embeddings of the key frame and of what was found, at most 1; None where
            nothing was compared.
    """

    origin: Origin
    path: Path | None = None
    scene: int | None = None
    frame: int | None = None
    similarity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedScene:
    """A scene and how it is coloured.

    Attributes:
        scene: Its frames.
        reference: Its colours.
        saturation: 0 (grey) to 2; 1 is what the network says.
        smoothing: 0 (none) to 1: how much colour is held steady from frame to frame.
    """

    scene: Scene
    reference: ReferenceChoice
    saturation: float = 1.0
    smoothing: float = DEFAULT_SMOOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """All scenes of a film, in order; every frame is in at least one, only neighbours overlap.

    Attributes:
        film: Path of the film.
        frames: How many it has.
        frame_rate: Average, frames per second; None where the film does not say.
        scenes: Number n is `scenes[n - 1]`.
    """

    film: str
    frames: int
    frame_rate: Fraction | None
    scenes: tuple[PlannedScene, ...]


def read_project(path: Path | str) -> Project:
    """Read a project file.

    Raises:
        InvalidRequest: No such file, not JSON, not a project, or a still that is no picture in colour: file, line,
            scene and field are named.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except OSError as error:
        raise InvalidRequest(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path}: not UTF-8 text") from error
    return _Reading(path, text).project()


def write_project(path: Path | str, project: Project) -> None:
    """Write a project file, one scene a line; it appears under its name only when whole.

    Raises:
        InvalidRequest: It is a folder, or there is none for it.
        FilmError: The file cannot be written.
    """
    path = Path(path)
    folder = path.absolute().parent
    head = {
        "reeltint": FORMAT,
        "film": _relative(project.film, folder),
        "frames": project.frames,
        "frame_rate": None if project.frame_rate is None else str(project.frame_rate),
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in head.items()]
    scenes = [f"    {json.dumps(_scene(each, folder), ensure_ascii=False)}" for each in project.scenes]
    text = "\n".join(["{", *lines, '  "scenes": [', ",\n".join(scenes), "  ]", "}", ""])
    partial = create_partial(path)
    try:
        # of names that are no UTF-8 the odd bytes as "\udc..", which JSON reads back
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise FilmError(path, f"cannot be written ({error.strerror})") from error


def _scene(planned: PlannedScene, folder: Path) -> dict[str, Any]:
    choice = planned.reference
    reference: dict[str, Any] = {"origin": choice.origin}
    if choice.path is not None:
        reference["path"] = _relative(choice.path, folder)
    for name in ("scene", "frame"):
        if getattr(choice, name) is not None:
            reference[name] = getattr(choice, name)
    if choice.similarity is not None:
        reference["similarity"] = round(choice.similarity, 4)
    return {
        "start": planned.scene.start,
        "end": planned.scene.end,
        "transition": planned.scene.transition,
        "reference": reference,
        "saturation": planned.saturation,
        "smoothing": planned.smoothing,
    }


def _relative(path: Path | str, folder: Path) -> str:
    """Inside the project's folder its path from there, elsewhere its whole path."""
    whole = Path(path).absolute()
    return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else str(whole)


@dataclass(slots=True)
class _Value:
    """A JSON value that knows where it stands; objects hold `_Value` by name, arrays `_Value`."""

    content: Any
    at: int


class _Reading:
    """One project file being read."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text = path, text
        self._decoder = json.JSONDecoder()
        self._stills: set[Path] = set()  # that can be read

    def _fail(self, at: int, problem: str) -> NoReturn:
        line = self._text.count("\n", 0, at) + 1
        raise InvalidRequest(f"{self._path}, line {line}: {problem}")

    def _decode(self) -> _Value:
        try:
            value, end = self._value(self._skip(0), 0)
        except json.JSONDecodeError as error:
            self._fail(error.pos, f"not JSON: {error.msg.lower()} (column {error.colno})")
        if self._skip(end) < len(self._text):
            self._fail(self._skip(end), "not JSON: something follows after the last brace")
        return value

    def _skip(self, at: int) -> int:
        found = re.compile(r"[ \t\r\n]*").match(self._text, at)
        assert found
        return found.end()

    def _value(self, at: int, depth: int) -> tuple[_Value, int]:
        opening = self._text[at : at + 1]
        if opening not in ("{", "["):
            try:
                content, end = self._decoder.raw_decode(self._text, at)
            except ValueError as error:
                if isinstance(error, json.JSONDecodeError):
                    raise
                self._fail(at, f"not JSON: {error}")  # an integer of thousands of digits
            return _Value(content, at), end
        if depth > 8:
            self._fail(at, "nothing in a project file is nested this deep")
        closing = "}" if opening == "{" else "]"
        names: dict[str, _Value] = {}
        items: list[_Value] = []
        here = self._skip(at + 1)
        while self._text[here : here + 1] != closing:
            if names or items:
                here = self._skip(self._expect(here, ","))
            if opening == "{":
                if self._text[here : here + 1] != '"':
                    raise json.JSONDecodeError("a field's name in double quotes was expected", self._text, here)
                name, end = self._decoder.raw_decode(self._text, here)
                if name in names:
                    self._fail(here, f"{name}: is here twice")
                names[name], end = self._value(self._skip(self._expect(self._skip(end), ":")), depth + 1)
            else:
                item, end = self._value(here, depth + 1)
                items.append(item)
            here = self._skip(end)
        return _Value(names if opening == "{" else items, at), here + 1

    def _expect(self, at: int, sign: str) -> int:
        if self._text[at : at + 1] != sign:
            raise json.JSONDecodeError(f"{sign!r} was expected", self._text, at)
        return at + 1

    def project(self) -> Project:
        root = self._decode()
        fields = self._fields(root, "", ("film", "frames", "scenes", "reeltint"), ("frame_rate",))
        version = fields["reeltint"]
        if self._whole(version, "reeltint") != FORMAT:
            self._fail(version.at, f"reeltint: this is format {version.content}; format {FORMAT} can be read")
        film = self._words(fields["film"], "film")
        frames = self._whole(fields["frames"], "frames", 1)
        listed = fields["scenes"]
        if not isinstance(listed.content, list):
            self._fail(listed.at, f"scenes: a list [ … ] was expected, not {_kind(listed.content)}")
        if not listed.content:
            self._fail(listed.at, "scenes: at least one scene was expected")
        scenes: list[PlannedScene] = []
        for number, value in enumerate(listed.content, 1):
            scenes.append(self._planned(value, number, scenes, frames))
        last = listed.content[-1].content["end"]
        if last.content != frames:
            self._fail(
                last.at, f"scene {len(scenes)}, end: the film has {frames} frames, the scenes end at {last.content}"
            )
        return Project(
            film=str(self._path.parent / film),
            frames=frames,
            frame_rate=self._rate(fields.get("frame_rate")),
            scenes=tuple(scenes),
        )

    def _planned(self, value: _Value, number: int, before: list[PlannedScene], frames: int) -> PlannedScene:
        label = f"scene {number}, "
        optional = ("saturation", "smoothing")
        fields = self._fields(value, label, ("start", "end", "transition", "reference"), optional)
        start = self._whole(fields["start"], f"{label}start")
        end = self._whole(fields["end"], f"{label}end")
        transition = self._one_of(fields["transition"], f"{label}transition", get_args(Transition))
        if end <= start:
            self._fail(fields["end"].at, f"{label}end: must be after its start ({start}), not {end}")
        if end > frames:
            self._fail(fields["end"].at, f"{label}end: the film has {frames} frames, not {end}")
        at = fields["start"].at
        if not before:
            if start != 0:
                self._fail(at, f"{label}start: the first scene starts at frame 0, not {start}")
            if transition != "start":
                self._fail(fields["transition"].at, f'{label}transition: the first scene\'s is "start"')
        else:
            last = before[-1].scene
            if transition == "start":
                self._fail(fields["transition"].at, f'{label}transition: only the first scene\'s is "start"')
            if start > last.end:
                self._fail(at, f"{label}start: frames {last.end} to {start - 1} are in no scene")
            if start <= last.start or end <= last.end:
                self._fail(at, f"{label}start: out of order, scene {number - 1} is {last.start} to {last.end}")
            if start < last.end and transition not in _GRADUAL:
                only = "only a dissolve or a fade may"
                self._fail(at, f"{label}start: overlaps scene {number - 1}, which ends at {last.end}; {only}")
            if len(before) > 1 and start < before[-2].scene.end:
                end_before = before[-2].scene.end
                self._fail(at, f"{label}start: overlaps scene {number - 2}, which ends at {end_before}")
        return PlannedScene(
            scene=Scene(start=start, end=end, transition=transition),
            reference=self._choice(fields["reference"], f"{label}reference", number, start, end),
            saturation=self._number(fields.get("saturation"), f"{label}saturation", 2.0, 1.0),
            smoothing=self._number(fields.get("smoothing"), f"{label}smoothing", 1.0, DEFAULT_SMOOTHING),
        )

    def _choice(self, value: _Value, label: str, number: int, start: int, end: int) -> ReferenceChoice:
        origin: Origin = "automatic"
        if isinstance(value.content, dict) and "origin" in value.content:
            origin = self._one_of(value.content["origin"], f"{label}.origin", get_args(Origin))
        needed = {"given": "path", "library": "path", "earlier": "scene", "automatic": "frame"}[origin]
        fields = self._fields(value, f"{label}.", ("origin", needed), ("similarity",))
        given = fields[needed]
        path, scene, frame = None, None, None
        if needed == "path":
            path = self._path.parent / self._words(given, f"{label}.path")
            self._check_still(path, given.at, f"{label}.path")
        elif needed == "scene":
            scene = self._whole(given, f"{label}.scene", 1)
            if scene >= number:
                self._fail(given.at, f"{label}.scene: an earlier scene was expected, 1 to {number - 1}, not {scene}")
        else:
            frame = self._whole(given, f"{label}.frame")
            if not start <= frame < end:
                self._fail(
                    given.at, f"{label}.frame: a frame of the scene was expected, {start} to {end - 1}, not {frame}"
                )
        similarity = fields.get("similarity")
        return ReferenceChoice(
            origin=origin,
            path=path,
            scene=scene,
            frame=frame,
            similarity=None if similarity is None else self._number(similarity, f"{label}.similarity", 1.0, 0.0, -1.0),
        )

    def _check_still(self, path: Path, at: int, label: str) -> None:
        if path not in self._stills:
            try:
                check_colours(path)
            except FilmError as error:
                self._fail(at, f"{label}: {error}")
            self._stills.add(path)

    def _fields(
        self, value: _Value, label: str, needed: tuple[str, ...], optional: tuple[str, ...]
    ) -> dict[str, _Value]:
        """The object's fields: all that are needed, none that is unknown."""
        if not isinstance(value.content, dict):
            what = label.rstrip("., ") or "a project file"
            self._fail(value.at, f"{what}: an object {{ … }} was expected, not {_kind(value.content)}")
        known = (*needed, *optional)
        for name, field in value.content.items():
            if name not in known:
                self._fail(field.at, f"{label}{name}: there is no such field here; there are {', '.join(known)}")
        for name in needed:
            if name not in value.content:
                self._fail(value.at, f"{label}{name}: is missing")
        return dict(value.content)

    def _words(self, value: _Value, label: str) -> str:
        if not isinstance(value.content, str) or not value.content or "\0" in value.content:
            self._fail(value.at, f"{label}: words in quotes were expected, not {_kind(value.content)}")
        return value.content

    def _one_of(self, value: _Value, label: str, names: tuple[Any, ...]) -> Any:
        if value.content not in names:
            shown = json.dumps(value.content) if isinstance(value.content, str) else _kind(value.content)
            self._fail(
                value.at, f"{label}: {' or '.join(json.dumps(name) for name in names)} was expected, not {shown}"
            )
        return value.content

    def _whole(self, value: _Value, label: str, least: int = 0) -> int:
        if not isinstance(value.content, int) or isinstance(value.content, bool) or value.content < least:
            self._fail(value.at, f"{label}: a whole number from {least} on was expected, not {_kind(value.content)}")
        return value.content

    def _number(self, value: _Value | None, label: str, most: float, default: float, least: float = 0.0) -> float:
        if value is None:
            return default
        number = value.content
        if not isinstance(number, int | float) or isinstance(number, bool) or not least <= number <= most:
            self._fail(value.at, f"{label}: a number from {least:g} to {most:g} was expected, not {_kind(number)}")
        return float(number)

    def _rate(self, value: _Value | None) -> Fraction | None:
        if value is None or value.content is None:
            return None
        written = "" if isinstance(value.content, bool) else str(value.content)
        found = re.fullmatch(r"(\d{1,9})(?:/(\d{1,9})|(\.\d{1,9}))?", written)
        if not found or not float(found[1] + (found[3] or "")) or not int(found[2] or 1):
            shown = _kind(value.content)
            self._fail(value.at, f'frame_rate: frames a second were expected, like 25 or "24000/1001", not {shown}')
        return Fraction(written)


def _kind(content: Any) -> str:
    """What a wrong value is, for messages."""
    if isinstance(content, str):
        return json.dumps(content[:40], ensure_ascii=False)
    if content is None or isinstance(content, bool):
        return json.dumps(content)
    if isinstance(content, int | float):
        return f"{content:g}" if isinstance(content, float) and math.isfinite(content) else str(content)
    return "an object" if isinstance(content, dict) else "a list"
