"""Small networks for 32x32 images, of the kinds that ``benchmarks.frontier_zoo`` trains.

``--arch factory:benchmarks.frontier_networks:NAME`` builds any of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MASK_CLASSES = 4


class DenseLayer(nn.Module):
    """Batch norm before a 1x1 and a 3x3 convolution, behind the input (Huang et al., 2017)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(out)))], 1)


class SmallDenseNet(nn.Module):
    """DenseNet-BC of three blocks behind a strided stem."""

    def __init__(self, growth: int, layers: int, num_classes: int) -> None:
        super().__init__()
        channels = 2 * growth
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1, bias=False)]
        for block in range(3):
            for _ in range(layers):
                parts.append(DenseLayer(channels, growth))
                channels += growth
            if block < 2:
                half = channels // 2
                parts += [
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, half, 1, bias=False),
                    nn.AvgPool2d(2),
                ]
                channels = half
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(channels), nn.ReLU())
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class InvertedResidual(nn.Module):
    """Expansion, depthwise 3x3, projection (Sandler et al., 2018)."""

    def __init__(self, channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * channels
        self.body = nn.Sequential(
            *_convolution(channels, wide, 1),
            nn.ReLU6(),
            *_convolution(wide, wide, 3, stride, groups=wide),
            nn.ReLU6(),
            *_convolution(wide, out_channels, 1),
        )
        self.shortcut = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class SmallMobileNet(nn.Module):
    """MobileNetV2 with a stem of stride 2 and two more halvings.

    Args:
        num_classes: outputs.
        width: factor of all widths; a multiple of 1/8 gives whole numbers.
    """

    def __init__(self, num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        stages = ((16, 16, 1), (16, 24, 1), (24, 24, 1), (24, 32, 2), (32, 32, 1),
                  (32, 32, 1), (32, 64, 2), (64, 64, 1))  # fmt: skip
        self.features = nn.Sequential(
            *_convolution(3, round(16 * width), 3, 2),
            nn.ReLU6(),
            *(
                InvertedResidual(round(width * read), round(width * made), stride, expansion=4)
                for read, made, stride in stages
            ),
            *_convolution(round(64 * width), round(160 * width), 1),
            nn.ReLU6(),
        )
        self.head = nn.Linear(round(160 * width), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions behind a projected shortcut (He et al., 2016, Fig. 5)."""

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * inner
        self.body = nn.Sequential(
            *_convolution(channels, inner, 1),
            nn.ReLU(),
            *_convolution(inner, inner, 3, stride),
            nn.ReLU(),
            *_convolution(inner, out_channels, 1),
        )
        self.shortcut = nn.Sequential()
        if channels != out_channels:
            self.shortcut = nn.Sequential(*_convolution(channels, out_channels, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


class SmallBottleneckResNet(nn.Module):
    """ResNet of three stages of two bottlenecks behind a strided stem.

    Args:
        num_classes: outputs.
        width: factor of all widths; a multiple of 1/16 gives whole numbers.
    """

    def __init__(self, num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        blocks = ((16, 16, 1), (64, 16, 1), (64, 32, 2), (128, 32, 1), (128, 64, 2), (256, 64, 1))
        self.features = nn.Sequential(
            *_convolution(3, round(16 * width), 3, 2),
            nn.ReLU(),
            *(
                Bottleneck(round(width * read), round(width * inner), stride)
                for read, inner, stride in blocks
            ),
        )
        self.head = nn.Linear(round(256 * width), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class TwoConvolutions(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(channels, out_channels, 3), nn.ReLU(),
            *_convolution(out_channels, out_channels, 3), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class SmallUNet(nn.Module):
    """U-Net of three levels with transposed convolutions (Ronneberger et al., 2015)."""

    def __init__(self, widths: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        first, second, third = widths
        self.down1 = TwoConvolutions(3, first)
        self.down2 = TwoConvolutions(first, second)
        self.bottom = TwoConvolutions(second, third)
        self.widen2 = nn.ConvTranspose2d(third, second, 2, 2)
        self.up2 = TwoConvolutions(2 * second, second)
        self.widen1 = nn.ConvTranspose2d(second, first, 2, 2)
        self.up1 = TwoConvolutions(2 * first, first)
        self.head = nn.Conv2d(first, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        low = self.bottom(functional.max_pool2d(two, 2))
        two = self.up2(torch.cat([two, self.widen2(low)], 1))
        return self.head(self.up1(torch.cat([one, self.widen1(two)], 1)))


def densenet(num_classes: int = 10) -> SmallDenseNet:
    """DenseNet-BC with three blocks of four layers for 3x32x32 images."""
    return SmallDenseNet(growth=10, layers=4, num_classes=num_classes)


def convnext(num_classes: int = 10) -> Any:
    """ConvNeXt V2 of timm (layer norm, GRN) for 3x32x32 images, patches of 2."""
    from filtersurgeon.checkpoint.vision import import_timm

    import_timm()
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(
        num_classes=num_classes, depths=(1, 2, 2, 1), dims=(24, 48, 96, 128), patch_size=2,
        use_grn=True, ls_init_value=None,
    )  # fmt: skip


def mobilenet(num_classes: int = 10, width: float = 1.0) -> SmallMobileNet:
    """MobileNetV2 for 3x32x32 images, 8 inverted residuals; ``width`` is a factor of all widths."""
    return SmallMobileNet(num_classes, width)


def bottleneck(num_classes: int = 10, width: float = 1.0) -> SmallBottleneckResNet:
    """ResNet with 1x1, 3x3 and 1x1 bottlenecks for 3x32x32 images, 20 layers."""
    return SmallBottleneckResNet(num_classes, width)


def unet(num_classes: int = MASK_CLASSES) -> SmallUNet:
    """U-Net for masks of 3x32x32 images, ``(images, classes, 32, 32)``."""
    return SmallUNet((12, 24, 48), num_classes)


def _convolution(
    channels: int, out_channels: int, side: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, out_channels, side, stride, side // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
