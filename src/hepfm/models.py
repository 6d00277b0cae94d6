"""Models by name: whatever :func:`hepfm.core.resolve.resolve` finds, loaded by its kind; imports of others'."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from hepfm.core.artifacts import read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.core.progress import say
from hepfm.core.resolve import resolve
from hepfm.core.torch_files import Checkpoint, read_checkpoint

# kind of artifact -> the function (path) -> model that loads it
LOADERS = {
    "tokenizer": "hepfm.tokenize.registry:load_tokenizer",
    "backbone": "hepfm.pretrain.backbone:load_backbone",
    "tagger": "hepfm.finetune.tagger:load_tagger",
    "regressor": "hepfm.finetune.regression:load_regressor",
}


def load(name: str | Path) -> Any:
    """The network or tokenizer that ``name`` stands for, as its stage loads it (most with their artifact).

    :func:`hepfm.load` gives the same model behind an interface that does not depend on its kind.
    """
    path = resolve(name)
    artifact = read_artifact(path)
    if artifact.kind not in LOADERS:
        raise HepfmError(f"no loader for an artifact of kind '{artifact.kind}'", path, "update hepfm")
    module, function = LOADERS[artifact.kind].split(":")
    return getattr(importlib.import_module(module), function)(path)


@dataclass(frozen=True)
class ImportConfig:
    """Turn a checkpoint of somebody else's code into an artifact. Nothing in it is run, and their code is not needed.

    Read are the tokenizers and generators of OmniJet-alpha (VQVAENormFormer, VQVAEMLP, GPT) for jets and showers, and
    the weights (.pt) of weaver-core's ParticleTransformer (Particle Transformer on JetClass, Sophon, or your own) and
    ParticleNet.
    """

    path: Annotated[Positional[Path], tyro.conf.arg(metavar="PATH")]
    """Checkpoint (.ckpt), or the folder that holds it; a tokenizer's config.yaml lies beside it."""
    out: Path
    """Folder of the artifact: new."""
    tokenizer: str = ""
    """Of a generator: the tokenizer whose tokens it reads, as a run, an artifact folder, a hub id or a URL."""
    labels: tuple[str, ...] = ()
    """Of a tagger: labels of its outputs, in order; by default those of JetClass for 10 and of JetClass-II for 188."""
    features: str = ""
    """Of a tagger: the feature set that it reads (full, kinpid, kin, sophon); by default the published one."""
    pair_activation: bool = True
    """Of a tagger: whether a GELU follows the embedding of pairs, which no file tells: it does in the published models,
    which set use_pre_activation_pair=False; weaver-core's own default is without."""
    licence: str = "unknown"
    """Licence of the weights, kept in the artifact; checkpoints do not state one."""


def import_model(config: ImportConfig, quiet: bool = False) -> None:
    """Recognise, convert, write, and load what was written; tell what it is and, unless ``quiet``, print the path."""
    if config.out.exists():
        raise HepfmError("exists already", config.out, "name another --out, or remove it")
    checkpoint = read_checkpoint(_checkpoint_in(config.path))
    origin = {
        "file": checkpoint.path.name,
        "sha256": sha256_file(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
        "licence": config.licence,
        "command": "hepfm models import",
        **checkpoint.progress,
    }
    made = _import(checkpoint, config, origin)
    load(config.out)  # replays the reference
    say(f"recognised: {made.recognised}")
    say(f"{made.parameters:,} parameters; licence: {config.licence}")
    say(f"source: {origin['file']}, {origin['bytes']:,} bytes, sha256 {origin['sha256']}")
    if not quiet:
        sys.stdout.write(f"{config.out}\n")


def _import(checkpoint: Checkpoint, config: ImportConfig, origin: dict[str, Any]) -> Any:
    from hepfm.finetune import weaver_import as taggers
    from hepfm.pretrain import omnijet as generators
    from hepfm.tokenize import omnijet as tokenizers

    if taggers.recognises(checkpoint):
        if config.tokenizer:
            raise HepfmError("is for a generator, this is a tagger", "--tokenizer", "leave it out")
        return taggers.import_tagger(
            checkpoint, config.out, origin, config.labels, config.features, config.pair_activation
        )
    if config.labels or config.features:
        raise HepfmError("is for a tagger, this is none", "--labels" if config.labels else "--features", "leave it out")
    if tokenizers.recognises(checkpoint):
        if config.tokenizer:
            raise HepfmError("is for a generator, this is a tokenizer", "--tokenizer", "leave it out")
        return tokenizers.import_tokenizer(checkpoint, config.out, origin)
    if generators.recognises(checkpoint):
        return generators.import_backbone(checkpoint, config.out, origin, config.tokenizer)
    names = sorted(checkpoint.state)
    raise HepfmError(
        f"is not recognised: its state_dict has {', '.join(map(repr, names[:4]))}, ... ({len(names)} in all)",
        checkpoint.path,
        f"known: OmniJet-alpha tokenizers (with '{tokenizers.CODEBOOK}') and generators ('{generators.EMBEDDING}'), "
        f"and weaver-core's Particle Transformers ('{taggers.TOKEN}') and ParticleNets ('edge_convs')",
    )


def _checkpoint_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.ckpt"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise HepfmError(f"holds {len(found)} checkpoints ({names})", path, "name the file")
    return found[0]
