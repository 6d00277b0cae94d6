"""``hepfm finetune sophon``: the 188-class tagger of resonances, by the published recipe (Li et al., arXiv:2405.12972).

80 epochs of 10.24 M jets in batches of 512, learning rate 5e-4, stable and then, in the last 30%, decaying to a
hundredth; flat in (pt, soft-drop mass) within 30 groups; four-vectors scaled to jets of 500 GeV. The published
optimizer is Ranger (RAdam and LookAhead), here it is AdamW with its moments' decay rates; RAdam's first steps are about
a linear warm-up over 2 / (1 - beta2) steps (Ma and Yarats, arXiv:1910.04209).
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from tyro.conf import Positional

from hepfm.core.config import settings_of, to_dict
from hepfm.core.draws import key_of
from hepfm.core.engine import launch
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.engine.train import check, train
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.finetune.inputs import FEATURE_SETS
from hepfm.finetune.labelled import TRAIN, Classes, LabelledCorpora
from hepfm.finetune.particle_transformer import ParticleTransformer, ParticleTransformerConfig
from hepfm.finetune.sophon import LABELS, ladder
from hepfm.finetune.sophon_weights import FlatConfig, flat_mixture
from hepfm.finetune.tag import FREE, VARIANTS, parameters_of
from hepfm.finetune.tagger import Tagger, save_tagger
from hepfm.finetune.tasks import Classification

FEATURES = FEATURE_SETS["sophon"]
EPOCHS, EPOCH_JETS = 80, 10_240_000
PUBLISHED = TrainingConfig(
    steps=EPOCHS * EPOCH_JETS // 512,
    batch_records=512,
    learning_rate=5e-4,
    warmup_steps=2000,
    schedule="exponential",
    decay_fraction=0.3,
    min_learning_rate_fraction=0.01,
    weight_decay=0.0,
    betas=(0.95, 0.999),
    clip=0.0,
    validate_every=EPOCH_JETS // 512,
    validation_records=EPOCH_JETS // 4,
)


@dataclass(frozen=True)
class SophonConfig:
    """Train Sophon's network to tell JetClass-II's 188 labels apart, by the published recipe. Its full length is 1.6
    million updates: of a shorter training (--steps) warm-up and validation shrink along, unless they are given.

    Run again after an interruption, it continues to the same weights."""

    corpora: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="CORPUS...")]
    """Corpora with JetClass-II's labels (hepfm ingest jetclass2, hepfm ingest pythia jetclass2), or one mixture of them
    (hepfm corpus mix), whose weights then count instead of --reweight."""
    out: Path
    """Folder of the run."""
    labels: Literal[188, 162, 43, 17] = 188
    """Classes of the head: all labels; with QCD as one (162); decays by flavour of partons (43); topologies (17)."""
    absent: Literal["refuse", "leave-out"] = "refuse"
    """Classes without training jets in the bins: refuse the corpus, or make a head without them."""
    flat: FlatConfig = field(default_factory=FlatConfig)
    jets: int = 0
    """Labelled training jets that are used, as many of each class; 0 for all."""
    nproc: int = 1
    """Processes on this machine; at most one per GPU."""
    training: TrainingConfig = field(default_factory=lambda: PUBLISHED)


def scaled(training: TrainingConfig) -> TrainingConfig:
    """The settings with those that are still the published ones fitted to the number of steps: warm-up to a twentieth
    of them at most, validations to ten or more steps apart, on a quarter of the records that are trained on between."""
    fitting: dict[str, int] = {
        "warmup_steps": min(PUBLISHED.warmup_steps, training.steps // 20),
        "validate_every": min(PUBLISHED.validate_every, max(training.steps // 10, 1)),
    }
    kept = {name: getattr(training, name) for name in fitting if getattr(training, name) != getattr(PUBLISHED, name)}
    every = (fitting | kept)["validate_every"]
    if training.validation_records == PUBLISHED.validation_records:
        kept["validation_records"] = min(PUBLISHED.validation_records, max(training.batch_records * every // 4, 1024))
    return dataclasses.replace(training, **(fitting | kept))


def main(config: SophonConfig) -> None:
    """Train and write the artifact."""
    config = dataclasses.replace(config, training=scaled(config.training))
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
    labels = labels_of(data)
    if data.mixture is None and config.flat.reweight == "flat":
        mixture, labels = flat_mixture(data.corpora, labels, config.flat, run.path / "flat.json", launch.is_main())
        data = LabelledCorpora(mixture.corpora, mixture)
    classes = classes_of(data, labels, config)
    _train(config, run, data, classes)
    _done(run, "finished")


def labels_of(data: LabelledCorpora) -> list[str]:
    """JetClass-II's labels, in order, that training records have.

    Raises:
        HepfmError: there are records of another label.
    """
    where = ", ".join(str(corpus.path) for corpus in data.corpora)
    every = Classes.of({label: label for label in data.labels})
    counts = dict(zip(every.names, data.counts(TRAIN, every), strict=True))
    other = [label for label, count in counts.items() if count and label not in LABELS]
    if other:
        raise HepfmError(
            f"has jets of label '{other[0]}', which is none of JetClass-II's", where, "hepfm finetune tag takes any"
        )
    return [label for label in LABELS if counts.get(label)]


def classes_of(data: LabelledCorpora, present: list[str], config: SophonConfig) -> Classes:
    """The head's classes in their order; by default all of them have to be there.

    Raises:
        HepfmError: a class without training jets, or fewer than two with some.
    """
    classes = ladder(config.labels)
    every = tuple(dict.fromkeys(classes.values()))
    known = {classes[label] for label in present}
    absent = [name for name in every if name not in known]
    where = ", ".join(str(corpus.path) for corpus in data.corpora)
    if absent and config.absent == "refuse":
        listed = ", ".join(f"'{name}'" for name in absent[:4]) + (f" and {len(absent) - 4} more" if absent[4:] else "")
        raise HepfmError(
            f"has no training jet of class {listed} in the bins",
            where,
            "more jets, fewer classes (--labels 17), or a head without them: --absent leave-out",
        )
    if len(known) < 2:
        raise HepfmError(f"has jets of {len(known)} of the classes in the bins", where, "two are needed")
    return Classes.of({label: name for label, name in classes.items() if name in known})


def _train(config: SophonConfig, run: RunFolder, data: LabelledCorpora, classes: Classes) -> None:
    for corpus in data.corpora:
        FEATURES.check(corpus)
    training = data.batches(TRAIN, classes, FEATURES, config.training.seed, config.jets)
    if training is None:
        raise HepfmError("no corpus has a training split", ", ".join(map(str, config.corpora)))
    validation = data.batches("val", classes, FEATURES, 0)
    settings = config.training
    if validation is not None:
        records = min(settings.validation_records, validation.reader.order.epoch_records(0))
        settings = dataclasses.replace(settings, validation_records=records)
    torch.manual_seed(key_of("weights", settings.seed))
    sizes = ParticleTransformerConfig(
        features=len(FEATURES.features), classes=len(classes.names), **VARIANTS["sophon"][1]
    )
    network = ParticleTransformer(sizes)
    tagger = Tagger(network, "particle-transformer", classes.names, dict(classes.labels), FEATURES)
    objective = Classification(network)
    launch.setup()
    check(objective, validation, settings)
    launch.on_main(lambda: _claim(config, run, data))
    jets = training.reader.order.epoch_records(0)
    if launch.is_main():
        say(
            f"Sophon: {parameters_of(network):,} parameters, {len(classes.names)} classes; {jets:,} jets an epoch; "
            f"{settings.steps:,} steps are {settings.steps * settings.batch_records / jets:.2g} epochs"
        )
    identity = {
        "objective": "classification",
        "architecture": {"network": tagger.architecture, **to_dict(sizes)},
        "features": FEATURES.name,
        "labels": tagger.labels,
        "corpora": data.digests,
        "jets": config.jets,
    }
    figures = train(objective, training, validation, settings, run, identity)
    if launch.is_main():
        network.cpu().eval()
        provenance = {
            "config": settings_of(config, without=("corpora", "out", "nproc")),
            "corpora": [{"digest": corpus.digest, "records": corpus.split(TRAIN).records} for corpus in data.corpora],
            "mixture": data.mixture.summary() if data.mixture else None,
            "jets": jets,
        }
        metrics = {**figures, "steps": settings.steps, "parameters": parameters_of(network)}
        text = card(tagger, provenance, metrics)
        save_tagger(run.artifact, tagger, provenance=provenance, metrics=metrics, card=text)


def _claim(config: SophonConfig, run: RunFolder, data: LabelledCorpora) -> None:
    run.claim(config, FREE)
    if data.mixture is not None and data.mixture.path.parent == run.path:
        data.mixture.save()


def card(tagger: Tagger, provenance: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Text that tells a reader what this tagger is, what it was trained on, and how to use it."""
    rows = "\n".join(f"| {name} | {value:,.6g} |" for name, value in sorted(metrics.items()))
    corpora = "\n".join(f"- corpus `{c['digest']}`: {c['records']:,} training jets" for c in provenance["corpora"])
    mixture, names = provenance["mixture"], tagger.classes
    weighted = "as they come"
    if mixture:
        flat = ", flat in pt and soft-drop mass within Sophon's 30 groups" if mixture["reweighted"] else ""
        weighted = f"by the weights of the mixture `{mixture['digest']}`{flat}"
    return f"""# Sophon: tagger of resonances in jets

Tells {len(names)} classes of JetClass-II apart ({", ".join(names[:12])}, ...; `config.json` has them in order), by the
network and recipe of Li et al., arXiv:2405.12972, on four-vectors scaled to jets of 500 GeV. Trained for
{metrics["steps"]:,} updates of {provenance["config"]["training"]["batch_records"]} jets; the published training has
{PUBLISHED.steps:,} of 512.

## Data

{corpora}

{provenance["jets"]:,} jets an epoch, {weighted}.

## Results

| quantity | value |
|---|---|
{rows}

Losses are in nats per jet; they and the accuracy are of training and validation batches.

## Use

    hepfm evaluate tagging THIS_FOLDER CORPUS --discriminants X_bb:QCD --out REPORT

    tagger, _ = hepfm.finetune.tagger.load_tagger(THIS_FOLDER)
    tagger("X_bb", against="QCD")(tagger.scores(records))  # S / (S + B)
    tagger.embedding(records)  # {tagger.network.embedding_width} numbers a jet

`reference.npz` holds inputs and logits that loading replays.
"""


def _done(run: RunFolder, what: str) -> None:
    if launch.is_main():
        say(f"{run.path}: {what}")
        sys.stdout.write(f"{run.artifact}\n")
