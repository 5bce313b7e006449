"""MlpRanker: a pointwise scorer with its preprocessing inside."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CLAMP_STD = 6.0  # a feature far outside what was seen in training counts as this far


class MlpRanker(nn.Module):
    """Scores each candidate by itself: a missing feature becomes its default, every feature is
    standardised, then an MLP.

    Forward: features float32 (rows, columns), NaN for missing, to scores float32 (rows,). A row's
    score does not depend on the other rows, so queries may share a batch.
    Buffers default, mean, std: shape (columns,); part of the weights, hence of the export.
    """

    default: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, defaults: Tensor, hidden: Sequence[int], dropout: float = 0.0, input_dropout: float = 0.0):
        super().__init__()
        self.register_buffer("default", defaults.clone())
        self.register_buffer("mean", torch.zeros_like(defaults))
        self.register_buffer("std", torch.ones_like(defaults))
        layers: list[nn.Module] = [nn.Dropout(input_dropout)]
        width = len(defaults)
        for following in hidden:
            layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(dropout)]
            width = following
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def fit_standardisation(self, features: Tensor) -> None:
        """Take mean and deviation from features of shape (rows, columns); a constant keeps std 1."""
        filled = self._filled(features).double()
        mean, std = filled.mean(dim=0), filled.std(dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        """Scores of shape (rows,)."""
        standardised = (self._filled(features) - self.mean) / self.std
        scores: Tensor = self.layers(standardised.clamp(-CLAMP_STD, CLAMP_STD))
        return scores.squeeze(-1)

    def _filled(self, features: Tensor) -> Tensor:
        return torch.where(torch.isnan(features), self.default, features)
