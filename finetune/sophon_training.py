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
