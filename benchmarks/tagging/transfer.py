"""``hepfm evaluate transfer``: a small network on a tagger's frozen embedding, against the same network from scratch.

For signatures that the tagger has not learned (Li et al., arXiv:2405.12972, train a small network on Sophon's embedding
for them). Both see the same labelled jets, drawn anew by each seed, and are judged on the same others.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import matplotlib
import numpy as np
import pyarrow as pa
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tyro.conf import Positional

from hepfm.benchmarks.report import sections, themed
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.tagging.command import PAGE, REPORT, finite
from hepfm.benchmarks.tagging.pictures import THEMES
from hepfm.core.config import command_line
from hepfm.core.engine.config import FREE_SETTINGS, TrainingConfig
from hepfm.core.errors import HepfmError
from hepfm.core.files import read_json, write_json, write_text
from hepfm.core.plots import HEIGHT_IN, STYLES, WIDTH_IN, Theme, settings
from hepfm.core.progress import progress
from hepfm.core.runs import RunFolder
from hepfm.core.versions import versions
from hepfm.finetune.labelled import TRAIN, Classes, LabelledCorpora
from hepfm.finetune.tag import VARIANTS, Model, TagConfig
from hepfm.finetune.tag import main as train_tagger
from hepfm.finetune.tagger import Tagger, load_tagger
from hepfm.finetune.tagging_metrics import Scored, measure
from hepfm.ingest.corpus import Split

METHODS = {"frozen": "small network on the embedding", "scratch": "from scratch"}
BATCH_JETS = 512
VALIDATION = 0.2  # share of the jets that tells the small network when to stop
ERRORLESS = 2  # replicas of a bootstrap whose errors are not shown: those between seeds are


@dataclass(frozen=True)
class EvaluateTransferConfig:
    """Train a small network on a tagger's frozen embedding for labels that it does not know, and a network from scratch
    on the same jets; for several numbers of jets and seeds. Run again after an interruption, it continues."""

    tagger: Annotated[Positional[str], tyro.conf.arg(metavar="TAGGER")]
    """The tagger: a run, an artifact folder, a hub id or a URL."""
    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Labelled jets; what the tagger was trained on must not be among them."""
    out: Path
    """Folder of report.json, the page (index.html) and the networks from scratch."""
    labels: tuple[str, ...]
    """Labels to tell apart; of two the last one is the background."""
    jets: tuple[int, ...] = (100, 1000)
    """Numbers of training jets, as many of each label."""
    seeds: int = 3
    """How often each is trained, on other jets."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the small network."""
    scratch: Literal["same", "particle-transformer", "sophon", "particle-net", "deep-sets"] = "same"
    """Network from scratch; by default the tagger's own architecture and features."""
    split: str = "test"
    """Split that is judged."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=500, batch_records=128, betas=(0.9, 0.99), validate_every=0, checkpoint_every=500
        )
    )


@dataclass(frozen=True)
class Trial:
    """One training's figures.

    Attributes:
        method: in :data:`METHODS`.
        jets: that it was trained on.
        seed: of them and of the weights.
        figures: accuracy, auc, and with two labels rejection_50 at half of the signal (None: no background passes).
    """

    method: str
    jets: int
    seed: int
    figures: dict[str, float | None]


def main(config: EvaluateTransferConfig) -> None:
    """Train what is missing, then write tables, JSON and page."""
    if config.seeds < 1 or not config.jets or min(config.jets) < 1 or not config.hidden or min(config.hidden) < 1:
        raise HepfmError("must be 1 or more", "--seeds, --jets, --hidden")
    config.training.check(1)
    tagger, artifact = load_tagger(config.tagger)
    if not isinstance(tagger, Tagger):
        raise HepfmError("has no embedding", artifact.path, "name a network")
    model = _model(config, tagger)
    data = LabelledCorpora.open((config.corpus,))
    if data.mixture is not None:
        raise HepfmError("is a mixture", config.corpus, "name the corpus")
    classes = data.classes(config.labels)
    (corpus,) = data.corpora
    tagger.check(corpus)
    for jets in config.jets:  # before anything is written
        data.batches(TRAIN, classes, tagger.features, 0, jets)
    split = corpus.split(config.split)
    run = RunFolder(config.out)
    run.claim(config, FREE_SETTINGS)
    trials = _trials(config, model, tagger, data, classes, split)
    known = [label for label in classes.names if label in tagger.labels]
    table = transfer_table(trials, classes.names)
    sys.stdout.write(table.markdown())
    provenance = {
        "tagger": {"hash": artifact.hash, "network": tagger.architecture, "knows": ", ".join(known) or "none of them"},
        "corpus": {"digest": corpus.digest, "split": config.split},
        "from scratch": model,
        "command": command_line(),
        "versions": versions(),
    }
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    data_out = {"date": date, "provenance": provenance, "labels": list(classes.names)}
    write_json(run.path / REPORT, finite({**data_out, "trials": [dataclasses.asdict(trial) for trial in trials]}))
    text = f"{', '.join(classes.names)}; the tagger has learned {', '.join(known) or 'none of these labels'}."
    part = {"title": "Transfer", "text": text, "notes": [], "tables": [table], "wide": [], "plots": [_picture(trials)]}
    write_text(run.path / PAGE, sections("Transfer to other labels", date, [part], (), provenance))
    sys.stdout.write(f"\n{run.path / PAGE}\n")


def _model(config: EvaluateTransferConfig, tagger: Tagger) -> Model:
    name = tagger.architecture if config.scratch == "same" else config.scratch
    if name not in VARIANTS:
        raise HepfmError(
            f"no network of '{name}' is trained from scratch", "--scratch", f"name one: {', '.join(VARIANTS)}"
        )
    return cast(Model, name)


def _trials(
    config: EvaluateTransferConfig,
    model: Model,
    tagger: Tagger,
    data: LabelledCorpora,
    classes: Classes,
    split: Split,
) -> list[Trial]:
    """All trainings; those that an earlier call finished are read."""
    asked = [(method, jets, seed) for jets in config.jets for seed in range(config.seeds) for method in METHODS]
    judged: tuple[np.ndarray, np.ndarray] | None = None
    found = []
    with progress("transfer", len(asked), "trainings") as task:
        for method, jets, seed in asked:
            file = config.out / "trials" / f"{method}-{jets}-{seed}.json"
            if not file.exists():
                training = dataclasses.replace(config.training, seed=seed)
                if method == "frozen":
                    judged = judged or _outputs(split, classes, tagger.embedding)
                    fitted = fit_small(config.hidden, *embedded(tagger, data, classes, jets, seed), seed)
                    truth, scores = judged[0], fitted(judged[1])
                else:
                    same = config.scratch == "same"
                    other = TagConfig(
                        (config.corpus,),
                        config.out / "scratch" / f"{jets}-{seed}",
                        model=model,
                        features=cast(Any, tagger.features.name if same else "default"),
                        labels=classes.names,
                        jets=jets,
                        training=training,
                    )
                    train_tagger(other)
                    truth, scores = _outputs(split, classes, load_tagger(other.out)[0].scores)
                trial = Trial(method, jets, seed, figures_of(scores, truth, classes.names))
                file.parent.mkdir(exist_ok=True)
                write_json(file, dataclasses.asdict(trial))
            found.append(Trial(**read_json(file)))
            task.advance()
    return found


@torch.no_grad()
def embedded(
    tagger: Tagger, data: LabelledCorpora, classes: Classes, jets: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Embedding (jets, width) and class (jets,) of the training jets that a training from scratch has, too."""
    batches = data.batches(TRAIN, classes, tagger.features, seed, jets)
    assert batches is not None
    device = next(tagger.network.parameters()).device
    values, targets = [], []
    for start in range(0, jets, BATCH_JETS):
        batch = batches.batch(start, min(start + BATCH_JETS, jets))
        values.append(tagger.network.embedding(batch.inputs.to(device)).float().cpu().numpy())
        targets.append(batch.targets.numpy())
    return np.concatenate(values), np.concatenate(targets)


def fit_small(
    hidden: tuple[int, ...], values: np.ndarray, targets: np.ndarray, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a small network; what it gives is probabilities (n, classes) of embeddings (n, width)."""
    early = len(values) >= 50
    training = len(values) - math.ceil(VALIDATION * len(values)) if early else len(values)
    network = MLPClassifier(
        hidden,
        alpha=1e-3,
        batch_size=min(64, training),
        early_stopping=early,
        validation_fraction=VALIDATION,
        n_iter_no_change=20,
        max_iter=200,
        random_state=seed,
    )
    fitted = make_pipeline(StandardScaler(), network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # to stop after so many passes is what is asked
        fitted.fit(values, targets)
    return lambda other: fitted.predict_proba(other)


def _outputs(split: Split, classes: Classes, function: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Class (n,) and a function's outputs (n, k) of the jets of a split that have one of the labels."""
    truth, found = [], []
    for block in split:
        numbers = classes.numbers(block)
        known = np.flatnonzero(numbers >= 0)
        if len(known):
            truth.append(numbers[known])
            found.append(function(block.take(pa.array(known)), split.corpus.path))
    if not truth:
        raise HepfmError(f"its split '{split.name}' has no jet of these labels", split.corpus.path)
    return np.concatenate(truth), np.concatenate(found)


def figures_of(scores: np.ndarray, truth: np.ndarray, names: tuple[str, ...]) -> dict[str, float | None]:
    """What is told of a training."""
    background = names[-1] if len(names) == 2 else None
    measured = measure(Scored(scores, truth, names), background, (0.5,), replicas=ERRORLESS)
    found: dict[str, float | None] = {"accuracy": measured.accuracy.value, "auc": measured.auc.value}
    if len(names) == 2:
        value = measured.rejections[0].value
        found["rejection_50"] = value if np.isfinite(value) else None
    return found


def transfer_table(trials: list[Trial], names: tuple[str, ...]) -> Table:
    """A row a method and number of jets, means and standard deviations over seeds."""
    columns = {"accuracy": "accuracy", "auc": "AUC"} | ({"rejection_50": "1/FPR @0.5"} if len(names) == 2 else {})
    rows = []
    for jets in dict.fromkeys(trial.jets for trial in trials):
        for method, title in METHODS.items():
            own = [trial for trial in trials if (trial.method, trial.jets) == (method, jets)]
            cells = [_spread([trial.figures[column] for trial in own]) for column in columns]
            rows.append((Cell(title), Cell(f"{jets:,}"), *map(Cell, cells)))
    seeds = len({trial.seed for trial in trials})
    note = f"Means and standard deviations over {seeds} seeds, which draw other training jets and weights."
    return Table(" against ".join(names), ("method", "jets", *columns.values()), tuple(rows), note)


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "no background passes"
    error = f" ± {np.std(known, ddof=1):.2g}" if len(known) > 1 else ""
    return f"{np.mean(known):.4g}{error}"


def _picture(trials: list[Trial]) -> dict[str, str]:
    figures = {}
    for theme in THEMES:
        with matplotlib.rc_context(settings(theme)):
            figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained", facecolor="none")
            _curves(figure.subplots(), trials, theme)
            figures[theme] = figure
    return themed("Area under the ROC curve against training jets", "transfer", figures)


def _curves(axes: Axes, trials: list[Trial], theme: Theme) -> None:
    axes.set_facecolor("none")
    counts = sorted({trial.jets for trial in trials})
    for (method, title), (light, dark, dashes) in zip(METHODS.items(), STYLES, strict=False):
        values = [
            [trial.figures["auc"] for trial in trials if (trial.method, trial.jets) == (method, jets)]
            for jets in counts
        ]
        means = [float(np.mean(cast(Any, each))) for each in values]
        errors = [float(np.std(cast(Any, each), ddof=1)) if len(each) > 1 else 0.0 for each in values]
        colour = light if theme == "light" else dark
        axes.errorbar(counts, means, errors, fmt="o", linestyle=dashes, color=colour, capsize=3, label=title)
    axes.set(xscale="log", xlabel="training jets", ylabel="area under the ROC curve")
    axes.margins(x=0.15, y=0.2)
    axes.legend(frameon=False, loc="best")
