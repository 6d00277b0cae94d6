"""``hepfm bench tokenizer-quality``: the default VQ-VAE against a NormFormer-VQ that counts padding, at equal codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional

from hepfm.benchmarks.report import number
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.tokenizers.command import LIMIT
from hepfm.benchmarks.tokenizers.measures import Rate, estimates, half_width, measure_codes
from hepfm.benchmarks.tokenizers.normformer import NormFormerReference
from hepfm.benchmarks.tokenizers.quantities import JETS, decoded_values, original_values
from hepfm.benchmarks.tokenizers.reference_fit import fit_reference, sizes_like
from hepfm.benchmarks.tokenizers.sample import Reconstruction, reconstruct
from hepfm.benchmarks.workload import machine
from hepfm.core.artifacts import read_artifact
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json
from hepfm.core.runs import RunFolder
from hepfm.core.statistics import REPLICAS, Estimate, Values
from hepfm.core.versions import versions
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize import fit
from hepfm.tokenize.fitting import EXAMPLES
from hepfm.tokenize.registry import load_tokenizer

ASKED_RATIO, ASKED_USE = 0.8, 0.99


@dataclass(frozen=True)
class TokenizerQualityConfig:
    """Fit the default VQ-VAE, and OmniJet-alpha's NormFormer-VQ as it counts padding in its statistics, at equal codes:
    the same jets in the same order, as many updates, the same width, blocks, heads and latent space. Then compare what
    both keep of held-out jets."""

    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Corpus of jets with a train split."""
    out: Path
    """Folder of the runs. Given again, what is finished there is used."""
    codes: tuple[int, ...] = (512, 8192)
    """Sizes of the codebook to compare at."""
    steps: int = 1000
    """Updates of each training."""
    split: str = "test"
    """Split to measure on."""
    limit: int = LIMIT
    """Jets to measure on at most."""
    seed: int = 0
    """Seed of trainings and bootstrap replicas."""
    json: Path | None = None
    """File for the result."""


@dataclass(frozen=True)
class Side:
    """One tokenizer: half widths of the residuals by quantity, and the use of its codes."""

    widths: dict[str, Estimate]
    rate: Rate

    @property
    def unused(self) -> int:
        """Codes without a real token."""
        return self.rate.streams[0].codes - self.rate.streams[0].used


@dataclass(frozen=True)
class Pair:
    """Both tokenizers at one size.

    Attributes:
        codes: size of the codebooks.
        default, reference: what was measured of either.
        ratios: half widths of the default's residuals over the reference's, errors taken over the same jets.
    """

    codes: int
    default: Side
    reference: Side
    ratios: dict[str, Estimate]


def main(config: TokenizerQualityConfig) -> None:
    """Fit, measure, print tables and write the result."""
    for name, least in (("steps", 1), ("limit", 20)):
        if getattr(config, name) < least:
            raise HepfmError(f"must be at least {least}, is {getattr(config, name)}", f"--{name}")
    corpus = Corpus.open(config.corpus)
    pairs = [_pair(config, corpus, codes) for codes in config.codes]
    sys.stdout.write("\n".join(table.markdown() for table in tables(pairs)))
    if config.json is not None:
        write_json(config.json, as_data(config, corpus, pairs))


def _pair(config: TokenizerQualityConfig, corpus: Corpus, codes: int) -> Pair:
    settings = fit.TokenizerFitConfig(config.corpus, config.out / f"default-{codes}")
    training = replace(settings.training, steps=config.steps, seed=config.seed)
    settings = replace(settings, network=replace(settings.network, codes=codes), training=training)
    reference = _reference(config, settings, corpus)
    fit.main(settings)
    default = load_tokenizer(settings.out)
    decoded = reconstruct(default, corpus, config.split, config.limit)
    return compare_pair(codes, decoded, reconstruct(reference, corpus, config.split, config.limit), seed=config.seed)


def _reference(config: TokenizerQualityConfig, settings: fit.TokenizerFitConfig, corpus: Corpus) -> NormFormerReference:
    """The reference of the same size and training, from its folder if it is finished there."""
    contract = settings.contract(corpus)
    sizes = sizes_like(settings.network, contract.width, settings.training.batch_records)
    run = RunFolder(config.out / f"reference-{sizes.codes}")
    run.claim(replace(settings, out=run.path, tokenizer=NormFormerReference.kind))
    if run.finished:
        return NormFormerReference.load(read_artifact(run.artifact, "tokenizer"))
    tokenizer = fit_reference(corpus, contract, sizes, settings.training)
    examples = corpus.split("train").read(0).slice(0, EXAMPLES)
    provenance = {"corpus": {"digest": corpus.digest}}
    tokenizer.save(run.artifact, examples=examples, provenance=provenance, metrics={}, card="A benchmark's reference.")
    return tokenizer


def compare_pair(
    codes: int, default: Reconstruction, reference: Reconstruction, *, seed: int = 0, replicas: int = REPLICAS
) -> Pair:
    """Residuals of both on the same jets."""
    samples = (default, reference)
    original = original_values(default)
    decoded = [decoded_values(sample) for sample in samples]
    widths: list[dict[str, Estimate]] = [{}, {}]
    ratios = {}
    for quantity in JETS:
        differences = np.stack([values[quantity.name] - original[quantity.name] for values in decoded])
        differences = differences[:, np.isfinite(differences).all(axis=0)]
        for found, values in zip(widths, differences, strict=True):
            key = f"{seed}/{codes}/{quantity.name}"
            found[quantity.name] = estimates(Values.per_record(values), (half_width,), key, replicas)[0]
        ratios[quantity.name] = _ratio(differences, f"{seed}/{codes}/{quantity.name}", replicas)
    sides = [Side(found, measure_codes(sample)) for found, sample in zip(widths, samples, strict=True)]
    return Pair(codes, sides[0], sides[1], ratios)


def _ratio(differences: np.ndarray, key: str, replicas: int) -> Estimate:
    """Half width of the first residuals (2, n) over that of the second, jets drawn anew for both together."""
    draws, jets = generator("ratio", key), differences.shape[1]
    chosen = [draws.integers(0, jets, jets) for _ in range(replicas)]
    drawn = [half_width(differences[0, again]) / half_width(differences[1, again]) for again in chosen]
    return Estimate(half_width(differences[0]) / half_width(differences[1]), float(np.std(drawn, ddof=1)))


def tables(pairs: Sequence[Pair]) -> list[Table]:
    """Residuals, and the use of the codes."""
    rows, use = [], []
    for pair in pairs:
        for quantity in JETS:
            ratio = pair.ratios[quantity.name]
            missed = quantity.name == "jet_mass" and ratio.value > ASKED_RATIO
            title = f"{quantity.title} [{quantity.unit}]" if quantity.unit else quantity.title
            widths = [Cell(number(side.widths[quantity.name])) for side in (pair.default, pair.reference)]
            rows.append((Cell(f"{pair.codes:,}"), Cell(title), *widths, Cell(number(ratio), missed)))
        for name, side in (("default", pair.default), ("reference", pair.reference)):
            share, stream = side.rate.use, side.rate.streams[0]
            cells = (Cell(f"{share:.2%}", name == "default" and share < ASKED_USE), Cell(f"{side.unused:,}"))
            use.append((Cell(f"{pair.codes:,}"), Cell(name), *cells, Cell(f"{stream.perplexity:,.0f}")))
    note = (
        "Half the width of the central 68% of decoded minus original; errors: bootstrap, of the ratio over the same"
        f" jets. Bold: a ratio of jet masses above {ASKED_RATIO:g}."
    )
    header = ("codes", "residual", "default", "reference", "ratio")
    tokens = pairs[0].default.rate.tokens
    use_note = (
        f"Of {tokens:,} real tokens: codes that are rare need many tokens a code to show. Bold: the default uses less"
        f" than {ASKED_USE:.0%}."
    )
    return [
        Table("Default VQ-VAE against NormFormer-VQ with padding in its statistics", header, tuple(rows), note),
        Table("Codes", ("codes", "tokenizer", "use", "unused", "perplexity"), tuple(use), use_note),
    ]


def as_data(config: TokenizerQualityConfig, corpus: Corpus, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The result as JSON; ratios are named CODES.QUANTITY."""
    named = {f"{pair.codes}.{name}": ratio for pair in pairs for name, ratio in pair.ratios.items()}
    figures: dict[str, float] = {}
    for pair in pairs:
        for label, side in (("default", pair.default), ("reference", pair.reference)):
            figures |= {f"{pair.codes}.{label}.{name}": width.value for name, width in side.widths.items()}
            figures |= {
                f"{pair.codes}.{label}.use": side.rate.use,
                f"{pair.codes}.{label}.unused": side.unused,
                f"{pair.codes}.{label}.perplexity": side.rate.streams[0].perplexity,
            }
    return {
        "name": "tokenizer-quality",
        "value": pairs[0].default.widths["jet_mass"].value,
        "unit": "GeV",
        "ratios": {name: ratio.value for name, ratio in named.items()},
        "spread": {name: ratio.error for name, ratio in named.items()},
        "figures": figures,
        "corpus": {"digest": corpus.digest, "split": config.split, "limit": config.limit},
        "steps": config.steps,
        "machine": machine(),
        "versions": versions(),
    }
