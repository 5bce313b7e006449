"""How ragged lists, one after the other, lie in a matrix with a row each."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """list_of, place: int64 (rows,), where each row stands in a matrix (lists, longest); inside: bool of that
    shape, True where a row stands."""

    list_of: Tensor
    place: Tensor
    inside: Tensor

    @staticmethod
    def of(sizes: NDArray[np.int64], device: torch.device | None = None) -> "Layout":
        """sizes: candidates of each list, at least one list."""
        list_of = np.repeat(np.arange(len(sizes)), sizes)
        place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        inside = np.arange(sizes.max()) < sizes[:, np.newaxis]
        parts = [torch.from_numpy(part).to(device) for part in (list_of, place, inside)]
        return Layout(*parts)

    def padded(self, rows: Tensor) -> Tensor:
        """(rows, ...) as (lists, longest, ...), zeros in the padding.

        >>> Layout.of(np.array([1, 2])).padded(torch.tensor([5.0, 6.0, 7.0])).tolist()
        [[5.0, 0.0], [6.0, 7.0]]
        """
        return rows.new_zeros((*self.inside.shape, *rows.shape[1:])).index_put((self.list_of, self.place), rows)

    def rows(self, padded: Tensor) -> Tensor:
        """The inverse of `padded`."""
        return padded[self.list_of, self.place]
