"""``hepfm demo``: the whole thread on simulated jets, from Pythia to a report, each stage by its own command."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hepfm.core.engine.config import TrainingConfig
from hepfm.core.progress import say
from hepfm.core.runs import RunFolder
from hepfm.ingest import command as ingest
from hepfm.ingest.build import BuildOptions
from hepfm.ingest.simulate.produce import simulate_jetclass
from hepfm.pretrain import run as pretrain
from hepfm.tokenize import apply, fit

LABELS = ("QCD", "Tbqq")
