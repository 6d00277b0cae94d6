"""Sampling several streams gives what full recomputation gives, and a seed the same records however they are made."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.finetune.sampler import Drawing, Sampled
from hepfm.finetune.stream_sampler import drawn_of, generate_streams
from hepfm.pretrain.backbone import BackboneConfig, build
from hepfm.pretrain.budget import Cells
from hepfm.pretrain.stream_backbone import Outlook, StreamBackbone
from hepfm.pretrain.streams import Number, Profile, Streams

MAX_LENGTH = 12
ENERGY = Number("ln(energy / MeV)", 3, mean=0.5, std=2.0, low=-3.0, high=5.0, components=3)
CELLS = Streams(("tokens_layer", "tokens_cell_a", "tokens_cell_b"), (4, 5, 6), (0, 1, 2), ENERGY)
KINDS = {
    "cells": CELLS,
    "residual": Streams(("tokens_1", "tokens_2"), (7, 7), (0, 0)),
    "delayed residual": Streams(("tokens_1", "tokens_2"), (7, 7), (0, 1)),
    "another order": dataclasses.replace(CELLS, delays=(2, 0, 5), number=dataclasses.replace(ENERGY, delay=1)),
}
PROFILE = Profile(4, "", 1.0, 1.0, 6, (1.0,) * 5, (1.0,) * 5, (-3.0,) * 5, (4.0,) * 5)
for wait, delays in ((3, (0, 1, 2)), (1, (0, 2, 3)), (1, (0, 1, 2))):
    KINDS[f"profile {wait} {delays}"] = dataclasses.replace(
        CELLS, codes=(4, 2, 3), delays=delays, number=dataclasses.replace(ENERGY, delay=wait), profile=PROFILE
    )
PROFILED = [kind for kind in KINDS if kind.startswith("profile")]
LEAST = math.exp(ENERGY.low)
DRAWINGS = [Drawing(0.0), Drawing(), Drawing(0.7, top_k=3), Drawing(1.3, top_p=0.8)]


def network(kind: str = "cells") -> StreamBackbone:
    """Random weights, with a stop that comes now and then."""
    torch.manual_seed(5)
    streams = KINDS[kind]
    transformer = TransformerConfig(width=32, blocks=2, heads=4)
    backbone = build(BackboneConfig(max(streams.codes), transformer, objective="next-streams", streams=streams))
    assert isinstance(backbone, StreamBackbone)
    with torch.no_grad():
        for parameter in (*backbone.embedding.parameters(), *backbone.heads.parameters()):
            parameter.mul_(6)
        backbone.heads.stop.out.bias.fill_(-1.5)
        backbone.heads.stop.out.weight.mul_(8)
    return backbone.eval()


@torch.no_grad()
def recompute(
    backbone: StreamBackbone,
    n: int,
    seed: int,
    drawing: Drawing,
    min_length: int = 1,
    max_length: int = MAX_LENGTH,
    profile: np.ndarray | None = None,
) -> list[tuple[list[list[int]], list[float]]]:
    """One record after another: a full pass over what there is for each step, no cache, points filled in by hand."""
    key, streams, made = key_of("generate", seed), backbone.streams, []
    waits = [*streams.delays, *([streams.number.delay] if streams.number else [])]
    for number in range(n):
        points: list[list[float | None]] = []
        ended, step = False, 0
        while not ended or step < len(points) + max(waits):
            read = np.tile(np.array([*streams.codes, np.nan][: len(waits)]), (step + 1, 1))
            for column, wait in enumerate(waits):
                for position in range(1, step + 1):
                    point = position - 1 - wait
                    if 0 <= point < len(points):
                        read[position, column] = points[point][column]
            ids = torch.from_numpy(read[:, : len(streams.codes)].astype(np.int64))
            numbers = torch.from_numpy(read[:, -1].astype(np.float32)) if streams.number else None
            own = None if profile is None else profile[number]
            left = None if own is None else budgets_by_hand(points, step + 1, own, streams.cells)
            layout = Layout.of(np.array([step + 1]))
            hidden = backbone.hidden_of(ids, numbers, layout, budget=left)
            outlook = backbone.outlook(hidden[-1:], None if left is None else left[-1:])
            if own is not None:
                outlook = ruled_by_hand(outlook, points, step, own, streams.cells)
            uniform = hashed_uniform(
                key, np.array([[number]]), np.array([[step]]), np.arange(len(streams.codes) + 3)[None]
            )
            between = None if own is None else bounds_by_hand(points, step, own, streams.cells)
            stops, drawn, values = drawn_of(outlook, torch.from_numpy(uniform), drawing, streams.number, between)
            if not ended:
                if stops[0] and step >= min_length:
                    ended = True
                else:
                    points.append([None] * len(waits))
                    ended = len(points) == max_length
            for column, wait in enumerate(waits):
                if 0 <= step - wait < len(points):
                    part = float(values[0]) if column == len(streams.codes) else int(drawn[0, column])  # type: ignore[index]
                    points[step - wait][column] = part
            step += 1
        parts = len(streams.codes)
        made.append(([[int(p) for p in one[:parts]] for one in points], [one[-1] for one in points]))  # type: ignore[arg-type]
    return made


def budgets_by_hand(
    points: list[list[float | None]], positions: int, profile: np.ndarray, cells: Cells
) -> torch.Tensor:
    """What the positions are told (T, 13 + A + B), by the points that have been read there."""
    return torch.tensor([budget_by_hand(points, position, profile, cells) for position in range(positions)])


def budget_by_hand(points: list[list[float | None]], position: int, profile: np.ndarray, cells: Cells) -> list[float]:
    to_layer, to_first, to_second, to_energy = cells.waits

    def layer_of(point: int) -> int:
        return int(points[point][0])  # type: ignore[arg-type]

    def earlier(point: int) -> list[list[float | None]]:
        return [other for other in points[: max(point, 0)] if other[0] == points[point][0]]

    def five(point: int, hits: int) -> list[float]:
        spent = sum(
            math.exp(known[3]) for known in points[: max(position - to_energy, 0)] if known[0] == layer_of(point)
        )  # type: ignore[arg-type]
        whole, count = profile[0, layer_of(point)], min(profile[1, layer_of(point)], 6)
        left, further = max(whole - spent, LEAST / 2), max(count - hits, 0)
        share = min(max((whole - spent) / max(whole, LEAST), -1), 1)
        each = math.log(left / max(further, 1) / LEAST) / 3
        return [math.log(left / LEAST) / 3, share, math.log1p(hits) / 3, math.log1p(further) / 3, each]

    priced, placed = position - to_energy, position - to_layer - 1
    told = five(priced, len(earlier(priced))) if 0 <= priced < len(points) else [0.0] * 5
    low, high = bounds_by_hand(points, position, profile, cells)
    told.append((high[0] - low[0]) / 3)
    told += five(placed, len(earlier(placed)) + 1) if 0 <= placed < len(points) else [0.0] * 5
    for wait in (to_first, to_second):
        known = to_energy < wait and 0 <= position - wait < len(points)
        told.append((points[position - wait][3] - math.log(LEAST)) / 3 if known else 0.0)  # type: ignore[operator]
    at = position - to_first
    told += [math.log1p(sum(p[1] == a for p in earlier(at))) if 0 <= at < len(points) else 0.0 for a in range(2)]
    at = position - to_second
    same = [p[2] for p in earlier(at) if p[1] == points[at][1]] if 0 <= at < len(points) else []
    return told + [float(b in same) for b in range(3)]


def ruled_by_hand(
    outlook: Outlook, points: list[list[float | None]], step: int, profile: np.ndarray, cells: Cells
) -> Outlook:
    """Layers in turn, each with its hits, no cell twice, a stop when all layers have theirs."""
    layer, first, second = (logits.clone() for logits in outlook.ids)
    had = [sum(point[0] == at for point in points) for at in range(4)]
    last = int(points[-1][0]) if points else 0  # type: ignore[arg-type]
    turns = [at for at in range(last, 4) if had[at] < min(profile[1, at], 6)]
    stop = torch.full_like(outlook.stop, -torch.inf if turns else torch.inf)
    if turns:
        layer[0, [at for at in range(4) if at != turns[0]]] = -torch.inf
    at = step - cells.waits[1]
    if 0 <= at < len(points):
        own = points[at][0]
        full = [a for a in range(2) if sum(p[:2] == [own, a] for p in points[:at]) == 3]
        if len(full) < 2:
            first[0, full] = -torch.inf
    at = step - cells.waits[2]
    if 0 <= at < len(points):
        taken = [p[2] for p in points[:at] if p[:2] == points[at][:2]]
        second[0, [int(b) for b in taken]] = -torch.inf  # type: ignore[arg-type]
    return outlook._replace(stop=stop, ids=(layer, first, second))


def bounds_by_hand(
    points: list[list[float | None]], step: int, profile: np.ndarray, cells: Cells
) -> tuple[np.ndarray, np.ndarray]:
    """ln energy of the hit whose energy comes next: the mean of what is left or more, no more than the one before."""
    own = step - cells.waits[3]
    if not 0 <= own < len(points):
        return np.zeros(1), np.zeros(1)
    layer = int(points[own][0])  # type: ignore[arg-type]
    earlier = [float(known[3]) for known in points[:own] if known[0] == layer]  # type: ignore[arg-type]
    left = profile[0, layer] - np.exp(np.array(earlier)).sum()
    further = max(min(profile[1, layer], 6) - len(earlier), 1)
    low = np.log(max(left / further, LEAST))
    high = min([np.log(max(left - (further - 1) * LEAST, LEAST)), *earlier[-1:]])
    return np.array([low]), np.array([max(low, high)])


def profile_of(n: int) -> np.ndarray:
    """Energies and hits of layers, some without any; of the seventh record one that pays for no hit."""
    draws = np.random.default_rng(2)
    energies = draws.exponential(0.25, (n, 4)) * (draws.uniform(size=(n, 4)) < 0.7)
    energies[:, 2] += LEAST
    energies[6, 0] = LEAST / 10
    hits = np.clip(draws.integers(1, 8, (n, 4)), 1, np.maximum(energies // LEAST, 1))
    return np.stack([energies, np.where(energies > 0, hits, 0)], axis=1)


@pytest.mark.parametrize(
    ("kind", "drawing"),
    [*((PROFILED[0], drawing) for drawing in DRAWINGS), *((kind, Drawing()) for kind in PROFILED[1:])],
    ids=str,
)
def test_hits_to_given_profiles_equal_full_recompute(kind: str, drawing: Drawing) -> None:
    """Same hits, by rules written out by hand; each cell once, and in every layer its hits, which share its energy."""
    backbone, profile = network(kind).double(), profile_of(34)
    sampled = generate_streams(backbone, 34, seed=3, max_length=25, batch=16, drawing=drawing, profile=profile)
    expected = recompute(backbone, 34, 3, drawing, max_length=25, profile=profile)
    assert lists(sampled) == [ids for ids, _ in expected]
    assert sampled.continuous is not None
    assert sampled.continuous.tolist() == [value for _, values in expected for value in values]
    for record, (first, last) in enumerate(itertools.pairwise(sampled.offsets)):
        cells = [tuple(cell) for cell in sampled.tokens[first:last]]
        assert len(set(cells)) == len(cells)
        layers = sampled.tokens[first:last, 0].astype(int)
        assert np.all(np.diff(layers) >= 0)
        np.testing.assert_array_equal(np.bincount(layers, minlength=4), np.minimum(profile[record, 1], 6))
        energies = np.exp(sampled.continuous[first:last].astype(float))
        pays = profile[record, 0] > LEAST
        np.testing.assert_allclose(np.bincount(layers, energies, 4)[pays], profile[record, 0, pays], rtol=1e-5)
        assert np.all(np.diff(energies)[np.diff(layers) == 0] <= 1e-6)


def test_given_profiles_go_with_their_record_through_the_batch() -> None:
    backbone, profile = network(PROFILED[1]), profile_of(120)
    reference = generate_streams(backbone, 120, seed=2, max_length=25, batch=128, profile=profile)
    for batch, n in ((1, 16), (7, 40), (64, 120)):
        again = generate_streams(backbone, n, seed=2, max_length=25, batch=batch, profile=profile[:n])
        assert lists(again) == lists(reference)[:n]
        np.testing.assert_array_equal(again.continuous, reference.continuous[: len(again.continuous)])  # type: ignore
    part = generate_streams(backbone, 20, seed=2, max_length=25, profile=profile[100:], first=100)
    assert lists(part) == lists(reference)[100:]


def lists(sampled: Sampled) -> list[list[list[int]]]:
    return [sampled.tokens[first:last].tolist() for first, last in itertools.pairwise(sampled.offsets)]


@pytest.mark.parametrize(
    ("kind", "drawing"),
    [
        *(("cells", drawing) for drawing in DRAWINGS),
        *((kind, Drawing()) for kind in KINDS if kind != "cells" and kind not in PROFILED),
        ("residual", Drawing(0.0)),
    ],
    ids=str,
)
def test_equals_full_recompute(kind: str, drawing: Drawing) -> None:
    backbone = network(kind).double()
    sampled = generate_streams(backbone, 18, seed=3, max_length=MAX_LENGTH, batch=16, drawing=drawing)
    expected = recompute(backbone, 18, 3, drawing)
    assert lists(sampled) == [ids for ids, _ in expected]
    if sampled.continuous is not None:
        assert sampled.continuous.tolist() == [value for _, values in expected for value in values]
    assert sampled.hit_maximum == sum(len(ids) == MAX_LENGTH for ids, _ in expected)
    if drawing.temperature:
        assert len({len(ids) for ids, _ in expected}) > 1


@pytest.mark.parametrize("kind", ["cells", "residual"])
def test_minimum_and_maximum_length_are_kept(kind: str) -> None:
    backbone = network(kind).double()
    sampled = generate_streams(backbone, 16, seed=1, max_length=6, min_length=4)
    assert lists(sampled) == [ids for ids, _ in recompute(backbone, 16, 1, Drawing(), 4, 6)]
    lengths = np.diff(sampled.offsets)
    assert lengths.min() >= 4
    assert lengths.max() == 6
    assert sampled.hit_maximum == (lengths == 6).sum()
    assert np.diff(generate_streams(backbone, 16, seed=1, max_length=6).offsets).min() < 4


@pytest.mark.parametrize("kind", ["cells", "residual"])
def test_a_seed_gives_the_same_records_whatever_the_batch_size(kind: str) -> None:
    backbone = network(kind)
    reference = generate_streams(backbone, 300, seed=2, max_length=MAX_LENGTH, batch=256)
    for batch, n in ((1, 16), (7, 40), (64, 150), (300, 300)):
        again = generate_streams(backbone, n, seed=2, max_length=MAX_LENGTH, batch=batch)
        assert lists(again) == lists(reference)[:n]
        if again.continuous is not None and reference.continuous is not None:
            np.testing.assert_array_equal(again.continuous, reference.continuous[: len(again.continuous)])


@torch.no_grad()
def test_what_records_are_told_goes_with_them_through_the_batch() -> None:
    """Each record is as if it were alone with what it is told, also in parts."""
    backbone = network().double()
    begin = torch.randn(34, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = lists(generate_streams(backbone, 34, 4, max_length=MAX_LENGTH, batch=16, begin=begin))
    alone = [
        generate_streams(backbone, 1, 4, max_length=MAX_LENGTH, first=n, begin=begin[n : n + 1]) for n in range(34)
    ]
    assert together == [record for one in alone for record in lists(one)]
    assert together != lists(generate_streams(backbone, 34, 4, max_length=MAX_LENGTH, batch=16))


def test_numbers_lie_in_the_range_of_training_and_ids_are_codes() -> None:
    sampled = generate_streams(network(), 300, seed=0, max_length=MAX_LENGTH, drawing=Drawing(3.0))
    assert sampled.continuous is not None
    assert -3 <= sampled.continuous.min() < sampled.continuous.max() <= 5
    assert (sampled.tokens.max(axis=0) < CELLS.codes).all()
    assert len(sampled.continuous) == len(sampled.tokens) == sampled.offsets[-1]


def test_nothing_wanted_is_nothing() -> None:
    sampled = generate_streams(network(), 0, seed=0, max_length=MAX_LENGTH)
    assert sampled.tokens.shape == (0, 3)
    assert sampled.offsets.tolist() == [0]
