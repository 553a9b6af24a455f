"""The quantised ab plane."""

import torch
from reeltint_training.bins import SoftEncoder, class_weights, gamut_bins, smooth_prior


def test_bins_cover_the_gamut_on_a_grid_of_ten() -> None:
    bins = gamut_bins()
    assert len(bins) == len(torch.unique(bins, dim=0)) == 261
    assert torch.equal(bins % 10, torch.zeros_like(bins))
    for name, ab in {"red": (80, 67), "green": (-86, 83), "blue": (79, -108), "grey": (0, 0)}.items():
        nearest = torch.cdist(torch.tensor([ab], dtype=torch.float32), bins).min()
        assert nearest <= 10 / 2**0.5, name


def test_soft_encoding_keeps_a_bin_centre_and_the_mean_between_bins() -> None:
    bins = gamut_bins()
    encode = SoftEncoder(bins, torch.arange(len(bins), dtype=torch.float32))
    ab = torch.tensor([[20.0, 25.0], [-30.0, 13.0]]).reshape(1, 2, 2, 1)
    index, share, weight = encode(ab)
    assert torch.allclose(share.sum(1), torch.ones(1, 2, 1))
    mean = (bins[index] * share[..., None]).sum(1)[0, :, 0]
    assert (mean - ab[0, :, :, 0].T).abs().max() < 3  # a Gaussian on five points, not an interpolation
    assert bins[index[0, 0, 0, 0]].tolist() == [20.0, -30.0]
    assert weight[0, 0, 0] == index[0, 0, 0, 0]


def test_class_weights_follow_the_paper() -> None:
    prior = torch.tensor([0.9, 0.09, 0.01, 0.0])
    weights = class_weights(prior)
    assert torch.isclose((prior * weights).sum(), torch.tensor(1.0))
    assert torch.allclose(weights[0] / weights[3], torch.tensor((0.125) / (0.45 + 0.125)))


def test_smoothing_a_prior_keeps_its_sum_and_spreads_it() -> None:
    bins = gamut_bins()
    counts = torch.zeros(len(bins))
    counts[100] = 7
    prior = smooth_prior(counts, bins)
    assert torch.isclose(prior.sum(), torch.tensor(1.0))
    assert prior.argmax() == 100
    assert prior[99] > 0
