"""``hepfm corpus mix CORPUS[=SHARE[:LABEL,...]]... --out FILE.json``: a weighted mixture that training reads."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tyro.conf import Positional

from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.ingest import sophon_groups
from hepfm.ingest.corpus import Corpus, remote_url
from hepfm.ingest.mixture import TRAIN, Entry, Mixture, define, entry_of
from hepfm.ingest.reweight import UNLABELLED, Bins, Counts, FlatWeights, Group, count, flat_weights

LABELS, SOPHON = "labels", "sophon"
MANY_REPEATS = 100
_OF_FLAT = ("groups", "pt_bins", "mass_bins", "cap_percentile")  # options of flat reweighting alone


@dataclass(frozen=True)
class MixConfig:
    """Define a weighted mixture of corpora as a small file that stands for them wherever training takes corpora.

    A share is the share of an epoch's records, after all shares are divided by their sum; without shares every record
    comes equally often. Weights hold for the training split; validation and test records come once each."""

    corpora: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="CORPUS[=SHARE[:LABEL,...]]...")]
    """Corpora, all with shares or all without; LABELs take only these records (sample=0.5:QCD,Tbqq)."""
    out: Path
    """The mixture's file, *.json."""
    epoch_records: int = 0
    """Records of an epoch, repeats counted; 0 for as many as there are different ones."""
    reweight: Literal["none", "flat"] = "none"
    """flat: each group is flat over (pt, soft-drop mass); jets outside the bins are left out."""
    groups: tuple[str, ...] = (LABELS,)
    """Of flat reweighting: labels (each its own group, equal shares), sophon (the 30 groups of JetClass-II and their
    shares), or a list NAME=SHARE:LABEL,... (labels that are not listed are left out)."""
    pt_bins: tuple[float, float, int] = (200.0, 2500.0, 14)
    """Lowest and highest jet pt [GeV] and number of bins, equal in log(pt)."""
    mass_bins: tuple[float, float, int] = (20.0, 500.0, 48)
    """Lowest and highest soft-drop mass [GeV] and number of bins, equal in mass."""
    cap_percentile: float = 10.0
    """Bins with fewer jets than this percentile of their group's populated bins are lifted no more than a bin at it, so
    that rare jets are not repeated without bound; 0 for none."""


def mix(config: MixConfig) -> None:
    """Write the mixture and tell what it does."""
    _check(config)
    entries = _entries(config.corpora)
    if config.reweight == "flat":
        mixture = _flat(config, entries)
    else:
        total = sum(entry.records for entry in entries)
        shared = entries if entries[0].share is not None else [_natural(entry) for entry in entries]
        mixture = define(shared, config.out, config.epoch_records or total)
        _tell(mixture)
    sys.stdout.write(f"{config.out}\n")


def _check(config: MixConfig) -> None:
    if not config.corpora:
        raise HepfmError("no corpus given", "hepfm corpus mix", "name one or several")
    if config.epoch_records < 0:
        raise HepfmError("must not be negative", "--epoch-records")
    for setting in fields(MixConfig):
        given = getattr(config, setting.name) != setting.default
        if given and setting.name in _OF_FLAT and config.reweight == "none":
            name = f"--{setting.name.replace('_', '-')}"
            raise HepfmError("does nothing without reweighting", name, "add --reweight flat, or leave it out")
    if not 0 <= config.cap_percentile <= 100:
        raise HepfmError("must be between 0 and 100", "--cap-percentile")
    for option, (low, high, bins) in (("--pt-bins", config.pt_bins), ("--mass-bins", config.mass_bins)):
        if not (0 <= low < high and bins > 0) or (option == "--pt-bins" and not low):
            raise HepfmError("must be a rising range and a number of bins", option, "for example 200 2500 14")


def _entries(words: Sequence[str]) -> list[Entry]:
    entries = [_entry(word) for word in words]
    without = [entry for entry in entries if entry.share is None]
    if without and len(without) < len(entries):
        raise HepfmError("has no share, others have", without[0].path, "give every corpus one: CORPUS=SHARE")
    return entries


def _entry(word: str) -> Entry:
    name, share, labels = parse_share(word)
    return entry_of(Path(name), share, labels)


def parse_share(word: str) -> tuple[str, float | None, tuple[str, ...]]:
    """Name, share and labels of ``NAME[=SHARE[:LABEL,...]]``; a name may hold '=' if a share follows it.

    Raises:
        HepfmError: the share is no positive number, or a label is empty.
    """
    name, equals, rest = word.rpartition("=")
    if not equals:
        return word, None, ()
    number, colon, names = rest.partition(":")
    labels = tuple(names.split(",")) if colon else ()
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not (math.isfinite(share) and share > 0) or not name or not all(labels) or len(set(labels)) < len(labels):
        raise HepfmError(f"'{word}' is not understood", "hepfm corpus mix", "write NAME=SHARE or NAME=SHARE:LABEL,...")
    return name, share, labels


def _natural(entry: Entry) -> Entry:
    return Entry(entry.path, entry.digest, entry.labels, float(entry.records), entry.records)


def _flat(config: MixConfig, entries: Sequence[Entry]) -> Mixture:
    if any(entry.share is not None for entry in entries):
        raise HepfmError("flat reweighting takes no shares of corpora", "hepfm corpus mix", "name corpora without '='")
    corpora = [Corpus.open(entry.path) for entry in entries]
    groups = _groups(config.groups, corpora)
    bins = bins_of(config.pt_bins, config.mass_bins)
    counts = count([corpus.split(TRAIN) for corpus in corpora], groups, bins)
    inside = int(counts.table.sum())
    if not inside:
        raise HepfmError("no jet lies in the bins and groups", ", ".join(config.corpora), "--pt-bins, --mass-bins")
    epoch_records = config.epoch_records or inside
    table = flat_weights(counts.table, [group.share for group in groups], config.cap_percentile, epoch_records)
    flat = FlatWeights(groups, bins, config.cap_percentile, table.astype(np.float32))
    mixture = define(entries, config.out, epoch_records, flat)
    tell_flat(mixture, flat, counts)
    return mixture


def bins_of(pt: tuple[float, float, int], mass: tuple[float, float, int]) -> Bins:
    """Bins of lowest value, highest value [GeV] and number: equal in log(pt), and in mass."""
    return Bins(
        tuple(float(f"{edge:.6g}") for edge in np.geomspace(*pt[:2], pt[2] + 1)),
        tuple(float(f"{edge:.6g}") for edge in np.linspace(*mass[:2], mass[2] + 1)),
    )


def _groups(words: Sequence[str], corpora: Sequence[Corpus]) -> tuple[Group, ...]:
    """The groups that the option names."""
    labels = tuple(dict.fromkeys(name for corpus in corpora for name in corpus.manifest.labels))
    if tuple(words) == (LABELS,):
        counts = [corpus.manifest.splits[TRAIN].labels for corpus in corpora]
        present = [label for label in labels if any(count.get(label) for count in counts)]
        return tuple(Group(label, 1.0, (label,)) for label in (*present, UNLABELLED))
    if tuple(words) == (SOPHON,):
        members: dict[str, list[str]] = {name: [] for name in sophon_groups.GROUPS}
        for label in labels:
            members[sophon_groups.group_of(label)].append(label)
        return tuple(Group(name, share, tuple(members[name])) for name, share in sophon_groups.GROUPS.items())
    groups = []
    for word in words:
        name, share, wanted = parse_share(word)
        if share is None or not wanted:
            raise HepfmError(f"'{word}' is not understood", "--groups", "write NAME=SHARE:LABEL,...")
        groups.append(Group(name, share, wanted))
    listed = [label for group in groups for label in group.labels]
    for label in listed:
        if label not in (*labels, UNLABELLED):
            raise HepfmError(f"no corpus has the label '{label}'", "--groups", f"there is: {', '.join(labels[:20])}")
        if listed.count(label) > 1:
            raise HepfmError(f"label '{label}' is in two groups", "--groups")
    return tuple(groups)


def _tell(mixture: Mixture) -> None:
    total = sum(entry.share or 0 for entry in mixture.entries)
    for entry in mixture.entries:
        share = (entry.share or 0) / total
        often = mixture.epoch_records * share / entry.records
        labels = f" labelled {', '.join(entry.labels)}" if entry.labels else ""
        name = remote_url(entry.path) or entry.path
        say(f"{name}: {share:.2%} of an epoch, {entry.records:,} records{labels}, each {often:.3g} times")
    say(f"an epoch has {mixture.epoch_records:,} records")


def tell_flat(mixture: Mixture, flat: FlatWeights, counts: Counts) -> None:
    """Say how much of an epoch each group is, and what is left out."""
    drawn = flat.table.astype(np.float64) * counts.table
    for group, table, weights, records in zip(flat.groups, counts.table, flat.table, drawn, strict=True):
        if table.any():
            say(
                f"{group.name}: {records.sum() / drawn.sum():.2%} of an epoch, {table.sum():,} jets in "
                f"{np.count_nonzero(table):,} bins, each {weights[table > 0].min():.3g} to {weights.max():.3g} times"
            )
    empty = [group.name for group, table in zip(flat.groups, counts.table, strict=True) if not table.any()]
    if missing := [name for name in empty if name != UNLABELLED]:
        say(f"note: no jet in the bins, so their shares go to the others: {', '.join(missing)}")
    if counts.outside:
        say(f"left out: {counts.outside:,} jets outside the bins of pt and soft-drop mass, or without them")
    if counts.ungrouped:
        say(f"left out: {counts.ungrouped:,} jets of no group")
    if flat.table.max() > MANY_REPEATS:
        say(
            f"note: some jets come {flat.table.max():,.0f} times an epoch; take coarser bins, a higher "
            "--cap-percentile or fewer --epoch-records"
        )
    say(f"an epoch has {mixture.epoch_records:,} records")
