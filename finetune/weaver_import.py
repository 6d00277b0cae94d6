"""``hepfm models import`` of weaver-core's Particle Transformers and ParticleNets: from weights to an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hepfm.core.torch_files import Checkpoint
from hepfm.finetune import particle_net_weights, weaver_weights
from hepfm.finetune.tagger import Tagger, save_tagger
from hepfm.finetune.weaver_weights import TOKEN
from hepfm.tokenize.omnijet import Imported

__all__ = ["TOKEN", "import_tagger", "recognises"]


def recognises(checkpoint: Checkpoint) -> bool:
    """Is it a network of weaver-core's that hepfm knows?"""
    return weaver_weights.recognises(checkpoint) or particle_net_weights.recognises(checkpoint)


def import_tagger(
    checkpoint: Checkpoint,
    out: Path,
    origin: Mapping[str, Any],
    labels: Sequence[str] = (),
    features: str = "",
    pair_activation: bool = True,
) -> Imported:
    """Write the artifact of a Particle Transformer's or ParticleNet's weights.

    Args:
        checkpoint: the weights.
        out: folder of the artifact.
        origin: what is known of the file (name, checksum, licence), for the artifact's provenance.
        labels, features, pair_activation: as for :func:`hepfm.finetune.weaver_weights.read_network`.

    Raises:
        HepfmError: keys or sizes that hepfm does not know, or labels and features that have to be stated.
    """
    if particle_net_weights.recognises(checkpoint):
        found, architecture = particle_net_weights.read_network(checkpoint, labels, features), "particle-net"
    else:
        found = weaver_weights.read_network(checkpoint, labels, features, pair_activation)
        architecture = "particle-transformer"
    tagger = Tagger(found.network, architecture, found.labels, {label: label for label in found.labels}, found.features)
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
    untold, activation = "", ""
    if tagger.architecture == "particle-transformer":
        follows = "follows" if tagger.network.config.pair_activation else "does not follow"
        untold = " nor whether a GELU follows the embedding of pairs"
        activation = f"\nA GELU {follows} the embedding of pairs."
    return f"""# {recognised}

Imported from the weights `{origin["file"]}` (sha256 `{origin["sha256"]}`); nothing in it was run.
Licence of the weights: {origin["licence"]}.

The file tells neither labels nor features{untold}: whoever imported it did, or
these are the published ones. Labels: {names}. Features: `{tagger.features.name}`, which
`config.json` describes.{activation}

## Use

    hepfm evaluate tagging THIS_FOLDER CORPUS --out REPORT

`reference.npz` holds inputs and logits that loading replays.
"""
