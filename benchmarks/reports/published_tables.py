"""Ours under the published tables of showers, where geometry and metric are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hepfm.benchmarks.report import number
from hepfm.benchmarks.reports.classifying import Classified
from hepfm.benchmarks.reports.marks import scaled
from hepfm.benchmarks.reports.published_showers import (
    CALOCHALLENGE,
    ILD,
    ILD_COLUMNS,
    SEPARATION_FLOORS,
)
from hepfm.benchmarks.scores.outcome import Outcome
from hepfm.benchmarks.tables import Cell, Table
from hepfm.core.statistics import Estimate
from hepfm.ingest.formats.calochallenge import DATASETS
from hepfm.ingest.geometry import Geometry

PER_MILLE, PER_CENT = 1e3, 1e2


def data_set_of(geometry: Geometry) -> str | None:
    """Key of the CaloChallenge data set whose cells these are, if any."""
    return next(
        (name for name, each in DATASETS.items() if each.title == geometry.name and name in CALOCHALLENGE), None
    )


def calochallenge_table(key: str, scores: Mapping[str, Any], found: Classified | None) -> Table:
    """Every submission, ordered by FPD as published, and ours below."""
    header = ("submission", "AUC low", "AUC high", "AUC ResNet", "FPD x 10³", "KPD x 10³", "log-posterior")
    body = [
        (
            Cell(each.name),
            *(_plain(value, 3) for value in (each.low, each.high, each.resnet)),
            *(Cell(number(Estimate(*value))) for value in (each.fpd, each.kpd)),
            _plain(each.log_posterior, 2),
        )
        for each in CALOCHALLENGE[key]
    ]
    for name, each in scores.items():
        told = {} if found is None else found.told
        areas = [told[kind].auc.get(name) if kind in told else None for kind in ("low", "high", "resnet")]
        body.append(
            (
                Cell(f"{name} (measured)"),
                *(_ours(area) for area in areas),
                *(_ours(each.distances.get(metric), PER_MILLE) for metric in ("fpd", "kpd")),
                Cell("-"),
            )
        )
    note = (
        "Published: arXiv:2410.21611, against the second public Geant4 file, 100,000 showers of each side (data set 3:"
        " 50,000 + 50,000), areas as means of 10 trainings. Ours compares only with as many showers and the same"
        " splits, of that data set. Log-posteriors compare only among the samples that one classifier saw."
    )
    return Table(f"{DATASETS[key].title}", header, tuple(body), note)


def floors_table(key: str, means: Mapping[str, Mapping[str, Outcome]]) -> Table:
    """Mean separation powers beside those of Geant4 against Geant4."""
    column = list(CALOCHALLENGE).index(key)
    body = []
    for group, floors in SEPARATION_FLOORS.items():
        ours = (_ours(each.get(group), PER_MILLE) for each in means.values())
        body.append((Cell(group), Cell(f"{floors[column] * PER_MILLE:.2g}"), *ours))
    header = ("separation power x 10³, mean of layers", "Geant4 against Geant4, published", *means)
    return Table(
        "Separation powers", header, tuple(body), "Published with 100,000 showers of each side (data set 3: 50,000)."
    )


def ild_table(found: Mapping[str, Mapping[str, Outcome]]) -> Table:
    """The published ILD set, and ours below."""
    body = [(Cell(name), *(Cell(number(Estimate(*value))) for value in values)) for name, values in ILD.items()]
    for name, outcomes in found.items():
        body.append((Cell(f"{name} (measured)"), *(_ours(outcomes.get(column), PER_CENT) for column in ILD_COLUMNS)))
    note = (
        "W1 x 100. Published: CaloClouds II (arXiv:2309.05704), 500,000 photons of 10-90 GeV, batches of 50,000."
        " Smaller batches have a larger floor, and other photons other observables: compare with our floor first."
    )
    return Table("ILD set", ("generator", *ILD_COLUMNS), tuple(body), note)


def _plain(value: float | None, digits: int) -> Cell:
    return Cell("-" if value is None else f"{value:.{digits}f}")


def _ours(outcome: Outcome | None, scale: float = 1.0) -> Cell:
    if outcome is None or outcome.value is None:
        return Cell("not computed" if outcome is not None else "-")
    return Cell(number(scaled(outcome.value, scale)))
