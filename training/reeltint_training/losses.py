"""What the networks are trained to lower."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from reeltint_training.bins import SoftEncoder
from reeltint_training.networks.exemplar import ExemplarNet
from reeltint_training.networks.huenet import HueNet
from reeltint_training.networks.resnet18 import ResNet18Half


class Loss(Protocol):
    """Lightness [B, 1, S, S] in 0..1 and true ab [B, 2, S, S] in Lab units to a scalar.

    For networks that take a reference, `ab` is followed by the reference's L*, a*, b*: [B, 5, S, S].
    """

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


class ExemplarLoss:
    """Huber loss of ab, at twice the network's output size, of the result and, half as heavy, of what was carried.

    The confidence learns to be high where what was carried is nearer to the truth than the automatic colour, or as
    near: without being told, the correction would do its work and leave it high everywhere.

    Args:
        network: Only its own weights learn; HueNet's inside stay.
    """

    _KNEE = 4.0  # Lab units: squared error below, absolute above
    _CONFIDENCE = 0.1  # weight of its cross-entropy

    def __init__(self, network: ExemplarNet) -> None:
        self._network = network

    def __call__(self, lightness: Tensor, ab: Tensor) -> Tensor:
        network, truth, reference = self._network, ab[:, :2], ab[:, 2:]
        keys, colours = network.remember(reference[:, :1] / 100, reference[:, 1:])
        queries, fine = network.encode(lightness)
        queries = network.seek(queries, keys)
        with torch.autocast(queries.device.type, enabled=False):
            with torch.no_grad():
                automatic = network.base.decode(network.base.classify(fine.float()))
            carried, spread, near = network.carry(queries.float(), keys.float(), colours)
        result, confidence = network.blend(lightness, fine, automatic, carried, spread, near)
        target = functional.avg_pool2d(truth, network.output_stride // 2)
        loss = 0.5 * self._distance(carried, target) + self._distance(result, target)

        coarse = functional.avg_pool2d(truth, network.output_stride)
        worse = (automatic - coarse).norm(dim=1, keepdim=True) - (carried.detach() - coarse).norm(dim=1, keepdim=True)
        right, sure = torch.sigmoid(worse / self._KNEE + 1), confidence.float().clamp(1e-4, 1 - 1e-4)
        doubt = -(right * sure.log() + (1 - right) * (1 - sure).log()).mean()
        return loss / 10 + self._CONFIDENCE * doubt

    def _distance(self, ab: Tensor, target: Tensor) -> Tensor:
        enlarged = functional.interpolate(ab, target.shape[-2:], mode="bilinear")
        return functional.smooth_l1_loss(enlarged, target, beta=self._KNEE)
