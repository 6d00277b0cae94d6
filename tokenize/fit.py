"""``hepfm tokenizer fit``: a tokenizer from a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hepfm.core.config import read_yaml
from hepfm.core.engine import launch
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.fitting import FREE, FitConfig, done, write
from hepfm.tokenize.registry import TOKENIZERS, tokenizer_class
from hepfm.tokenize.vqvae_fit import TokenizerFitConfig

__all__ = ["TokenizerFitConfig", "fit_config", "main"]

OPTION = "--tokenizer"


def fit_config(arguments: Sequence[str]) -> type[FitConfig]:
    """The settings of ``hepfm tokenizer fit --tokenizer KIND``; KIND may also stand in the file of ``--config``."""
    kind = _named(arguments)
    if kind not in TOKENIZERS:
        raise HepfmError(f"no tokenizer is called '{kind}'", OPTION, f"there is: {', '.join(TOKENIZERS)}")
    settings = tokenizer_class(kind).settings
    listed = f"Tokenizers: {', '.join(TOKENIZERS)}. '{OPTION} KIND --help' shows the options of one."
    body = {"__doc__": f"{settings.__doc__}\n\n{listed}", "__module__": __name__}
    return dataclass(frozen=True)(type(settings.__name__, (settings,), body))


def _named(arguments: Sequence[str]) -> str:
    """The tokenizer that the arguments name, or the file of settings among them, or else the default."""
    named = _value(arguments, OPTION)
    file = _value(arguments, "--config")
    if named is None and file is not None:
        settings = read_yaml(Path(file))
        named = settings.get("tokenizer") if isinstance(settings, dict) else None
    return FitConfig.tokenizer if named is None else str(named)


def _value(arguments: Sequence[str], option: str) -> str | None:
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def main(config: FitConfig) -> None:
    """Fit, measure, and write the artifact."""
    if isinstance(config, TokenizerFitConfig):
        launch.relaunch(config.nproc)
    run = RunFolder(config.out)
    if run.finished:
        run.claim(config, FREE)
        done(run, "is finished already")
        return
    corpus = Corpus.open(config.corpus)
    _tell_empty_classes(corpus)
    contract = config.contract(corpus)
    tokenizer, figures = tokenizer_class(config.tokenizer).fit(config, corpus, contract, run)
    if launch.is_main():
        write(run, tokenizer, corpus, config, figures)
        done(run, "finished")


def _tell_empty_classes(corpus: Corpus) -> None:
    """A tokenizer that has not seen a class may be bad at it, so the user should know."""
    labels = corpus.manifest.splits["train"].labels if "train" in corpus.splits() else {}
    empty = [label for label in corpus.manifest.labels if not labels.get(label)]
    if labels and empty and launch.is_main():
        say(f"warning: {corpus.path}: no record of the train split is of class {', '.join(empty)}")
