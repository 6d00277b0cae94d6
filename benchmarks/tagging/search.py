"""``hepfm evaluate search``: resonances as peaks in the soft-drop mass of single jets, after cuts on discriminants.

Jets of the background and a stated admixture of signals are one sample. A cut passes a share of all of them, whatever
they are, as a search in data does that knows no truth. A resonance then is a peak on a spectrum that the cut has left
smooth.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import tyro
from tyro.conf import Positional

from hepfm.benchmarks.report import sections
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.tagging.command import PAGE, REPORT, check_out, finite
from hepfm.benchmarks.tagging.search_pictures import spectra
from hepfm.core.config import command_line
from hepfm.core.draws import generator, hashed_uniform, key_of
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json, write_text
from hepfm.core.progress import progress
from hepfm.core.records import values_of
from hepfm.core.statistics import REPLICAS, Estimate
from hepfm.core.versions import versions
from hepfm.finetune.discriminants import Discriminant
from hepfm.finetune.judging import Judge
from hepfm.finetune.labelled import LABEL
from hepfm.finetune.sophon import QCD, discriminant, members
from hepfm.finetune.tagger import load_tagger
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.reweight import Group, group_numbers

MASS = "softdrop_mass"
WINDOW = 0.5  # share of a signal's jets in its mass window


@dataclass(frozen=True)
class EvaluateSearchConfig:
    """Look for resonances in single jets: cut on discriminants of a tagger, and plot the soft-drop mass. Simulated jets
    of a background and a stated admixture of signals are the events."""

    tagger: Annotated[Positional[str], tyro.conf.arg(metavar="TAGGER")]
    """The tagger: a run, an artifact folder, a hub id or a URL."""
    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Labelled jets; the tagger need not know the labels, and must not have been trained on them."""
    out: Path
    """Folder of the page (index.html) and of report.json; an earlier report there is replaced."""
    signals: tuple[str, ...]
    """LABEL=SHARE: how many jets of a label are mixed in, as a share of the background's: Wqq=0.02 Zqq=0.01."""
    cuts: tuple[str, ...]
    """NAME=SIGNAL+...:BACKGROUND+...: discriminants of the tagger, of labels or Sophon's groups: W=X_qq+X_cs:QCD."""
    background: tuple[str, ...] = (QCD,)
    """Labels of the corpus, or Sophon's groups of them, that are background; all their jets are taken."""
    passing: float = 0.01
    """Share of all jets that passes each cut."""
    masses: tuple[float, float, int] = (20.0, 250.0, 46)
    """Lowest and highest soft-drop mass [GeV] of the plots, and number of bins."""
    split: str = "test"
    """Split that is looked at."""
    seed: int = 0
    """Seed of the choice of jets and of the bootstrap."""


@dataclass(frozen=True)
class Sample:
    """The jets that are looked at.

    Attributes:
        names: of what they are, the background first.
        kind: (n,) number in ``names``.
        mass: (n,) soft-drop mass [GeV].
        scores: (n, classes) of the tagger.
    """

    names: tuple[str, ...]
    kind: np.ndarray
    mass: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Found:
    """A signal in its mass window, before or after a cut.

    Attributes:
        cut: its name; empty before any.
        signal: label.
        window: lowest and highest mass [GeV]: the narrowest that holds half of the signal's jets before cuts.
        signal_jets, other_jets: in the window.
        efficiency: of the cut for the signal's jets in the window.
        significance: signal / sqrt(others) in the window, with its bootstrap error; not a number without others.
    """

    cut: str
    signal: str
    window: tuple[float, float]
    signal_jets: int
    other_jets: int
    efficiency: float
    significance: Estimate


def main(config: EvaluateSearchConfig) -> None:
    """Mix, cut, count, and write the page."""
    check_out(config.out)
    if not 0 < config.passing < 1:
        raise HepfmError(f"must lie between 0 and 1, is {config.passing:g}", "--passing")
    low, high, bins = config.masses
    if not (0 <= low < high and bins > 0):
        raise HepfmError("must be a rising range and a number of bins", "--masses", "for example 20 250 46")
    shares = _shares(config.signals)
    judge, artifact = load_tagger(config.tagger)
    cuts = _cuts(config.cuts, judge.classes)
    corpus = Corpus.open(config.corpus)
    judge.check(corpus)
    sample = mixed(judge, corpus.split(config.split), config.background, shares, config.seed)
    passed = {
        name: passing(discriminant(sample.scores, judge.classes, cut.signal, cut.background), config.passing)
        for name, cut in cuts.items()
    }
    found = look(sample, passed, config.seed)
    table = search_table(found)
    sys.stdout.write(table.markdown())
    provenance = {
        "tagger": {"hash": artifact.hash, "network": str(artifact.architecture.get("network"))},
        "corpus": {"digest": corpus.digest, "split": config.split},
        "cuts": {name: cut.name for name, cut in cuts.items()},
        "command": command_line(),
        "versions": versions(),
    }
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    jets = {name: int((sample.kind == number).sum()) for number, name in enumerate(sample.names)}
    config.out.mkdir(parents=True, exist_ok=True)
    data = {"date": date, "provenance": provenance, "jets": jets, "windows": [asdict(item) for item in found]}
    write_json(config.out / REPORT, finite(data))
    mixture = ", ".join(f"{count:,} {name}" for name, count in jets.items())
    part = {
        "title": f"{len(sample.kind):,} jets",
        "text": f"Each jet is an event: {mixture}. Each cut passes {config.passing:.3g} of all of them.",
        "notes": [],
        "tables": [table],
        "wide": [],
        "plots": spectra(sample.names, sample.kind, sample.mass, passed, np.linspace(low, high, bins + 1)),
    }
    write_text(config.out / PAGE, sections("Search for resonances in single jets", date, [part], (), provenance))
    sys.stdout.write(f"\n{config.out / PAGE}\n")


def _shares(words: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in words:
        label, equals, number = word.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not equals or not label or label in found or not (0 < share < math.inf):
            raise HepfmError(f"'{word}' is not understood", "--signals", "write LABEL=SHARE, each label once")
        found[label] = share
    if not found:
        raise HepfmError("no signal named", "--signals", "write LABEL=SHARE")
    return found


def _cuts(words: Sequence[str], classes: Sequence[str]) -> dict[str, Discriminant]:
    found: dict[str, Discriminant] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name or name in found:
            raise HepfmError(f"'{word}' is not understood", "--cuts", "write NAME=SIGNAL:BACKGROUND, each name once")
        found[name] = Discriminant.parse(text, classes)
    if not found:
        raise HepfmError("no cut named", "--cuts", "write NAME=SIGNAL:BACKGROUND")
    return found


def mixed(judge: Judge, split: Split, background: Sequence[str], shares: dict[str, float], seed: int) -> Sample:
    """All background jets of a split and the admixture of signals, drawn by record.

    Raises:
        HepfmError: labels that the corpus lacks, or fewer jets of them than are wanted.
    """
    corpus = split.corpus
    if MASS not in corpus.manifest.provides or LABEL not in corpus.manifest.schema.names:
        raise HepfmError(f"its records have no {MASS} or no labels", corpus.path, "name another corpus")
    labels = corpus.manifest.labels
    of_background = tuple(dict.fromkeys(label for name in background for label in members(name, labels)))
    groups = [Group("background", 1.0, of_background)]
    for label in shares:
        if label not in labels or label in of_background:
            raise HepfmError(f"has no label '{label}' beside the background's", corpus.path, "--signals")
        groups.append(Group(label, 1.0, (label,)))
    kinds = np.concatenate([group_numbers(block, groups) for block in split])
    wanted = kinds == 0
    if not wanted.any():
        raise HepfmError(f"its split '{split.name}' has no jet of the background", corpus.path, "--background")
    draws = hashed_uniform(key_of("search", corpus.digest, seed), np.arange(len(kinds)))
    for number, (label, share) in enumerate(shares.items(), 1):
        own = np.flatnonzero(kinds == number)
        count = max(round(share * int((kinds == 0).sum())), 1)
        if len(own) < count:
            raise HepfmError(
                f"its split '{split.name}' has {len(own):,} jets of '{label}', {count:,} are wanted",
                corpus.path,
                "take a smaller share, or another --split",
            )
        wanted[own[np.argsort(draws[own], kind="stable")[:count]]] = True
    scores, masses, at = [], [], 0
    with progress(f"judge {split.name}", split.records, "jets") as task:
        for block in split:
            chosen = np.flatnonzero(wanted[at : at + len(block)])
            at += len(block)
            if len(chosen):
                jets = block.take(pa.array(chosen))
                scores.append(judge.scores(jets, corpus.path))
                masses.append(values_of(jets.column(MASS)).astype(np.float64))
            task.advance(len(block))
    mass = np.concatenate(masses)
    if not np.isfinite(mass).all():
        raise HepfmError(f"{MASS} of {int((~np.isfinite(mass)).sum()):,} jets is not finite", corpus.path)
    return Sample(("background", *shares), kinds[wanted], mass, np.concatenate(scores))


def passing(values: np.ndarray, share: float) -> np.ndarray:
    """Which jets (n,) bool are the highest ``share`` of a discriminant (n,); equal ones pass together."""
    return values >= np.sort(values)[::-1][max(math.ceil(share * len(values)), 1) - 1]


def look(sample: Sample, passed: dict[str, np.ndarray], seed: int) -> list[Found]:
    """Every signal in its window, before and after every cut."""
    found = []
    for number, name in enumerate(sample.names[1:], 1):
        own = sample.kind == number
        low, high = narrowest(sample.mass[own])
        inside = (sample.mass >= low) & (sample.mass <= high)
        for cut, kept in {"": np.ones(len(own), dtype=bool), **passed}.items():
            signal, other = (own & inside & kept), (~own & inside & kept)
            significance = _significance(np.array([signal.sum(), other.sum()])) if other.any() else math.nan
            draws = generator("search significance", cut, name, seed)
            again = draws.poisson([signal.sum(), other.sum()], (REPLICAS, 2))
            error = float(np.std([_significance(counts) for counts in again], ddof=1))
            found.append(
                Found(
                    cut,
                    name,
                    (low, high),
                    int(signal.sum()),
                    int(other.sum()),
                    float(signal.sum() / (own & inside).sum()),
                    Estimate(significance, error if other.any() else math.nan),
                )
            )
    return found


def narrowest(mass: np.ndarray) -> tuple[float, float]:
    """The narrowest interval that holds half of the masses (n,): the peak, whatever its tails."""
    ordered = np.sort(mass)
    inside = math.ceil(WINDOW * len(ordered))
    widths = ordered[inside - 1 :] - ordered[: len(ordered) - inside + 1]
    first = int(widths.argmin())
    return float(ordered[first]), float(ordered[first + inside - 1])


def _significance(counts: np.ndarray) -> float:
    return float(counts[0] / math.sqrt(max(counts[1], 1)))


def search_table(found: Sequence[Found]) -> Table:
    """A row a signal and cut."""
    header = ("signal", "mass window [GeV]", "cut", "signal", "others", "efficiency", "S/sqrt(B)")
    rows = tuple(
        (
            Cell(item.signal),
            Cell(f"{item.window[0]:.1f} to {item.window[1]:.1f}"),
            Cell(item.cut or "none"),
            Cell(f"{item.signal_jets:,}"),
            Cell(f"{item.other_jets:,}"),
            Cell(f"{item.efficiency:.3f}"),
            Cell(f"{item.significance.value:.2f} ± {item.significance.error:.2f}" if item.other_jets else "-"),
        )
        for item in found
    )
    note = (
        "The window is the narrowest that holds half of the signal's jets; others are background and other signals in "
        "it. Errors are those of Poisson counts."
    )
    return Table("Signals in their mass windows", header, rows, note)
