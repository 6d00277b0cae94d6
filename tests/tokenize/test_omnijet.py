"""Tokenizers of OmniJet-alpha are read from their checkpoints and do what the original networks do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omnijet_dense import (
    FEATURES,
    SHOWER_FEATURES,
    VQVAEMLP,
    VQVAENormFormer,
    VQVAETransformer,
    config,
    write_tokenizer,
)
from torch import nn

from hepfm.core.artifacts import Artifact
from hepfm.core.errors import HepfmError
from hepfm.core.records import offsets_of
from hepfm.core.torch_files import read_checkpoint
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.verify import verify
from hepfm.tokenize.apply import apply
from hepfm.tokenize.normformer import NormFormerTokenizer
from hepfm.tokenize.omnijet import import_tokenizer, network_of
from hepfm.tokenize.omnijet_features import contract_of
from hepfm.tokenize.quality import measure
from hepfm.tokenize.registry import load_tokenizer

SAMPLE = Path(__file__).resolve().parents[2] / "../shared/data/omnijet_alpha"
ORIGIN = {"file": "model_ckpt.ckpt", "sha256": "0" * 64, "licence": "unknown"}
# Differences in float32 between two orders of summing that may swap two codes (squared distance).
TIE = 1e-5


def imported(path: Path, out: Path) -> tuple[NormFormerTokenizer, Artifact]:
    artifact = import_tokenizer(read_checkpoint(path), out, ORIGIN).artifact
    tokenizer = load_tokenizer(out)
    assert isinstance(tokenizer, NormFormerTokenizer)
    return tokenizer, artifact


def gaps(latents: np.ndarray, codebook: np.ndarray, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Squared distances to the found codes less those to the expected, where they differ, in float64."""
    differing = found != expected
    latents, codebook = latents.astype(np.float64), codebook.astype(np.float64)
    distance = [((latents - codebook[ids]) ** 2).sum(axis=1)[differing] for ids in (found, expected)]
    return np.abs(distance[0] - distance[1])


def encoded(tokenizer: NormFormerTokenizer, features: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids (T,) and latents (T, latent)."""
    ids, latents = tokenizer.encode_latents(features, offsets)
    return ids[:, 0], latents


# ---- the sample ----


@pytest.fixture(scope="module")
def sample() -> dict[str, np.ndarray]:
    if not (SAMPLE / "expected.npz").exists():
        pytest.skip(f"{SAMPLE / 'expected.npz'} is not there")
    with np.load(SAMPLE / "expected.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def released(sample: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> NormFormerTokenizer:
    return imported(SAMPLE / "tokenizer/model_ckpt.ckpt", tmp_path_factory.mktemp("released") / "tok")[0]


def test_ids_and_features_are_the_originals(released: NormFormerTokenizer, sample: dict[str, np.ndarray]) -> None:
    mask = sample["mask"]
    offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
    expected = sample["token_ids"][mask]
    ids, latents = encoded(released, sample["features"][mask], offsets)
    assert (ids == expected).mean() >= 0.999
    assert (gaps(latents, released.network.codebook.numpy(), ids, expected) < TIE).all()
    decoded = released.decode(expected, offsets)
    features = released.contract.encode_values(decoded)
    np.testing.assert_allclose(features, sample["reconstructed"][mask], atol=1e-5, rtol=0)


def test_a_corpus_gets_the_originals_tokens(
    released: NormFormerTokenizer,
    sample: dict[str, np.ndarray],
    real_jetclass_files: list[Path],
    tmp_path: Path,
) -> None:
    """From ROOT files about the stored axis: turned to the sum, cut, tokenized; 12 of 3,697 points fail the cuts."""
    from hepfm.ingest.build import BuildOptions, build
    from hepfm.ingest.sources.registry import source

    corpus = build(source("jetclass"), real_jetclass_files[:1], tmp_path / "corpus", BuildOptions(splits=(1, 0, 0)))
    released_path = tmp_path / "tok"
    imported(SAMPLE / "tokenizer/model_ckpt.ckpt", released_path)
    tokens = apply(released_path, corpus.path, tmp_path / "tokens", processes=2)
    assert verify(tokens.path) == []
    assert tokens.manifest.axis == "constituent_sum"
    left_out = corpus.manifest.splits["train"].points - tokens.manifest.splits["train"].points
    assert left_out == 12
    assert tokens.manifest.tokens is not None
    assert tokens.manifest.tokens["selection"]["cuts"] == {"deta": [-0.8, 0.8], "dphi": [-0.8, 0.8]}
    equal = total = 0
    for found, records in zip(tokens.split("train"), corpus.split("train"), strict=True):
        prepared = released.contract.prepared(records, "stored")
        assert offsets_of(found.column("tokens")).tolist() == offsets_of(prepared.column(0)).tolist()
        for ids, jet in zip(found.column("tokens").to_pylist(), found.column("source_entry").to_pylist(), strict=True):
            inside = sample["mask"][jet]
            # The reader orders constituents by pt; the network has no positions, so their order does not matter.
            order = np.argsort(-sample["features"][jet][inside][:, 0], kind="stable")
            equal += int((np.array(ids) == sample["token_ids"][jet][inside][order]).sum())
            total += len(ids)
    assert total == sample["mask"].sum()
    assert equal / total >= 0.999
    figures = measure(released, corpus.split("train"))
    assert figures["points"] == total
    assert figures["jet_mass_residual_gev"] < 40


def test_pt_relative_to_the_jet_is_refused(
    released: NormFormerTokenizer, sample: dict[str, np.ndarray], make_corpus: Callable[..., Corpus], tmp_path: Path
) -> None:
    imported(SAMPLE / "tokenizer/model_ckpt.ckpt", tmp_path / "tok")
    apply(tmp_path / "tok", make_corpus(60, axis="constituent_sum").path, tmp_path / "fits")
    relative = make_corpus(60, axis="constituent_sum", pt_scale=1 / 700)
    with pytest.raises(HepfmError, match=r"'constituents.pt' has values of about"):
        apply(tmp_path / "tok", relative.path, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


# ---- networks of other sizes ----

MODELS: dict[str, tuple[type[nn.Module], dict[str, Any], str]] = {
    "normformer": (VQVAENormFormer, {}, "jets"),
    "one block, one head, no affine": (
        VQVAENormFormer,
        {"num_blocks": 1, "num_heads": 1, "hidden_dim": 7, "affine_lr": 0.0, "mlp_width": 7, "num_codes": 300},
        "jets",
    ),
    "wide mlp, other rate": (VQVAENormFormer, {"mlp_width": 48, "affine_lr": 0.5, "latent_dim": 2}, "jets"),
    "showers": (VQVAENormFormer, {"input_dim": 4, "latent_dim": 12, "num_codes": 70}, "showers"),
    "mlp": (VQVAEMLP, {}, "jets"),
    "other mlp of showers": (
        VQVAEMLP,
        {"input_dim": 4, "encoder_layers": (9, 12, 7, 9), "decoder_layers": (11,), "affine_lr": 0.0},
        "showers",
    ),
    "the older layout": (VQVAETransformer, {"num_heads": 2}, "jets"),
}


def model_of(name: str, seed: int = 0) -> tuple[nn.Module, dict[str, Any], Any]:
    """The model, its model_kwargs, and its config."""
    kind, sizes, records = MODELS[name]
    torch.manual_seed(seed)
    model = kind(**sizes).eval()
    codes = len(model.vqlayer.codebook.weight)
    points = torch.randn(1, codes, sizes.get("input_dim", 3))
    model.vqlayer.spread(model.encode(points, torch.ones(1, codes, dtype=torch.bool))[0])
    kwargs = {"input_dim": 3, **{k: v for k, v in sizes.items() if k not in ("affine_lr", "num_codes", "mlp_width")}}
    if kind is VQVAENormFormer:
        kwargs = {"num_heads": 3, **kwargs}
    return model, kwargs, config(FEATURES if records == "jets" else SHOWER_FEATURES)


@pytest.mark.parametrize("name", MODELS)
def test_packed_is_what_padded_is(name: str, tmp_path: Path) -> None:
    model, kwargs, configuration = model_of(name)
    path = write_tokenizer(tmp_path / "in", model, configuration=configuration, **kwargs)
    tokenizer, artifact = imported(path, tmp_path / "tok")
    lengths = np.array([5, 1, 17, 0, 30])
    mask = torch.arange(30) < torch.from_numpy(lengths)[:, None]
    draws = torch.Generator().manual_seed(1)
    features = torch.randn(len(lengths), 30, kwargs["input_dim"], generator=draws) * mask[..., None]
    filled = lengths > 0  # the original's attention gives NaN where there is nothing to attend to
    with torch.no_grad():
        latent = model.encode(features[filled], mask[filled])
        expected = model.vqlayer.ids(latent)
        decoded = model.decode(expected, mask[filled])[mask[filled]].numpy()
    expected_ids = expected[mask[filled]].numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids, latents = encoded(tokenizer, features[mask].numpy(), offsets)
    assert (gaps(latents, tokenizer.network.codebook.numpy(), ids, expected_ids) < TIE).all()
    assert (ids == expected_ids).mean() >= 0.95
    np.testing.assert_allclose(latents, latent[mask[filled]].numpy(), atol=2e-5)
    found = tokenizer.decode(expected_ids, offsets)
    for index, feature in enumerate(tokenizer.contract.features):
        np.testing.assert_allclose(found[feature.name], feature.decode(decoded[:, index]), rtol=1e-4, atol=1e-4)
    assert artifact.architecture["codes"] == len(model.vqlayer.codebook.weight)
    assert len(np.unique(ids)) > 10


def test_the_affine_rate_comes_from_the_settings(tmp_path: Path) -> None:
    """The same weights under another affine_lr are another tokenizer."""
    model, kwargs, configuration = model_of("normformer")
    books = []
    for number, rate in enumerate((2.0, 1.0)):
        path = write_tokenizer(
            tmp_path / str(number), model, configuration=configuration, vq={"affine_lr": rate}, **kwargs
        )
        books.append(imported(path, tmp_path / f"tok{number}")[0].network.codebook)
        affine = model.vqlayer.affine_transform
        expected = (1 + rate * affine.scale) * model.vqlayer.codebook.weight + rate * affine.bias
        assert torch.allclose(books[-1], expected.detach(), atol=1e-6)
    assert not torch.allclose(*books)


def test_an_mlp_whose_settings_differ_from_its_weights_is_refused(tmp_path: Path) -> None:
    model, kwargs, _ = model_of("mlp")
    path = write_tokenizer(tmp_path / "in", model, **{**kwargs, "encoder_layers": [20, 20]})
    with pytest.raises(HepfmError, match=r"say encoder_layers \[20, 20\], its weights \[20, 20, 20\]"):
        imported(path, tmp_path / "tok")


def test_the_artifact_says_where_it_came_from(tmp_path: Path) -> None:
    model, kwargs, _ = model_of("normformer")
    _, artifact = imported(write_tokenizer(tmp_path / "in", model, **kwargs), tmp_path / "tok")
    known = artifact.provenance["imported"]
    assert {name: known[name] for name in ORIGIN} == ORIGIN
    assert known["settings"]["vq_kwargs"]["affine_lr"] == 2.0
    assert "24" in known["recognised"]
    card = (tmp_path / "tok/README.md").read_text()
    assert ORIGIN["sha256"] in card
    assert "Licence of the weights: unknown" in card
    assert "deta between -0.8 and 0.8" in card


def test_loading_replays_the_reference(tmp_path: Path) -> None:
    from hepfm.core.artifacts import write_artifact

    model, kwargs, _ = model_of("normformer")
    _, artifact = imported(write_tokenizer(tmp_path / "in", model, **kwargs), tmp_path / "tok")
    assert len(artifact.reference()["ids"]) > 20
    weights = artifact.weights()
    weights["codebook"] = weights["codebook"].flip(0)
    write_artifact(
        tmp_path / "other",
        kind="tokenizer",
        architecture=artifact.architecture,
        contract=artifact.contract,
        provenance={},
        weights=weights,
        metrics={},
        reference=artifact.reference(),
        card="",
    )
    with pytest.raises(HepfmError, match="reference points get another token here"):
        load_tokenizer(tmp_path / "other")


# ---- what is refused ----


def changed(model: nn.Module, **changes: Any) -> nn.Module:
    """A model whose state dict has these tensors beside its own, and lacks those that are None."""
    state = {**model.state_dict(), **{name: value for name, value in changes.items() if value is not None}}
    state = {name: value for name, value in state.items() if changes.get(name, value) is not None}
    model.state_dict = lambda *_, **__: state  # type: ignore[method-assign,assignment]
    return model


GATE = "encoder.blocks.0.attn.gate"
LN = "encoder_normformer.blocks.1.norm1.weight"
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another tokenizer's key": ({GATE: torch.ones(8)}, {}, r"is no VQVAENormFormer: it has 'model\.encoder\.blocks\.0"),
    "a key is missing": ({LN: None}, {}, "lacks the weight that would be 'encoder.blocks.1.attention_norm.weight'"),
    "another shape": (
        {LN: torch.ones(3)},
        {},
        r"'model\.encoder_normformer\.blocks\.1\.norm1\.weight' has shape \(3,\)",
    ),
    "not finite": ({LN: torch.full((24,), torch.nan)}, {}, "values that are not finite"),
    "an unknown part of the codebook": ({"vqlayer.running_mean": torch.ones(5)}, {}, r"vqlayer\.running_mean"),
    "half an affine map": ({"vqlayer.affine_transform.bias": None}, {}, "affine_lr 2.0, its state_dict has"),
    "no affine rate": ({}, {"vq": {"affine_lr": None}}, "say affine_lr None"),
    "a normalised codebook": ({}, {"vq": {"cb_norm": "l2"}}, "option cb_norm='l2'"),
    "other codes": ({}, {"vq": {"num_codes": 41}}, "say num_codes 41, its weights 40"),
    "other width": ({}, {"hidden_dim": 25}, "say hidden_dim 25, its weights 24"),
    "no heads": ({}, {"num_heads": None}, "say num_heads None"),
    "impossible heads": ({}, {"num_heads": 5}, "no multiple of 5 heads"),
    "another class": ({}, {"name": "VQVAEMPM"}, "model_type is 'VQVAEMPM', known are VQVAENormFormer"),
    "two layouts": ({"encoder.project_in.weight": torch.ones(24, 3)}, {}, "has the weights of two networks"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_checkpoint_that_is_something_else_is_refused(case: str, tmp_path: Path) -> None:
    state, settings, told = REFUSED[case]
    model, kwargs, _ = model_of("normformer")
    path = write_tokenizer(tmp_path / "in", changed(model, **state), **{**kwargs, **settings})
    with pytest.raises(HepfmError, match=rf"model_ckpt\.ckpt: .*{told}"):
        imported(path, tmp_path / "tok")
    assert not (tmp_path / "tok").exists()


def test_a_small_file_that_claims_a_huge_network_takes_no_memory(tmp_path: Path) -> None:
    model, kwargs, _ = model_of("normformer")
    large = changed(model, **{"input_projection.weight": torch.ones(300_000, 3)})
    path = write_tokenizer(tmp_path / "in", large, **{**kwargs, "hidden_dim": 300_000})
    checkpoint = read_checkpoint(path)
    with pytest.raises(HepfmError, match="has shape"):
        network_of(checkpoint, checkpoint.settings["model_kwargs"])


def altered(name: str, **changes: Any) -> Any:
    """The features, one of them with other settings."""
    return config({**FEATURES, name: {**FEATURES[name], **changes}})


CONFIGS: dict[str, tuple[Any, str]] = {
    "code": (altered("part_pt", func="__import__('os').abort"), r"func \"__import__\('os'\)\.abort\" with inv_func"),
    "lambda": (altered("part_pt", func="lambda x: x"), "func 'lambda x: x'"),
    "log without exp": (altered("part_pt", inv_func=None), "func 'np.log' with inv_func None"),
    "a list": (altered("part_pt", func=["np.log"]), r"func \['np.log'\]"),
    "clipping": (altered("part_pt", clip_min=0), "the setting 'clip_min'"),
    "unknown": (altered("part_pt", bins=5), "the setting 'bins'"),
    "no number": (altered("part_etarel", multiply_by="3 * 4"), "multiply_by '3 \\* 4', no number"),
    "zero": (altered("part_etarel", multiply_by=0), "multiplied by 0"),
    "more features": (config({**FEATURES, "part_mass": {}}), "has the features .*'part_mass'"),
    "relative pt": (config({"part_ptrel": {}, "part_etarel": {}, "part_phirel": {}}), "'part_ptrel'"),
    "another order": (config(dict(reversed(FEATURES.items()))), "in the order part_phirel, part_etarel, part_pt"),
    "showers": (config(SHOWER_FEATURES), "has 4 features, the network takes 3"),
    "no length": (config(pad_length=None), "pad_length is None"),
    "a threshold": (
        {"data": {"dataset_kwargs_common": {"feature_dict": FEATURES, "pad_length": 9, "energy_threshold": 0.1}}},
        "has energy_threshold 0.1",
    ),
    "nothing": ({"data": 3}, r"has no data\.dataset_kwargs_common\.feature_dict"),
    "a list alone": ([1], "is no mapping"),
    "another model's": (config(hidden_dim=128), "says hidden_dim 128, the checkpoint beside it 24"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_means_something_else_is_refused_and_not_evaluated(case: str, tmp_path: Path) -> None:
    content, told = CONFIGS[case]
    model, kwargs, _ = model_of("normformer")
    path = write_tokenizer(tmp_path / "in", model, configuration=content, **{"hidden_dim": 24, **kwargs})
    with pytest.raises(HepfmError, match=rf"config\.yaml: .*{told}"):
        imported(path, tmp_path / "tok")


# Ten lines that stand for 10^9 numbers; a program that shows or merges them needs more memory than there is.
ALIASES = "\n".join(
    ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)), "pad_length: *a9"]
).encode()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a: !!python/object/apply:os.abort []", "is no YAML"),
        (b"a: [", "is no YAML"),
        (b"\xff\xfe\x00", "is no YAML"),
        (ALIASES, "is no YAML: it has an alias, "),
    ],
)
def test_a_config_that_is_no_plain_yaml_is_refused(text: bytes, told: str, tmp_path: Path) -> None:
    model, kwargs, _ = model_of("normformer")
    path = write_tokenizer(tmp_path / "in", model, **kwargs)
    (tmp_path / "in/config.yaml").write_bytes(text)
    with pytest.raises(HepfmError, match=rf"config\.yaml: {told}"):
        imported(path, tmp_path / "tok")


def test_a_tokenizer_without_its_config_is_refused(tmp_path: Path) -> None:
    model, kwargs, _ = model_of("normformer")
    path = write_tokenizer(tmp_path / "in", model, **kwargs)
    (tmp_path / "in/config.yaml").unlink()
    with pytest.raises(HepfmError, match=r"has no config\.yaml beside it"):
        imported(path, tmp_path / "tok")


def test_features_sorted_by_a_yaml_writer_keep_the_networks_order() -> None:
    written = yaml.safe_load(yaml.safe_dump(config(), sort_keys=True))
    assert contract_of(written, Path("config.yaml"), 3) == contract_of(config(), Path("config.yaml"), 3)
    contract = contract_of(written, Path("config.yaml"), 3)
    assert contract.names == ("pt", "deta", "dphi")
    assert contract.features[0].encode(np.array([np.exp(2.0)])) == pytest.approx(0.2)
    assert contract.cuts == {"deta": [-0.8, 0.8], "dphi": [-0.8, 0.8]}
    assert contract.axis == "constituent_sum"


def test_showers_are_cells_of_their_grid() -> None:
    contract = contract_of(config(SHOWER_FEATURES, pad_length=1700), Path("config.yaml"), 4)
    assert contract.columns == ("points.cell_a", "points.cell_b", "points.layer", "points.energy")
    values = {"cell_a": 0, "cell_b": 29, "layer": 15, "energy": 1.0}
    encoded = contract.encode_values({name: np.array([value]) for name, value in values.items()})
    np.testing.assert_allclose(encoded[0], [-14.5 * 0.3, 14.5 * 0.3, -0.1, 1.0], rtol=1e-6)
    assert contract.max_points == 1700
    assert contract.axis == ""


def test_showers_of_the_grid_get_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import h5py

    from hepfm.core.records import points_of
    from hepfm.ingest.build import BuildOptions, build
    from hepfm.ingest.sources import shower_source
    from hepfm.ingest.sources.registry import source

    monkeypatch.setattr(shower_source, "LEAST_RESPONSE", 0.0)  # the energies here are no calorimeter's
    draws = np.random.default_rng(0)

    def corpus(cells: int) -> Corpus:
        dense = draws.exponential(1, (6, 30, cells, cells)) * (draws.random((6, 30, cells, cells)) < 0.005)
        with h5py.File(tmp_path / f"{cells}.hdf5", "w") as file:
            file[f"{cells}x{cells}/layers"] = dense.astype("f4")
            file[f"{cells}x{cells}/energy"] = draws.uniform(10, 100, (6, 1)).astype("f4")
        options = BuildOptions(splits=(1, 0, 0))
        return build(source("ildgrid"), [tmp_path / f"{cells}.hdf5"], tmp_path / f"corpus{cells}", options)

    model, kwargs, _ = model_of("showers")
    path = write_tokenizer(tmp_path / "in", model, configuration=config(SHOWER_FEATURES, pad_length=120), **kwargs)
    imported(path, tmp_path / "tok")
    showers = corpus(30)
    tokens = apply(tmp_path / "tok", showers.path, tmp_path / "tokens")
    lengths = [len(ids) for ids in next(iter(tokens.split("train"))).column("tokens").to_pylist()]
    assert max(lengths) == 120
    block = next(iter(showers.split("train")))
    mine = load_tokenizer(tmp_path / "tok").contract.prepared(block, "")
    assert points_of(mine, "energy").min() > 0
    first = np.sort(points_of(block.slice(0, 1), "energy"))[::-1][:120]
    np.testing.assert_array_equal(np.sort(points_of(mine.slice(0, 1), "energy"))[::-1], first)
    with pytest.raises(
        HepfmError, match=r"of a detector of 30 layers of 20 x 20 cells, the tokenizer was fitted on .* 30 x 30"
    ):
        apply(tmp_path / "tok", corpus(20).path, tmp_path / "others")


def test_such_a_network_is_not_fitted_here(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    from hepfm.tokenize.fit import fit_config, main

    settings = fit_config(["--tokenizer", "normformer"])
    corpus = make_corpus(60).path
    with pytest.raises(HepfmError, match="normformer: is imported, not fitted"):
        main(settings(corpus=corpus, out=tmp_path / "run", tokenizer="normformer"))
    assert not (tmp_path / "run").exists()
