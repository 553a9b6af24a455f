"""sRGB and CIELAB as torch operations, for training, evaluation and the exported colour graphs.

Formulas: IEC 61966-2-1:1999 (sRGB matrix and transfer curve), ISO/CIE 11664-4:2019 (CIELAB), white point D65,
2 degree observer. The same constants as scikit-image, against which the tests compare.
"""

import torch
from torch import Tensor

WHITE_D65 = (0.95047, 1.0, 1.08883)
RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
CIE_EPSILON = 0.008856
CIE_KAPPA = 7.787


def _matrix(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).to(like.device, like.dtype)


def srgb_to_linear(rgb: Tensor) -> Tensor:
    """Undo the sRGB transfer curve; `rgb` is float in 0..1, any shape."""
    return torch.where(rgb > 0.04045, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Apply the sRGB transfer curve; `linear` is float, clipped to 0..1."""
    linear = linear.clamp(0.0, 1.0)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, linear * 12.92)


def srgb_to_lab(rgb: Tensor) -> Tensor:
    """Turn display colour into CIELAB.

    Args:
        rgb: [..., 3, H, W], float, gamma-encoded 0..1.

    Returns:
        Lab, [..., 3, H, W]: L* 0..100, then a* and b*, about -128..127.
    """
    white = _matrix((WHITE_D65,), rgb)[0]
    matrix = _matrix(RGB_TO_XYZ, rgb) / white[:, None]
    xyz = torch.einsum("ij,...jhw->...ihw", matrix, srgb_to_linear(rgb))
    f = torch.where(xyz > CIE_EPSILON, xyz.clamp(min=CIE_EPSILON) ** (1 / 3), CIE_KAPPA * xyz + 16 / 116)
    x, y, z = f.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -3)


def lab_to_srgb(lab: Tensor) -> Tensor:
    """Turn CIELAB into display colour.

    Args:
        lab: [..., 3, H, W]: L* 0..100, a*, b*.

    Returns:
        sRGB, [..., 3, H, W], gamma-encoded 0..1; colours outside the gamut are clipped.
    """
    lightness, a, b = lab.unbind(-3)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, (y - b / 200).clamp(min=0.0)], -3)
    white = _matrix((WHITE_D65,), lab)[0]
    xyz = torch.where(f > 0.2068966, f**3, (f - 16 / 116) / CIE_KAPPA) * white[:, None, None]
    matrix = torch.linalg.inv(torch.tensor(RGB_TO_XYZ, dtype=torch.float64)).to(lab.device, lab.dtype)
    return linear_to_srgb(torch.einsum("ij,...jhw->...ihw", matrix, xyz))
