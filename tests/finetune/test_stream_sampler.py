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
    "profile": dataclasses.replace(
        CELLS, codes=(4, 2, 3), profile=Profile(4, "", 1.0, 1.0, (1.0,) * 5, (1.0,) * 5, (-3.0,) * 5, (4.0,) * 5)
    ),
}
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
            left = None if own is None else torch.tensor([budget_by_hand(points, at, own) for at in range(step + 1)])
            layout = Layout.of(np.array([step + 1]))
            outlook = backbone.outlook(backbone.hidden_of(ids, numbers, layout, budget=left)[-1:])
            if own is not None:
                outlook = ruled_by_hand(outlook, points, step, own, step >= min_length)
            uniform = hashed_uniform(
                key, np.array([[number]]), np.array([[step]]), np.arange(len(streams.codes) + 3)[None]
            )
            most, exact = (None, False) if own is None else price_by_hand(points, step, own, ended)
            ceiling = None if most is None else np.array([most])
            stops, drawn, values = drawn_of(outlook, torch.from_numpy(uniform), drawing, streams.number, ceiling)
            if exact and ceiling is not None:
                values = ceiling.astype(np.float32)
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


def budget_by_hand(points: list[list[float | None]], position: int, profile: np.ndarray) -> list[float]:
    """The six figures at a position, from the points that have been read there."""

    def figures(point: int, hits: int) -> list[float]:
        layer = points[point][0]
        spent = sum(math.exp(e) for at, _, _, e in points[: max(position - 3, 0)] if at == layer)  # type: ignore[arg-type]
        whole = profile[int(layer)]  # type: ignore[arg-type]
        left = whole - spent
        share = min(max(left / max(whole, LEAST), -1), 1)
        return [math.log(max(left, LEAST / 2) / LEAST) / 3, share, math.log1p(hits) / 3]

    def before(point: int) -> int:
        return sum(other[0] == points[point][0] for other in points[:point])

    priced, placed = position - 3, position - 1
    known = figures(priced, before(priced)) if 0 <= priced < len(points) else [0.0] * 3
    return known + (figures(placed, before(placed) + 1) if 0 <= placed < len(points) else [0.0] * 3)


def ruled_by_hand(
    outlook: Outlook, points: list[list[float | None]], step: int, profile: np.ndarray, may_stop: bool
) -> Outlook:
    """No layer out of turn, no hit that its layer cannot pay for, no cell twice, no stop before the last layer."""
    layer, first, second = (logits.clone() for logits in outlook.ids)
    last = int(points[-1][0]) if points else -1  # type: ignore[arg-type]
    later = [at for at in range(len(profile)) if at > last and profile[at] > 0]
    hits = sum(point[0] == last for point in points)
    spent = [math.exp(point[3]) for point in points if point[0] == last and point[3] is not None]
    stays = bool(points) and hits < 6 and (hits - len(spent) + 1) * LEAST <= profile[last] - sum(spent)
    turns = ([last] if stays else []) + later[:1]
    for at in range(len(profile)):
        if turns and at not in turns:
            layer[0, at] = -torch.inf
    stop = outlook.stop.clone()
    if later or not may_stop:
        stop[0] = -torch.inf
    elif not stays:
        stop[0] = torch.inf
    if 0 <= step - 1 < len(points):
        own = points[step - 1][0]
        full = [a for a in range(2) if sum(p[:2] == [own, a] for p in points[: step - 1]) == 3]
        if len(full) < 2:
            first[0, full] = -torch.inf
    if 0 <= step - 2 < len(points):
        taken = [p[2] for p in points[: step - 2] if p[:2] == points[step - 2][:2]]
        second[0, [int(b) for b in taken]] = -torch.inf  # type: ignore[arg-type]
    return outlook._replace(stop=stop, ids=(layer, first, second))


def price_by_hand(points: list[list[float | None]], step: int, profile: np.ndarray, ended: bool) -> tuple[float, bool]:
    """ln of the most energy that the hit whose energy comes next can have, and whether it takes all that is left."""
    own = step - 3
    if not 0 <= own < len(points):
        return math.inf, False
    layer = int(points[own][0])  # type: ignore[arg-type]
    left = profile[layer] - sum(math.exp(e) for at, _, _, e in points[:own] if at == layer)  # type: ignore[arg-type]
    further = sum(point[0] == layer for point in points[own + 1 :])
    most = math.log(max(left - further * LEAST, LEAST))
    last = points[own + 1][0] != layer if points[own + 1 :] else ended
    if own and points[own - 1][0] == layer and not last:
        most = min(most, points[own - 1][3])  # type: ignore[type-var]
    return most, last


def profile_of(n: int) -> np.ndarray:
    """Energies of layers, some without any; of the seventh record one that pays for no hit."""
    draws = np.random.default_rng(2)
    energies = draws.exponential(0.25, (n, 4)) * (draws.uniform(size=(n, 4)) < 0.7)
    energies[:, 2] += LEAST
    energies[6, 0] = LEAST / 10
    return energies


@pytest.mark.parametrize("drawing", DRAWINGS, ids=str)
def test_hits_to_given_energies_of_layers_equal_full_recompute(drawing: Drawing) -> None:
    """Same hits, by rules written out by hand; each cell once, in every layer that has energy and in no other."""
    backbone, profile = network("profile").double(), profile_of(34)
    sampled = generate_streams(backbone, 34, seed=3, max_length=25, batch=16, drawing=drawing, profile=profile)
    expected = recompute(backbone, 34, 3, drawing, max_length=25, profile=profile)
    assert lists(sampled) == [ids for ids, _ in expected]
    assert sampled.continuous is not None
    assert sampled.continuous.tolist() == [value for _, values in expected for value in values]
    for record, (first, last) in enumerate(itertools.pairwise(sampled.offsets)):
        cells = [tuple(cell) for cell in sampled.tokens[first:last]]
        assert len(set(cells)) == len(cells)
        if len(cells) < 25:
            assert {cell[0] for cell in cells} == set(np.flatnonzero(profile[record]))
        assert np.all(np.diff([int(cell[0]) for cell in cells]) >= 0)


def test_given_energies_go_with_their_record_through_the_batch() -> None:
    backbone, profile = network("profile"), profile_of(120)
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
        *((kind, Drawing()) for kind in KINDS if kind not in ("cells", "profile")),
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
