"""The tables of a comparison, once as Markdown for the command line and once as cells for the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hepfm.benchmarks.closeness import classes, tracks
from hepfm.benchmarks.closeness.classes import ClassReport, Compared, Distance, Pair, Row, pull
from hepfm.benchmarks.closeness.tracks import TrackReport
from hepfm.benchmarks.report import number
from hepfm.benchmarks.tables import Cell, Table
from hepfm.core.statistics import Estimate

# Medians further apart than this are marked.
FAR_PULL = 2.0


def class_tables(report: ClassReport) -> list[Table]:
    """Median masses, and both distances by class and quantity."""
    return [
        _medians(report),
        _distances("Wasserstein-1 distance to real JetClass jets", report, lambda item: item.wasserstein_1, True),
        _distances("KS distance to real JetClass jets", report, lambda item: item.kolmogorov_smirnov, False),
    ]


def _medians(report: ClassReport) -> Table:
    rows = [
        (
            Cell(median.name),
            Cell(number(median.real)),
            Cell(number(median.simulated)),
            Cell(f"{_percent(median.relative)} %"),
            _apart(median.real, median.simulated),
        )
        for median in report.medians
    ]
    note = f"Errors: bootstrap; marked beyond {FAR_PULL:g} standard deviations."
    if shift := report.resonance_shift:
        note += f" Resonances together (weighted mean of the differences): {_percent(shift)} %."
    header = ("class", "real [GeV]", "simulated [GeV]", "difference", "standard deviations")
    return Table("Median jet mass", header, tuple(rows), note)


def _percent(share: Estimate) -> str:
    return number(Estimate(100 * share.value, 100 * share.error))


def _apart(real: Estimate, simulated: Estimate) -> Cell:
    apart = pull(real, simulated)
    return Cell(f"{apart:+.1f}", abs(apart) > FAR_PULL)


def _distances(title: str, report: ClassReport, which: Callable[[Compared], Distance], units: bool) -> Table:
    names = [f"{q.title} [{q.unit}]" if units and q.unit else q.title for q in classes.QUANTITIES]
    rows = [(*_counts(row), *(_cell(which(row.quantities[q.name])) for q in classes.QUANTITIES)) for row in report.rows]
    return Table(title, ("class", "real jets", "simulated", *names), tuple(rows), _chance(rows))


def _counts(row: Row) -> tuple[Cell, Cell, Cell]:
    return Cell(row.name), Cell(f"{row.real:,}"), Cell(f"{row.simulated:,}")


def _cell(distance: Distance) -> Cell:
    text = number(distance.estimate)
    digits = len(text.split(" ")[0].partition(".")[2])
    return Cell(text, distance.missed, f"{distance.floor.value:.{digits}f}")


def _chance(rows: Sequence[tuple[Cell, ...]]) -> str:
    """What the brackets say, and how many of the marks are to be expected."""
    cells = [cell for row in rows for cell in row if cell.chance]
    missed = sum(cell.missed for cell in cells)
    return (
        "Errors: bootstrap over jets. In brackets what chance gives on average: two samples drawn from the real jets,"
        f" of the same sizes. Marked where it gives so much in fewer than 5% of cases: {missed} of {len(cells)}, where"
        f" about {0.05 * len(cells):.0f} are to be expected of jets without a difference."
    )


def track_tables(report: TrackReport) -> list[Table]:
    """Distances, widths, uncertainties by pt, and species."""
    return [_distances_of_tracks(report), _widths(report), _uncertainties(report), _species(report)]


def _distances_of_tracks(report: TrackReport) -> Table:
    rows = []
    for quantity in tracks.QUANTITIES:
        item = report.quantities[quantity.name]
        rows.append((Cell(quantity.title), _cell(item.wasserstein_1), _cell(item.kolmogorov_smirnov)))
    note = (
        "d0 and dz as arcsinh(x / 0.1 mm), significances as arcsinh. Simulated tracks are weighted to the real ones' pt"
        f" and abs(eta). {_chance(rows)}"
    )
    return Table("Tracks against real JetClass-II jets", ("quantity", "Wasserstein-1", "KS"), tuple(rows), note)


def _widths(report: TrackReport) -> Table:
    rows = [
        (Cell(pair.name), Cell(number(pair.real)), Cell(number(pair.simulated)), _apart(pair.real, pair.simulated))
        for pair in report.widths
    ]
    note = "Against the jet's direction, d0 is mostly resolution; along it and in the tails, lifetimes of the decays."
    header = ("significance (value / uncertainty)", "real", "simulated", "standard deviations")
    return Table("Significance of impact parameters", header, tuple(rows), note)


def _uncertainties(report: TrackReport) -> Table:
    by_bin: dict[str, list[Cell]] = {}
    for pair in report.errors["d0err"]:
        by_bin[pair.name] = [Cell(pair.name), *_with_ratio(pair)]
    for pair in report.errors["dzerr"]:
        by_bin[pair.name] += _with_ratio(pair)
    note = (
        "Simulated tracks are weighted to the real ones' abs(eta). The real uncertainties take few values, so that a"
        " median may have no bootstrap error."
    )
    header = ("track pt [GeV]", *(f"{name} {what}" for name in ("d0", "dz") for what in ("real", "simulated", "ratio")))
    return Table("Median uncertainty of d0 and dz [µm]", header, tuple(map(tuple, by_bin.values())), note)


def _with_ratio(pair: Pair) -> list[Cell]:
    ratio = pair.simulated.value / pair.real.value
    error = ratio * math.hypot(pair.real.error / pair.real.value, pair.simulated.error / pair.simulated.value)
    in_microns = (Estimate(1_000 * side.value, 1_000 * side.error) for side in (pair.real, pair.simulated))
    return [*(Cell(number(estimate)) for estimate in in_microns), Cell(number(Estimate(ratio, error)))]


def _species(report: TrackReport) -> Table:
    rows = []
    for name in dict.fromkeys(pair.name for pairs in report.species.values() for pair in pairs):
        cells = [Cell(name)]
        for pairs in report.species.values():
            pair = next(pair for pair in pairs if pair.name == name)
            missed = _apart(pair.real, pair.simulated).missed
            cells += [Cell(_percent(pair.real)), Cell(_percent(pair.simulated), missed)]
        rows.append(tuple(cells))
    header = [f"{kind}: {side}" for kind in report.species for side in ("real", "simulated")]
    errors = f"Errors: bootstrap over jets, at least binomial; marked beyond {FAR_PULL:g} standard deviations."
    note = f"{report.species_of}. {errors}"
    return Table("Species, shares in %", ("species", *header), tuple(rows), note)
