"""Sampling several streams gives what full recomputation gives, and a seed the same records however they are made."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.finetune.sampler import Drawing, Sampled
from hepfm.finetune.stream_sampler import drawn_of, generate_streams
from hepfm.pretrain.backbone import BackboneConfig, build
from hepfm.pretrain.stream_backbone import StreamBackbone
from hepfm.pretrain.streams import Number, Streams

MAX_LENGTH = 12
ENERGY = Number("ln(energy / MeV)", 3, mean=0.5, std=2.0, low=-3.0, high=5.0, components=3)
CELLS = Streams(("tokens_layer", "tokens_cell_a", "tokens_cell_b"), (4, 5, 6), (0, 1, 2), ENERGY)
KINDS = {
    "cells": CELLS,
    "residual": Streams(("tokens_1", "tokens_2"), (7, 7), (0, 0)),
    "delayed residual": Streams(("tokens_1", "tokens_2"), (7, 7), (0, 1)),
    "another order": dataclasses.replace(CELLS, delays=(2, 0, 5), number=dataclasses.replace(ENERGY, delay=1)),
}
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
    backbone: StreamBackbone, n: int, seed: int, drawing: Drawing, min_length: int = 1, max_length: int = MAX_LENGTH
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
            outlook = backbone.outlook(backbone.hidden_of(ids, numbers, Layout.of(np.array([step + 1])))[-1:])
            uniform = hashed_uniform(
                key, np.array([[number]]), np.array([[step]]), np.arange(len(streams.codes) + 3)[None]
            )
            stops, drawn, values = drawn_of(outlook, torch.from_numpy(uniform), drawing, streams.number)
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


def lists(sampled: Sampled) -> list[list[list[int]]]:
    return [sampled.tokens[first:last].tolist() for first, last in itertools.pairwise(sampled.offsets)]


@pytest.mark.parametrize(
    ("kind", "drawing"),
    [
        *(("cells", drawing) for drawing in DRAWINGS),
        *((kind, Drawing()) for kind in KINDS if kind != "cells"),
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
