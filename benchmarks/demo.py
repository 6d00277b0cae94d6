"""``hepfm demo``: the whole thread on simulated jets, from Pythia to a report, each stage by its own command."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hepfm.benchmarks.baseline import independent_tokens
from hepfm.benchmarks.report import evaluate_jets
from hepfm.benchmarks.samples import read_jets
from hepfm.core.artifacts import read_artifact
from hepfm.core.engine.config import TrainingConfig
from hepfm.core.files import write_bytes
from hepfm.core.progress import say
from hepfm.core.records import lengths_of
from hepfm.core.runs import RunFolder
from hepfm.finetune import generate
from hepfm.ingest import command as ingest
from hepfm.ingest.build import BuildOptions
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.simulate.produce import simulate_jetclass
from hepfm.pretrain import run as pretrain
from hepfm.tokenize import apply, fit
from hepfm.tokenize.network import VQVAEConfig

LABELS = ("QCD", "Tbqq")
'''
