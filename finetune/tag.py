"""``hepfm finetune tag``: a network that tells classes of jets apart, from a labelled corpus."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import tyro
from torch import nn
from tyro.conf import Positional

from hepfm.core.config import settings_of
from hepfm.core.draws import key_of
from hepfm.core.engine import launch
from hepfm.core.engine.batches import Losses
from hepfm.core.engine.config import FREE_SETTINGS, TrainingConfig
from hepfm.core.engine.train import train
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.finetune.boosted_tagger import ARCHITECTURE, Substructure, TreesTagger, fit_trees, save_trees
from hepfm.finetune.boosted_trees import FEATURES, BoostedTreesConfig
from hepfm.finetune.inputs import FEATURE_SETS, FeatureSet
from hepfm.finetune.labelled import Classes, InputReader, LabelledBatches, LabelledCorpora, LabelledJets
from hepfm.finetune.sophon import ladder
from hepfm.finetune.tagger import NETWORKS, Tagger, load_tagger, save_tagger

FREE = FREE_SETTINGS | {"nproc"}
Model = Literal["particle-transformer", "sophon", "deep-sets", "boosted-trees"]
Protocol = Literal["full", "frozen"]
Features = Literal["default", "full", "kinpid", "kin", "sophon"]
# Models that are another one's architecture in other sizes, and with other features.
VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "particle-transformer": ("particle-transformer", {}, "full"),
    "sophon": ("particle-transformer", {"head": (512,)}, "sophon"),
    "deep-sets": ("deep-sets", {}, "full"),
}


@dataclass(frozen=True)
class TagConfig:
    """Train a tagger on labelled jets, from scratch or from another one. Run again after an interruption, it continues
    to the same weights."""

    corpora: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CORPUS...")]
    """Corpora of labelled jets, or one mixture of them (hepfm corpus mix): flat in pt and mass, say."""
    out: Path
    """Folder of the run."""
    model: Model = "particle-transformer"
    """particle-transformer (2.1 M parameters), sophon (the same with a hidden layer of 512 in its head and four-vectors
    scaled to 500 GeV), deep-sets (0.08 M), or boosted-trees on substructure (200 rounds; of the training settings only
    the seed counts)."""
    tagger: str = ""
    """Pretrained tagger to start from, a run, an artifact folder, a hub id or a URL: its network and features with a
    new head, whatever --model says."""
    protocol: Protocol = "full"
    """Of a pretrained tagger: full trains all weights, frozen the head alone (no gradients, no optimizer states for the
    rest; batch norms keep their statistics)."""
    features: Features = "default"
    """full: 17 numbers of a particle; kinpid: without displacement, 13; kin: kinematics alone, 7; sophon: as full, on
    four-vectors scaled to 500 GeV. By default the model's own, full or sophon."""
    labels: tuple[str, ...] = ()
    """Labels to tell apart, in this order; jets of others are left out. By default all of the corpus."""
    ladder: Literal[0, 188, 162, 43, 17] = 0
    """Merge JetClass-II's labels into so many classes; 0 leaves every label its own class."""
    jets: int = 0
    """Labelled training jets that are used, as many of each class; 0 for all. 200 include the 100 of the same seed."""
    nproc: int = 1
    """Processes on this machine; at most one per GPU."""
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(batch_records=512, betas=(0.9, 0.99)))


class Classification(nn.Module):
    """The cross entropy of jets' classes [nats], summed over jets.

    Args:
        network: jets to logits, by way of an embedding.
        frozen: train what follows the embedding alone.
    """

    def __init__(self, network: Any, frozen: bool = False) -> None:
        super().__init__()
        self.network, self.frozen = network, frozen
        if frozen:
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(is_head(name))

    def forward(self, batch: LabelledJets) -> Losses:
        logits = self._logits(batch.inputs).float()
        total = F.cross_entropy(logits, batch.targets, reduction="sum")
        return Losses(total, {"accuracy": (logits.argmax(1) == batch.targets).sum()})

    def _logits(self, inputs: Any) -> torch.Tensor:
        if not self.frozen:
            return self.network(inputs)
        self.network.eval()  # neither dropout nor batch statistics in what does not learn
        with torch.no_grad():
            embedding = self.network.embedding(inputs)
        return self.network.classify(embedding)


def is_head(name: str) -> bool:
    """Does a parameter belong to what follows the embedding?"""
    return name.startswith("head")


def main(config: TagConfig) -> None:
    """Train and write the artifact."""
    config.training.check(config.nproc)
    launch.relaunch(config.nproc)
    run = RunFolder(config.out)
    if run.finished:
        run.claim(config, FREE)
        _done(run, "is finished already")
        return
    if config.jets < 0:
        raise HepfmError(f"must not be negative, is {config.jets}", "--jets")
    data = LabelledCorpora.open(config.corpora)
    classes = data.classes(config.labels, ladder(config.ladder) if config.ladder else None)
    if config.protocol == "frozen" and not config.tagger:
        raise HepfmError("a network that nothing was learned by cannot be frozen", "--protocol", "name a --tagger")
    if config.model == ARCHITECTURE and not config.tagger:
        _grow(config, run, data, classes)
    else:
        _train(config, run, data, classes)
    _done(run, "finished")


def _train(config: TagConfig, run: RunFolder, data: LabelledCorpora, classes: Classes) -> None:
    """A network, by the engine."""
    tagger, parent = begin(config, classes)
    training = _batches(config, data, classes, tagger.features)
    validation, settings = _validation(data, classes, tagger, config.training)
    launch.setup()
    launch.on_main(lambda: run.claim(config, FREE))
    _announce(tagger, data, training, settings)
    figures = train(
        Classification(tagger.network, config.protocol == "frozen"),
        training,
        validation,
        settings,
        run,
        {**_identity(tagger, data, config), "parent": parent, "protocol": config.protocol},
    )
    if launch.is_main():
        provenance = {**_provenance(config, data, training), "parent": parent}
        metrics = {
            **figures,
            **accuracy_uncertainty(figures, settings),
            "steps": settings.steps,
            "parameters": parameters_of(tagger.network),
        }
        tagger.network.cpu().eval()
        text = card(tagger.architecture, tagger.classes, _reads(tagger.features), provenance, metrics)
        save_tagger(run.artifact, tagger, provenance=provenance, metrics=metrics, card=text)


def accuracy_uncertainty(figures: dict[str, float], settings: TrainingConfig) -> dict[str, float]:
    """The binomial error of the accuracy on validation jets, if it was measured."""
    accuracy = figures.get("validation_accuracy")
    if accuracy is None:
        return {}
    return {"validation_accuracy_uncertainty": (accuracy * (1 - accuracy) / settings.validation_records) ** 0.5}


def _grow(config: TagConfig, run: RunFolder, data: LabelledCorpora, classes: Classes) -> None:
    """Boosted trees, in one process: nothing is kept of an interrupted run."""
    if config.features != "default":
        raise HepfmError("trees read substructure, not features of particles", "--features", "leave it out")
    if config.nproc > 1:
        raise HepfmError("trees grow in one process", "--nproc", "leave it out")
    training = _batches(config, data, classes, Substructure())
    run.claim(config, FREE)
    say(
        f"trees: {training.reader.order.epoch_records(0):,} jets of {len(classes.names)} classes, "
        f"{len(FEATURES)} numbers each"
    )
    trees = fit_trees(BoostedTreesConfig(classes=len(classes.names)), training, config.training.seed)
    provenance = _provenance(config, data, training)
    metrics = {"trees": len(trees.starts) - 1, "rounds": trees.config.rounds}
    text = card(
        ARCHITECTURE, classes.names, f"{len(FEATURES)} numbers of a jet: {', '.join(FEATURES)}", provenance, metrics
    )
    tagger = TreesTagger(trees, classes.names, dict(classes.labels))
    save_trees(run.artifact, tagger, provenance=provenance, metrics=metrics, card=text)


def _batches(config: TagConfig, data: LabelledCorpora, classes: Classes, inputs: InputReader) -> LabelledBatches:
    """Training batches, once every corpus can give what is read."""
    for corpus in data.corpora:
        inputs.check(corpus)
    batches = data.batches("train", classes, inputs, config.training.seed, config.jets)
    if batches is None:
        raise HepfmError("no corpus has a training split", ", ".join(map(str, config.corpora)))
    return batches


def _provenance(config: TagConfig, data: LabelledCorpora, training: LabelledBatches) -> dict[str, Any]:
    return {
        "command": "hepfm finetune tag",
        "config": settings_of(config, without=("corpora", "tagger", "out", "nproc")),
        "corpora": [{"digest": corpus.digest, "records": corpus.split("train").records} for corpus in data.corpora],
        "mixture": data.mixture.summary() if data.mixture else None,
        "jets": training.reader.order.epoch_records(0),
    }


def _reads(features: FeatureSet) -> str:
    return f"the feature set `{features.name}` ({len(features.features)} numbers of a particle)"


def begin(config: TagConfig, classes: Classes) -> tuple[Tagger, str]:
    """The tagger to be trained, what is new in it drawn by the seed; and the hash of its parent, if it has one.

    Raises:
        HepfmError: a pretrained tagger that is no network, or another feature set than its own.
    """
    if config.tagger:
        return _from_pretrained(config, classes)
    architecture, sizes, own = VARIANTS[config.model]
    features = FEATURE_SETS[own if config.features == "default" else config.features]
    config_type, build = NETWORKS[architecture]
    torch.manual_seed(key_of("weights", config.training.seed))
    network = build(config_type(features=len(features.features), classes=len(classes.names), **sizes))
    return Tagger(network, architecture, classes.names, dict(classes.labels), features), ""


def _from_pretrained(config: TagConfig, classes: Classes) -> tuple[Tagger, str]:
    parent, artifact = load_tagger(config.tagger)
    if not isinstance(parent, Tagger):
        raise HepfmError("is no network, which could go on learning", artifact.path, "name a network")
    if config.features not in ("default", parent.features.name):
        raise HepfmError(
            f"reads '{parent.features.name}', not '{config.features}'", artifact.path, "leave --features out"
        )
    torch.manual_seed(key_of("weights", config.training.seed))
    _, build = NETWORKS[parent.architecture]
    network = build(dataclasses.replace(parent.network.config, classes=len(classes.names)))
    learned = {name: value for name, value in parent.network.state_dict().items() if not is_head(name)}
    network.load_state_dict({**network.state_dict(), **learned})
    return Tagger(network, parent.architecture, classes.names, dict(classes.labels), parent.features), artifact.hash


def _validation(
    data: LabelledCorpora, classes: Classes, tagger: Tagger, training: TrainingConfig
) -> tuple[LabelledBatches | None, TrainingConfig]:
    """Validation batches, if there is such a split, and the settings with no more records than there are."""
    batches = data.batches("val", classes, tagger.features, 0)
    if batches is None:
        return None, training
    records = min(training.validation_records, batches.reader.order.epoch_records(0))
    return batches, dataclasses.replace(training, validation_records=records)


def _identity(tagger: Tagger, data: LabelledCorpora, config: TagConfig) -> dict[str, Any]:
    """What has to be the same for a run to be continued."""
    return {
        "objective": "classification",
        "architecture": {"network": tagger.architecture, **dataclasses.asdict(tagger.network.config)},
        "features": tagger.features.name,
        "labels": tagger.labels,
        "corpora": data.digests,
        "jets": config.jets,
    }


def parameters_of(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _announce(tagger: Tagger, data: LabelledCorpora, training: LabelledBatches, settings: TrainingConfig) -> None:
    if not launch.is_main():
        return
    jets = training.reader.order.epoch_records(0)
    say(
        f"tagger: {tagger.architecture}, {parameters_of(tagger.network):,} parameters, "
        f"{len(tagger.features.features)} features ('{tagger.features.name}'), {len(tagger.classes)} classes"
    )
    say(
        f"data: {jets:,} jets an epoch of {sum(corpus.split('train').records for corpus in data.corpora):,}; "
        f"{settings.steps:,} steps are {settings.steps * settings.batch_records / jets:.2g} epochs"
    )


def card(
    architecture: str, classes: Sequence[str], reads: str, provenance: dict[str, Any], metrics: dict[str, Any]
) -> str:
    """Text that tells a reader what this tagger is, what it was trained on, and how to use it."""
    rows = "\n".join(f"| {name} | {value:,.6g} |" for name, value in sorted(metrics.items()))
    corpora = "\n".join(f"- corpus `{c['digest']}`: {c['records']:,} training jets" for c in provenance["corpora"])
    mixture = provenance["mixture"]
    mixed = f"\nThey are read by the weights of the mixture `{mixture['digest']}`.\n" if mixture else ""
    names = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    return f"""# Tagger of jets: {architecture}

Tells {len(classes)} classes apart: {names}. It reads {reads}; `config.json` describes it.

## Data

{corpora}
{mixed}
{provenance["jets"]:,} jets an epoch.

## Results

| quantity | value |
|---|---|
{rows}

Losses are in nats per jet; they and the accuracy are of training and validation batches.

## Use

    hepfm evaluate tagging THIS_FOLDER CORPUS --out REPORT

`reference.npz` holds inputs and logits that loading replays.
"""


def _done(run: RunFolder, what: str) -> None:
    if launch.is_main():
        say(f"{run.path}: {what}")
        sys.stdout.write(f"{run.artifact}\n")
