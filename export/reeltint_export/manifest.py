"""manifest.json of a version folder: what its files are, what they were made from, and how close they came.

    {"format": 1, "model": "colorizer", "version": 2,
     "created": "2026-03-01T12:00:00+00:00", "command": "reeltint-export ...",
     "network": "huenet", "size": 160, "precision": "float32", "storage": "float16",
     "checkpoint": {"name": ..., "sha256": ...},
     "files": {"model.onnx": {"sha256": ..., "bytes": ...}, "model.plan": ...},
     "graph": {"opset": 18, "ir_version": 10, "inputs": [{"name", "type", "dims"}], "outputs": [...]},
     "parity": {...}, "engines": {"model.plan": {...}}, "versions": {...},
     "sha256": of all the rest, so that an edit shows}

Only the standard library is needed here: a server checks what it is about to load with what it has.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

NAME = "manifest.json"
FORMAT = 1
TENSOR_TYPES: dict[int, str] = {
    1: "TYPE_FP32", 10: "TYPE_FP16", 11: "TYPE_FP64", 2: "TYPE_UINT8", 3: "TYPE_INT8", 6: "TYPE_INT32",
    7: "TYPE_INT64", 9: "TYPE_BOOL", 8: "TYPE_STRING",
}  # fmt: skip
"""Triton's name of an element type, by ONNX's number for it."""

_CHANGES = ("created", "command", "sha256")


class ManifestError(ValueError):
    """The manifest is missing, unreadable or edited."""


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def file_facts(content: bytes) -> dict[str, Any]:
    """What a manifest keeps of one file."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def describe(model: "onnx.ModelProto") -> dict[str, Any]:
    """What a manifest keeps of a graph: opset, IR version, and its tensors, -1 where a dimension is free."""
    weights = {tensor.name for tensor in model.graph.initializer}

    def tensors(values: Iterable["onnx.ValueInfoProto"]) -> list[dict[str, Any]]:
        return [
            {
                "name": value.name,
                "type": TENSOR_TYPES.get(value.type.tensor_type.elem_type, str(value.type.tensor_type.elem_type)),
                "dims": [
                    dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim
                ],
            }
            for value in values
        ]

    return {
        "opset": max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")),
        "ir_version": model.ir_version,
        "inputs": tensors(value for value in model.graph.input if value.name not in weights),
        "outputs": tensors(model.graph.output),
    }


def seal(manifest: Mapping[str, Any]) -> bytes:
    """The text of manifest.json: indented JSON that ends with the digest of all the rest."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return (json.dumps(content | {"sha256": _own_digest(content)}, indent=2) + "\n").encode()


def _own_digest(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_manifest(content: bytes) -> dict[str, Any]:
    """Read the text of a manifest.

    Raises:
        ManifestError: It is no manifest, of another format, or was changed since it was written.
    """
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise ManifestError(f"{NAME} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ManifestError(f"{NAME} is not of format {FORMAT}")
    if manifest.get("sha256") != _own_digest(manifest):
        raise ManifestError(f"{NAME} was edited after it was written: its own digest does not fit")
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("graph"), dict):
        raise ManifestError(f"{NAME} lists no files")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a version folder.

    Raises:
        ManifestError: See `parse_manifest`; or there is none.
    """
    try:
        return parse_manifest((folder / NAME).read_bytes())
    except OSError as error:
        raise ManifestError(f"{NAME} is missing" if not (folder / NAME).exists() else f"{NAME}: {error}") from error


def same_artefacts(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two manifests differ at most in when and by which command they were written."""
    first, second = ({k: v for k, v in each.items() if k not in _CHANGES} for each in (one, other))
    return first == second


def file_problems(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the files of the version `folder`, by its manifest."""
    if manifest.get("model") != folder.parent.name:
        yield f"{NAME} is that of {manifest.get('model')!r}"
    if str(manifest.get("version")) != folder.name:
        yield f"{NAME} is that of version {manifest.get('version')}"
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != facts["bytes"]:
            yield f"{name} has {path.stat().st_size} bytes, {NAME} says {facts['bytes']}"
        elif digest(path) != facts["sha256"]:
            yield f"{name} is not the file that {NAME} describes: its SHA-256 differs"
    for path in sorted(folder.iterdir()):
        if path.suffix in (".onnx", ".plan") and path.name not in manifest["files"]:
            yield f"{path.name} is not in {NAME}"
