"""Activation maximisation on Fourier coefficients: form, priors, objectives, and what is found."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_data import LENET
from small_data import digits as digits  # a fixture
from torch import nn

import filtersurgeon as fs
from filtersurgeon.cli.maximize import Judging
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.learn.networks import open_network
from filtersurgeon.see import priors, spectral
from filtersurgeon.see.growing import Adam, plan_stages
from filtersurgeon.see.layers import outputs_of
from filtersurgeon.see.objectives import Objective, Term, read_objective
from filtersurgeon.see.random_transforms import RandomTransforms, RandomViews, place
from filtersurgeon.see.spectral import SpectralForm, low, replace_low

torch.set_num_threads(1)
SIDE = 32


def drawn(size: tuple[int, int, int], n: int = 1, scale: float = 1.0) -> torch.Tensor:
    channels, height, width = size
    shape = (n, channels, height, width // 2 + 1, 2)
    return scale * torch.randn(shape, generator=torch.manual_seed(0), dtype=torch.float64)


def test_one_coefficient_is_one_wave_of_one_colour():
    form = SpectralForm((3, 16, 24))
    coefficients = torch.zeros(1, 3, 16, 13, 2, dtype=torch.float64)
    coefficients[0, 1, 2, 3, 0] = 0.7
    found = form.decode(coefficients)[0]
    down, across = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), indexing="ij")
    frequency = 24 * np.hypot(2 / 16, 3 / 24)  # cycles per longer side
    wave = 2 * 0.7 * frequency**-1.3 * torch.cos(2 * np.pi * (2 * down / 16 + 3 * across / 24))
    colour = torch.from_numpy(2 * spectral.colour_root(3)[:, 1]).view(3, 1, 1)
    assert torch.allclose(found, torch.sigmoid(colour * wave.double()), atol=1e-6)


def test_colours_have_the_covariance_of_photographs():
    root = spectral.colour_root(3)
    made = root @ np.random.default_rng(0).standard_normal((3, 200_000))
    expected = np.array(spectral.COLOUR_COVARIANCE)
    found = np.cov(made)
    assert np.allclose(found / found[0, 0], expected / expected[0, 0], atol=0.02)
    assert np.linalg.norm(root, axis=0).max() == pytest.approx(1)
    assert np.array_equal(spectral.colour_root(1), np.eye(1))


def test_images_are_encoded_and_decoded():
    form = SpectralForm((3, 20, 26))
    images = form.decode(drawn((3, 20, 26), 2, 0.1)).numpy()
    assert 0.05 < images.min() < 0.3 < 0.7 < images.max() < 0.95
    again = form.decode(form.encode(images)).numpy()
    assert np.allclose(again, images, atol=1e-5)


@pytest.mark.parametrize("small", [(16, 12), (15, 14)])
def test_growing_keeps_the_image(small):
    form = SpectralForm((1, 2 * small[0], 2 * small[1]))
    whole = torch.zeros_like(drawn((1, *form.full)))
    part = drawn((1, *small))
    grown = replace_low(whole, part)
    assert torch.allclose(form.decode(grown)[..., ::2, ::2], form.decode(part), atol=1e-9)
    assert torch.allclose(form.decode(grown), form.decode(part, form.full), atol=1e-9)
    # What the small image cannot show is what it was.
    other = drawn((1, *form.full))
    kept = replace_low(other, low(other, small))
    assert torch.equal(kept, other)


def test_spectra_and_saturated_values_are_measured():
    form = SpectralForm((1, 64, 64))
    smooth = form.decode(drawn((1, 64, 64), 8, 0.1)).numpy()
    noise = np.random.default_rng(0).uniform(0, 1, smooth.shape)
    pixels = [np.rint(255 * x).transpose(0, 2, 3, 1).astype(np.uint8) for x in (smooth, noise)]
    slopes = [float(spectral.spectral_slopes(x).mean()) for x in pixels]
    assert slopes == pytest.approx([-2.6, 0], abs=0.25)
    half = np.full((2, 4, 4, 3), 128, np.uint8)
    half[1, :2] = 255
    assert spectral.saturated_shares(half).tolist() == [0, 0.5]


def test_priors_have_their_closed_forms():
    layer = nn.BatchNorm2d(2).eval()
    layer.running_mean[:] = torch.tensor([0.0, 1.0])
    maps = torch.full((1, 2, 4, 4), 2.0)
    # m - M is 2 and 1, s - S is -1 and -1.
    assert float(priors.statistics_distance(layer, maps)) == pytest.approx((5 + 2) / 2, rel=2e-3)
    net = nn.Sequential(nn.Identity(), layer)
    with priors.StatisticsPrior(net) as prior:
        net(maps)
        # What photographs reach is free.
        assert float(prior.total(maps)) == pytest.approx(3.5 - 0.3, rel=2e-3)
        prior.forget()
        assert float(prior.total(maps)) == 0
        typical = torch.tensor([-1.0, 1.0]).repeat(8).view(1, 1, 4, 4) + layer.running_mean.view(
            1, 2, 1, 1
        )
        net(typical + 0.2)
        assert float(prior.total(maps)) == 0
        prior.forget()
    net(maps)
    assert not prior.found
    board = torch.zeros(1, 1, 4, 4)
    board[..., ::2] = 1
    assert float(priors.total_variation(board)) == 1
    assert float(priors.saturation(board)) == pytest.approx(0.08**2)
    assert float(priors.saturation(board * 0.8 + 0.1)) == 0


def test_objectives_are_summed():
    outputs = {"a": torch.arange(24.0).view(1, 2, 3, 4), "": torch.tensor([[3.0, 5.0]])}
    channel, neuron = Objective.channel("a", 1), Objective.neuron("a", 0, (0.5, 1.0))
    direction = Objective.direction("a", [3, 4])
    score = Objective.class_score(1).on("")
    assert float(channel.value(outputs, 0)) == 17.5
    assert float(neuron.value(outputs, 0)) == 7  # row 1, column 3
    assert float(direction.value(outputs, 0)) == pytest.approx(0.6 * 5.5 + 0.8 * 17.5)
    total = channel + 2 * neuron + score * -0.5
    assert float(total.value(outputs, 0)) == pytest.approx(17.5 + 14 - 2.5)
    assert str(total) == "channel:a:1+2*neuron:a:0@0.5,1+-0.5*class::1"
    read = read_objective("channel:a:1+2*neuron:a:0@0.5,1 + -0.5*class:1").on("")
    assert read == total
    with pytest.raises(LayerError, match="2 units are 0 to 1"):
        Objective.channel("a", 2).value(outputs, 0)
    with pytest.raises(LayerError, match="3 values"):
        Objective.direction("a", [1, 2, 3]).value(outputs, 0)
    with pytest.raises(OptionError, match="not zero"):
        Objective.direction("a", [0, 0])


@pytest.mark.parametrize(
    "text", ["", "class", "class:x", "tree:a:1", "neuron:a:1@2,0", "x*class:1"]
)
def test_other_texts_are_no_objectives(text):
    with pytest.raises(OptionError, match="should read like"):
        read_objective(text)


def test_a_direction_is_read_from_a_file(tmp_path):
    np.save(tmp_path / "d.npy", np.array([0.0, 2.0]))
    [term] = read_objective(f"direction:a:{tmp_path / 'd.npy'}").terms
    assert term == Term("direction", "a", None, vector=(0.0, 1.0))
    (tmp_path / "no.npy").write_text("no")
    with pytest.raises(OptionError, match=r"no \.npy file"):
        read_objective(f"direction:a:{tmp_path / 'no.npy'}")


def test_adam_takes_its_published_steps():
    adam, x, expected = Adam(torch.zeros(1, 1, 1, 2, 2)), torch.ones(1, 1, 1, 2, 2), None
    reference = torch.ones(1, 1, 1, 2, 2, requires_grad=True)
    theirs = torch.optim.Adam([reference], 0.1, (0.9, 0.99), eps=1e-30)
    for step in range(4):
        gradient = torch.tensor([[[[[1.0, 2.0], [0.5, -1.0]]]]]) * (1 + step)
        x = adam.step(x, gradient, 0.1)
        reference.grad = gradient
        theirs.step()
        expected = reference.detach()
    assert torch.allclose(x, expected, atol=1e-5)


def test_each_of_the_seven_transforms_is_an_option():
    images = torch.rand(2, 1, 12, 12)
    rolled = RandomTransforms("full", [1, 2], "roll")
    for _ in range(6):
        moved = rolled(images)
        assert torch.equal(moved.flatten(1).sort()[0], images.flatten(1).sort()[0])
    framed = RandomTransforms("full", [1, 2], "padding,crop")(images)
    assert torch.equal(framed, images)
    spread = RandomTransforms("full", [1, 2], "distribution")(images)
    assert float((spread.mean((2, 3)) - 0.95 * images.mean((2, 3))).abs().max()) < 1e-6
    with pytest.raises(OptionError, match="both of padding and crop"):
        fs.AscentSettings(regularize="full", transforms="padding").check()
    with pytest.raises(OptionError, match="did you mean blur"):
        fs.AscentSettings(regularize="full", transforms="blurr").check()
    with pytest.raises(OptionError, match="regularize='full'"):
        fs.AscentSettings(transforms="blur").check()


def test_views_mirror_the_border_and_are_an_images_own():
    images = torch.rand(2, 3, 16, 16)
    together, alone = RandomViews([1, 2]), RandomViews([2])
    for _ in range(3):
        assert torch.allclose(together(images)[1:], alone(images[1:]), atol=1e-6)
    flat = place(
        torch.ones(1, 1, 8, 8), np.array([9.0]), np.array([0.8]), np.full((2, 1), 0.1), True
    )
    assert torch.allclose(flat, torch.ones_like(flat))


class Planted(nn.Module):
    """Units that answer to waves of given frequencies across or down, of any phase."""

    waves = ((4, 0), (0, 4))

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2 * len(self.waves), 9, padding=4, padding_mode="circular")
        places = torch.arange(9.0) - 4
        with torch.no_grad():
            self.conv.bias.zero_()
            for i, (down, across) in enumerate(self.waves):
                phase = 2 * np.pi / SIDE * (down * places[:, None] + across * places[None])
                for part, wave in enumerate((torch.cos(phase), torch.sin(phase))):
                    own = (wave - wave.mean()) / 81
                    self.conv.weight[2 * i + part] = own
        self.fc = nn.Linear(2, 2)

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        found = self.conv(x)
        return found[:, ::2] ** 2 + found[:, 1::2] ** 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.look(self.energy(x)).mean((2, 3)))

    look = nn.Identity()


def planted() -> nn.Module:
    torch.manual_seed(0)
    module = Planted().eval()
    module.look = nn.Identity()
    return module


def test_a_planted_wave_is_found():
    [found] = fs.maximize(
        planted(), fs.AscentSettings(steps=60), layers=["look"], example_inputs=(3, SIDE, SIDE)
    )
    assert found.units == (0, 1)
    assert (found.after > 20 * found.before).all()
    assert found.saturated < 0.2
    for image, wave in zip(found.pixels, Planted.waves, strict=True):
        power = np.abs(np.fft.rfft2(image.astype(float).mean(2))) ** 2
        shares = {each: power[each] for each in [*Planted.waves, (8, 0), (0, 8), (3, 3)]}
        assert max(shares, key=shares.__getitem__) == wave


def test_the_same_seed_gives_the_same_bytes_in_any_batch():
    how = fs.AscentSettings(steps=3, seed=4)

    def run(batch_size: int, seed: int = 4) -> np.ndarray:
        settings = fs.AscentSettings(steps=3, seed=seed)
        return fs.maximize(
            planted(), settings, layers=["look"], batch_size=batch_size,
            example_inputs=(3, SIDE, SIDE),
        )[0].images  # fmt: skip

    first = run(2)
    assert how.count == 3
    assert first.tobytes() == run(2).tobytes()
    assert np.allclose(first, run(1), atol=1e-4)
    assert not np.allclose(first, run(2, seed=5), atol=1e-2)


def test_images_begin_as_given_ones():
    given = np.random.default_rng(0).uniform(0.2, 0.8, (2, 3, SIDE, SIDE)).astype(np.float32)
    [found] = fs.maximize(
        planted(), fs.AscentSettings(steps=1, step_size=1e-6), layers=["look"],
        images=torch.from_numpy(given), example_inputs=(3, SIDE, SIDE),
    )  # fmt: skip
    assert np.corrcoef(found.images[1].ravel(), given[1].ravel())[0, 1] > 0.9
    before = np.abs(given.mean((2, 3)) - found.images.mean((2, 3)))
    assert before.max() < 0.01


def test_copies_are_unlike_each_other():
    def likeness(diversity: float) -> float:
        how = fs.AscentSettings(steps=25, diversity=diversity)
        objective = Objective.channel("look", 0) + Objective.channel("look", 1)
        [found] = fs.maximize(
            planted(), how, objectives=[objective], copies=2, example_inputs=(3, SIDE, SIDE)
        )
        assert found.names == ("channel:look:0+channel:look:1",) * 2
        with torch.no_grad():
            maps = planted().energy(torch.from_numpy(found.images)).flatten(2)
        texture = nn.functional.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
        return float(texture[0] @ texture[1])

    assert likeness(50.0) < likeness(0.0) - 0.01


class Fixed(nn.Module):
    """Takes images of one size only."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * side * side, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


def test_images_grow_where_the_network_takes_smaller_ones():
    free = open_network(fs.untrained("timm:test_resnet"))
    stages = plan_stages(free, (3, 224, 224), 100)
    assert [stage.size[0] for stage in stages] == [112, 160, 224]
    assert [stage.run for stage in stages] == [stage.size for stage in stages]
    assert stages[-1].end == 100
    assert [stage.size for stage in plan_stages(free, (3, 32, 32), 9)] == [(32, 32)]
    net = nn.Module()
    net.model, net.preprocessing = Fixed(160), None
    stages = plan_stages(net, (3, 160, 160), 10)  # type: ignore[arg-type]
    assert [stage.run for stage in stages] == [(160, 160)] * len(stages)
    assert stages[0].size < (160, 160)


def test_several_layers_are_read_in_one_run():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    x = torch.rand(2, 1, 2, 2)
    found = outputs_of(net, ["0", "3"], x, inputs=True)
    assert torch.equal(found["3"], net(x))
    assert torch.equal(found["<0"], x)
    assert found["0"].shape == (2, 2, 2, 2)


@pytest.mark.usefixtures("digits")
def test_the_command_reports_how_natural_images_are(fsurgeon, refuse):
    words = ("maximize", "le.safetensors", *LENET, "--steps", 3, "--json")
    judge = ("--judge", "le.safetensors", "--factory-judge", LENET[1])
    more = ("--objective", "class:1", "--objective", "class:2", "--picture", "m.png")
    done = fsurgeon(*words, *judge, *more)
    assert done.returncode == 0, done.stderr.decode()
    content = json.loads(done.stdout)
    (layer,) = content["layers"]
    assert content["regularize"] == "natural"
    assert content["judge"] == "le.safetensors"
    assert layer["names"] == ["class:1", "class:2"]
    assert 0 <= layer["saturated"] <= 0.05
    assert layer["spectral_slope"] < -1
    assert layer["recognised"] == layer["judged"]
    assert "should read like" in refuse(*words, "--objective", "klass:1")


def test_options_that_do_not_go_together_are_refused():
    given = {"example_inputs": (3, SIDE, SIDE)}
    aims = [Objective.channel("look", 0)]
    with pytest.raises(OptionError, match="either `objectives`"):
        fs.maximize(planted(), objectives=aims, units="0", **given)
    with pytest.raises(OptionError, match="needs `regularize='natural'`"):
        fs.maximize(planted(), fs.AscentSettings(regularize="full"), copies=2, **given)
    with pytest.raises(LayerError, match="did you mean look"):
        fs.maximize(planted(), objectives=[Objective.channel("loook", 0)], **given)
    judge = fs.untrained("timm:test_resnet")
    with pytest.raises(OptionError, match="same classes"):
        fs.maximize(planted(), judge=judge, **given)
    with pytest.raises(OptionError, match="--judge"):
        Judging(arch_judge="timm:resnet18").check("m")
