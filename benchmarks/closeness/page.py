"""A comparison of simulated with real jets as data and as one page that opens without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from hepfm.benchmarks.closeness import classes, pictures, tracks
from hepfm.benchmarks.closeness.classes import ClassReport, Distance, Pair
from hepfm.benchmarks.closeness.tables import class_tables, track_tables
from hepfm.benchmarks.closeness.tracks import TrackReport
from hepfm.benchmarks.report import sections, themed
from hepfm.benchmarks.tables import Table
from hepfm.core.plots import Theme
from hepfm.core.progress import progress

THEMES: tuple[Theme, ...] = ("light", "dark")


def as_data(by_class: ClassReport | None, by_track: TrackReport | None) -> dict[str, Any]:
    """Everything measured, without histograms, as plain data."""
    data: dict[str, Any] = {}
    if by_class:
        data["jetclass"] = {
            "classes": [
                {
                    "class": row.name,
                    "real_jets": row.real,
                    "simulated_jets": row.simulated,
                    "distances": {name: _distances(item) for name, item in row.quantities.items()},
                }
                for row in by_class.rows
            ],
            "median_mass_gev": [
                {
                    "class": median.name,
                    "real": asdict(median.real),
                    "simulated": asdict(median.simulated),
                    "relative_difference": asdict(median.relative),
                    "standard_deviations": median.pull,
                }
                for median in by_class.medians
            ],
            "resonances_relative_difference": by_class.resonance_shift and asdict(by_class.resonance_shift),
            "notes": list(by_class.notes),
        }
    if by_track:
        data["jetclass2"] = {
            "tracks": dict(zip(("real", "simulated"), by_track.tracks, strict=True)),
            "distances": {name: _distances(item) for name, item in by_track.quantities.items()},
            "significances": [_pair(pair) for pair in by_track.widths],
            "median_uncertainty_mm": {name: [_pair(pair) for pair in pairs] for name, pairs in by_track.errors.items()},
            "species_of": by_track.species_of,
            "species": {kind: [_pair(pair) for pair in pairs] for kind, pairs in by_track.species.items()},
            "notes": list(by_track.notes),
        }
    return data


def _distances(item: classes.Compared | tracks.ComparedTracks) -> dict[str, Any]:
    return {name: _distance(getattr(item, name)) for name in ("wasserstein_1", "kolmogorov_smirnov")}


def _distance(distance: Distance) -> dict[str, Any]:
    return {**asdict(distance.estimate), "floor": asdict(distance.floor), "missed": distance.missed}


def _pair(pair: Pair) -> dict[str, Any]:
    return {"name": pair.name, "real": asdict(pair.real), "simulated": asdict(pair.simulated)}


def page(
    by_class: ClassReport | None, by_track: TrackReport | None, title: str, date: str, provenance: Mapping[str, Any]
) -> str:
    """The page as HTML."""
    parts = []
    if by_class:
        text = "Real JetClass jets, class by class; the same functions treat both samples."
        parts.append(_part("Jets against JetClass", text, class_tables(by_class), by_class.notes))
        parts[-1]["wide"] = list(_class_plots(by_class))
    if by_track:
        text = (
            f"{by_track.tracks[0]:,} tracks of real JetClass-II jets and {by_track.tracks[1]:,} simulated ones."
            " JetClass-II has pileup 50 with PUPPI, other decays and other jet momenta: uncertainties at one pt compare"
            " like with like; tails, which decays make, do so only roughly."
        )
        parts.append(_part("Tracks and species against JetClass-II", text, track_tables(by_track), by_track.notes))
        parts[-1]["plots"] = list(_track_plots(by_track))
    definitions = [(quantity.title, quantity.definition) for quantity in (*classes.QUANTITIES, *tracks.QUANTITIES)]
    return sections(title, date, parts, definitions, provenance)


def _part(title: str, text: str, tables: list[Table], notes: tuple[str, ...]) -> dict[str, Any]:
    return {"title": title, "text": text, "tables": tables, "notes": notes, "wide": [], "plots": []}


def _class_plots(report: ClassReport) -> Iterator[dict[str, str]]:
    with progress("draw", len(classes.QUANTITIES), "pictures") as bar:
        for quantity in classes.QUANTITIES:
            drawn = {theme: pictures.by_class(quantity, report.rows, theme) for theme in THEMES}
            yield themed(quantity.title, quantity.name, drawn)
            bar.advance()


def _track_plots(report: TrackReport) -> Iterator[dict[str, str]]:
    for quantity in tracks.QUANTITIES:
        item = report.quantities[quantity.name]
        log_x = quantity.spacing == "log10"
        drawn = {theme: pictures.tracks(quantity.axis, item.real, item.simulated, log_x, theme) for theme in THEMES}
        yield themed(quantity.title, f"track-{quantity.name}", drawn)
    yield themed("uncertainty by pT", "by-pt", {theme: pictures.uncertainties(report, theme) for theme in THEMES})
    yield themed("species", "species", {theme: pictures.species(report, theme) for theme in THEMES})
