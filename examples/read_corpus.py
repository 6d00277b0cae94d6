"""Read a corpus in training order: python examples/read_corpus.py CORPUS

Prints, for the first 1,000 jets of the reading order, the mean mass and multiplicity of each class.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hepfm.core.records import lengths_of, values_of
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.reader import Reader


def main(path: Path) -> None:
    corpus = Corpus.open(path)
    # The order is a function of (corpus, seed, epoch, position): these are the same jets on any machine.
    reader = Reader([corpus.split("train")], seed=0, columns=["constituents.pt", "mass", "label"])
    jets = reader.take(0, min(1000, reader.records)).batch
    label, mass = values_of(jets.column("label")), values_of(jets.column("mass"))
    multiplicity = lengths_of(jets.column("constituents"))
    for index, name in enumerate(reader.labels):
        chosen = label == index
        if chosen.any():
            sys.stdout.write(
                f"{name}: {chosen.sum()} jets, mass {mass[chosen].mean():.1f} GeV, "
                f"{multiplicity[chosen].mean():.1f} constituents\n"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
