"""CaloChallenge's 3-D ResNet: 18 layers, widths 32, 64, 64, 128, the incident energy joined before the last layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from hepfm.benchmarks.scores.classifier_inputs import Image

WIDTHS = (32, 64, 64, 128)
STEM = 7


class _Block(nn.Module):
    """Two 3 x 3 x 3 convolutions beside a shortcut."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(width, out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm3d(out)
        self.second = nn.Conv3d(out, out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm3d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width != out:
            self.shortcut = nn.Sequential(nn.Conv3d(width, out, 1, stride, bias=False), nn.BatchNorm3d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


class ResNet3d(nn.Module):
    """Rows of the incident energy and the voxels of a picture -> logits.

    Args:
        image: shape of the voxels.
        outputs: logits of an event.
    """

    def __init__(self, image: Image, outputs: int = 1) -> None:
        super().__init__()
        self.shape = (1, image.layers, image.slow, image.fast)
        stem = nn.Conv3d(1, WIDTHS[0], STEM, 2, STEM // 2, bias=False)
        stages: list[nn.Module] = [stem, nn.BatchNorm3d(WIDTHS[0]), nn.ReLU(), nn.MaxPool3d(3, 2, 1)]
        width = WIDTHS[0]
        for number, out in enumerate(WIDTHS):
            stages += [_Block(width, out, 1 if number == 0 else 2), _Block(out, out, 1)]
            width = out
        self.stages = nn.Sequential(*stages)
        self.energy_norm = nn.BatchNorm1d(1)
        self.last = nn.Linear(width + 1, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        picture = self.stages(rows[:, 1:].reshape(-1, *self.shape)).mean(dim=(2, 3, 4))
        return self.last(torch.cat([picture, self.energy_norm(rows[:, :1])], dim=1))


def resnet(image: Image) -> Callable[[int, int], nn.Module]:
    """What builds this network for :func:`hepfm.benchmarks.scores.classifiers.classify`."""

    def build(_width: int, outputs: int) -> nn.Module:
        return ResNet3d(image, outputs)

    return build
