"""What training sees of the profiles of records: mean, spread and range of what is predicted of the energies of layers,
and the most hits of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from hepfm.core.config import from_dict
from hepfm.core.engine import launch
from hepfm.core.progress import progress
from hepfm.core.records import offsets_of, values_of
from hepfm.ingest.reader import Reader
from hepfm.pretrain.energy_profile import logarithms
from hepfm.pretrain.streams import Profile, Streams, profiles
from hepfm.tokenize.tokens import CONTINUOUS

if TYPE_CHECKING:
    from hepfm.pretrain.conditions import Condition
    from hepfm.pretrain.data import TokenCorpora

SCALE = "incident_energy"
LEAST_STD = 1e-3  # a quantity that is the same everywhere still has a density


def profiled(
    data: TokenCorpora, streams: Streams, conditions: Sequence[Condition], before: Profile | None = None
) -> Streams:
    """Streams with a profile, if their points are hits in cells; counted once for all processes.

    Args:
        data: the corpora.
        streams: what their points are made of.
        conditions: what the backbone is told; the total is compared with the incident energy, if that is among them.
        before: of a backbone that goes on, see :func:`continued`.
    """
    if not streams.has_cells:
        return streams
    launch.setup()
    scale = next((known for known in conditions if known.name == SCALE), None)
    columns = [*data.columns, *([scale.column] if scale else [])]
    empty = Profile(streams.codes[0], SCALE if scale else "")
    found = from_dict(
        Profile,
        launch.on_main(
            lambda: asdict(_counted(data.reader("train", 0, tuple(dict.fromkeys(columns))), streams, scale, empty))
        ),
    )
    if before is not None:
        found = continued(before, found)
    return replace(streams, profile=found)


def continued(before: Profile, found: Profile) -> Profile:
    """The profile of a backbone that goes on with other records: mean and spread of what it draws are those of these,
    ranges in units of the spread grow, so that what was learned of a shape holds for another response at once.

    What networks read (the total) keeps its scale; the most hits of a layer grow.
    """

    def standardised(profile: Profile, bounds: tuple[float, ...]) -> np.ndarray:
        return (np.array(bounds) - profile.means) / profile.stds

    means, stds = np.array(found.means), np.array(found.stds)
    lows = np.minimum(standardised(before, before.lows), standardised(found, found.lows))
    highs = np.maximum(standardised(before, before.highs), standardised(found, found.highs))
    return replace(
        before,
        means=found.means,
        stds=found.stds,
        lows=tuple((means + stds * lows).tolist()),
        highs=tuple((means + stds * highs).tolist()),
        most_hits=max(before.most_hits, found.most_hits),
    )


class Moments:
    """Count, mean, sum of squared deviations, least and largest of columns, those that are not finite left out."""

    def __init__(self, columns: int) -> None:
        self.count: np.ndarray = np.zeros(columns)
        self.mean: np.ndarray = np.zeros(columns)
        self.squares: np.ndarray = np.zeros(columns)
        self.low: np.ndarray = np.full(columns, np.inf)
        self.high: np.ndarray = np.full(columns, -np.inf)

    def add(self, values: np.ndarray) -> None:
        """Rows (n, columns): sums of deviations from the mean (Chan, Golub, LeVeque 1979, equation 2.1)."""
        known = np.isfinite(values)
        count = known.sum(0)
        mean = np.where(known, values, 0).sum(0) / np.maximum(count, 1)
        shift, total = mean - self.mean, np.maximum(self.count + count, 1)
        self.squares += (np.where(known, values - mean, 0) ** 2).sum(0) + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count += count
        self.low = np.minimum(self.low, np.where(known, values, np.inf).min(0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(known, values, -np.inf).max(0, initial=-np.inf))


def _counted(reader: Reader, streams: Streams, scale: Condition | None, empty: Profile) -> Profile:
    moments, total, most_hits = Moments(1 + empty.parts), Moments(1), 1
    blocks = len(reader.order.block_records)
    with progress("count energies of layers", blocks, "blocks", visible=blocks > 1000) as task:
        for batch in reader.blocks():
            layers = batch.column(streams.names[0])
            numbers = batch.column(CONTINUOUS).flatten().to_numpy()
            found = profiles(layers.flatten().to_numpy().astype(np.int64), numbers, offsets_of(layers), empty.parts)
            energies, most_hits = found[:, 0], max(most_hits, int(found[:, 1].max(initial=0)))
            incident = values_of(batch.column(scale.column)).astype(np.float64) if scale else np.ones(len(batch))
            with np.errstate(divide="ignore", invalid="ignore"):
                moments.add(logarithms(torch.from_numpy(energies), torch.from_numpy(incident)).numpy())
                total.add(np.log(energies.sum(1, keepdims=True)))
            task.advance()
    stds = np.sqrt(moments.squares / np.maximum(moments.count, 1))
    stds = np.where(moments.count > 1, np.maximum(stds, LEAST_STD), 1.0)
    lows, highs = (np.where(moments.count > 0, bound, moments.mean) for bound in (moments.low, moments.high))
    return replace(
        empty,
        most_hits=most_hits,
        total_mean=float(total.mean[0]),
        total_std=max(float(np.sqrt(total.squares[0] / max(total.count[0], 1))), LEAST_STD),
        means=tuple(moments.mean.tolist()),
        stds=tuple(stds.tolist()),
        lows=tuple((lows - LEAST_STD * stds).tolist()),
        highs=tuple((highs + LEAST_STD * stds).tolist()),
    )
