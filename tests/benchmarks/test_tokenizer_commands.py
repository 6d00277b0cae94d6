"""The commands that judge tokenizers, on a small corpus, and the reference that the default is judged against."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hepfm.benchmarks.tokenizers import against, command, compare
from hepfm.benchmarks.tokenizers.normformer import SLOTS, NormFormerConfig, NormFormerVQ
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout

TOYS = Path(__file__).parents[1] / "tokenize/support"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 toy jets of two classes."""
    sys.path.insert(0, str(TOYS))
    from toy_jets import ToyJets

    from hepfm.ingest.build import BuildOptions, build

    folder = tmp_path_factory.mktemp("corpus")
    (folder / "jets.json").write_text(json.dumps({"entries": 600}))
    options = BuildOptions(splits=(0.5, 0.1, 0.4), run_entries=20, shard_entries=200, block_records=64)
    return build(ToyJets(), [folder / "jets.json"], folder / "corpus", options).path


@pytest.fixture(scope="module")
def binning(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Binning tokenizers of so many bins a feature."""
    from hepfm.tokenize.binning import BinningFitConfig
    from hepfm.tokenize.fit import main

    folder = tmp_path_factory.mktemp("tokenizers")

    def make(bins: int) -> Path:
        main(BinningFitConfig(corpus, folder / f"bins-{bins}", bins=(bins,), ids="each"))
        return folder / f"bins-{bins}"

    return make


def test_evaluate_tokenizer(
    corpus: Path, binning: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "report", tmp_path / "numbers.json"
    command.main(command.EvaluateTokenizerConfig(str(binning(8)), corpus, out, file, limit=200))
    said = capsys.readouterr()
    text = said.out
    assert "| all |" in text
    assert "τ32" in text
    assert ("no classifier: it needs pt, deta and dphi, and two classes of 40 jets" in said.err) == (
        "One classifier" not in text
    )
    assert str(out / "index.html") in text
    data = json.loads(file.read_text())
    assert data == json.loads((out / "report.json").read_text())
    assert data["rate"]["bits_per_point"] == 9
    assert len(data["rate"]["streams"]) == 3
    assert set(data["jets"]) == {"jet_mass", "jet_pt", "tau21", "tau32", "d2"}
    assert data["records"] == 200
    assert set(data["jets"]["d2"]["classes"]) == {"all", "QCD", "Tbqq"}
    assert (out / "index.html").read_text().startswith("<!doctype html>")


def test_more_bits_lose_less(corpus: Path, binning: Callable[[int], Path], tmp_path: Path) -> None:
    names = tuple(str(binning(bins)) for bins in (4, 32))
    compare.main(compare.CompareTokenizersConfig(names, corpus, tmp_path / "report"))
    found = json.loads((tmp_path / "report/report.json").read_text())["tokenizers"]
    few, many = found["bins-4"], found["bins-32"]
    assert few["rate"]["bits_per_point"] == 6
    assert many["rate"]["bits_per_point"] == 15
    for name in ("records.jet_mass", "points.pt", "points.deta", "points.dphi"):
        assert many["distortions"][name]["value"] < few["distortions"][name]["value"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "--limit: must be at least 1"),
        ({"split": "dev"}, "has no split 'dev'"),
        ({"tokenizer": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input_is_told(
    corpus: Path, binning: Callable[[int], Path], settings: dict[str, Any], message: str
) -> None:
    wanted = {"tokenizer": str(binning(8)), "corpus": corpus} | settings
    with pytest.raises(HepfmError, match=message):
        command.main(command.EvaluateTokenizerConfig(**wanted))


@pytest.fixture
def padded() -> tuple[NormFormerVQ, torch.Tensor, Layout]:
    torch.manual_seed(0)
    network = NormFormerVQ(NormFormerConfig(32, width=16, blocks=1, heads=2, dropout=0.0), 3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    lengths = np.array([5, 60, 128, 1])
    return network, torch.randn(int(lengths.sum()), 3), Layout.of(lengths)


def test_comparing_needs_some_records(corpus: Path, binning: Callable[[int], Path], tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="too few records to compare on: 20 are needed"):
        compare.main(compare.CompareTokenizersConfig((str(binning(8)),), corpus, tmp_path / "report", limit=10))
    assert not (tmp_path / "report").exists()


def test_the_reference_counts_padding(padded: tuple[NormFormerVQ, torch.Tensor, Layout]) -> None:
    network, features, layout = padded
    found = network.losses(features, layout)
    slots = 4 * SLOTS
    # The same on rectangles: latents of padding are 0, and what is decoded there is the decoder's last bias.
    latents, target, decoded = (
        torch.zeros(slots, 4),
        torch.zeros(slots, 3),
        network.decoder.head.bias.expand(slots, 3).clone(),
    )
    rows = torch.repeat_interleave(torch.arange(4), layout.offsets.diff().long()) * SLOTS + layout.positions
    latents[rows], target[rows] = network.encoder(features, layout), features
    distances = torch.cdist(latents, network.codes)
    ids = distances.argmin(dim=1)
    decoded[rows] = network.decoder(network.codes[ids[rows]], layout)
    quantiser = (latents - network.codes[ids]).square().mean()  # 0.1 and 0.9 of the same number
    torch.testing.assert_close(found.reconstruction, (decoded - target).square().mean())
    torch.testing.assert_close(found.total, found.reconstruction + 10 * quantiser)
    assert torch.equal(found.ids.sort().values, ids.sort().values)


def test_codes_without_use_become_padding(padded: tuple[NormFormerVQ, torch.Tensor, Layout]) -> None:
    network, features, layout = padded
    network.counter.fill_(1)
    found = network.losses(features, layout)
    network.replace(torch.zeros_like(found.slots), found.ids)
    unused = torch.ones(32, dtype=torch.bool)
    unused[found.ids] = False
    assert unused.any()
    torch.testing.assert_close(network.codes[unused], torch.zeros(int(unused.sum()), 4))


@pytest.mark.slow
def test_the_default_against_the_reference(corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    config = against.TokenizerQualityConfig(corpus, tmp_path / "runs", codes=(32,), steps=60, json=file)
    against.main(config)
    first = json.loads(file.read_text())
    assert first["ratios"]["32.jet_mass"] < 1
    assert first["spread"]["32.jet_mass"] > 0
    assert first["figures"]["32.default.unused"] == 0
    against.main(config)  # what is finished is used
    assert json.loads(file.read_text()) == first
