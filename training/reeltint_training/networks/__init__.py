"""One file a network; this registry is how training, evaluation and export find them.

`exemplar` takes the state of a reference beside lightness; all others lightness alone.
"""

from dataclasses import dataclass
from types import MappingProxyType

from reeltint_training.networks.exemplar import ExemplarNet
from reeltint_training.networks.huenet import HueNet
from reeltint_training.networks.resnet18 import ResNet18Half


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A network, lightness [B, 1, S, S] (L*/100) to ab [B, 2, s, s] in Lab units, and what its export promises.

    Attributes:
        id: Its name on the command line and in checkpoints.
        build: Makes it; takes the options stored in a checkpoint's header.
        size: S it is served at unless told otherwise, by measurement.
        max_ab_error: Largest difference of ab between torch and the exported graph, Lab units, both float32.
        half_mean_ab_error: Mean difference of ab, Lab units, that computing in float16 may make.
        half_ab_error_99_9: 99.9th percentile of that difference.
    """

    id: str
    build: type[HueNet] | type[ExemplarNet] | type[ResNet18Half]
    size: int
    max_ab_error: float
    half_mean_ab_error: float = 0.3
    half_ab_error_99_9: float = 2.0

    @property
    def stride(self) -> int:
        """S is a multiple of this."""
        return self.build.stride

    def check_size(self, size: int, option: str = "--size") -> int:
        """`size`, where it is a multiple of the stride.

        Raises:
            ValueError: It is not; the message names `option`.
        """
        if size < 1 or size % self.stride:
            raise ValueError(f"{option} {size}: {self.id} wants a multiple of {self.stride}")
        return size

    @property
    def output_stride(self) -> int:
        """s = S / output_stride."""
        return self.build.output_stride


NETWORKS = MappingProxyType(
    {
        spec.id: spec
        for spec in (
            NetworkSpec(id="huenet", build=HueNet, size=160, max_ab_error=0.05),
            NetworkSpec(id="exemplar", build=ExemplarNet, size=160, max_ab_error=0.05),
            NetworkSpec(id="resnet18", build=ResNet18Half, size=256, max_ab_error=0.05),
        )
    }
)
