"""Small networks that break habits: each function makes one, as --factory has it.

They stand for code that nobody here has seen: it raises, prints, asks for two images, has nothing
that could be cut.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

SIZE = (3, 16, 16)
CLASSES = 4


class Plain(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, dtype=dtype)
        self.b = nn.Conv2d(8, 8, 3, padding=1, dtype=dtype)
        self.fc = nn.Linear(8, CLASSES, dtype=dtype)
        self.pretrained_cfg = {"input_size": SIZE}

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.b(functional.relu(self.a(x)))).mean((2, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(self.features(x))


class OneImage(Plain):
    """Forgets the batch: takes one image at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8 * 16 * 16, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        x = functional.relu(self.b(functional.relu(self.a(x))))
        return self.fc(torch.flatten(x))


class OneImageAsked(Plain):
    """Says so."""

    def forward(self, x: torch.Tensor) -> Any:
        assert x.shape[0] == 1, "one image at a time"
        return super().forward(x)


class Silent(nn.Module):
    """Has no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": SIZE}
        self.num_classes = CLASSES

    def forward(self, x: torch.Tensor) -> Any:
        return functional.adaptive_avg_pool2d(x, 2).flatten(1)[:, :CLASSES]


class OnlyBuffers(Silent):
    """Has a buffer, and nothing that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(CLASSES))

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x) * self.scale


class OnlyLinear(Silent):
    """Has no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(x.flatten(1))


class OneConvolution(Silent):
    """Gives what its only convolution makes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, CLASSES, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.a(x).mean((2, 3))


class Sigmoid(nn.Module):
    """An activation to be scripted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


class TwoInputs(Plain):
    """Wants a mask too."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> Any:
        return super().forward(x * mask)


class NamedInput(Plain):
    """Wants its image by name, as Hugging Face's do."""

    def forward(self, *, pixel_values: torch.Tensor) -> Any:
        return super().forward(pixel_values)


class ListInput(Plain):
    """Wants a list of images, as torchvision's detectors do."""

    def forward(self, images: list[torch.Tensor]) -> Any:
        if not isinstance(images, list):
            raise TypeError("expected a list of images")
        return super().forward(torch.stack(images))


class Printing(Plain):
    """Prints a shape."""

    def forward(self, x: torch.Tensor) -> Any:
        print("shape", tuple(x.shape))
        return super().forward(x)


class PrintingValue(Plain):
    """Prints a value."""

    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        print("sum", float(y.sum()))
        return y


class Raising(Plain):
    """Raises an exception of a class of its own, of several lines."""

    class TroubleError(Exception):
        """Of this network only."""

    def forward(self, _: torch.Tensor) -> Any:
        raise self.TroubleError("first line " + "very " * 60 + "long\nsecond line")


class Wordless(Plain):
    """Raises an exception without a text."""

    def forward(self, _: torch.Tensor) -> Any:
        raise NotImplementedError


class WantsKey(Plain):
    """Raises what a dictionary without a key raises."""

    def forward(self, x: torch.Tensor) -> Any:
        return {}["features"] + super().forward(x)


class Stopping(Plain):
    """Raises what a generator at its end raises."""

    def forward(self, x: torch.Tensor) -> Any:
        next(iter(()))
        return super().forward(x)


class Endless(Plain):
    """Calls itself."""

    def forward(self, x: torch.Tensor) -> Any:
        return self.forward(x)


class Greedy(Plain):
    """Runs out of memory."""

    def forward(self, _: torch.Tensor) -> Any:
        raise MemoryError


class Quitting(Plain):
    """Ends the process."""

    def forward(self, _: torch.Tensor) -> Any:
        raise SystemExit(0)


class OnlyTraining(Plain):
    """Cannot be evaluated."""

    def forward(self, x: torch.Tensor) -> Any:
        if not self.training:
            raise RuntimeError("call train() first")
        return super().forward(x)


class Empty(Plain):
    """Has a layer without channels."""

    def __init__(self) -> None:
        super().__init__()
        self.none = nn.Conv2d(8, 0, 1)

    def forward(self, x: torch.Tensor) -> Any:
        y = functional.relu(self.b(functional.relu(self.a(x))))
        return self.fc((y + self.none(y).sum(1, keepdim=True)).mean((2, 3)))


class Deciding(Plain):
    """Goes one way or the other, by what it sees."""

    def forward(self, x: torch.Tensor) -> Any:
        if x.mean() > 0:
            return super().forward(x)
        return super().forward(-x)


class Choosing(Plain):
    """Does something else with its channels, by what it sees."""

    def forward(self, x: torch.Tensor) -> Any:
        y = functional.relu(self.a(x))
        if y.mean() > 0.5:
            y = functional.relu(self.b(y))
        return self.fc(y.mean((2, 3)))


class Complex(nn.Module):
    """Computes with complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, dtype=torch.complex64)
        self.b = nn.Conv2d(8, CLASSES, 3, padding=1, dtype=torch.complex64)
        self.pretrained_cfg = {"input_size": SIZE}
        self.num_classes = CLASSES

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(self.a(x.to(torch.complex64))).abs().mean((2, 3))


class Nothing(Plain):
    """Returns nothing."""

    def forward(self, x: torch.Tensor) -> Any:
        super().forward(x)


class NoImages(Plain):
    """Gives one number for all images together."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x).sum()


class WholeNumbers(Plain):
    """Gives the class, and not what speaks for it."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x).argmax(1)


class Arrays(Plain):
    """Leaves torch on its way."""

    def forward(self, x: torch.Tensor) -> Any:
        return torch.from_numpy(super().forward(x).detach().numpy())


def plain() -> nn.Module:
    return Plain()


def scripted_inside() -> nn.Module:
    model = Plain()
    model.act = torch.jit.script(Sigmoid())
    model.forward = lambda x: model.fc(model.act(model.b(model.act(model.a(x)))).mean((2, 3)))
    return model


def scripted() -> Any:
    return torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()))


def traced() -> Any:
    return torch.jit.trace(nn.Conv2d(3, 8, 3), torch.zeros(1, *SIZE))


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Plain()


def half() -> nn.Module:
    return Plain(torch.float16)


def bfloat() -> nn.Module:
    return Plain(torch.bfloat16)


def double() -> nn.Module:
    return Plain(torch.float64)


def mixed() -> nn.Module:
    model = Plain()
    model.b.half()
    return model


def broken() -> nn.Module:
    raise OSError(2, "No such file or directory", "backbone.pth")


def quits() -> nn.Module:
    raise SystemExit("no")


def pair() -> Any:
    return Plain(), ["a", "b"]


def none() -> None:
    return None


def needs_words(width: int) -> nn.Module:
    return nn.Conv2d(3, width, 3)


def parallel() -> nn.Module:
    return nn.DataParallel(Plain())


one_image = OneImage
one_image_asked = OneImageAsked
silent = Silent
only_buffers = OnlyBuffers
only_linear = OnlyLinear
one_convolution = OneConvolution
two_inputs = TwoInputs
named_input = NamedInput
list_input = ListInput
printing = Printing
printing_value = PrintingValue
raising = Raising
wordless = Wordless
wants_key = WantsKey
stopping = Stopping
endless = Endless
greedy = Greedy
quitting = Quitting
only_training = OnlyTraining
empty = Empty
deciding = Deciding
choosing = Choosing
complex_numbers = Complex
nothing = Nothing
no_images = NoImages
whole_numbers = WholeNumbers
arrays = Arrays

FACTORIES = (
    "plain", "one_image", "one_image_asked", "silent", "only_buffers", "only_linear",
    "one_convolution", "scripted_inside", "scripted", "traced", "two_inputs", "named_input",
    "list_input", "printing", "printing_value", "raising", "wordless", "wants_key", "stopping",
    "endless", "greedy", "quitting", "only_training", "empty", "deciding", "choosing",
    "complex_numbers",
    "nothing", "no_images", "whole_numbers", "arrays", "on_meta", "half", "bfloat", "double",
    "mixed", "broken", "quits", "pair", "none", "needs_words", "parallel",
)  # fmt: skip
