"""Generators of OmniJet-alpha are read from their checkpoints; all that is done with a backbone is done with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omnijet_dense import Generator, VQVAENormFormer, write_checkpoint, write_generator, write_tokenizer
from torch import nn

from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.torch_files import read_checkpoint
from hepfm.models import ImportConfig, import_model
from hepfm.pretrain.backbone import Backbone, load_backbone
from hepfm.pretrain.data import pack
from hepfm.pretrain.omnijet import backbone_of

SAMPLE = Path(__file__).resolve().parents[2] / "../shared/data/omnijet_alpha"
CODES = 40
KWARGS = {"vocab_size": CODES + 2, "embedding_dim": 24, "n_heads": 4, "n_GPT_blocks": 2, "max_sequence_len": 20}


def here(ids: np.ndarray, codes: int) -> np.ndarray:
    """Their ids [start, codes, stop] as ids of this project [codes, start, stop]."""
    return np.where(ids == 0, codes, np.where(ids == codes + 1, ids, ids - 1))


def their_columns(logits: np.ndarray) -> np.ndarray:
    """Logits of this project in their order."""
    return np.concatenate([logits[..., -2:-1], logits[..., :-2], logits[..., -1:]], axis=-1)


@torch.no_grad()
def logits_of(backbone: Backbone, ids: np.ndarray) -> np.ndarray:
    """Logits (n, L, vocabulary) of sequences (n, L) of their ids, in their order."""
    inputs = torch.from_numpy(here(ids, backbone.config.codes).reshape(-1).astype(np.int64))
    logits = backbone(inputs, Layout.of(np.full(len(ids), ids.shape[1])))
    return their_columns(logits.numpy().reshape(*ids.shape, -1))


def test_logits_are_the_originals(tmp_path: Path) -> None:
    if not (SAMPLE / "expected.npz").exists():
        pytest.skip(f"{SAMPLE / 'expected.npz'} is not there")
    import_model(ImportConfig(SAMPLE / "tokenizer", tmp_path / "tok"))
    import_model(ImportConfig(SAMPLE / "generator", tmp_path / "gen", tokenizer=str(tmp_path / "tok")))
    backbone, artifact = load_backbone(tmp_path / "gen")
    with np.load(SAMPLE / "expected.npz") as expected:
        found = logits_of(backbone, expected["generator_input"])
        np.testing.assert_allclose(found, expected["generator_logits"], atol=1e-4, rtol=0)
        ids = expected["generator_input"]
        jets = [row[1:].tolist() for row in ids]  # the target of each id is the next; real jets are made of these
        assert artifact.contract["max_length"] == ids.shape[1]
        lengths = (ids[:, 1:] > 0).sum(axis=1)
        codes = np.concatenate([np.array(jet[:n]) - 1 for jet, n in zip(jets, lengths, strict=True)])
    batch = pack(codes, np.concatenate([[0], np.cumsum(lengths)]), 512, ids.shape[1])
    with torch.no_grad():
        loss = float(backbone.loss(batch.inputs, batch.targets, batch.layout)) / len(batch.targets)
    assert loss < np.log(512) - 0.5  # it was trained on such jets: other id conventions would be worse than chance


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Generator]:
    """Imported tokenizer and generator of other sizes, and the original network."""
    folder = tmp_path_factory.mktemp("omnijet")
    torch.manual_seed(1)
    tokenizer = VQVAENormFormer(num_codes=CODES)
    tokenizer.vqlayer.spread(tokenizer.encode(torch.randn(1, CODES, 3), torch.ones(1, CODES, dtype=torch.bool))[0])
    nn.init.normal_(tokenizer.output_projection.weight, std=0.02)  # inside the cuts
    generator = Generator(CODES).eval()
    write_tokenizer(folder / "t", tokenizer, input_dim=3, num_heads=3)
    write_generator(folder / "g", generator, **KWARGS)
    import_model(ImportConfig(folder / "t", folder / "tok"))
    import_model(
        ImportConfig(folder / "g/generator.ckpt", folder / "gen", tokenizer=str(folder / "tok"), licence="MIT")
    )
    return folder / "tok", folder / "gen", generator


def test_packed_is_what_dense_is(made: tuple[Path, Path, Generator]) -> None:
    backbone, _ = load_backbone(made[1])
    ids = np.random.default_rng(0).integers(1, CODES + 1, (5, 20))
    ids[:, 0] = 0
    ids[2, 15] = CODES + 1
    with torch.no_grad():
        expected = made[2](torch.from_numpy(ids)).numpy()
    np.testing.assert_allclose(logits_of(backbone, ids), expected, atol=1e-4)


def test_sampling_token_by_token_gives_the_same_logits(made: tuple[Path, Path, Generator]) -> None:
    backbone, _ = load_backbone(made[1])
    ids = np.random.default_rng(1).integers(1, CODES + 1, (16, 6))
    ids[:, 0] = 0
    cache = backbone.new_cache(16, 20)
    with torch.no_grad():
        steps = [backbone.step(torch.from_numpy(here(column, CODES)), cache) for column in ids.T]
        expected = made[2](torch.from_numpy(ids)).numpy()
    np.testing.assert_allclose(their_columns(torch.stack(steps, 1).numpy()), expected, atol=1e-4)


def test_it_generates_jets(made: tuple[Path, Path, Generator], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from hepfm.finetune.generate import GenerateConfig, main

    main(GenerateConfig(str(made[1]), tmp_path / "jets.parquet", n=30, format="parquet"))
    jets = pq.read_table(tmp_path / "jets.parquet")
    assert len(jets) == 30
    lengths = [len(jet) for jet in jets.column("constituents").to_pylist()]
    assert 1 <= min(lengths) <= max(lengths) <= 20


def jets_corpus(folder: Path) -> Path:
    """A few jets about the sum of their constituents."""
    from hepfm.core.records import schema
    from hepfm.ingest.formats.batches import jet_batch
    from hepfm.ingest.jobs import write_corpus
    from hepfm.ingest.plan import Job, Plan

    jets = schema("jets", ("pt", "deta", "dphi"), ())
    draws = np.random.default_rng(3)
    offsets = np.arange(0, 65 * 8, 8)
    points = {"pt": draws.exponential(9, 512) + 1, "deta": draws.normal(0, 0.2, 512), "dphi": draws.normal(0, 0.2, 512)}
    columns = {"source_file": np.zeros(64), "source_entry": np.arange(64)}
    batch = jet_batch(jets, (), offsets, points, columns)
    plan = Plan({}, (Job("train", 0, None, size=64),), "jets", jets, (), "constituent_sum", 64, {})
    write_corpus(folder, plan, lambda _: [batch])
    return folder


def test_it_is_fine_tuned_on_tokens_of_its_tokenizer(made: tuple[Path, Path, Generator], tmp_path: Path) -> None:
    from hepfm.core.engine.config import TrainingConfig
    from hepfm.core.runs import read_metrics
    from hepfm.finetune.adapt import AdaptConfig, main
    from hepfm.tokenize.apply import apply

    tokens = apply(made[0], jets_corpus(tmp_path / "corpus"), tmp_path / "tokens")
    training = TrainingConfig(steps=8, batch_records=32, warmup_steps=0, learning_rate=3e-3, log_every=1)
    main(AdaptConfig((tokens.path,), str(made[1]), tmp_path / "run", training=training))
    losses = [line["loss"] for line in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in line]
    assert losses[-1] < losses[0]
    assert load_backbone(tmp_path / "run")[1].provenance["parent"] == load_backbone(made[1])[1].hash


def test_the_artifact_says_where_it_came_from(made: tuple[Path, Path, Generator], capsys: Any, tmp_path: Path) -> None:
    from hepfm.core.files import sha256_file

    source = made[1].parent / "g/generator.ckpt"
    known = load_backbone(made[1])[1].provenance["imported"]
    assert (known["file"], known["sha256"], known["licence"]) == ("generator.ckpt", sha256_file(source), "MIT")
    assert (known["epoch"], known["global_step"]) == (3, 100)
    import_model(ImportConfig(source, tmp_path / "again", tokenizer=str(made[0])))
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'again'}\n"
    assert "recognised: OmniJet-alpha generator: 2 blocks, width 24, 4 heads, 40 codes, at most 20 points" in told.err
    assert sha256_file(source) in told.err
    assert "licence: unknown" in told.err


BLOCK = "module.GPT_blocks.1"
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a classifier": ({"head.classification_head_linear_embed.weight": torch.ones(2, 2)}, {}, "it has 'head.classif"),
    "a missing key": ({f"{BLOCK}.mha_block.key.weight": None}, {}, "block 1 has no key, query and value"),
    "a missing bias": ({"head.fc1.bias": None}, {}, "has no tensor 'head.bias'"),
    "another shape": ({f"{BLOCK}.layernorm_1.weight": torch.ones(3)}, {}, r"has shape \(3,\), expected \(24,\)"),
    "not finite": ({"head.fc1.bias": torch.full((42,), torch.inf)}, {}, "not finite"),
    "a third block in part": ({"module.GPT_blocks.2.layernorm_1.weight": torch.ones(24)}, {}, "say n_GPT_blocks 2"),
    "no heads": ({}, {"n_heads": None}, "say n_heads None"),
    "other heads": ({}, {"n_heads": 5}, "say n_heads 5, its width is 24"),
    "another vocabulary": ({}, {"vocab_size": 43}, "say vocab_size 43, its weights 42"),
    "no length": ({}, {"max_sequence_len": None}, "say max_sequence_len None"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_checkpoint_that_is_something_else_is_refused(
    case: str, made: tuple[Path, Path, Generator], tmp_path: Path
) -> None:
    changes, settings, told = REFUSED[case]
    state = {**made[2].state_dict(), **changes}
    path = write_checkpoint(
        tmp_path / "g.ckpt",
        {name: value for name, value in state.items() if value is not None},
        {"model_kwargs": {**KWARGS, **settings}},
    )
    with pytest.raises(HepfmError, match=rf"g\.ckpt: .*{told}"):
        import_model(ImportConfig(path, tmp_path / "gen", tokenizer=str(made[0])))
    assert not (tmp_path / "gen").exists()


def test_buffers_of_training_are_dropped(made: tuple[Path, Path, Generator], tmp_path: Path) -> None:
    """The loss's weights of the shower variant."""
    state = {**made[2].state_dict(), "criterion.weight": torch.ones(CODES + 2)}
    path = write_checkpoint(tmp_path / "g.ckpt", state, {"model_kwargs": KWARGS})
    backbone = backbone_of(read_checkpoint(path), KWARGS)
    assert torch.equal(backbone.head.weight, load_backbone(made[1])[0].head.weight)


def test_a_generator_needs_its_tokenizer(made: tuple[Path, Path, Generator], tmp_path: Path) -> None:
    source = made[1].parent / "g"
    with pytest.raises(HepfmError, match=r"does not say whose tokens it reads .*--tokenizer"):
        import_model(ImportConfig(source, tmp_path / "gen"))
    torch.manual_seed(2)
    write_tokenizer(tmp_path / "t", VQVAENormFormer(num_codes=7), input_dim=3, num_heads=3)
    import_model(ImportConfig(tmp_path / "t", tmp_path / "tok"))
    with pytest.raises(HepfmError, match="tok: has 7 codes, the generator reads 40"):
        import_model(ImportConfig(source, tmp_path / "gen", tokenizer=str(tmp_path / "tok")))
    with pytest.raises(HepfmError, match="--tokenizer: is for a generator, this is a tokenizer"):
        import_model(ImportConfig(tmp_path / "t", tmp_path / "other", tokenizer=str(tmp_path / "tok")))


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda folder: None, r"holds 0 checkpoints \(none\)"),
        (
            lambda folder: [(folder / name).touch() for name in ("a.ckpt", "b.ckpt")],
            r"2 checkpoints \(a.ckpt, b.ckpt\)",
        ),
        (
            lambda folder: write_checkpoint(folder / "a.ckpt", {"net.weight": torch.ones(1)}, {}),
            r"a\.ckpt: is not recognised: its state_dict has 'net\.weight', \.\.\. \(1 in all\)",
        ),
    ],
)
def test_a_folder_of_something_else(prepare: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    with pytest.raises(HepfmError, match=told):
        import_model(ImportConfig(tmp_path, tmp_path / "out"))


def test_what_is_there_is_not_replaced(made: tuple[Path, Path, Generator]) -> None:
    with pytest.raises(HepfmError, match="exists already"):
        import_model(ImportConfig(made[1].parent / "g", made[1], tokenizer=str(made[0])))
