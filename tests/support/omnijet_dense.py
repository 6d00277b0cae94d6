"""OmniJet-alpha's networks as padded dense torch modules, and their checkpoints as Lightning and OmegaConf write them.

Independent of hepfm: nn.MultiheadAttention with a padding mask, explicit distances, an explicit causal mask.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn


class Codebook(nn.Module):
    """An affine codebook; the effective codes are (1 + rate scale) W + rate bias."""

    def __init__(self, codes: int, latent: int, rate: float) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codes, latent)
        self.rate = rate
        if rate:
            self.affine_transform = nn.Module()
            self.affine_transform.scale = nn.Parameter(0.1 * torch.randn(1, latent))
            self.affine_transform.bias = nn.Parameter(0.1 * torch.randn(1, latent))
        self.register_buffer("_counts", torch.ones(codes))

    def effective(self) -> Tensor:
        if not self.rate:
            return self.codebook.weight
        affine = self.affine_transform
        return (1 + self.rate * affine.scale) * self.codebook.weight + self.rate * affine.bias

    def spread(self, latent: Tensor) -> None:
        """Make latents (codes, latent) the effective codes, so that all are used."""
        with torch.no_grad():
            if self.rate:
                affine = self.affine_transform
                latent = (latent - self.rate * affine.bias) / (1 + self.rate * affine.scale)
            self.codebook.weight.copy_(latent)

    def ids(self, latent: Tensor) -> Tensor:
        return (latent[..., None, :] - self.effective()).square().sum(-1).argmin(-1)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        inner = nn.Linear(width, mlp_width), nn.SiLU(), nn.Dropout(0.1), nn.Linear(mlp_width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), *inner)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x * mask[..., None]
        normed = self.norm1(x)
        mixed, _ = self.attn(normed, normed, normed, key_padding_mask=~mask)
        x = self.norm2(mixed) + x
        return x + self.mlp(x)


class Stack(nn.Module):
    def __init__(self, width: int, heads: int, mlp_width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_width) for _ in range(blocks))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return x * mask[..., None]


class VQVAENormFormer(nn.Module):
    model_type = "VQVAENormFormer"

    def __init__(
        self,
        input_dim: int = 3,
        hidden_dim: int = 24,
        num_heads: int = 3,
        num_blocks: int = 3,
        latent_dim: int = 5,
        num_codes: int = 40,
        affine_lr: float = 2.0,
        mlp_width: int = 24,
    ) -> None:
        super().__init__()
        self.input_projection = nn.Linear(input_dim, hidden_dim)
        self.encoder_normformer = Stack(hidden_dim, num_heads, mlp_width, num_blocks)
        self.latent_projection_in = nn.Linear(hidden_dim, latent_dim)
        self.vqlayer = Codebook(num_codes, latent_dim, affine_lr)
        self.latent_projection_out = nn.Linear(latent_dim, hidden_dim)
        self.decoder_normformer = Stack(hidden_dim, num_heads, mlp_width, num_blocks)
        self.output_projection = nn.Linear(hidden_dim, input_dim)

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.latent_projection_in(self.encoder_normformer(self.input_projection(x), mask))

    def decode(self, ids: Tensor, mask: Tensor) -> Tensor:
        z = self.latent_projection_out(self.vqlayer.effective()[ids])
        return self.output_projection(self.decoder_normformer(z, mask))


class Transformer(nn.Module):
    """Encoder or decoder of the older layout."""

    def __init__(self, inputs: int, outputs: int, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(Block(width, heads, width) for _ in range(blocks))
        self.project_out = nn.Linear(width, outputs)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.project_in(x)
        for block in self.blocks:
            x = block(x, mask)
        return self.project_out(x) * mask[..., None]


class VQVAETransformer(nn.Module):
    model_type = "Transformer"

    def __init__(
        self, input_dim: int = 3, hidden_dim: int = 16, num_heads: int = 2, num_blocks: int = 2, latent_dim: int = 4
    ) -> None:
        super().__init__()
        self.encoder = Transformer(input_dim, latent_dim, hidden_dim, num_heads, num_blocks)
        self.vqlayer = Codebook(30, latent_dim, 2.0)
        self.decoder = Transformer(latent_dim, input_dim, hidden_dim, num_heads, num_blocks)

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(x, mask)

    def decode(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.decoder(self.vqlayer.effective()[ids], mask)


class VQVAEMLP(nn.Module):
    model_type = "MLP"

    def __init__(
        self,
        input_dim: int = 3,
        encoder_layers: tuple[int, ...] = (20, 20, 20),
        decoder_layers: tuple[int, ...] = (20, 20, 20),
        latent_dim: int = 4,
        num_codes: int = 32,
        affine_lr: float = 1.5,
    ) -> None:
        super().__init__()
        self.encoder = self._layers((input_dim, *encoder_layers, latent_dim))
        self.vqlayer = Codebook(num_codes, latent_dim, affine_lr)
        self.decoder = self._layers((latent_dim, *decoder_layers, input_dim))

    @staticmethod
    def _layers(widths: tuple[int, ...]) -> nn.Sequential:
        linear = [nn.Linear(*pair) for pair in pairwise(widths)]
        return nn.Sequential(*[layer for one in linear[:-1] for layer in (one, nn.ReLU())], linear[-1])

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(x)

    def decode(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.decoder(self.vqlayer.effective()[ids])


class Heads(nn.Module):
    """Causal attention with explicit scores."""

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.key, self.query, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.register_buffer("tril", torch.tril(torch.ones(length, length)))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        key, query, value = (
            layer(x).view(batch, length, self.heads, -1).transpose(1, 2) for layer in (self.key, self.query, self.value)
        )
        scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5
        weights = scores.masked_fill(self.tril[:length, :length] == 0, -torch.inf).softmax(-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, length, width))


class GPTBlock(nn.Module):
    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.mha_block = Heads(width, heads, length)
        self.ff_block = nn.Module()
        self.ff_block.net = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.layernorm_1, self.layernorm_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layernorm_1(x + self.mha_block(x))
        return self.layernorm_2(x + self.ff_block.net(x))


class Generator(nn.Module):
    """Ids are 0 for start, c + 1 for code c, codes + 1 for stop."""

    def __init__(
        self,
        codes: int = 40,
        embedding_dim: int = 24,
        n_heads: int = 4,
        n_GPT_blocks: int = 2,
        max_sequence_len: int = 20,
    ) -> None:
        super().__init__()
        self.module = nn.Module()
        self.module.embedding_table = nn.Embedding(codes + 2, embedding_dim)
        self.module.GPT_blocks = nn.Sequential(
            *(GPTBlock(embedding_dim, n_heads, max_sequence_len) for _ in range(n_GPT_blocks))
        )
        self.head = nn.Module()
        self.head.fc1 = nn.Linear(embedding_dim, codes + 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head.fc1(self.module.GPT_blocks(self.module.embedding_table(ids)))


FEATURES: dict[str, dict[str, Any]] = {
    "part_pt": {"multiply_by": 1, "subtract_by": 1.8, "func": "np.log", "inv_func": "np.exp"},
    "part_etarel": {"multiply_by": 3, "larger_than": -0.8, "smaller_than": 0.8},
    "part_phirel": {"multiply_by": 3, "larger_than": -0.8, "smaller_than": 0.8},
}
SHOWER_FEATURES: dict[str, dict[str, Any]] = {
    "x": {"multiply_by": 0.3, "subtract_by": 14.5},
    "y": {"multiply_by": 0.3, "subtract_by": 14.5},
    "z": {"multiply_by": 0.2, "subtract_by": 15.5},
    "energy": {"func": "np.log", "inv_func": "np.exp", "subtract_by": -1},
}


def config(features: Any = None, pad_length: Any = 128, **model_kwargs: Any) -> dict[str, Any]:
    """Content of a ``config.yaml``."""
    common = {"feature_dict": FEATURES if features is None else features, "pad_length": pad_length}
    return {"data": {"dataset_kwargs_common": common}, "model": {"model_kwargs": model_kwargs}}


def write_tokenizer(
    folder: Path, model: nn.Module, *, configuration: Any = None, name: str = "", vq: Any = None, **kwargs: Any
) -> Path:
    """The checkpoint of a tokenizer with its ``config.yaml``; ``kwargs`` become model_kwargs."""
    folder.mkdir(parents=True, exist_ok=True)
    content = config() if configuration is None else configuration
    (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    options = {"num_codes": len(model.vqlayer.codebook.weight), "affine_lr": model.vqlayer.rate, "norm": None}
    hyper = {
        "model_kwargs": {**kwargs, "vq_kwargs": options | (vq or {})},
        "model_type": name or model.model_type,
    }
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    return write_checkpoint(folder / "model_ckpt.ckpt", state, hyper)


def write_generator(folder: Path, model: Generator, **kwargs: Any) -> Path:
    """The checkpoint of a generator; ``kwargs`` become model_kwargs."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_checkpoint(folder / "generator.ckpt", dict(model.state_dict()), {"model_kwargs": kwargs})


def write_checkpoint(path: Path, state: dict[str, Any], hyper: dict[str, Any]) -> Path:
    """A checkpoint with pickled partials of optimiser and scheduler, and OmegaConf containers."""
    with _foreign() as made:
        functions = {
            "optimizer": functools.partial(torch.optim.AdamW, lr=1e-3),
            "scheduler": functools.partial(made["OneCycleCooldown"], warmup=4),
        }
        content = {
            "epoch": 3,
            "global_step": 100,
            "pytorch-lightning_version": "2.2.1",
            "state_dict": state,
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}],
            "hyper_parameters": {
                **functions,
                **{key: _omegaconf(made, value) if isinstance(value, dict) else value for key, value in hyper.items()},
            },
        }
        torch.save(content, path)
    return path


@contextmanager
def _foreign() -> Iterator[dict[str, type]]:
    """Stand-ins for classes of gabbro and OmegaConf, importable while a checkpoint is written and gone afterwards."""
    classes = {
        "OneCycleCooldown": "gabbro.schedulers.lr_scheduler",
        "DictConfig": "omegaconf.dictconfig",
        "ListConfig": "omegaconf.listconfig",
        "AnyNode": "omegaconf.nodes",
    }
    made = {name: type(name, (), {"__module__": module}) for name, module in classes.items()}
    names = {".".join(module.split(".")[: n + 1]) for module in classes.values() for n in range(module.count(".") + 1)}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules |= {name: types.ModuleType(name) for name in names}
    for name, module in classes.items():
        setattr(sys.modules[module], name, made[name])
    try:
        yield made
    finally:
        for name, known in before.items():
            sys.modules.pop(name)
            if known is not None:
                sys.modules[name] = known


def _omegaconf(made: dict[str, type], value: Any, parent: Any = None) -> Any:
    kind = {dict: "DictConfig", list: "ListConfig", tuple: "ListConfig"}.get(type(value), "AnyNode")
    node = made[kind]()
    node._metadata, node._parent = {"optional": True}, parent
    if kind == "DictConfig":
        node._content = {key: _omegaconf(made, item, node) for key, item in value.items()}
    elif kind == "ListConfig":
        node._content = [_omegaconf(made, item, node) for item in value]
    else:
        node._val = value
    return node
