"""Prune a module in memory, train it for a few steps, prune it again, and save it.

Usage: python prune_in_training.py [OUTPUT.safetensors]
"""

import sys

import torch
from torch import nn
from torch.nn import functional

import filtersurgeon as fs


class Net(nn.Module):
    """A small residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.first = nn.Conv2d(16, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Give the class scores of images, (n, 3, height, width)."""
        x = functional.relu(self.norm(self.stem(image)))
        x = x + self.second(functional.relu(self.first(x)))
        return self.head(x.mean((2, 3)))


def train(network: nn.Module, steps: int) -> float:
    """Train for some steps on random images, and give the last loss."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    loss = torch.zeros(())
    for _ in range(steps):
        images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def main(output: str) -> None:
    """Prune twice, with training after each cut; an optimizer is made anew after a cut."""
    torch.manual_seed(0)
    network: nn.Module = Net()
    example = torch.randn(1, 3, 32, 32)
    for cut in (1, 2):
        network = fs.prune(network, example, sparsity=0.25, per_layer=True, method="l2")
        loss = train(network, steps=3)
        count = sum(p.numel() for p in network.parameters())
        print(f"after cut {cut}: {count} parameters, loss {loss:.2f}")
    fs.save(fs.load(network, example_inputs=example), output, force=True)
    print(f"saved {output}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pruned.safetensors")
