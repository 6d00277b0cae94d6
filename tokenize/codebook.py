"""A codebook that learns by running averages, in memory that grows with points plus codes, not with their product."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook, ema_inplace

# Elements of one table of distances between points and codes: 64 MB on a GPU. On a CPU 512 kB, which stay in the
# second-level cache between the matrix product and the search: two to three times as fast.
DISTANCE_ELEMENTS = 1 << 24
CACHED_ELEMENTS = 1 << 17
BLOCK_CODES = 64


class CountedCodebook(Codebook):
    """The codebook of vector-quantize-pytorch on counts and sums by index instead of one-hot tables.

    What it learns is the same, to rounding. The library's tables of points by codes take 12-15 GB at 65,536 codes and
    16 showers; here no table is larger than DISTANCE_ELEMENTS. It sees packed points: all statistics are of real ones.
    """

    all_reduce_fn: Callable[[Tensor], object]
    sample_fn: Callable[[Tensor, int], Tensor]
    initted: Tensor
    cluster_size: Tensor
    embed_avg: Tensor

    def forward(self, x: Tensor, **_: object) -> tuple[Tensor, Tensor, Tensor]:
        """Nearest codes of points (1, T, D): the codes, their indices (1, T), and no distances."""
        points = x.detach().float()
        self.init_embed_(points)
        embed = self.embed[0]
        ids = nearest(points[0], embed)
        quantized = embed[ids][None]
        if self.training:
            self.learn(points, ids)
        return quantized, ids[None], points.new_empty(0)

    def learn(self, points: Tensor, ids: Tensor) -> None:
        """Move the codes towards their points (1, T, D), and replace those that are hardly used."""
        counts, sums = self._totals(points[0], ids)
        ema_inplace(self.cluster_size, counts[None], self.decay)
        ema_inplace(self.embed_avg, sums[None], self.decay)
        self.update_ema()
        self.expire_codes_(points)

    def init_embed_(self, data: Tensor, mask: Tensor | None = None) -> None:
        """Start by k-means on the first batch (1, T, D).

        Where it has fewer points than there are codes, the codes that are left over get a point each in the next steps.
        """
        if self.initted:
            return
        points, means = data[0], self.sample_fn(data, self.codebook_size)[0]
        number = points.new_tensor(len(points))
        self.all_reduce_fn(number)
        # With no more points than codes each point has a code of its own at once.
        for _ in range(self.kmeans_iters if number > self.codebook_size else 1):
            ids = nearest(points, means)
            counts, sums = self._totals(points, ids)
            means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
        self.cluster_size.data.copy_(counts[None])
        self.embed_avg.data.copy_(sums[None])
        self.update_ema()
        self.initted.fill_(True)

    def _totals(self, points: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Number (codes,) and sum (codes, D) of each code's points, over all processes."""
        counts = torch.bincount(ids, minlength=self.codebook_size).to(points.dtype)
        sums = points.new_zeros(self.codebook_size, points.shape[1]).index_add_(0, ids, points)
        self.all_reduce_fn(counts)
        self.all_reduce_fn(sums)
        return counts, sums


def nearest(points: Tensor, codebook: Tensor) -> Tensor:
    """Index (T,) of the code (codes, D) nearest to each point (T, D), in bounded memory; of equals the first."""
    # c^2 / 2 - x c as one product; codes that are infinitely far fill the last block.
    table = codebook.new_zeros(-(-len(codebook) // BLOCK_CODES) * BLOCK_CODES, codebook.shape[1] + 1)
    table[:, -1] = torch.inf
    table[: len(codebook), :-1] = -codebook
    table[: len(codebook), -1] = codebook.square().sum(dim=1) / 2
    queries = torch.cat([points, points.new_ones(len(points), 1)], dim=1)
    ids = torch.empty(len(points), dtype=torch.long, device=points.device)
    rows = max(1, (DISTANCE_ELEMENTS if points.is_cuda else CACHED_ELEMENTS) // len(table))
    distances = points.new_empty(min(rows, len(points)), len(table))
    number = torch.arange(len(distances), device=points.device)
    for part, found in zip(queries.split(rows), ids.split(rows), strict=True):
        blocks = torch.mm(part, table.T, out=distances[: len(part)]).unflatten(1, (-1, BLOCK_CODES))
        # Minima of blocks are taken many at once by vector instructions, places of minima one by one.
        block = blocks.amin(dim=2).argmin(dim=1)
        torch.add(blocks[number[: len(part)], block].argmin(dim=1), block, alpha=BLOCK_CODES, out=found)
    return ids.clamp_(max=len(codebook) - 1)  # a point that is not finite has some code, too


def near_ties(points: Tensor, codebook: Tensor, ids: Tensor) -> Tensor:
    """How much farther (T,) the codes ``ids`` are from the points than the nearest codes, in squared distance."""
    best = nearest(points, codebook)
    distances = [(points - codebook[chosen]).square().sum(dim=1) for chosen in (ids, best)]
    return distances[0] - distances[1]
