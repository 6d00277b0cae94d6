"""Sophon's sampling weights: 30 groups with shares, each flat over 14 x 48 bins of (pt, soft-drop mass)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.mix_command import bins_of, tell_flat
from hepfm.ingest.mixture import TRAIN, Mixture, entry_of
from hepfm.ingest.reweight import Counts, FlatWeights, Group, count, flat_weights
from hepfm.ingest.sophon_groups import GROUPS, group_of


@dataclass(frozen=True)
class FlatConfig:
    """How often a jet comes in training."""

    reweight: Literal["flat", "none"] = "flat"
    """flat: the 30 groups have Sophon's shares, and each is flat over (pt, soft-drop mass); jets outside the bins are
    left out. none: jets as they come, all of them."""
    pt_bins: tuple[float, float, int] = (200.0, 2500.0, 14)
    """Lowest and highest jet pt [GeV] and number of bins, equal in log(pt)."""
    mass_bins: tuple[float, float, int] = (20.0, 500.0, 48)
    """Lowest and highest soft-drop mass [GeV] and number of bins, equal in mass."""
    cap_percentile: float = 10.0
    """Bins with fewer jets than this percentile of their group's populated bins are lifted no more than a bin at it, so
    that rare jets are not repeated without bound; 0 for none."""

    def check(self) -> None:
        """Refuse bins that are none.

        Raises:
            HepfmError: names the setting.
        """
        for option, (low, high, bins) in (("--pt-bins", self.pt_bins), ("--mass-bins", self.mass_bins)):
            if not (0 <= low < high and bins > 0) or (option == "--pt-bins" and not low):
                raise HepfmError("must be a rising range and a number of bins", option, "for example 200 2500 14")
        if not 0 <= self.cap_percentile <= 100:
            raise HepfmError("must be between 0 and 100", "--cap-percentile")


def flat_mixture(
    corpora: Sequence[Corpus], labels: Sequence[str], config: FlatConfig, path: Path, tell: bool = True
) -> tuple[Mixture, list[str]]:
    """The mixture of corpora by Sophon's weights, not yet written, and the labels that have jets in the bins.

    Args:
        corpora: with soft-drop masses.
        labels: of JetClass-II that training records have.
        config: the bins.
        path: of the mixture's file.
        tell: say what the weights do.

    Raises:
        HepfmError: bins that are none, a corpus without pt or soft-drop mass, or no jet in the bins.
    """
    config.check()
    bins = bins_of(config.pt_bins, config.mass_bins)
    splits = [corpus.split(TRAIN) for corpus in corpora]
    by_label = count(splits, [Group(label, 1.0, (label,)) for label in labels], bins)
    inside = [label for label, table in zip(labels, by_label.table, strict=True) if table.any()]
    if not inside:
        where = ", ".join(str(corpus.path) for corpus in corpora)
        raise HepfmError("no jet lies in the bins", where, "--pt-bins, --mass-bins")
    groups = tuple(
        Group(name, share, tuple(label for label in inside if group_of(label) == name))
        for name, share in GROUPS.items()
    )
    table = np.stack([by_label.table[[labels.index(label) for label in group.labels]].sum(0) for group in groups])
    counts = Counts(table, by_label.outside, by_label.ungrouped)
    epoch_records = int(table.sum())
    weights = flat_weights(table, [group.share for group in groups], config.cap_percentile, epoch_records)
    flat = FlatWeights(groups, bins, config.cap_percentile, weights.astype(np.float32))
    entries = tuple(entry_of(corpus.path, None, ()) for corpus in corpora)
    mixture = Mixture(path, entries, epoch_records, flat, tuple(corpora))
    if tell:
        tell_flat(mixture, flat, counts)
    return mixture, inside
