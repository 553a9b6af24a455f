"""Checkpoints: weights as safetensors with a JSON header; published state dicts without running what is in them."""

import hashlib
import json
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from reeltint_training.networks import NETWORKS, NetworkSpec


class CheckpointError(ValueError):
    """The file is no checkpoint, is not safe to load, or does not fit the network."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` if all goes well, and is removed if not."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save_checkpoint(path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write weights and their header; the file appears under its name only when whole.

    Args:
        path: Where to write.
        state: Tensors by name.
        header: What is known about them (network, sizes, data, steps, figures): anything JSON can hold.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with written_whole(path) as partial:
        partial.write_bytes(save(tensors, {"reeltint": json.dumps(header)}))  # save_file's is for its owner only


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and header of a .safetensors file, or of a PyTorch state dict (header empty).

    A pickle is read by PyTorch's `weights_only` loader, which builds tensors and calls nothing else.

    Raises:
        CheckpointError: Unreadable, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {}).get("reeltint", "{}"))
                return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (no iterator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read raises
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{path}: refused, the pickle holds more than tensors, or is damaged: {reason}"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a state dict: tensors by name were expected")
    return dict(state), {}


def load_state(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load `state` into `network`, listing everything that does not fit.

    Raises:
        CheckpointError: Missing or unknown names, or wrong shapes: all of them, in one message.
    """
    own = network.state_dict()
    problems = [f"missing: {name}" for name in own if name not in state]
    problems += [f"unknown: {name}" for name in state if name not in own]
    problems += [
        f"shape of {name}: {tuple(state[name].shape)}, the network has {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the network:\n  " + "\n  ".join(problems))
    network.load_state_dict(dict(state))


def without_base(state: Mapping[str, Tensor], base: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights of a network that are its own, and the header entry `base` that names the checkpoint of the rest.

    Args:
        state: All weights; those of the network inside begin with "base.".
        base: The checkpoint they came from, which must stand beside the one that is written.
    """
    own = {name: value for name, value in state.items() if not name.startswith("base.")}
    return own, {"name": base.name, "sha256": hashlib.sha256(base.read_bytes()).hexdigest()}


def _base(path: Path, entry: Mapping[str, str]) -> dict[str, Tensor]:
    base = path.with_name(entry["name"])
    if not base.is_file():
        raise CheckpointError(f"{path} builds on {base}, which is not there")
    if hashlib.sha256(base.read_bytes()).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{path} builds on another {base} than the one that is there (sha256 differs)")
    return read_checkpoint(base)[0]


def load_network(path: Path, name: str | None = None) -> tuple[nn.Module, NetworkSpec, dict[str, Any]]:
    """Build the network of a checkpoint and load its weights.

    Args:
        path: .safetensors written by `reeltint-train`, or a state dict saved by PyTorch.
        name: Which network; needed where the file does not say.

    Returns:
        The network in evaluation mode, its registry entry and the checkpoint's header.

    Raises:
        CheckpointError: Unknown network, or any trouble `read_checkpoint` and `load_state` name.
    """
    state, header = read_checkpoint(path)
    stated = header.get("network")
    if name and stated and name != stated:
        raise CheckpointError(f"{path} holds a {stated}, not a {name}")
    name = name or stated
    if name is None or name not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise CheckpointError(f"{path}: which network? It is {name!r}; known are {known} (--network)")
    spec = NETWORKS[name]
    if "base" in header:
        state |= {f"base.{key}": value for key, value in _base(path, header["base"]).items()}
    network = spec.build(**header.get("options", {}))
    load_state(network, state, path)
    return network.eval(), spec, header
