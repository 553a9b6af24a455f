"""Publication: a version appears in a repository whole or not at all, and which version is served is a line of config.

Everything is written and flushed aside, in a folder that Triton does not read, and renamed into place at the end; a
version folder that stands there already changes places with the new one in one step. One process publishes at a time.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

from reeltint_export.manifest import NAME, ManifestError, file_problems, parse_manifest, read_manifest, same_artefacts

STAGING = ".publishing"
"""Folder that holds what is not whole yet; what a killed process left in it is removed by the next one."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>
_POLICY = re.compile(r"^version_policy\s*:?\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}[^\n]*\n?", re.MULTILINE)
_PINNED = re.compile(r"specific\s*:?\s*\{\s*versions\s*:\s*(\[[\d,\s]*\]|\d+)")


class PublishError(RuntimeError):
    """The repository stays as it was; the message says why."""


class RepositoryBusyError(PublishError):
    """Another process publishes into this repository: try again."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the repository for publication; the lock ends with the process, however it ends.

    Raises:
        RepositoryBusyError: Another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RepositoryBusyError(f"another export is writing into {folder}: try again when it is done") from error
        yield
    finally:
        os.close(handle)


def publish(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    new: bool = False,
    check: Callable[[Path], Iterable[str]] | None = None,
) -> None:
    """Put versions and configs into the repository `folder`, made if absent.

    A version that is there already with the same artefacts stays untouched; another of its number is replaced whole,
    engines built from it included. A model's pinned version (see `promote`) stays pinned.

    Args:
        folder: The model repository.
        files: Content by path in it: MODEL/config.pbtxt, MODEL/configs/..., MODEL/VERSION/...
        new: The versions are not to be there yet.
        check: What is wrong with the repository as it would be, given a copy: see `reeltint_export.check.problems`.

    Raises:
        RepositoryBusyError: Another process publishes into it, or has written a version that was to be new.
        PublishError: Another version is pinned, and the configs of the new one would not fit it; or `check` finds
            something.
        OSError: It cannot be written; what stood there before still does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), _staging(folder) as staging:
        for name in files:
            path = folder / name
            if new and path.name == NAME and path.parent.exists():
                model, number = path.parts[-3:-1]
                raise RepositoryBusyError(
                    f"version {number} of {model} was written by another export meanwhile: try again"
                )
        for name, content in files.items():
            _fits_pinned(folder / name, content)
            _write(staging / name, _keep_policy(folder / name, content))
        _put(staging, folder, (Path(name).parts[0] for name in files), check)


def publish_into_versions(
    folder: Path,
    contents: Mapping[Path, Mapping[str, bytes]],
    manifests: Mapping[Path, Mapping[str, Any]],
    configs: Mapping[str, bytes],
) -> None:
    """Replace or add files of version folders (engines and their manifests), and the configs that go with them.

    Args:
        folder: The model repository.
        contents: Files by name, by version folder in it.
        manifests: Of the same versions, as they were when work on the files began.
        configs: Content by path in the repository.

    Raises:
        RepositoryBusyError: Another process publishes into the repository.
        PublishError: A version has been replaced since.
        OSError: It cannot be written; what stood there before still does.
    """
    with locked(folder), _staging(folder) as staging:
        for version, files in contents.items():
            if read_manifest(version)["sha256"] != manifests[version]["sha256"]:
                raise PublishError(
                    f"{version.parent.name} {version.name} was replaced while work on it went on: try again"
                )
            copy = staging / version.parent.name / version.name
            _link(version, copy, without=files)
            for name, content in files.items():
                _write(copy / name, content)
        for name, content in configs.items():
            _write(staging / name, _keep_policy(folder / name, content))
        _put(staging, folder, (version.parent.name for version in contents))


def versions(model: Path) -> list[int]:
    """Version numbers of a model's folder, in order."""
    return sorted(
        int(entry.name) for entry in model.iterdir() if entry.is_dir() and re.fullmatch("[1-9][0-9]*", entry.name)
    )


def pinned(config: str) -> list[int]:
    """Versions that a config.pbtxt names to be served; empty where it leaves the choice to Triton (the highest)."""
    policy = _POLICY.search(config)
    found = _PINNED.search(policy[0]) if policy else None
    return [int(number) for number in re.findall(r"\d+", found[1])] if found else []


def served(model: Path) -> list[int]:
    """Versions of a model that Triton serves.

    Raises:
        PublishError: Its config does not parse.
    """
    try:
        config = text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise PublishError(f"{model.name}: config.pbtxt does not parse: {error}") from error
    return chosen(config.version_policy, versions(model))


def chosen(policy: "model_config_pb2.ModelVersionPolicy", there: list[int]) -> list[int]:
    """Versions that Triton serves by this policy, of those that are there; a pinned one need not be."""
    if policy.HasField("all"):
        return there
    return list(policy.specific.versions) or there[-(policy.latest.num_versions or 1) :]


def promote(folder: Path, name: str, version: int) -> list[int]:
    """Serve `version` of a model, whatever higher versions there are, and return what was served before.

    A running Triton takes it when it polls, or when it is asked to load the model again.

    Raises:
        PublishError: There is no such model or version, it is not as its manifest says, or its tensors are not those
            of the config.
    """
    model = folder / name
    if not (model / "config.pbtxt").is_file():
        raise PublishError(f"{folder} has no model {name!r}")
    if version not in versions(model):
        raise PublishError(f"{name} has no version {version}, only {', '.join(map(str, versions(model))) or 'none'}")
    before = served(model)
    try:
        manifest = read_manifest(model / str(version))
        for problem in file_problems(model / str(version), manifest):
            raise PublishError(f"{name} {version}: {problem}")
        if before and before != [version]:
            current = read_manifest(model / str(before[-1]))
            if _tensors(current) != _tensors(manifest):
                raise PublishError(
                    f"{name} {version} has other tensors than version {before[-1]}, which the configs fit: export again"
                )
    except ManifestError as error:
        raise PublishError(f"{name} {version}: {error}") from error
    with locked(folder), _staging(folder) as staging:
        for config in (model / "config.pbtxt", *sorted((model / "configs").glob("*.pbtxt"))):
            _write(staging / config.name, _with_policy(config.read_text(), [version]).encode())
            (staging / config.name).replace(config)
            _flush(config.parent)
    return before


def rollback(folder: Path, name: str) -> tuple[list[int], int]:
    """Serve the version before the one that is served; return what was served, and what is now.

    Raises:
        PublishError: As `promote`; or there is no version before it.
    """
    model = folder / name
    if not (model / "config.pbtxt").is_file():
        raise PublishError(f"{folder} has no model {name!r}")
    now = served(model)
    lower = [version for version in versions(model) if now and version < now[-1]]
    if not lower:
        raise PublishError(f"{name} has no version before {now[-1] if now else 'the first'}")
    return promote(folder, name, lower[-1]), lower[-1]


def _with_policy(config: str, wanted: list[int]) -> str:
    text = _POLICY.sub("", config)
    text = text if text.endswith("\n") else text + "\n"
    return f"{text}version_policy {{ specific {{ versions: [ {', '.join(map(str, wanted))} ] }} }}\n"


def _tensors(manifest: Mapping[str, Any]) -> list[Any]:
    return [manifest["graph"]["inputs"], manifest["graph"]["outputs"]]


def _fits_pinned(path: Path, content: bytes) -> None:
    """Refuse a version's manifest whose tensors are not those of the version that is pinned."""
    config = path.parents[1] / "config.pbtxt"
    if path.name != NAME or not config.is_file():
        return
    for number in pinned(config.read_text(errors="replace")):
        if str(number) == path.parent.name:
            continue
        try:
            fits = _tensors(read_manifest(path.parents[1] / str(number))) == _tensors(parse_manifest(content))
        except ManifestError:
            fits = False
        if not fits:
            raise PublishError(
                f"{path.parents[1].name}: version {number} is pinned and has other tensors than version "
                f"{path.parent.name}: promote or remove it first, or export into another repository"
            )


def _keep_policy(path: Path, content: bytes) -> bytes:
    """The config to write at `path`, with the versions that are pinned there now."""
    if path.suffix != ".pbtxt" or not path.is_file():
        return content
    wanted = pinned(path.read_text(errors="replace"))
    return _with_policy(content.decode(), wanted).encode() if wanted else content


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """An empty folder on the repository's file system that Triton does not read; gone at the end.

    In the root of a repository every folder is a model to Triton, so it stands inside a model's folder where there is
    one: there Triton takes numbers only.
    """
    for left in (folder / STAGING, *folder.glob(f"*/{STAGING}")):
        shutil.rmtree(left, ignore_errors=True)
    homes = [path.parent for path in sorted(folder.glob("*/config.pbtxt"))]
    staging = (homes[0] if homes else folder) / STAGING
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put(
    staging: Path, folder: Path, models: Iterable[str], check: Callable[[Path], Iterable[str]] | None = None
) -> None:
    """Move models that are whole in `staging` into the repository, in their order, if `check` finds nothing wrong."""
    models = list(dict.fromkeys(models))
    for path in (*(entry for entry in staging.rglob("*") if entry.is_dir()), staging):
        _flush(path)
    if check is not None:
        trial, copy = staging / ".trial", staging / ".copy"
        _link(folder, trial)
        for name in models:
            _link(staging / name, copy / name)
            _move_in(copy / name, trial / name)
        if found := list(check(trial)):
            raise PublishError("the repository would be unfit, nothing was changed:\n  " + "\n  ".join(found))
    for name in models:
        _move_in(staging / name, folder / name)
    _flush(folder)


def _link(source: Path, target: Path, without: Iterable[str] = ()) -> None:
    """Copy a folder, its files as links; what is not whole yet is left out."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:  # a file system without links
            shutil.copy2(one, other)

    shutil.copytree(source, target, copy_function=link, ignore=shutil.ignore_patterns(STAGING, *without))


def _move_in(staged: Path, model: Path) -> None:
    if not model.exists():
        staged.rename(model)
        return
    for entry in sorted(staged.iterdir(), key=lambda path: not path.name.isdigit()):  # versions before configs
        target = model / entry.name
        if entry.is_dir() and entry.name.isdigit():
            if not target.exists():
                entry.rename(target)
            elif not _unchanged(entry, target):
                _exchange(entry, target)
        elif entry.is_dir():
            target.mkdir(exist_ok=True)
            for path in entry.iterdir():
                _replace(path, target / path.name)
        else:
            _replace(entry, target)
    _flush(model)


def _replace(path: Path, target: Path) -> None:
    if not (target.is_file() and target.read_bytes() == path.read_bytes()):
        path.replace(target)


def _unchanged(staged: Path, target: Path) -> bool:
    """Whether a version is there already: its files are those of its manifest, which says what the new one says."""
    if not (staged / NAME).is_file():
        return all((target / path.name).is_file() for path in staged.iterdir())
    try:
        old, new = read_manifest(target), parse_manifest((staged / NAME).read_bytes())
    except ManifestError:
        return False
    engines = old.pop("engines", None)
    old["files"] = {name: facts for name, facts in old["files"].items() if name in new["files"] or not engines}
    return same_artefacts(old, new) and not list(file_problems(target, read_manifest(target)))


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change places, in one step where the file system can."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(number, os.strerror(number), str(other))
    aside = one.with_name(f"{one.name}.old")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
