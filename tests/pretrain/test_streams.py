"""Points of several ids and a number: what a backbone reads and predicts, and how surprised it is."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from physics_tokens import jet_corpus, shower_corpus, tokens_of
from scipy import integrate
from scipy.special import logsumexp
from scipy.stats import kstest, truncnorm

from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.pretrain.backbone import BackboneConfig, build
from hepfm.pretrain.batches import terms
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.mixture import Mixture, MixtureHead, draw, log_density
from hepfm.pretrain.next_streams import NextStreams
from hepfm.pretrain.objectives import ObjectiveConfig, Setting
from hepfm.pretrain.stream_backbone import StreamBackbone, widened
from hepfm.pretrain.stream_batches import counted
from hepfm.pretrain.streams import Number, Profile, StreamBatch, Streams, pack_streams
from hepfm.tokenize.delays import delay

TRANSFORMER = TransformerConfig(width=32, blocks=2, heads=4)
ENERGY = Number("ln(energy / MeV)", 3, mean=0.5, std=2.0, low=-3.0, high=5.0, components=3)
CELLS = Streams(("tokens_layer", "tokens_cell_a", "tokens_cell_b"), (4, 5, 6), (0, 1, 2), ENERGY)
KINDS = {
    "cells": CELLS,
    "residual": Streams(("tokens_1", "tokens_2"), (7, 7), (0, 0)),
    "delayed residual": Streams(("tokens_1", "tokens_2"), (7, 7), (0, 1)),
    "another order": dataclasses.replace(CELLS, delays=(2, 0, 5), number=dataclasses.replace(ENERGY, delay=1)),
}
MAX_LENGTH = 9


def backbone_of(streams: Streams, seed: int = 0) -> StreamBackbone:
    torch.manual_seed(seed)
    config = BackboneConfig(max(streams.codes), TRANSFORMER, objective="next-streams", streams=streams)
    backbone = build(config)
    assert isinstance(backbone, StreamBackbone)
    with torch.no_grad():  # far from indifferent
        for parameter in (*backbone.embedding.parameters(), *backbone.heads.parameters()):
            parameter.mul_(4)
    return backbone.double()


def objective_of(backbone: StreamBackbone, max_length: int = MAX_LENGTH) -> NextStreams:
    return NextStreams(backbone, Setting(ObjectiveConfig("next-streams"), max_length)).double()


def records(streams: Streams, lengths: list[int]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    draws, offsets = np.random.default_rng(sum(lengths)), np.concatenate([[0], np.cumsum(lengths)])
    ids = np.stack([draws.integers(0, codes, offsets[-1]) for codes in streams.codes], axis=1)
    return ids, draws.uniform(-3, 5, offsets[-1]) if streams.number else None, offsets


def packed(streams: Streams, lengths: list[int]) -> StreamBatch:
    batch = pack_streams(*records(streams, lengths), streams, MAX_LENGTH)
    return batch if batch.numbers is None else _doubled(batch)


def _doubled(batch: StreamBatch) -> StreamBatch:
    assert batch.numbers is not None
    assert batch.values is not None
    return dataclasses.replace(batch, numbers=batch.numbers.double(), values=batch.values.double())


lengths = st.lists(st.integers(0, 14), min_size=1, max_size=6)


@settings(max_examples=50)
@given(lengths, st.sampled_from(list(KINDS)))
def test_reads_the_delayed_steps_and_predicts_each_point_once(lengths: list[int], kind: str) -> None:
    streams = KINDS[kind]
    ids, numbers, offsets = records(streams, lengths)
    batch = pack_streams(ids, numbers, offsets, streams, MAX_LENGTH)
    waits = [*streams.delays, *([streams.number.delay] if streams.number else [])]
    for record, (first, last) in enumerate(itertools.pairwise(batch.layout.offsets.tolist())):
        begin, kept = offsets[record], min(lengths[record], MAX_LENGTH)
        table = ids[begin : begin + kept].astype(float)
        if numbers is not None:
            table = np.column_stack([table, numbers[begin : begin + kept]])
        steps, _ = delay(table, np.array([0, kept]), waits, fill=np.nan)
        read = np.where(batch.ids[first:last] == torch.tensor(streams.codes), torch.nan, batch.ids[first:last].double())
        if batch.numbers is not None:
            read = np.column_stack([read, batch.numbers[first:last]])
        expected = np.concatenate([np.full((1, len(waits)), np.nan), steps])[: last - first]
        np.testing.assert_allclose(read[: len(expected)], expected, rtol=1e-6)
        stops = batch.ends[(batch.ends >= first) & (batch.ends < last)] - first
        assert stops.tolist() == ([lengths[record]] if lengths[record] <= MAX_LENGTH else [])
    kept = np.minimum(lengths, MAX_LENGTH)
    assert len(batch.places) == len(batch.points) == kept.sum()
    assert len(batch.places) + len(batch.ends) == terms(np.array(lengths), MAX_LENGTH).sum()
    last = torch.from_numpy(np.repeat(batch.layout.offsets[1:].numpy(), kept))
    assert (batch.places + streams.largest_delay < last).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_each_record_written_out(kind: str) -> None:
    """Point by point, from the outlook at each position, the number's density from SciPy."""
    streams, lengths = KINDS[kind], [3, 0, 12, 9, 1]
    backbone = backbone_of(streams)
    batch = packed(streams, lengths)
    with torch.no_grad():
        found = objective_of(backbone)(batch)
    expected, at = 0.0, 0
    for record, (first, last) in enumerate(itertools.pairwise(batch.layout.offsets.tolist())):
        numbers = None if batch.numbers is None else batch.numbers[first:last]
        with torch.no_grad():
            alone = backbone.hidden_of(batch.ids[first:last], numbers, Layout.of(np.array([last - first])))
            outlook = backbone.outlook(alone)
        kept = min(lengths[record], MAX_LENGTH)
        for point in range(kept):
            expected -= float(torch.nn.functional.logsigmoid(-outlook.stop[point]))
            for column, wait in enumerate(streams.delays):
                expected -= float(outlook.ids[column][point + wait].log_softmax(-1)[batch.points[at + point, column]])
            if outlook.number is not None and batch.values is not None and streams.number is not None:
                own = Mixture(*(part[point + streams.number.delay] for part in outlook.number))
                expected -= _log_density(own, float(batch.values[at + point]), streams.number)
        if lengths[record] <= MAX_LENGTH:
            expected -= float(torch.nn.functional.logsigmoid(outlook.stop[kept]))
        at += kept
    assert float(found.total) == pytest.approx(expected, rel=1e-9)
    parts = [float(pair[0]) for pair in found.figures.values()]
    assert sum(parts) == pytest.approx(expected, rel=1e-5)


def _log_density(mixture: Mixture, value: float, number: Number) -> float:
    """ln of the density per unit of the number, of truncated normal distributions."""
    centres, widths = (part.numpy() * number.std for part in mixture[1:])
    centres = centres + number.mean
    bounds = (number.low - centres) / widths, (number.high - centres) / widths
    return float(logsumexp(mixture.log_weights.numpy() + truncnorm.logpdf(value, *bounds, loc=centres, scale=widths)))


@pytest.mark.parametrize("kind", ["cells", "residual"])
def test_gradients_do_not_depend_on_how_a_batch_is_split(kind: str) -> None:
    streams, lengths = KINDS[kind], [3, 0, 12, 9, 1]
    objective = objective_of(backbone_of(streams))
    whole = torch.autograd.grad(objective(packed(streams, lengths)).total, list(objective.parameters()))
    ids, numbers, offsets = records(streams, lengths)
    total = torch.zeros((), dtype=torch.float64)
    for first, last in ((0, 2), (2, 5)):
        own = slice(offsets[first], offsets[last])
        part = numbers if numbers is None else numbers[own]
        batch = pack_streams(ids[own], part, offsets[first : last + 1] - offsets[first], streams, MAX_LENGTH)
        total = total + objective(batch if batch.numbers is None else _doubled(batch)).total
    for one, other in zip(whole, torch.autograd.grad(total, list(objective.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_no_position_sees_what_it_predicts() -> None:
    """Changing a part of a point changes nothing at positions that predict it or come before."""
    backbone, streams = backbone_of(CELLS), CELLS
    ids, numbers, offsets = records(streams, [8])
    assert numbers is not None

    def hidden(ids: np.ndarray, numbers: np.ndarray) -> torch.Tensor:
        batch = _doubled(pack_streams(ids, numbers, offsets, streams, MAX_LENGTH))
        with torch.no_grad():
            return backbone.hidden_of(batch.ids, batch.numbers, batch.layout)

    before, point = hidden(ids, numbers), 4
    for column, wait in enumerate((*streams.delays, ENERGY.delay)):
        other_ids, other_numbers = ids.copy(), numbers.copy()
        if column < 3:
            other_ids[point, column] = (ids[point, column] + 1) % streams.codes[column]
        else:
            other_numbers[point] += 0.5
        changed = (hidden(other_ids, other_numbers) - before).abs().amax(1) > 1e-12
        assert int(changed.nonzero()[0]) == point + wait + 1


@settings(deadline=None, max_examples=25)
@given(st.floats(-30, 30), st.floats(-30, 30), st.integers(0, 100))
def test_the_density_is_one_of_numbers_in_range(centre: float, width: float, seed: int) -> None:
    """Whatever a network puts out, it is finite, and its integral over the range is 1."""
    torch.manual_seed(seed)
    head = MixtureHead(4, ENERGY).double()
    with torch.no_grad():
        head.out.weight.normal_(std=3)
        _, centres, widths = head.out.bias.unflatten(0, (3, -1))
        centres.add_(centre)
        widths.add_(width)
        mixture = head(torch.randn(1, 4, dtype=torch.float64))
    assert isinstance(mixture, Mixture)
    values = torch.linspace(head.low, head.high, 20_001, dtype=torch.float64)
    logs = log_density(Mixture(*(part.expand(len(values), -1) for part in mixture)), values, head.low, head.high)
    assert logs.isfinite().all()
    assert integrate.simpson(logs.exp().numpy(), x=values.numpy()) == pytest.approx(1, abs=2e-3)


def test_single_precision_and_far_numbers_are_finite() -> None:
    head = MixtureHead(4, ENERGY)
    with torch.no_grad():
        head.out.weight.mul_(1e4)
    x = torch.randn(500, 4, requires_grad=True)
    values = torch.linspace(-1e6, 1e6, 500)
    loss = head(x, values)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head = MixtureHead(4, ENERGY).double()
    x, values = torch.randn(50, 4, dtype=torch.float64, requires_grad=True), torch.rand(50, dtype=torch.float64)
    whole = torch.autograd.grad(head(x, values), [x, *head.parameters()])  # type: ignore[arg-type]
    monkeypatch.setattr("hepfm.pretrain.mixture.CHUNK", 7)
    for one, other in zip(whole, torch.autograd.grad(head(x, values), [x, *head.parameters()]), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(one, other)


def test_a_centre_at_a_bound_comes_back() -> None:
    """Beyond the range nothing pushes it further out, and it is not stuck."""
    head = MixtureHead(1, dataclasses.replace(ENERGY, components=1, mean=0.0, std=1.0, low=-1.0, high=1.0))
    with torch.no_grad():
        head.out.bias[1] = 3.0
    for value, sign in ((-0.9, 1), (1.0, 0)):
        head.zero_grad()
        head(torch.zeros(1, 1), torch.tensor([value])).backward()  # type: ignore[operator]
        assert head.out.bias.grad is not None
        assert np.sign(float(head.out.bias.grad[1])) == sign


def test_draws_follow_the_density() -> None:
    torch.manual_seed(3)
    head = MixtureHead(1, ENERGY)
    with torch.no_grad():
        head.out.weight.normal_()
        mixture = head(torch.ones(1, 1))
    assert isinstance(mixture, Mixture)
    uniform = torch.rand(20_000, 2, dtype=torch.float64)
    many = Mixture(*(part.expand(len(uniform), -1) for part in mixture))
    drawn = draw(many, uniform, head.low, head.high, 1.0).numpy()
    grid = np.linspace(head.low, head.high, 4001)
    density = log_density(
        Mixture(*(part.expand(4001, -1) for part in mixture)), torch.from_numpy(grid), head.low, head.high
    )
    cumulative = integrate.cumulative_trapezoid(density.exp().numpy(), grid, initial=0)
    assert kstest(drawn, lambda x: np.interp(x, grid, cumulative)).pvalue > 1e-3
    assert len(np.unique(draw(many, uniform, head.low, head.high, 0.0))) == 1


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    return tokens_of(shower_corpus(folder / "calo"), folder, "--tokenizer=cells")


def test_the_corpus_says_what_points_are_made_of(showers: Path) -> None:
    data = TokenCorpora.open([showers])
    assert data.kind == "showers"
    assert data.streams is not None
    assert data.streams.labels == ("layer", "cell_a", "cell_b")
    assert (data.streams.codes, data.streams.delays) == ((4, 6, 6), (0, 2, 3))
    number = counted(data, data.streams).number
    values = np.concatenate([b.column("continuous").flatten().to_numpy() for b in data.corpora[0].split("train")])
    assert number is not None
    assert (number.meaning, number.delay) == ("ln(energy / MeV)", 1)
    assert (number.mean, number.std) == pytest.approx((values.mean(), values.std()), rel=1e-5, abs=1e-7)
    assert (number.low, number.high) == (values.min(), values.max())
    batch = data.batches("train", 100, 0).batch(0, 50)
    assert isinstance(batch, StreamBatch)
    assert np.array_equal(np.sort(batch.layout.offsets.diff()), np.sort(data.reader("train", 0).lengths(0, 50) + 3))


def test_jets_can_have_several_ids_too(tmp_path: Path) -> None:
    options = ("--tokenizer=binning", "--bins", "5", "4", "3", "--ids", "each")
    data = TokenCorpora.open([tokens_of(jet_corpus(tmp_path / "jets", 60), tmp_path, *options)])
    assert data.streams is not None
    assert data.kind == "jets"
    assert (data.streams.delays, data.streams.number) == ((0, 0, 0), None)
    assert data.streams.delayed((0, 1, 2)).largest_delay == 2
    for wrong in ((0, 1), (1, 2, 3), (-1, 0, 0)):
        with pytest.raises(HepfmError, match=r"--delays: takes 3 numbers \(.+\), the least of them 0"):
            data.streams.delayed(wrong)


@pytest.mark.parametrize(
    ("column", "value", "told"), [("tokens_layer", 4, r"ids \[4, "), ("continuous", np.nan, "nan")]
)
def test_what_is_broken_is_named(
    showers: Path, monkeypatch: pytest.MonkeyPatch, column: str, value: float, told: str
) -> None:
    data = TokenCorpora.open([showers])
    assert data.streams is not None
    whole = data.corpora[0].split("train").read(0)
    place = whole.schema.get_field_index(column)
    lists = whole.column(column)
    values = lists.flatten().to_numpy().copy()
    values[0] = value
    inner = pa.array(values, lists.type.value_type, from_pandas=False)
    made = pa.ListArray.from_arrays(lists.offsets, inner, type=lists.type)
    broken = whole.set_column(place, whole.schema.field(place), made)
    monkeypatch.setattr("hepfm.ingest.corpus.Split.read", lambda *_: broken)
    with pytest.raises(HepfmError, match=f"record [0-9]+ has a point with .*{told}"):
        data.batches("train", 100, 0).batch(0, 200)
    if column == "continuous":
        with pytest.raises(HepfmError, match="record 0 has a number that is not finite"):
            counted(data, data.streams)


def test_streams_stand_beside_no_other_tokenizer(showers: Path, tmp_path: Path) -> None:
    jets = tokens_of(jet_corpus(tmp_path / "jets", 60), tmp_path)
    with pytest.raises(HepfmError, match="has 3 ids a point"):
        TokenCorpora.open([jets, showers], "joined")


def test_a_wider_range_keeps_what_was_learned() -> None:
    backbone = backbone_of(CELLS)
    wider = dataclasses.replace(CELLS, number=dataclasses.replace(ENERGY, low=-8.0, high=9.0))
    other = widened(backbone, wider)
    assert isinstance(other, StreamBackbone)
    assert other.heads.number is not None
    assert other.heads.number.high > backbone.heads.number.high  # type: ignore[union-attr]
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in backbone.state_dict().items())
    assert widened(backbone, CELLS) is backbone


@torch.no_grad()
def test_more_hits_in_a_layer_keep_what_was_learned_of_fewer() -> None:
    profile = Profile(4, "", 1.0, 1.0, 3, (1.0,) * 5, (1.0,) * 5, (-3.0,) * 5, (4.0,) * 5)
    streams = dataclasses.replace(CELLS, profile=profile)
    backbone = backbone_of(streams)
    other = widened(backbone, dataclasses.replace(streams, profile=dataclasses.replace(profile, most_hits=5)))
    assert isinstance(other, StreamBackbone)
    told, energies = torch.zeros(1, 32, dtype=torch.float64), torch.tensor([[9.0, 0, 0, 0]], dtype=torch.float64)
    before, after = (
        torch.tensor([-known.profile.counts(told, energies, energies.sign() * hits) for hits in (1, 2, 3)])  # type: ignore[union-attr]
        for known in (backbone, other.double())
    )
    torch.testing.assert_close(after - after[0], before - before[0])
    assert all(
        torch.equal(value, other.state_dict()[name])
        for name, value in backbone.state_dict().items()
        if "counts.out" not in name
    )
