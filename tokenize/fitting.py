"""What fits of all tokenizers have in common: their settings, and how a fit ends in an artifact."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro
from tyro.conf import Positional

from hepfm.core.config import settings_of
from hepfm.core.engine import launch
from hepfm.core.engine.config import FREE_SETTINGS
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.card import card
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.feature_sets import contract_for
from hepfm.tokenize.quality import measure, of_stream

if TYPE_CHECKING:
    from hepfm.tokenize.registry import Tokenizer

FREE = FREE_SETTINGS | {"nproc"}
EXAMPLES = 16
COLLAPSED = 0.5  # share of the codes that should be in use


@dataclass(frozen=True)
class FitConfig:
    """What every fit is asked."""

    command: ClassVar[str] = "hepfm tokenizer fit"
    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Corpus of jets or showers; the tokenizer learns from its train split."""
    out: Path
    """Folder of the run."""
    tokenizer: str = "vqvae"
    """Which tokenizer: see the list above."""
    features: Literal["kinematics", "full"] = "kinematics"
    """Of jets. kinematics: pt, deta, dphi; full: also d0, dz and their errors (null for neutrals), charge and species.
    Showers have one set: position and energy."""

    def contract(self, corpus: Corpus) -> FeatureContract:
        """What the tokenizer will take points to be.

        Raises:
            HepfmError: the corpus does not have it.
        """
        return contract_for(self.features, corpus.manifest, corpus.path)


def claim(run: RunFolder, config: FitConfig) -> None:
    """Begin or continue the run's folder, in the main process."""
    launch.on_main(lambda: run.claim(config, FREE))


def check_codes(codes: int, corpus: Corpus, option: str = "--codes") -> None:
    """Refuse more codes than there are points to learn them from."""
    points = corpus.split("train").points
    if codes > points:
        raise HepfmError(
            f"{codes:,} codes are more than the {points:,} points of the train split",
            corpus.path,
            f"take fewer {option}, or a larger corpus",
        )


def write(run: RunFolder, tokenizer: Tokenizer, corpus: Corpus, config: FitConfig, figures: dict[str, float]) -> None:
    """Measure a tokenizer on the validation split and write its artifact."""
    split = corpus.split("val" if "val" in corpus.splits() else "train")
    quality = measure(tokenizer, split)
    _tell_collapsed(tokenizer, quality)
    metrics = {**figures, **quality, "measured_on": split.name}
    provenance = {
        "command": config.command,
        "config": settings_of(config, without=("corpus", "out", "nproc")),
        "corpus": {"digest": corpus.digest, "records": corpus.split("train").records},
    }
    tokenizer.save(
        run.artifact,
        examples=corpus.split("train").read(0).slice(0, EXAMPLES),
        provenance=provenance,
        metrics=metrics,
        card=card(tokenizer, provenance, metrics),
    )
    say(_summary(tokenizer, quality, split.name))


def _tell_collapsed(tokenizer: Tokenizer, quality: dict[str, float]) -> None:
    for stream in tokenizer.streams if tokenizer.cure else ():
        # So many of equally used codes would be met by chance among the points that were looked at.
        expected = 1 - math.exp(-quality["points"] / stream.codes)
        use = quality[of_stream("codebook_use", stream)]
        if use < COLLAPSED * expected:
            which = f" of id list '{stream.name}'" if stream.name else ""
            say(
                f"warning: only {use:.0%} of {stream.codes:,} codes{which} are used, the codebook collapsed: "
                f"{tokenizer.cure}"
            )


def _summary(tokenizer: Tokenizer, quality: dict[str, float], split: str) -> str:
    codes = " x ".join(f"{stream.codes:,}" for stream in tokenizer.streams)
    text = f"on {split}: {quality['codebook_use']:.1%} of {codes} codes used"
    if "codebook_perplexity" in quality:
        text += f" (perplexity {quality['codebook_perplexity']:.0f})"
    if "jet_mass_w1_gev" in quality:
        text += f", jet mass W1 {quality['jet_mass_w1_gev']:.2f} GeV"
        text += f", residual {quality['jet_mass_residual_gev']:.2f} GeV"
    return text


def done(run: RunFolder, what: str) -> None:
    """Say so, and print where the artifact is."""
    if launch.is_main():
        say(f"{run.path}: {what}")
        sys.stdout.write(f"{run.artifact}\n")
