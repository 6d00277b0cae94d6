"""The command line: one table of commands, each a typed configuration and a recipe, imported only when it is run."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from hepfm.core.engine.early import requeue_on_signals
from hepfm.core.errors import HepfmError

HELP = ("-h", "--help")
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """Where a command lives: ``module`` has the configuration ``config`` and the recipe ``main``.

    ``config`` is a dataclass, or a function that chooses one by the arguments. A command that ``trains`` asks a queue
    to start it again when it is told to stop.
    """

    words: str
    module: str
    config: str
    help: str
    main: str = "main"
    trains: bool = False


# A longer name stands before the shorter one that it begins with.
COMMANDS = (
    Command("fetch", "hepfm.ingest.fetch.command", "FetchConfig", "public data sets: catalogue, verified download"),
    Command(
        "ingest pythia", "hepfm.ingest.simulate.command", "pythia_config", "simulate jets -> a corpus or raw files"
    ),
    Command(
        "ingest gflash",
        "hepfm.ingest.simulate.command",
        "gflash_config",
        "simulate showers -> a corpus or raw files",
    ),
    Command("ingest", "hepfm.ingest.command", "ingest_config", "raw files (SOURCE FILES...) -> a corpus", "ingest"),
    Command("corpus verify", "hepfm.ingest.command", "VerifyConfig", "check every byte and rule", "verify_corpus"),
    Command("corpus inspect", "hepfm.ingest.command", "InspectConfig", "what a corpus holds", "inspect_corpus"),
    Command("corpus card", "hepfm.ingest.card.command", "CardConfig", "write a corpus's README.md with plots", "card"),
    Command("corpus merge", "hepfm.ingest.tools", "MergeConfig", "several corpora -> one", "merge_corpora"),
    Command("corpus filter", "hepfm.ingest.tools", "FilterConfig", "records that pass cuts", "filter_records"),
    Command("corpus split", "hepfm.ingest.tools", "SplitConfig", "deal a corpus's records anew", "split_records"),
    Command("corpus export", "hepfm.ingest.tools", "ExportConfig", "Parquet, awkward, datasets, ...", "export_corpus"),
    Command("corpus mix", "hepfm.ingest.mix_command", "MixConfig", "define a weighted mixture of corpora", "mix"),
    Command("tokenizer fit", "hepfm.tokenize.fit", "fit_config", "fit a tokenizer to a corpus", trains=True),
    Command("tokenizer apply", "hepfm.tokenize.apply", "ApplyConfig", "corpus -> token corpus"),
    Command(
        "tokenizer compare",
        "hepfm.benchmarks.tokenizers.compare",
        "CompareTokenizersConfig",
        "rate against distortion of several tokenizers",
    ),
    Command("pretrain --plan", "hepfm.pretrain.plan", "PlanConfig", "memory, tokens/s and days, before training"),
    Command("pretrain", "hepfm.pretrain.run", "PretrainConfig", "pretrain a backbone on token corpora", trains=True),
    Command("finetune tag", "hepfm.finetune.tag", "TagConfig", "train a tagger on labelled jets", trains=True),
    Command(
        "finetune sophon",
        "hepfm.finetune.sophon_training",
        "SophonConfig",
        "train Sophon's 188-class tagger of resonances",
        trains=True,
    ),
    Command(
        "finetune generate",
        "hepfm.finetune.adapt",
        "AdaptConfig",
        "adapt a backbone to other token corpora",
        trains=True,
    ),
    Command("generate", "hepfm.finetune.generate", "GenerateConfig", "generate jets with a backbone"),
    Command("models list", "hepfm.released.listing", "ListConfig", "models: shipped, pulled, released by others"),
    Command("models pull", "hepfm.released.pull", "PullConfig", "download a model, verified and replayed"),
    Command("models push", "hepfm.released.push", "PushConfig", "publish a model on the Hugging Face hub"),
    Command(
        "models retrain", "hepfm.released.retrain", "RetrainConfig", "make a shipped model from nothing", trains=True
    ),
    Command("models import", "hepfm.models", "ImportConfig", "others' checkpoint -> an artifact", "import_model"),
    Command("models export --onnx", "hepfm.finetune.export", "ExportConfig", "a tagger as an ONNX graph for C++"),
    Command(
        "evaluate simulation",
        "hepfm.benchmarks.closeness.command",
        "EvaluateSimulationConfig",
        "simulated jets against real ones, as a report",
    ),
    Command(
        "evaluate tokenizer",
        "hepfm.benchmarks.tokenizers.command",
        "EvaluateTokenizerConfig",
        "what a tokenizer keeps of jets or showers",
    ),
    Command(
        "evaluate tagging",
        "hepfm.benchmarks.tagging.command",
        "EvaluateTaggingConfig",
        "a tagger on labelled jets, under the published tables",
    ),
    Command(
        "evaluate regression",
        "hepfm.benchmarks.regression",
        "EvaluateRegressionConfig",
        "estimates of a quantity against its true values",
    ),
    Command(
        "evaluate search",
        "hepfm.benchmarks.tagging.search",
        "EvaluateSearchConfig",
        "resonances in single jets, after cuts on a tagger",
    ),
    Command(
        "evaluate transfer",
        "hepfm.benchmarks.tagging.transfer",
        "EvaluateTransferConfig",
        "other labels from a tagger's embedding, against scratch",
    ),
    Command("evaluate jets", "hepfm.benchmarks.evaluate", "EvaluateJetsConfig", "compare jets, as a report"),
    Command(
        "evaluate showers",
        "hepfm.benchmarks.reports.shower_command",
        "EvaluateShowersConfig",
        "compare showers, as a report",
    ),
    Command(
        "evaluate profiles",
        "hepfm.benchmarks.profiles_report",
        "EvaluateProfilesConfig",
        "parametrised showers against full simulation",
    ),
    Command(
        "bench tokenizer-quality",
        "hepfm.benchmarks.tokenizers.against",
        "TokenizerQualityConfig",
        "the default tokenizer against a NormFormer-VQ",
    ),
    Command(
        "bench pretrain-memory",
        "hepfm.benchmarks.pretrain_memory",
        "PretrainMemoryConfig",
        "memory of a training against the plan's prediction",
    ),
    Command(
        "bench pretraining-pays",
        "hepfm.benchmarks.pretraining_pays",
        "PretrainingPaysConfig",
        "objectives probed frozen, against random weights",
    ),
    Command(
        "bench pretrain-step",
        "hepfm.benchmarks.pretrain_step",
        "PretrainStepConfig",
        "training steps of backbones, packed against padded",
    ),
    Command(
        "bench label-counts",
        "hepfm.benchmarks.label_counts",
        "LabelCountsConfig",
        "how many labels a pretrained backbone saves",
    ),
    Command(
        "bench generation-transfer",
        "hepfm.benchmarks.transfer.command",
        "GenerationTransferConfig",
        "a generator adapted to another domain, against training from scratch",
    ),
    Command(
        "bench generation-joint",
        "hepfm.benchmarks.transfer.joint",
        "GenerationJointConfig",
        "one generator for jets and showers, against one for each",
    ),
    Command(
        "bench generate-jets",
        "hepfm.benchmarks.generate_speed",
        "GenerateJetsConfig",
        "generation of jets against the published procedure",
        "jets",
    ),
    Command(
        "bench generate-showers",
        "hepfm.benchmarks.generate_speed",
        "GenerateShowersConfig",
        "generation of showers against the published procedure",
        "showers",
    ),
    Command(
        "bench metrics",
        "hepfm.benchmarks.metrics_speed",
        "MetricsConfig",
        "metrics of 100,000 jets and 20,000 showers, part by part",
    ),
    Command("bench all", "hepfm.benchmarks.speeds", "SpeedsConfig", "all speeds -> one JSON and one page"),
    Command("bench", "hepfm.benchmarks.bench", "BenchConfig", "measure a speed, as JSON"),
    Command("demo", "hepfm.benchmarks.demo", "DemoConfig", "the whole thread, from simulation to report"),
)


def usage(commands: Sequence[Command] = COMMANDS) -> str:
    """The table of commands."""
    width = max(len(command.words) for command in commands)
    rows = "\n".join(f"  hepfm {command.words:<{width}}  {command.help}" for command in commands)
    return (
        f"hepfm {metadata.version('hepfm')}: corpora, tokens and pretrained backbones for collider data\n\n{rows}\n\n"
        "hepfm COMMAND --help tells a command's options, with units and defaults;\n"
        "hepfm COMMAND --config FILE.yaml takes them from a file, flags override it.\n"
    )


def beginning_with(word: str) -> list[Command]:
    """The commands of a group (``corpus``, ``tokenizer``, ...); none if the word is a command itself or unknown."""
    if any(command.words == word for command in COMMANDS):
        return []
    return [command for command in COMMANDS if command.words.split()[0] == word]


def find(arguments: Sequence[str]) -> tuple[Command, list[str]]:
    """The command that the first words name, and the arguments after them.

    Raises:
        HepfmError: no such command; it names those that fit.
    """
    for command in COMMANDS:
        words = [word for word in command.words.split() if not word.startswith("--")]
        flags = command.words.split()[len(words) :]  # these may stand anywhere
        if list(arguments[: len(words)]) == words and all(flag in arguments for flag in flags):
            return command, [word for word in arguments[len(words) :] if word not in flags]
    first = arguments[0]
    fitting = [command.words for command in COMMANDS if command.words.split()[0] == first]
    known = fitting or sorted({command.words.split()[0] for command in COMMANDS})
    raise HepfmError(f"no command 'hepfm {' '.join(arguments[:2])}'", "", f"there is: {', '.join(known)}")


def run(arguments: Sequence[str]) -> None:
    """Run one command in this process; errors pass through."""
    command, config = settings_of(arguments)
    getattr(importlib.import_module(command.module), command.main)(config)


def settings_of(arguments: Sequence[str]) -> tuple[Command, object]:
    """A command and its settings, which are read and checked; nothing is run."""
    command, rest = find(arguments)
    # What reads a configuration is as heavy as the command itself, so neither is imported for `hepfm --help`.
    from hepfm.core.config import parse

    module = importlib.import_module(command.module)
    config_type = getattr(module, command.config)
    if not isinstance(config_type, type):
        config_type = config_type(rest)  # which settings there are depends on the arguments
    return command, parse(config_type, rest, prog=f"hepfm {command.words}")


def main() -> None:
    """Entry point: bad input is one line on stderr and exit code 2, never a traceback."""
    # GNU OpenMP's threads spin at barriers; beside other work on the same cores that costs more than half the speed.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in HELP:
        sys.stdout.write(usage())
        return
    if len(arguments) == 2 and arguments[1] in HELP and beginning_with(arguments[0]):
        sys.stdout.write(usage(beginning_with(arguments[0])))
        return
    if arguments[0] == "--version":
        sys.stdout.write(f"hepfm {metadata.version('hepfm')}\n")
        return
    try:
        if find(arguments)[0].trains:
            requeue_on_signals()
        run(arguments)
    except HepfmError as error:
        sys.stderr.write(f"hepfm: {error}\n")
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        sys.stderr.write("hepfm: interrupted; the same command continues where it stopped\n")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        if error.filename is None:
            raise
        sys.stderr.write(f"hepfm: {error.filename}: {error.strerror} (check the path, its permissions and the disk)\n")
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
