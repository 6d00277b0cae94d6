"""``hepfm models import`` of weaver-core's Particle Transformers: the weights become the artifact of a tagger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hepfm.core.torch_files import Checkpoint
from hepfm.finetune.tagger import Tagger, save_tagger
from hepfm.finetune.weaver_weights import TOKEN, read_network, recognises
from hepfm.tokenize.omnijet import Imported

__all__ = ["TOKEN", "import_tagger", "recognises"]


def import_tagger(
    checkpoint: Checkpoint,
    out: Path,
    origin: Mapping[str, Any],
    labels: Sequence[str] = (),
    features: str = "",
    pair_activation: bool = True,
) -> Imported:
    """Write the artifact of a Particle Transformer's weights.

    Args:
        checkpoint: the weights.
        out: folder of the artifact.
        origin: what is known of the file (name, checksum, licence), for the artifact's provenance.
        labels, features, pair_activation: as for :func:`hepfm.finetune.weaver_weights.read_network`.

    Raises:
        HepfmError: keys or sizes that hepfm does not know, or labels and features that have to be stated.
    """
    found = read_network(checkpoint, labels, features, pair_activation)
    tagger = Tagger(
        found.network, "particle-transformer", found.labels, {label: label for label in found.labels}, found.features
    )
    parameters = sum(parameter.numel() for parameter in found.network.parameters())
    artifact = save_tagger(
        out,
        tagger,
        provenance={"imported": {**origin, "recognised": found.name}},
        metrics={"parameters": parameters},
        card=card(found.name, tagger, origin),
    )
    return Imported(artifact, found.name, parameters)


def card(recognised: str, tagger: Tagger, origin: Mapping[str, Any]) -> str:
    """Text that tells a reader what this tagger is and where it came from."""
    names = ", ".join(tagger.classes[:20]) + (", ..." if len(tagger.classes) > 20 else "")
    activation = "follows" if tagger.network.config.pair_activation else "does not follow"
    return f"""# {recognised}

Imported from the weights `{origin["file"]}` (sha256 `{origin["sha256"]}`); nothing in it was run.
Licence of the weights: {origin["licence"]}.

The file tells neither labels nor features nor whether a GELU follows the embedding of pairs: whoever imported it did,
or these are the published ones. Labels: {names}. Features: `{tagger.features.name}`, which `config.json` describes.
A GELU {activation} the embedding of pairs.

## Use

    hepfm evaluate tagging THIS_FOLDER CORPUS --out REPORT

`reference.npz` holds inputs and logits that loading replays.
"""
