"""How much memory a training takes on each device, from the network, the batch and the ZeRO stage alone.

The terms follow what this code and DeepSpeed 0.19 hold; ``hepfm bench pretrain-memory`` compares them with
measurements. All sizes in bytes, of one device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch

from hepfm.core.nn.head import CHUNK_LOGITS
from hepfm.core.nn.ragged import Layout
from hepfm.core.nn.transformer import TransformerConfig
from hepfm.pretrain.backbone import Backbone, BackboneConfig

SINGLE, HALF = 4, 2
BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default for reducing and gathering


@dataclass(frozen=True)
class Setting:
    """What is to be trained, and how.

    Attributes:
        backbone: the network.
        lengths: tokens (n,) of the sequences of one micro-batch on one device.
        zero_stage: DeepSpeed's ZeRO.
        processes: devices that share.
        precision: of the products; weights, gradients and optimizer are fp32.
        checkpointing: whether only the input of each block is kept for the backward pass.
        accumulation: micro-batches of a step.
        device: ``cuda`` has half precision kernels for packed sequences, ``cpu`` pads in buckets and in fp32.
    """

    backbone: BackboneConfig
    lengths: np.ndarray
    zero_stage: Literal[0, 1, 2, 3] = 0
    processes: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = False
    accumulation: int = 1
    device: Literal["cpu", "cuda"] = "cuda"

    @property
    def tokens(self) -> int:
        """Real tokens of a micro-batch."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Memory:
    """Memory of one device at the worst moment of a step.

    Attributes:
        weights: fp32 weights, and the master copies that ZeRO makes of them.
        gradients: what is there of them at that moment.
        optimizer: AdamW's two moments.
        activations: what the backward pass will read.
        buffers: passing copies: reductions, the logits of a chunk, the block at hand.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    buffers: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers


@cache
def outline(config: BackboneConfig) -> Backbone:
    """The backbone without any memory for its weights."""
    with torch.device("meta"):
        return Backbone(config)


def parameters(config: BackboneConfig) -> int:
    """Number of parameters."""
    return outline(config).parameters_count


def padding(lengths: np.ndarray) -> float:
    """Slots over real tokens in the buckets that attention pads sequences to."""
    layout = Layout.of(np.asarray(lengths))
    return len(layout.slots) / max(1, layout.tokens)


def block_activations(config: TransformerConfig, setting: Setting) -> float:
    """What one block keeps of a micro-batch for its backward pass."""
    width, hidden = config.width, config.hidden
    low = setting.precision == "bf16"
    product = HALF if low else SINGLE  # what linear layers read and give
    packed = low and setting.device == "cuda"
    mixing = HALF if packed else SINGLE
    slots = 1.0 if packed else padding(setting.lengths)
    norms = 2 * _norm(config) + 2 * width * product  # what they read, and give to the projections
    attention = slots * (4 * width * mixing + config.heads * SINGLE) + width * product
    gates = {"swiglu": 4, "gelu": 2, "silu": 2, "relu": 1}[config.mlp]
    return setting.tokens * (norms + attention + gates * hidden * product)


def activations(setting: Setting) -> float:
    """What the whole network keeps of a micro-batch for its backward pass."""
    config = setting.backbone.transformer
    low = setting.precision == "bf16"
    product = HALF if low else SINGLE
    rotation = config.channels // 2 * 8 if config.positions == "rope" else 0
    final = _norm(config) if config.final_norm else 0
    ends = setting.tokens * (rotation + final + config.width * product + 8)
    ends += (setting.backbone.codes + 2) * config.width * product  # the head forms its gradient in the forward pass
    if low:
        ends += HALF * _block_weights(config) * config.blocks  # autocast's copies
    block = block_activations(config, setting)
    if setting.checkpointing:
        return config.blocks * setting.tokens * config.width * SINGLE + block + ends
    return config.blocks * block + ends


def _norm(config: TransformerConfig) -> int:
    """What a norm keeps of a token: its input, and the root mean square, or mean and deviation."""
    return config.width * SINGLE + (1 if config.norm == "rmsnorm" else 2) * SINGLE


def _block_weights(config: TransformerConfig) -> int:
    """Numbers in the matrices of one block."""
    up = 2 if config.mlp == "swiglu" else 1
    return config.width * (4 * config.width + (up + 1) * config.hidden)


def predict(setting: Setting) -> Memory:
    """Memory of one device at the worst moment of a step.

    That is the end of the forward pass, when all activations are there, or the backward pass and update, when all
    gradients are: what is freed makes room for the rest.
    """
    config, stage, shared = setting.backbone, setting.zero_stage, setting.processes
    whole = float(SINGLE * parameters(config))
    share = whole / shared
    kept = activations(setting)
    passing = block_activations(config.transformer, setting)  # of the block that is at work
    logits = min(CHUNK_LOGITS[setting.device], setting.tokens * (config.codes + 2))
    passing += SINGLE * (logits + 2 * (config.codes + 2) * config.transformer.width)  # and the head at its chunk
    # Stage 0 copies gradients to send them; the others allocate a whole bucket, of which a CPU takes what is used.
    on_cpu = setting.device == "cpu"
    bucket = min(whole, SINGLE * BUCKET_ELEMENTS) if on_cpu else SINGLE * BUCKET_ELEMENTS
    if stage == 0:
        weights, moments, held, sent = whole, 2 * whole, whole, (whole if shared > 1 else 0.0)
    elif stage < 3:  # a master copy of the own share; the bucket, later the share of the gradients in one piece
        weights, moments, held, sent = whole + share, 2 * share, (whole if stage == 1 else share), max(bucket, share)
    else:  # the caller's network, the gathered weights, own share and its master copy; gradients of the own share twice
        weights, moments, held, sent = 2 * whole + 2 * share, 2 * share, share, bucket + share
    before = held if setting.accumulation > 1 or stage == 3 else 0.0  # gradients while activations are all there
    early = before + kept + passing
    if stage == 3 or (stage > 0 and not on_cpu):  # a CPU's bucket is not there before the backward pass writes to it
        early += sent
    late = max(held, whole if stage == 1 else held) + sent
    if early > late:
        return Memory(weights, before, moments, kept, early - before - kept)
    return Memory(weights, held, moments, 0.0, sent)
