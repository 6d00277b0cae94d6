"""Events like those of the LHC Olympics, their files, and their jets by fastjet's own interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastjet
import numpy as np
from pandas_layout import write_fixed


def make_events(n: int, seed: int, most: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Dijet events (n, 700, 3) of pt, eta, phi, zero-padded, and labels (n,)."""
    rng = np.random.default_rng(seed)
    events = np.zeros((n, 700, 3))
    for event in range(n):
        count = rng.integers(20, most + 1)
        side = rng.integers(0, 2, count)
        axis = rng.uniform(-np.pi, np.pi)
        phi = axis + np.pi * side + rng.normal(0, 0.3, count)
        events[event, :count, 0] = rng.exponential(60, count)
        events[event, :count, 1] = rng.normal(np.array([0.5, -0.7])[side], 0.3)
        events[event, :count, 2] = (phi + np.pi) % (2 * np.pi) - np.pi
    return events, rng.integers(0, 2, n).astype(np.float64)


def momenta(events: np.ndarray) -> np.ndarray:
    pt, eta, phi = np.moveaxis(events, 2, 0)
    return np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=2)


def leading_jets(event: np.ndarray, radius: float = 1.0) -> list[tuple[fastjet.PseudoJet, np.ndarray]]:
    """Jets of one event by fastjet's own interface, and indices of their particles."""
    particles = []
    for index, (px, py, pz) in enumerate(momenta(event[None])[0]):
        if event[index].any():
            particle = fastjet.PseudoJet(px, py, pz, float(np.sqrt(px * px + py * py + pz * pz)))
            particle.set_user_index(index)
            particles.append(particle)
    sequence = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    jets = fastjet.sorted_by_pt(sequence.inclusive_jets(20.0))
    # Their momenta are copied: they do not outlive the sequence.
    return [
        (
            fastjet.PseudoJet(jet.px(), jet.py(), jet.pz(), jet.e()),
            np.array([p.user_index() for p in jet.constituents()]),
        )
        for jet in jets
    ]


def flat(events: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    rows = events.reshape(len(events), 2100)
    return rows if label is None else np.column_stack([rows, label])


def write(path: Path, events: np.ndarray, label: np.ndarray | None, **how: Any) -> Path:
    """As events_anomalydetection_v2.h5: one block of numbered columns, the last the label."""
    return write_fixed(path, "df", [(None, flat(events, label))], **how)


def features_of(events: np.ndarray) -> np.ndarray:
    """What a features file holds of each event (n, 14)."""
    rows = []
    for number, event in enumerate(events):
        row: list[float] = []
        for index, (jet, _) in enumerate(leading_jets(event)[:2]):
            row += [jet.px(), jet.py(), jet.pz(), jet.m(), 0.3 + number, 0.2 + index, 0.1]
        rows.append(row + [0.0] * (14 - len(row)))
    return np.array(rows)
