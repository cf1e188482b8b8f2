"""The networks of the zoo, as plain modules.

``--factory examples.zoo.networks:NAME`` builds any of them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class LeNet5(nn.Module):
    """LeNet-5 for 28x28 grey digits, with ReLU and max-pooling (LeCun et al., 1998)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        return self.fc3(functional.relu(self.fc2(x)))


class MatConvNetLeNet(nn.Module):
    """LeNet for 28x28 grey digits as MatConvNet's example trains it: no padding, one ReLU.

    Source: Rafegas and Vanrell, *Understanding learned CNN features through Filter Decoding with
    Substitution*, 2015, section 4.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.conv3 = nn.Conv2d(50, 500, 4)
        self.conv4 = nn.Conv2d(500, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.conv1(x), 2)
        x = functional.max_pool2d(self.conv2(x), 2)
        return self.conv4(functional.relu(self.conv3(x))).flatten(1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; a narrower shortcut is subsampled and padded with zero channels."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.padding:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(out + shortcut)


class CifarResNet(nn.Module):
    """ResNet for 32x32 colour images with option-A shortcuts (He et al., 2016, section 4.2)."""

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class ProjectedBlock(nn.Module):
    """Two 3x3 convolutions; a narrower shortcut is projected by a strided 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + (x if self.downsample is None else self.downsample(x)))


class SmallResNet18(nn.Module):
    """ResNet-18 for 32x32 colour images, a quarter as wide (He et al., 2016, Table 1)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages = zip((16, 16, 32, 64), (16, 32, 64, 128), (1, 2, 2, 2), strict=True)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(ProjectedBlock(*stage), ProjectedBlock(stage[1], stage[1], 1))
                for stage in stages
            )
        )
        self.fc = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(self.layers(x).mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm, two pointwise layers, residual (Liu et al., 2022)."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc1 = nn.Linear(channels, expansion * channels)
        self.fc2 = nn.Linear(expansion * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        out = self.fc2(functional.gelu(self.fc1(out)))
        return x + out.permute(0, 3, 1, 2)


class SmallConvNeXt(nn.Module):
    """Two stages of ConvNeXt blocks for 32x32 colour images."""

    def __init__(
        self, widths: tuple[int, int], depths: tuple[int, int], num_classes: int = 10
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 2, 2)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.stage1 = nn.Sequential(*(ConvNeXtBlock(widths[0], 3) for _ in range(depths[0])))
        self.down_norm = nn.BatchNorm2d(widths[0])
        self.down = nn.Conv2d(widths[0], widths[1], 2, 2)
        self.stage2 = nn.Sequential(*(ConvNeXtBlock(widths[1], 3) for _ in range(depths[1])))
        self.head_norm = nn.LayerNorm(widths[1], eps=1e-6)
        self.head = nn.Linear(widths[1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage1(self.stem_norm(self.stem(x)))
        x = self.stage2(self.down(self.down_norm(x)))
        return self.head(self.head_norm(x.mean((2, 3))))


def lenet5(num_classes: int = 10) -> LeNet5:
    """LeNet-5 for 1x28x28 digits, 62 thousand parameters."""
    return LeNet5(num_classes)


def lenet_matconvnet(num_classes: int = 10) -> MatConvNetLeNet:
    """LeNet of 20, 50, 500 and 10 filters for 1x28x28 digits, 431 thousand parameters."""
    return MatConvNetLeNet(num_classes)


def cifar_resnet20(num_classes: int = 10) -> CifarResNet:
    """ResNet-20 for 3x32x32 images, 0.27 million parameters."""
    return CifarResNet(3, num_classes)


def cifar_resnet56(num_classes: int = 10) -> CifarResNet:
    """ResNet-56 for 3x32x32 images, 0.85 million parameters."""
    return CifarResNet(9, num_classes)


def resnet18_small_images(num_classes: int = 10) -> SmallResNet18:
    """ResNet-18 of a quarter of the width for 3x32x32 images, 0.70 million parameters."""
    return SmallResNet18(num_classes)


def convnext_small_images(num_classes: int = 10) -> SmallConvNeXt:
    """Depthwise 7x7 network for 3x32x32 images."""
    return SmallConvNeXt(widths=(48, 96), depths=(2, 3), num_classes=num_classes)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def load(network: nn.Module, path: str) -> nn.Module:
    """Load a safetensors file strictly and switch to evaluation mode."""
    from safetensors.torch import load_file

    network.load_state_dict(load_file(path))
    return network.eval()
