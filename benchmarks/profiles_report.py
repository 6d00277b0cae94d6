"""``hepfm evaluate profiles``: parametrised showers against full simulation, as a table, JSON and a page."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.table import Table

from hepfm.benchmarks.report import TEMPLATES
from hepfm.benchmarks.shower_profiles import (
    CONSTANT,
    RADIAL_BINS,
    RADIAL_MM,
    REFERENCE_GEV,
    STOCHASTIC,
    EnergyBin,
    energy_bins,
    profiles_of,
    read_reference,
    separation,
)
from hepfm.core.config import command_line
from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file, write_json, write_text
from hepfm.core.plots import Curve, ratio_plot, to_svg
from hepfm.core.statistics import Estimate, Histogram
from hepfm.core.versions import versions
from hepfm.ingest.gflash.simulation import GflashShowers

FEWEST = 500
REPORT, PAGE = "profiles.json", "index.html"
# What the parametrisation is asked to reach; shown beside what it does.
MOST_SEPARATION = {"depth": 0.004, "radius": 0.0013}
MOST_NONLINEARITY, MOST_RESOLUTION = 0.01, 0.20


@dataclass(frozen=True)
class EvaluateProfilesConfig:
    """Compare parametrised photon showers in ILD with mean profiles of full simulation (10-90 GeV, uniform).

    Prints separation powers by depth and radius, and response and resolution after the calibration that the simulation
    derives from its geometry.
    """

    reference: Path
    """Histograms of full simulation: a npz file with counts_1, counts_3 and xyz_limits."""
    out: Path
    """Folder of the report; an earlier report there is replaced."""
    showers: int = 8_000
    """Showers to simulate for each of profiles and energies."""
    seed: int = 1
    """Seed of the showers."""


def main(config: EvaluateProfilesConfig) -> None:
    """Measure, write the report, print tables and the page's path."""
    if config.showers < FEWEST:
        raise HepfmError(f"must be at least {FEWEST}, is {config.showers}", "--showers")
    if config.out.exists() and not config.out.is_dir():
        raise HepfmError("is a file, not a folder", config.out, "name another --out")
    if config.out.exists() and any(config.out.iterdir()) and not (config.out / REPORT).exists():
        raise HepfmError("holds something that is no report", config.out, "name another --out")
    page = evaluate_profiles(config.reference, config.out, config.showers, config.seed)
    sys.stdout.write(f"{page}\n")


def evaluate_profiles(reference: Path, out: Path, showers: int, seed: int = 1) -> Path:
    """Compare showers in ILD with profiles of full simulation, and write the report.

    Args:
        reference: npz file, see :func:`hepfm.benchmarks.shower_profiles.read_reference`.
        out: folder of the report.
        showers: how many to simulate.
        seed: of the showers.

    Returns:
        Path of the page.
    """
    real = read_reference(reference)
    simulation = GflashShowers(detector="ild", energy=REFERENCE_GEV, seed=seed)
    simulation.check()
    found = profiles_of(simulation, showers, real.box)
    if real.layers.shape != found.layers.shape[1:]:
        raise HepfmError(f"has {len(real.layers)} layers, ILD has {found.layers.shape[1]}", reference)
    separations = {
        "depth": separation(real.layers, found.layers, "depth"),
        "radius": separation(real.radial, found.radial, "radius"),
    }
    bins = energy_bins(simulation, showers)
    data = {
        "showers": showers,
        "separation_power": {name: asdict(value) for name, value in separations.items()},
        "asked": {
            "separation_power": MOST_SEPARATION,
            "nonlinearity": MOST_NONLINEARITY,
            "resolution": MOST_RESOLUTION,
        },
        "largest_nonlinearity": max(abs(each.response.value - 1) for each in bins),
        "largest_resolution_deviation": max(abs(each.resolution.value / each.expected - 1) for each in bins),
        "mean_layer": {"reference": _mean(real.layers), "showers": _mean(found.layers.sum(axis=0))},
        "energy_bins": [asdict(each) for each in bins],
        "provenance": {
            "reference": {"name": reference.name, "sha256": sha256_file(reference)},
            "simulation": {"name": simulation.name, "seed": seed, "version": simulation.settings()["version"]},
            "command": command_line(),
        },
        "versions": versions(),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / REPORT, data)
    write_text(out / PAGE, _page(data, _plots(real.layers, found.layers, real.radial, found.radial)))
    print_tables(separations, bins)
    return out / PAGE


def print_tables(separations: dict[str, Estimate], bins: list[EnergyBin]) -> None:
    """Show separation powers, and response and resolution by energy."""
    console = Console(file=sys.stderr, width=None if sys.stderr.isatty() else 120)
    table = Table("separation power", "showers", "asked")
    for name, value in separations.items():
        table.add_row(f"energy by {name}", f"{value.value:.5f} ± {value.error:.5f}", f"<= {MOST_SEPARATION[name]:g}")
    console.print(table)
    expected = f"{STOCHASTIC:.0%}/sqrt(E) (+) {CONSTANT:.0%}"
    table = Table("energy [GeV]", "showers", "response", "resolution", expected, "ratio")
    for each in bins:
        table.add_row(
            f"{each.low:.0f}-{each.high:.0f}",
            f"{each.showers:,}",
            f"{each.response.value:.4f} ± {each.response.error:.4f}",
            f"{each.resolution.value:.2%} ± {each.resolution.error:.2%}",
            f"{each.expected:.2%}",
            f"{each.resolution.value / each.expected:.3f}",
        )
    console.print(table)


def _mean(profile: np.ndarray) -> float:
    return float(profile @ np.arange(len(profile)) / profile.sum())


def _plots(
    real_layers: np.ndarray, layers: np.ndarray, real_radial: np.ndarray, radial: np.ndarray
) -> list[dict[str, Any]]:
    depth = np.arange(len(real_layers) + 1) - 0.5
    radius = np.linspace(0, RADIAL_MM, RADIAL_BINS + 1)
    shown = int(np.flatnonzero(real_radial)[-1]) + 1
    return [
        _plot("energy by layer", "layer", depth, real_layers, layers, log_y=False),
        _plot("energy by layer, logarithmic", "layer", depth, real_layers, layers, log_y=True),
        _plot(
            "energy by radius",
            "distance from the axis [mm]",
            radius[: shown + 1],
            real_radial[:shown],
            radial[:, :shown],
            log_y=True,
        ),
    ]


def _plot(
    title: str, xlabel: str, edges: np.ndarray, real: np.ndarray, showers: np.ndarray, *, log_y: bool
) -> dict[str, Any]:
    """The same plot for a light and a dark page."""
    curves = Curve("full simulation", _real(edges, real)), [Curve("parametrised", _simulated(edges, showers))]
    pictures = {
        theme: to_svg(
            ratio_plot(*curves, xlabel=xlabel, ylabel="share of the visible energy", log_y=log_y, theme=theme)
        )
        for theme in ("light", "dark")
    }
    return {"title": title, **{theme: picture.decode() for theme, picture in pictures.items()}}


def _real(edges: np.ndarray, contents: np.ndarray) -> Histogram:
    """Shares without errors: the reference's sums tell none."""
    return Histogram(edges, contents / contents.sum(), np.zeros(len(contents)), 0.0, 0.0)


def _simulated(edges: np.ndarray, contents: np.ndarray) -> Histogram:
    """Shares of sums over showers (n, bins), with the errors that their differences between showers give."""
    mean, size = contents.mean(axis=0), len(contents)
    share = mean / mean.sum()
    residual = contents - contents.sum(axis=1, keepdims=True) * share
    return Histogram(edges, share, residual.std(axis=0) / np.sqrt(size) / mean.sum(), 0.0, 0.0)


def _page(data: dict[str, Any], plots: list[dict[str, Any]]) -> str:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("profiles.html.j2").render(
        data=data, plots=plots, expected=f"{STOCHASTIC:.0%}/√E ⊕ {CONSTANT:.0%}"
    )
