"""What is served of a network: every graph that a checkpoint gives, and each against torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from reeltint_training.networks import NetworkSpec
from reeltint_training.networks.exemplar import ExemplarNet
from reeltint_training.networks.features import ResNet50Features, load_features
from torch import Tensor, nn
from torch.nn import functional

from reeltint_export.chain import Chain
from reeltint_export.colour_graphs import chroma_merge, lab_merge, lab_split
from reeltint_export.embedder_export import EMBEDDER_SIZE, default_features, embedder_model
from reeltint_export.exemplar_export import _FromPicture, exemplar_models
from reeltint_export.half import require_finite, rounded, to_half
from reeltint_export.onnx_export import export_network
from reeltint_export.parity import Parity, batches, compare, measure, network_limits, torch_lightness
from reeltint_export.pictures import Pictures
from reeltint_export.precision import LIMITS, Limits, Precision, Storage
from reeltint_export.rewrites import quick_softmax


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """What `scene_embedder` is made of.

    Attributes:
        network: Its name.
        features: Lightness [B, 1, size, size] to features [B, D].
        size: Its input size.
        weights: The file they come from.
    """

    network: str
    features: nn.Module
    size: int
    weights: Path


def load_embedder(choice: str) -> Embedder | None:
    """Read `none`, `imagenet` (EfficientNet-Lite0 of the extra `training`), or a file of torchvision's ResNet-50.

    Raises:
        ExportError: The package with the weights is not installed.
        CheckpointError: The file does not load.
    """
    if choice == "none":
        return None
    if choice == "imagenet":
        features, path = default_features()
        return Embedder(network="efficientnet_lite0", features=features, size=EMBEDDER_SIZE, weights=path)
    path = Path(choice)
    resnet = load_features(path, "resnet50")
    return Embedder(network="resnet50", features=resnet, size=ResNet50Features.size, weights=path)


def grey(pictures: Sequence[NDArray[np.uint8]]) -> Pictures:
    """Pictures [H, W, 3] as grey codes [H, W]."""
    return [np.array(Image.fromarray(picture).convert("L")) for picture in pictures]


def served_models(
    module: nn.Module,
    embedder: Embedder | None,
    size: int,
    storage: Storage,
    precision: Precision,
    pictures: Sequence[NDArray[np.uint8]],
) -> dict[str, onnx.ModelProto]:
    """Every graph of a network, and the colour graphs at its size.

    Args:
        module: The network, in evaluation mode.
        embedder: Of scenes; None: there will be no `scene_embedder`.
        size: Input size.
        storage: How weights are stored when arithmetic is float32.
        precision: Arithmetic of the networks; the colour graphs are float32 always.
        pictures: [H, W, 3] each: on them float16 must not overflow.

    Raises:
        ExportError: `size` does not suit the network.
        HalfError: Layers whose activations float16 cannot hold, by name.
    """
    half = precision == "float16"
    stored: Storage = "float32" if half else storage
    networks = {"colorizer": export_network(_automatic(module), size, stored)}
    if isinstance(module, ExemplarNet):
        networks |= exemplar_models(module, size, stored)
    if embedder is not None:
        networks["scene_embedder"] = embedder_model(embedder.features, embedder.size, stored)
    arithmetic = {"lab_split": lab_split(size), "lab_merge": lab_merge(), "chroma_merge": chroma_merge()}
    if half:
        chain = Chain(networks | arithmetic, pictures)
        for name, network in networks.items():
            require_finite(name, network, (feeds for _, feeds in chain.requests(name, 1)))
        networks = {name: to_half(network) for name, network in networks.items()}
    else:
        networks = {name: quick_softmax(network) for name, network in networks.items()}
    return networks | arithmetic


def compare_models(
    models: Mapping[str, onnx.ModelProto],
    module: nn.Module,
    spec: NetworkSpec,
    embedder: Embedder | None,
    size: int,
    storage: Storage,
    precision: Precision,
    pictures: Sequence[NDArray[np.uint8]],
) -> dict[str, dict[str, Parity]]:
    """Every graph of `served_models` against torch in float32, by model and output."""
    figures = compare(models, _automatic(module), spec, size, storage, grey(pictures), precision)
    limits = LIMITS[precision] | {"ab": network_limits(spec, precision, storage)}
    if isinstance(module, ExemplarNet):
        figures |= _compare_exemplar(models, module, size, limits, pictures, half=precision == "float16")
    if embedder is not None:
        figures["scene_embedder"] = _compare_embedder(
            models["scene_embedder"], embedder, limits, pictures, half=precision == "float16"
        )
    return figures


def _automatic(module: nn.Module) -> nn.Module:
    """The network that colours without a reference."""
    return module.base if isinstance(module, ExemplarNet) else module


def _compare_exemplar(
    models: Mapping[str, onnx.ModelProto],
    module: ExemplarNet,
    size: int,
    limits: Mapping[str, Limits],
    pictures: Sequence[NDArray[np.uint8]],
    *,
    half: bool,
) -> dict[str, dict[str, Parity]]:
    """The reference path: each picture's own colour, mirrored, is the reference of a request."""
    run = {
        name: rounded(models[name]) if half else models[name] for name in ("reference_encoder", "exemplar_colorizer")
    }
    encoder = _FromPicture(module).eval()
    references = [np.ascontiguousarray(picture[:, ::-1]) for picture in pictures]

    def encode(reference: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        codes = torch.from_numpy(reference).movedim(2, 0)[None].float()
        return encoder(functional.interpolate(codes, (size, size), mode="bilinear", antialias=True))  # type: ignore[no-any-return]

    with torch.inference_mode():
        lightness = torch.cat([torch_lightness(picture[None], size) for picture in grey(pictures)]).numpy()
        states = [tuple(part.numpy() for part in encode(reference)) for reference in references]
        requests = ((*part, *states[number % len(states)]) for number, part in enumerate(batches(lightness)))
        return {
            "reference_encoder": measure(
                run["reference_encoder"], encode, ((reference,) for reference in references), limits, exact=half
            ),
            "exemplar_colorizer": measure(
                run["exemplar_colorizer"],
                lambda *inputs: module(*map(torch.from_numpy, inputs)),
                requests,
                limits,
                exact=half,
            ),
        }


def _compare_embedder(
    model: onnx.ModelProto,
    embedder: Embedder,
    limits: Mapping[str, Limits],
    pictures: Sequence[NDArray[np.uint8]],
    *,
    half: bool,
) -> dict[str, Parity]:
    def embed(frames: NDArray[np.uint8]) -> Tensor:
        return functional.normalize(embedder.features(torch_lightness(frames, embedder.size)).float())

    with torch.inference_mode():
        return measure(
            rounded(model) if half else model,
            embed,
            ((np.ascontiguousarray(picture[None]),) for picture in grey(pictures)),
            limits,
            exact=half,
        )
