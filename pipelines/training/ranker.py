"""Rankers with their preprocessing inside: MlpRanker scores a candidate by itself, AttentionRanker a list.

A missing value becomes its default, a value its place among those of the training data (if quantiles were
fitted), and every feature is standardised: all of it buffers, hence part of the exported program.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pipelines.training.ragged import Layout

Weights = Mapping[str, Tensor]
"""A ranker's state by name: layers and preprocessing."""

CLAMP_STD = 6.0  # a feature far outside what was seen in training counts as this far
_FITTED_ROWS = 1_000_000  # quantiles of more are those of every so many'th row


class Ranker(nn.Module):
    """What both have: the preprocessing, and `scores`, by which they are trained.

    Buffers default, mean, std: shape (columns,); edges: (quantiles, columns), ascending, (0, columns) for none.
    Infinite and missing values never leave the preprocessing, so no row can spoil another.
    """

    default: Tensor
    mean: Tensor
    std: Tensor
    edges: Tensor
    listwise: bool

    def __init__(self, defaults: Tensor, quantiles: int = 0):
        super().__init__()
        self.register_buffer("default", defaults.clone())
        self.register_buffer("mean", torch.zeros_like(defaults))
        self.register_buffer("std", torch.ones_like(defaults))
        self.register_buffer("edges", torch.zeros(quantiles, len(defaults)))

    def fit_preprocessing(self, features: Tensor) -> None:
        """Take quantiles, mean and deviation from features of shape (rows, columns); a constant keeps std 1."""
        filled = self._filled(features)
        if quantiles := len(self.edges):
            ordered = filled[:: -(-len(filled) // _FITTED_ROWS)].sort(dim=0).values
            picked = torch.linspace(0, len(ordered) - 1, quantiles, dtype=torch.float64).round().long()
            self.edges.copy_(ordered[picked])
        placed = self._placed(filled).double()
        mean, std = placed.mean(dim=0), placed.std(dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0))

    def scores(self, features: Tensor, layout: Layout) -> Tensor:
        """Scores of shape (rows,), of rows that lie as the layout says."""
        raise NotImplementedError

    def _standardised(self, features: Tensor) -> Tensor:
        placed = (self._placed(self._filled(features)) - self.mean) / self.std
        return placed.clamp(-CLAMP_STD, CLAMP_STD)

    def _placed(self, filled: Tensor) -> Tensor:
        """Share of the quantiles below less share above, in [-1, 1]; many equal values are in their middle.

        A sum of signs: five times as fast on a CPU as a binary search in every column, and as exact.
        """
        if not len(self.edges):
            return filled
        total = torch.zeros_like(filled)
        for edge in self.edges.unbind(0):
            total = total + torch.sign(filled - edge)
        return total / len(self.edges)

    def _filled(self, features: Tensor) -> Tensor:
        return torch.where(torch.isnan(features), self.default, features)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's; weights from before there were quantiles have no `edges`."""
        if not len(self.edges):
            state_dict = {"edges": self.edges, **state_dict}
        return super().load_state_dict(state_dict, strict, assign)


class MlpRanker(Ranker):
    """Scores each candidate by itself with an MLP.

    Forward: features float32 (rows, columns), NaN for missing, to scores float32 (rows,). A row's
    score does not depend on the other rows, so queries may share a batch.
    """

    listwise = False

    def __init__(
        self,
        defaults: Tensor,
        hidden: Sequence[int],
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        quantiles: int = 0,
    ):
        super().__init__(defaults, quantiles)
        layers, width = _layers(len(defaults), hidden, dropout, input_dropout)
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Scores of shape (rows,)."""
        scores: Tensor = self.layers(self._standardised(features))
        return scores.squeeze(-1)

    def scores(self, features: Tensor, layout: Layout) -> Tensor:
        """See `Ranker`; the layout changes nothing."""
        return self.forward(features)


class AttentionRanker(Ranker):
    """Scores a candidate in the light of its list: an MLP, then blocks of self-attention, then a score.

    Forward: features float32 (rows, columns), NaN for missing, query_index int64 (rows,), the same number for
    the rows of a list, to scores float32 (rows,). Without positions, so the order of candidates changes
    nothing; rows of other lists change nothing either.

    Two forms of one function. In training, lists are padded to the longest (`scores`). The exported form
    attends over all rows of the batch under a mask (`forward`): padding inside the program would need the
    longest list as a number on the host, which a CUDA graph cannot wait for, and serving captures graphs.
    """

    listwise = True

    def __init__(
        self,
        defaults: Tensor,
        hidden: Sequence[int],
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        quantiles: int = 0,
        heads: int = 2,
        blocks: int = 1,
    ):
        super().__init__(defaults, quantiles)
        layers, width = _layers(len(defaults), hidden, dropout, input_dropout)
        self.layers = nn.Sequential(*layers)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(blocks))
        self.head = nn.Linear(width, 1)

    def forward(self, features: Tensor, query_index: Tensor) -> Tensor:
        """Scores of shape (rows,)."""
        mask = (query_index.unsqueeze(1) == query_index.unsqueeze(0)).unsqueeze(0)
        rows = self.layers(self._standardised(features)).unsqueeze(0)
        for block in self.blocks:
            rows = block(rows, mask)
        scores: Tensor = self.head(rows)
        return scores.reshape(-1)

    def scores(self, features: Tensor, layout: Layout) -> Tensor:
        """See `Ranker`; the same as `forward`, list by list."""
        mask = layout.inside.unsqueeze(1)
        rows = layout.padded(self.layers(self._standardised(features)))
        for block in self.blocks:
            rows = block(rows, mask)
        return layout.rows(self.head(rows).squeeze(-1))


class _Block(nn.Module):
    """Pre-norm self-attention and a feed-forward layer, both added to what came in.

    Source: Vaswani et al., NeurIPS 2017; over ranked lists: Pobrotyn et al., SIGIR eCom 2020.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """rows: (lists, longest, width); mask: bool (lists, 1 or longest, longest), True where to look."""
        parts = self.query_key_value(self.before_attention(rows)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = scaled_dot_product_attention(query, key, value, attn_mask=mask.unsqueeze(1))
        rows = rows + self.dropout(self.mix(seen.transpose(1, 2).flatten(-2)))
        result: Tensor = rows + self.dropout(self.layers(self.before_layers(rows)))
        return result


def _layers(columns: int, hidden: Sequence[int], dropout: float, input_dropout: float) -> tuple[list[nn.Module], int]:
    """Layers up to the last hidden one, and its width."""
    layers: list[nn.Module] = [nn.Dropout(input_dropout)]
    width = columns
    for following in hidden:
        layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(dropout)]
        width = following
    return layers, width
