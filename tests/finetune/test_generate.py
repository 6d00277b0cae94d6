"""``hepfm generate``: files that others read, from a backbone alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import uproot
from physics_tokens import jet_corpus, tokens_of

from hepfm.core import records
from hepfm.core.artifacts import write_artifact
from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.core.observables import Constituents, jet_mass, jet_pt
from hepfm.finetune import generator
from hepfm.finetune.decoded import JetRecords
from hepfm.finetune.generate import GenerateConfig, main
from hepfm.ingest.sources.jetnet import JetNetSource
from hepfm.pretrain.backbone import Backbone, BackboneConfig, save_backbone
from hepfm.tokenize.contract import FeatureContract


class ToyTokenizer:
    """pt grows with the code; where a token stands does not matter."""

    contract = FeatureContract()

    def decode(self, tokens: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
        angle = (tokens.astype(np.float32) - 10) / 20
        return {"pt": 1.0 + tokens.astype(np.float32), "deta": angle, "dphi": -angle}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig(codes=20, transformer=TransformerConfig(width=32, blocks=2, heads=4)))
    nothing = {"x": np.zeros(1)}
    write_artifact(
        tmp_path / "tokenizer",
        kind="tokenizer",
        architecture={},
        contract={},
        provenance={},
        weights={"x": torch.zeros(1)},
        metrics={},
        reference=nothing,
        card="",
    )
    save_backbone(
        tmp_path / "model",
        backbone,
        contract={"codes": 20, "max_length": 15},
        provenance={"tokenizer": ""},
        metrics={},
        card="",
        tokenizer=tmp_path / "tokenizer",
    )
    monkeypatch.setattr(generator, "load_tokenizer", lambda path: ToyTokenizer())
    monkeypatch.setattr(generator, "CHUNK_RECORDS", 64)
    return tmp_path / "model"


def test_parquet_holds_pt_ordered_massless_jets(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "jets.parquet"
    main(GenerateConfig(str(model), out, n=150, format="parquet"))
    table = pq.read_table(out).combine_chunks()
    batch = table.to_batches()[0]
    jets = Constituents.from_batch(batch)
    assert len(jets) == 150
    falls = np.diff(jets.pt) <= 0
    falls[jets.offsets[1:-1] - 1] = True
    assert falls.all()
    np.testing.assert_allclose(records.values_of(batch.column("mass")), jet_mass(jets), rtol=1e-5)
    np.testing.assert_allclose(records.values_of(batch.column("pt")), jet_pt(jets), rtol=1e-5)
    assert not records.values_of(batch.column("eta")).any()
    assert records.values_of(batch.column("source_entry")).tolist() == list(range(150))


def test_jetclass_file_has_the_same_jets(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(GenerateConfig(str(model), tmp_path / "jets.root", n=70))
    told = capsys.readouterr()
    assert told.out.strip() == str(tmp_path / "jets.root")
    assert "reached the maximum of 15 constituents" in told.err
    main(GenerateConfig(str(model), tmp_path / "jets.parquet", n=70, format="parquet", batch=3))
    batch = pq.read_table(tmp_path / "jets.parquet").combine_chunks().to_batches()[0]
    with uproot.open({tmp_path / "jets.root": "tree"}) as tree:
        np.testing.assert_allclose(tree["jet_pt"].array().to_numpy(), records.values_of(batch.column("pt")), rtol=1e-5)
        deta = np.concatenate([np.asarray(jet) for jet in tree["part_deta"].array()])
    np.testing.assert_allclose(np.abs(deta), np.abs(records.points_of(batch, "deta")), atol=1e-6)


def test_jetnet_file_has_the_same_jets(model: Path, tmp_path: Path) -> None:
    for name, form in (("t.hdf5", "jetnet"), ("jets.parquet", "parquet")):
        main(GenerateConfig(str(model), tmp_path / name, n=70, format=form))  # type: ignore[arg-type]
    wrote = pq.read_table(tmp_path / "jets.parquet").combine_chunks().to_batches()[0]
    source = JetNetSource().bind([tmp_path / "t.hdf5"])
    read = source.read(tmp_path / "t.hdf5", 0, source.entries(tmp_path / "t.hdf5"))
    for name in ("pt", "mass", "eta"):
        assert np.array_equal(read.column(name), wrote.column(name))
    assert np.array_equal(*(records.offsets_of(batch.column("constituents")) for batch in (read, wrote)))
    for name in ("pt", "deta", "dphi"):
        np.testing.assert_allclose(records.points_of(read, name), records.points_of(wrote, name), rtol=1e-6)


def test_an_existing_file_is_left_alone(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "jets.root"
    out.write_text("mine")
    with pytest.raises(HepfmError, match="exists already"):
        main(GenerateConfig(str(model), out))
    assert out.read_text() == "mine"


def test_what_fails_halfway_leaves_no_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(JetRecords, "of", broken)
    for format in ("jetclass", "parquet"):
        config = GenerateConfig(str(model), tmp_path / "out" / "jets", format=format)  # type: ignore[arg-type]
        with pytest.raises(RuntimeError):
            main(config)
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("option", "value"), [("n", 0), ("batch", 0), ("temperature", -1.0), ("top_p", 2.0)])
def test_impossible_settings_are_named(option: str, value: float, model: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(GenerateConfig(str(model), tmp_path / "jets.root"), **{option: value})
    with pytest.raises(HepfmError, match=option.replace("_", "-")):
        main(config)


def test_no_such_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="no such run or artifact"):
        main(GenerateConfig(str(tmp_path / "none"), tmp_path / "jets.root"))
    tokens = tokens_of(jet_corpus(tmp_path / "sim", 20), tmp_path)
    with pytest.raises(HepfmError, match="is a corpus, not a model"):
        main(GenerateConfig(str(tokens), tmp_path / "jets.root"))


def test_command_line_takes_a_short_n() -> None:
    config = parse(GenerateConfig, ["run", "-n", "7", "--out", "jets.root", "--top-k", "5"], "hepfm generate")
    assert (config.n, config.top_k, config.out) == (7, 5, Path("jets.root"))
