"""What the networks are trained to lower."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from reeltint_training.bins import SoftEncoder
from reeltint_training.networks.huenet import HueNet
from reeltint_training.networks.resnet18 import ResNet18Half


class Loss(Protocol):
    """Lightness [B, 1, S, S] in 0..1 and true ab [B, 2, S, S] in Lab units to a scalar."""

    def __call__(self, lightness: Tensor, ab: Tensor) -> Tensor: ...


class MeanSquaredError:
    """Papers 1 and 4: mean squared error of ab scaled to 0..1, (ab + 128) / 255."""

    def __init__(self, network: ResNet18Half) -> None:
        self._network = network

    def __call__(self, lightness: Tensor, ab: Tensor) -> Tensor:
        return functional.mse_loss(self._network.scaled_ab(lightness).float(), (ab + 128) / 255)


class RebalancedCrossEntropy:
    """Zhang et al. 2016, Eq. 2: cross-entropy with soft-encoded targets and class rebalancing.

    Args:
        network: Its `log_weight` holds the logarithm of the class weights.
    """

    def __init__(self, network: HueNet) -> None:
        self._network = network
        self._encode = SoftEncoder(network.bins, network.log_weight.exp())

    def __call__(self, lightness: Tensor, ab: Tensor) -> Tensor:
        index, share, weight = self._encode(functional.avg_pool2d(ab, self._network.output_stride))
        scores = self._network.logits(lightness).movedim(1, -1).float()
        log_probability = functional.log_softmax(scores, -1)
        loss = -(log_probability.gather(-1, index.movedim(1, -1)) * share.movedim(1, -1)).sum(-1)
        return torch.mean(loss * weight)
