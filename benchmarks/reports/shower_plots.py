"""Plots of a comparison of showers: distributions, separation powers by layer, response by energy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hepfm.benchmarks.reports.pictures import line_plots, ratio_plots
from hepfm.benchmarks.scores.one_dimensional import Binned
from hepfm.benchmarks.scores.shower_histograms import RING, Separation, log_edges, observables_of
from hepfm.benchmarks.scores.shower_suite import ShowerScores, ShowerSide
from hepfm.core.plots import Curve
from hepfm.core.statistics import Estimate, Histogram, Values, histogram

RINGS = (0, 1, 2)
DEPTHS = (0.25, 0.5, 0.75)  # of the reference's energy: the layers where it is reached are shown
MOST_BINS = 50  # of a drawn histogram: those of separation powers are finer
OUTER = (0.002, 0.998)  # quantiles of the reference between which its bulk lies
FEWEST_EDGES = 4
ILD_SHOWN = {"occupancy": "cells above the threshold", "centre depth": "centre of gravity [layer]"}


def distributions(
    reference: ShowerSide, sides: Mapping[str, ShowerSide], scores: Mapping[str, ShowerScores]
) -> list[dict[str, str]]:
    """Response, voxel energies, longitudinal profile, quantities of three layers and energies of three rings."""
    geometry = reference.sample.geometry
    found = []
    layers = _layers(reference)
    for observable, attribute, column in observables_of(reference.features, geometry):
        shown = RINGS if observable.group == RING else layers
        if observable.edges is None or (observable.layer is not None and observable.layer not in shown):
            continue
        if observable.group.endswith("phi"):  # as eta, in what is not shown layer by layer either
            continue
        edges = observable.edges[1:] if observable.group == RING else observable.edges  # a logarithmic axis has no 0
        if not observable.group.endswith("energy"):
            edges = _bulk(edges, _values(reference, attribute, column))
        found += ratio_plots(
            observable.name.capitalize(),
            observable.name.replace(" ", "-").replace(",", ""),
            Curve("reference", _filled(reference, attribute, column, edges)),
            [Curve(name, _filled(side, attribute, column, edges)) for name, side in sides.items()],
            xlabel=_axis(observable.group, observable.unit),
            ylabel="share of showers",
            log_x=observable.group.endswith("energy"),
        )
    found[1:1] = _spectrum(reference, sides) + _profile(reference, sides)
    if next(iter(scores.values())).ild:
        found += _ild(reference, sides)
    return found


def _layers(reference: ShowerSide) -> set[int]:
    """Numbers of the layers at which the reference has laid down a quarter, half and three quarters of its energy."""
    depth = np.cumsum(reference.features.layer_energy.mean(axis=0))
    places = np.searchsorted(depth / depth[-1], DEPTHS) if depth[-1] > 0 else np.zeros(1, dtype=int)
    return {reference.features.layers[place] for place in places}


def _bulk(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The edges around nearly all values of the reference, and a margin; fewer ones where there are many."""
    low, high = np.quantile(values, OUTER)
    first, last = np.searchsorted(edges, low, side="right") - 1, np.searchsorted(edges, high)
    margin = max(2, (last - first) // 6)
    kept = edges[max(0, first - margin) : last + margin + 1]
    if len(kept) < FEWEST_EDGES:
        return edges
    return kept[:: -(-(len(kept) - 1) // MOST_BINS)]


def _values(side: ShowerSide, attribute: str, column: int | None) -> np.ndarray:
    values: np.ndarray = getattr(side.features, attribute)
    return values if column is None else values[:, column]


def _axis(group: str, unit: str) -> str:
    name = {"response": "visible / incident energy"}.get(group, group)
    return f"{name} [{unit}]" if unit else name


def _filled(side: ShowerSide, attribute: str, column: int | None, edges: np.ndarray) -> Histogram:
    """Of one quantity; logarithmic edges are handed on as log10, which the plot wants, and empty layers lie below."""
    values = _values(side, attribute, column)
    if attribute in ("layer_energy", "ring_energy"):
        values, edges = np.log10(np.maximum(values, edges[0] * 1e-3)), np.log10(edges)
    return histogram(Values(values, np.arange(len(values)), len(values)), edges)


def _spectrum(reference: ShowerSide, sides: Mapping[str, ShowerSide]) -> list[dict[str, str]]:
    edges = log_edges(reference.sample.geometry.threshold or 0.0, reference.features.highest, MOST_BINS)
    if edges is None:
        return []
    return ratio_plots(
        "Voxel energy",
        "voxel-energy",
        Curve("reference", of_binned(reference.spectrum(edges), np.log10(edges))),
        [Curve(name, of_binned(side.spectrum(edges), np.log10(edges))) for name, side in sides.items()],
        xlabel="voxel energy [MeV]",
        ylabel="share of voxels in range",
        log_x=True,
        log_y=True,
    )


def of_binned(binned: Binned, edges: np.ndarray) -> Histogram:
    """Shares inside the range, with errors from the numbers that whole showers have in a bin."""
    contents = binned.contents
    total = contents.sum() or 1.0
    return Histogram(edges, contents / total, np.sqrt(binned.squares) / total, 0.0, 0.0)


def _profile(reference: ShowerSide, sides: Mapping[str, ShowerSide]) -> list[dict[str, str]]:
    return ratio_plots(
        "Longitudinal profile",
        "longitudinal-profile",
        Curve("reference", profile(reference)),
        [Curve(name, profile(side)) for name, side in sides.items()],
        xlabel="layer",
        ylabel="share of the visible energy",
    )


def profile(side: ShowerSide) -> Histogram:
    """Share of the visible energy in each layer, with the error that differences between showers give."""
    energy = side.features.layer_energy
    mean, total = energy.mean(axis=0), energy.mean(axis=0).sum() or 1.0
    share = mean / total
    residual = energy - energy.sum(axis=1, keepdims=True) * share
    edges = np.arange(energy.shape[1] + 1) - 0.5
    return Histogram(edges, share, residual.std(axis=0) / np.sqrt(len(energy)) / total, 0.0, 0.0)


def _ild(reference: ShowerSide, sides: Mapping[str, ShowerSide]) -> list[dict[str, str]]:
    found = []
    for name, axis in ILD_SHOWN.items():
        values = {label: side.ild.columns[name][:, 0] for label, side in sides.items()}
        real = reference.ild.columns[name][:, 0]
        low, high = float(np.nanmin(real)), float(np.nanmax(real))
        if not high > low:  # as the occupancy of a calorimeter whose cells are all hit
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, 41)
        found += ratio_plots(
            name.capitalize(),
            name.replace(" ", "-"),
            Curve("reference", _of_values(real, edges)),
            [Curve(label, _of_values(part, edges)) for label, part in values.items()],
            xlabel=axis,
            ylabel="share of showers",
        )
    return found


def _of_values(values: np.ndarray, edges: np.ndarray) -> Histogram:
    values = values[np.isfinite(values)]
    return histogram(Values(values, np.arange(len(values)), len(values)), edges)


def by_layer(scores: Mapping[str, ShowerScores], layers: int) -> list[dict[str, str]]:
    """Separation powers of the histograms that each layer or ring has, group by group."""
    if layers < 2:
        return []
    found = []
    parts = {name: _grouped(each.separation) for name, each in scores.items()}
    for group, known in next(iter(parts.values())).items():
        numbers = [each.observable.layer for each in known]
        upper = [each.outcome.limit for each in known]
        samples = {name: [each.outcome.value for each in groups[group]] for name, groups in parts.items()}
        found += line_plots(
            group.capitalize(),
            f"separation-{group.replace(' ', '-')}",
            np.array(numbers, dtype=np.float64),
            samples,
            xlabel="ring" if group == RING else "layer",
            ylabel="separation power",
            band=upper,
            log_y=True,
        )
    return found


def _grouped(separation: list[Separation]) -> dict[str, list[Separation]]:
    found: dict[str, list[Separation]] = {}
    for each in separation:
        if each.observable.layer is not None:
            found.setdefault(each.observable.group, []).append(each)
    return found


def responses(scores: Mapping[str, ShowerScores]) -> list[dict[str, str]]:
    """Response and resolution of samples over the reference's, and both of all, by incident energy."""
    first = next(iter(scores.values())).response
    energy = np.array([np.sqrt(max(each.low, 1e-9) * each.high) for each in first])
    wide = bool(energy[-1] > 20 * energy[0]) if len(energy) else False
    found = []
    for title, attribute in (("Response", "response"), ("Resolution", "resolution")):
        values = {name: [_side(getattr(each, attribute), 1) for each in part.response] for name, part in scores.items()}
        real = [_side(getattr(each, attribute), 0) for each in first]
        found += line_plots(
            title, f"{attribute}-by-energy", energy, values,
            xlabel="incident energy [GeV]", ylabel=title.lower(), log_x=wide, reference=real,
        )  # fmt: skip
        ratios = {
            name: [getattr(each, f"{attribute}_ratio") for each in part.response] for name, part in scores.items()
        }
        found += line_plots(
            f"{title}: sample over reference", f"{attribute}-by-energy-ratio", energy, ratios,
            xlabel="incident energy [GeV]", ylabel="ratio", log_x=wide, level=1.0,
        )  # fmt: skip
    return found


def _side(pair: tuple[Estimate, Estimate] | None, which: int) -> Estimate | None:
    return None if pair is None else pair[which]
