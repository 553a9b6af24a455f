"""One file a network; this registry is how training, evaluation and export find them."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from torch import Tensor, nn

from reeltint_training.networks.huenet import HueNet
from reeltint_training.networks.resnet18 import ResNet18Half


class Network(Protocol):
    """What every network offers: lightness [B, 1, S, S] (L*/100) to ab [B, 2, s, s] in Lab units."""

    stride: int
    """The input size S is a multiple of this."""
    output_stride: int
    """s = S / output_stride."""

    def __call__(self, lightness: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A network, and what its export promises.

    Attributes:
        id: Its name on the command line and in checkpoints.
        build: Makes it; takes the options stored in a checkpoint's header.
        size: Input size it is served at unless told otherwise, by measurement.
        max_ab_error: Largest difference of ab between torch and the exported graph, Lab units, both float32.
    """

    id: str
    build: Callable[..., nn.Module]
    size: int
    max_ab_error: float


NETWORKS = MappingProxyType(
    {
        spec.id: spec
        for spec in (
            NetworkSpec(id="huenet", build=HueNet, size=160, max_ab_error=0.05),
            NetworkSpec(id="resnet18", build=ResNet18Half, size=256, max_ab_error=0.05),
        )
    }
)
