"""``hepfm finetune tag``: a network that tells classes of jets apart, or estimates a quantity of records."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import nn
from tyro.conf import Positional

from hepfm.core.config import settings_of, to_dict
from hepfm.core.draws import key_of
from hepfm.core.engine import launch
from hepfm.core.engine.config import FREE_SETTINGS, TrainingConfig
from hepfm.core.engine.train import check, train
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.finetune import backbone_tagger
from hepfm.finetune.backbone_inputs import BackboneReader
from hepfm.finetune.backbone_tagger import BackboneTaggerConfig, ReadingAsked, on_backbone, reading_of
from hepfm.finetune.boosted_tagger import ARCHITECTURE, Substructure, TreesTagger, fit_trees, save_trees
from hepfm.finetune.boosted_trees import FEATURES, BoostedTreesConfig
from hepfm.finetune.cards import tagger_card
from hepfm.finetune.heads import HeadName
from hepfm.finetune.inputs import FEATURE_SETS
from hepfm.finetune.labelled import TRAIN, Classes, LabelledCorpora
from hepfm.finetune.protocols import ProtocolConfig, merge
from hepfm.finetune.regression import MeasuredCorpora
from hepfm.finetune.sophon import ladder
from hepfm.finetune.tagger import NETWORKS, Tagger, load_tagger
from hepfm.finetune.tasks import PRETRAINED, Regression, Start, Tagging, Task, followed, is_head
from hepfm.pretrain.backbone import load_backbone

FREE = FREE_SETTINGS | {"nproc"}
Model = Literal["particle-transformer", "sophon", "particle-net", "deep-sets", "boosted-trees"]
Features = Literal["default", "full", "kinpid", "kin", "sophon"]
# Models that are another one's architecture in other sizes, and with other features.
VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "particle-transformer": ("particle-transformer", {}, "full"),
    "sophon": ("particle-transformer", {"head": (512,)}, "sophon"),
    "particle-net": ("particle-net", {}, "full"),
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
    scaled to 500 GeV), particle-net (0.37 M), deep-sets (0.08 M), or boosted-trees on substructure (200 rounds; of the
    training settings only the seed counts)."""
    tagger: str = ""
    """Pretrained tagger to start from, a run, an artifact folder, a hub id or a URL: its network and features with a
    new head, whatever --model says."""
    backbone: str = ""
    """Pretrained backbone to put a head on (hepfm pretrain): its tokens are read from a token corpus, or made of a
    corpus on the fly."""
    head: HeadName = "class-attention"
    """On a backbone: class-attention (two blocks, 128 wide), pool (mean and sum, MLP), linear (a linear probe)."""
    reading: ReadingAsked = "default"
    """How the backbone sees a record. By default as in pretraining, joint ones bidirectionally."""
    target: str = ""
    """Estimate a quantity instead of telling classes apart: jet_mass, softdrop_mass, jet_pt, pt_correction (calibrated
    over constituents' pt), incident_energy, or any other number of a record by its column."""
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
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


def main(config: TagConfig) -> None:
    """Train and write the artifact."""
    config.training.check(config.nproc)
    launch.relaunch(config.nproc)
    run = RunFolder(config.out)
    if run.finished:
        run.claim(config, FREE)
        _done(run, "is finished already")
        return
    _check(config)
    data = LabelledCorpora.open(config.corpora, labelled=not config.target)
    _check_kind(config, data)
    if config.target:
        _train(config, run, data, Regression(MeasuredCorpora.of(data, config.target)))
        _done(run, "finished")
        return
    classes = data.classes(config.labels, ladder(config.ladder) if config.ladder else None)
    if config.model == ARCHITECTURE and not (config.tagger or config.backbone):
        _grow(config, run, data, classes)
    else:
        _train(config, run, data, Tagging(data, classes))
    _done(run, "finished")


def _check(config: TagConfig) -> None:
    """Refuse settings that contradict each other."""
    pretrained = config.tagger or config.backbone
    if config.jets < 0:
        raise HepfmError(f"must not be negative, is {config.jets}", "--jets")
    if config.tagger and config.backbone:
        raise HepfmError("goes on from one network, --tagger names another", "--backbone", "leave one out")
    if not pretrained and config.protocol.name not in ("full", "scratch"):
        raise HepfmError(
            "a network that nothing was learned by cannot be frozen", "--protocol", "name a --backbone or --tagger"
        )
    if not config.backbone and config.reading != "default":
        raise HepfmError("is a backbone's", "--reading", "name a --backbone")
    if config.backbone and config.features != "default":
        raise HepfmError("a backbone reads what it was pretrained on", "--features", "leave it out")
    if config.target and (config.labels or config.ladder):
        raise HepfmError("needs no labels", "--target", "leave out --labels and --ladder")
    if config.target and config.model == ARCHITECTURE and not pretrained:
        raise HepfmError("trees tell classes apart", "--target", "take another --model")


def _check_kind(config: TagConfig, data: LabelledCorpora) -> None:
    """Refuse records that only heads on pretrained backbones read, if there is none."""
    for corpus in data.corpora:
        kind = corpus.manifest.kind
        if kind != "jets" and not (config.tagger or config.backbone):
            network = "the trees read" if config.model == ARCHITECTURE else f"{config.model} reads"
            raise HepfmError(f"holds {kind}, {network} jets", corpus.path, f"{kind} need a --backbone, or name jets")


def _train(config: TagConfig, run: RunFolder, data: LabelledCorpora, task: Task) -> None:
    """A network, by the engine."""
    start, parent = begin(config, task.outputs, data)
    for corpus in data.corpora:
        start.features.check(corpus)
    training = task.batches(TRAIN, start.features, config.training, config.jets)
    if training is None:
        raise HepfmError("no corpus has a training split", ", ".join(map(str, config.corpora)))
    validation, settings = _validation(task, start, config.training)
    protocol = followed(start.network, config.protocol, settings)
    objective = task.objective(start.network, protocol.frozen_until)
    settings = protocol.rates(settings, PRETRAINED)
    launch.setup()
    check(objective, validation, settings)
    launch.on_main(lambda: run.claim(config, FREE))
    _announce(start, data, task, training, settings)
    identity = {**_identity(start, data, config, task), "parent": parent, "protocol": to_dict(protocol)}
    figures = train(objective, training, validation, settings, run, identity)
    if launch.is_main():
        merge(start.network)
        start.network.cpu().eval()
        provenance = {**_provenance(config, data, training), "parent": parent}
        metrics = {
            **figures,
            **accuracy_uncertainty(figures, settings),
            "steps": settings.steps,
            "parameters": parameters_of(start.network),
        }
        task.save(run.artifact, start, provenance, metrics)


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
    for corpus in data.corpora:
        Substructure().check(corpus)
    training = data.batches(TRAIN, classes, Substructure(), config.training.seed, config.jets)
    if training is None:
        raise HepfmError("no corpus has a training split", ", ".join(map(str, config.corpora)))
    run.claim(config, FREE)
    say(
        f"trees: {training.reader.order.epoch_records(0):,} jets of {len(classes.names)} classes, "
        f"{len(FEATURES)} numbers each"
    )
    trees = fit_trees(BoostedTreesConfig(classes=len(classes.names)), training, config.training.seed)
    provenance = _provenance(config, data, training)
    metrics = {"trees": len(trees.starts) - 1, "rounds": trees.config.rounds}
    text = tagger_card(
        ARCHITECTURE, classes.names, f"{len(FEATURES)} numbers of a jet: {', '.join(FEATURES)}", provenance, metrics
    )
    tagger = TreesTagger(trees, classes.names, dict(classes.labels))
    save_trees(run.artifact, tagger, provenance=provenance, metrics=metrics, card=text)


def _provenance(config: TagConfig, data: LabelledCorpora, training: Any) -> dict[str, Any]:
    return {
        "command": "hepfm finetune tag",
        "config": settings_of(config, without=("corpora", "tagger", "backbone", "out", "nproc")),
        "corpora": [{"digest": corpus.digest, "records": corpus.split("train").records} for corpus in data.corpora],
        "mixture": data.mixture.summary() if data.mixture else None,
        "jets": training.reader.order.epoch_records(0),
    }


def begin(config: TagConfig, outputs: int, data: LabelledCorpora) -> tuple[Start, str]:
    """The network to be trained, what is new in it drawn by the seed; and the hash of its parent, if it has one.

    Raises:
        HepfmError: a pretrained tagger that is no network, another feature set than its own, or corpora that a backbone
            cannot read.
    """
    if config.tagger:
        return _from_tagger(config, outputs)
    if config.backbone:
        return _on_backbone(config, outputs, data)
    architecture, sizes, own = VARIANTS[config.model]
    features = FEATURE_SETS[own if config.features == "default" else config.features]
    config_type, build = NETWORKS[architecture]
    torch.manual_seed(key_of("weights", config.training.seed))
    network = build(config_type(features=len(features.features), classes=outputs, **sizes))
    return Start(network, architecture, features), ""


def _from_tagger(config: TagConfig, outputs: int) -> tuple[Start, str]:
    parent, artifact = load_tagger(config.tagger)
    if not isinstance(parent, Tagger):
        raise HepfmError("is no network, which could go on learning", artifact.path, "name a network")
    if config.features not in ("default", parent.features.name):
        raise HepfmError(
            f"reads '{parent.features.name}', not '{config.features}'", artifact.path, "leave --features out"
        )
    torch.manual_seed(key_of("weights", config.training.seed))
    _, build = NETWORKS[parent.architecture]
    network = build(dataclasses.replace(parent.network.config, classes=outputs))
    if config.protocol.name != "scratch":
        learned = {name: value for name, value in parent.network.state_dict().items() if not is_head(name)}
        network.load_state_dict({**network.state_dict(), **learned})
    return Start(network, parent.architecture, parent.features), artifact.hash


def _on_backbone(config: TagConfig, outputs: int, data: LabelledCorpora) -> tuple[Start, str]:
    pretrained, artifact = load_backbone(config.backbone)
    reading = reading_of(pretrained.config, config.reading)
    sizes = BackboneTaggerConfig(pretrained.config, outputs, config.head, reading)
    features = BackboneReader.for_corpora(artifact, pretrained.config, sizes.before, data.corpora)
    scratch = config.protocol.name == "scratch"
    network = on_backbone(artifact, pretrained, sizes, config.training.seed, scratch)
    return Start(network, backbone_tagger.ARCHITECTURE, features), artifact.hash


def _validation(task: Task, start: Start, training: TrainingConfig) -> tuple[Any, TrainingConfig]:
    """Validation batches, if there is such a split, and the settings with no more records than there are."""
    batches = task.batches("val", start.features, dataclasses.replace(training, seed=0))
    if batches is None:
        return None, training
    records = min(training.validation_records, batches.reader.order.epoch_records(0))
    return batches, dataclasses.replace(training, validation_records=records)


def _identity(start: Start, data: LabelledCorpora, config: TagConfig, task: Task) -> dict[str, Any]:
    """What has to be the same for a run to be continued."""
    return {
        **task.identity(),
        "architecture": {"network": start.architecture, **to_dict(start.network.config)},
        "features": start.features.name,
        "corpora": data.digests,
        "jets": config.jets,
    }


def parameters_of(network: nn.Module, trained: bool = False) -> int:
    """Number of parameters; of those that train."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad or not trained)


def _announce(start: Start, data: LabelledCorpora, task: Task, training: Any, settings: TrainingConfig) -> None:
    if not launch.is_main():
        return
    jets = training.reader.order.epoch_records(0)
    trained = parameters_of(start.network, trained=True)
    say(
        f"network: {start.architecture}, {parameters_of(start.network):,} parameters, {trained:,} of them train; "
        f"reads {start.reads}; {task.words}"
    )
    say(
        f"data: {jets:,} records an epoch of {sum(corpus.split('train').records for corpus in data.corpora):,}; "
        f"{settings.steps:,} steps are {settings.steps * settings.batch_records / jets:.2g} epochs"
    )


def _done(run: RunFolder, what: str) -> None:
    if launch.is_main():
        say(f"{run.path}: {what}")
        sys.stdout.write(f"{run.artifact}\n")
