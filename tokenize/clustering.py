"""k-means in bounded memory: k-means++ and Lloyd's steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.tokenize.codebook import nearest

# k-means++ looks at this many points for each centroid: each of its draws passes over all of them once.
STARTING_POINTS = 10


def kmeans(points: Tensor, centroids: int, draws: np.random.Generator, steps: int, where: object) -> tuple[Tensor, int]:
    """Centroids (K, F) of points (N, F), and how many steps it took until nothing changed.

    Starts as in Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding" (2007); a centroid that loses
    all its points moves to one of the points that are farthest from theirs.

    Args:
        points: (N, F) float32.
        centroids: K.
        draws: for the start.
        steps: at most.
        where: the corpus, for messages.

    Raises:
        HepfmError: fewer distinct points than centroids.
    """
    start = points[torch.from_numpy(draws.permutation(len(points))[: max(centroids, STARTING_POINTS * centroids)])]
    means = _plus_plus(start, centroids, draws, where)
    ids = torch.full((len(points),), -1)
    with progress("k-means", steps, "steps") as task:
        for step in range(1, steps + 1):
            before, ids = ids, nearest(points, means)
            if torch.equal(before, ids):
                return means, step
            means = _means(points, ids, means)
            task.advance()
    return means, steps


def _plus_plus(points: Tensor, centroids: int, draws: np.random.Generator, where: object) -> Tensor:
    """Points (K, F), each drawn with the square of its distance to those before as weight."""
    uniform = draws.random(centroids)
    chosen = torch.empty(centroids, dtype=torch.long)
    chosen[0] = int(uniform[0] * len(points))
    distances = (points - points[chosen[0]]).square().sum(dim=1).double()
    with progress("k-means++", centroids, "centroids") as task:
        for number in range(1, centroids):
            total = distances.cumsum(dim=0)
            if not float(total[-1]) > 0:
                raise HepfmError(
                    f"{centroids:,} codes are more than the {number:,} different points in it",
                    where,
                    "take fewer --codes, or a larger corpus",
                )
            # The first point whose running sum exceeds the draw has a weight: a point that is chosen already has none.
            wanted = total.new_tensor(uniform[number]) * total[-1]
            chosen[number] = torch.searchsorted(total, wanted, right=True).clamp(max=len(points) - 1)
            step = (points - points[chosen[number]]).square().sum(dim=1).double()
            distances = torch.minimum(distances, step)
            task.advance()
    return points[chosen]


def _means(points: Tensor, ids: Tensor, means: Tensor) -> Tensor:
    """Mean of each centroid's points; those without go to the points that are farthest from their own centroid."""
    counts = torch.bincount(ids, minlength=len(means))
    # In float64: a centroid of many points has all the digits that the points have.
    sums = torch.zeros(means.shape, dtype=torch.float64).index_add_(0, ids, points.double())
    means = (sums / counts.clamp(min=1)[:, None]).float()
    empty = torch.nonzero(counts == 0)[:, 0]
    if len(empty):
        distances = (points - means[ids]).square().sum(dim=1)
        means[empty] = points[distances.argsort(descending=True, stable=True)[: len(empty)]]
    return means
