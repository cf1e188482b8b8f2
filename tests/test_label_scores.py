"""Scores, losses and saliency for images with several labels and with masks."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.data.kinds import CLASSES, IGNORED, MASKS, MULTILABEL
from filtersurgeon.errors import DataError, LayerError, OptionError
from filtersurgeon.learn.distillation import softened_divergence
from filtersurgeon.learn.losses import (
    dice_loss,
    make_loss,
    masked_cross_entropy,
    pixel_cross_entropy,
)
from filtersurgeon.learn.outcomes import as_part, make_counter, merge_parts
from filtersurgeon.learn.scores import ScoreReader, enlarge
from filtersurgeon.learn.segmentation import MaskCounter
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.several_labels import auc_interval
from filtersurgeon.learn.tuning import TrainingImages
from filtersurgeon.networks.outputs import Endings
from filtersurgeon.pruning.worth import compare_worth

CPU = torch.device("cpu")
NAN = float("nan")


def test_areas_of_0_and_1_have_intervals():
    """With one image of each label the area is a share of one, whose interval is Wilson's."""
    z = 1.959963984540054
    assert auc_interval(1.0, 1, 1) == pytest.approx((1 / (1 + z**2), 1.0))
    assert auc_interval(0.0, 1, 1) == pytest.approx((0.0, z**2 / (1 + z**2)))
    wide, narrow = auc_interval(1.0, 4, 4), auc_interval(1.0, 400, 400)
    assert 0.2 < wide[0] < narrow[0] < 1 == wide[1] == narrow[1]
    # At the border itself, the area that was found is as far as the standard error allows.
    low = wide[0]
    one, other = low / (2 - low), 2 * low**2 / (1 + low)
    variance = (low * (1 - low) + 3 * (one - low**2) + 3 * (other - low**2)) / 16
    assert 1 - low == pytest.approx(z * variance**0.5)


def labels_and_scores(count=60, classes=3):
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (count, classes)).astype(np.float32)
    # Scores with ties, and large ones, which a sigmoid would round to 1.
    scores = np.rint(4 * random.standard_normal((count, classes)) + 3 * labels) * 10
    labels[random.random(labels.shape) < 0.2] = NAN
    return torch.from_numpy(labels), torch.from_numpy(scores.astype(np.float32))


def test_areas_and_precisions_are_those_of_scikit_learn():
    from sklearn.metrics import average_precision_score, roc_auc_score

    labels, scores = labels_and_scores()
    labels[:, 2] = labels[:, 2] * 0 + 1  # all the same, where known
    counter = make_counter(MULTILABEL, 3, CPU, ("a", "b", "c"))
    for start in (0, 20, 40):
        counter.update(scores[start : start + 20], labels[start : start + 20])
    found = counter.result(1.0)
    for number in range(2):
        known = ~labels[:, number].isnan()
        given = labels[known, number].numpy(), scores[known, number].numpy()
        assert found.auc[number] == pytest.approx(roc_auc_score(*given), abs=1e-6)
        assert found.precision[number] == pytest.approx(average_precision_score(*given), abs=1e-6)
        assert found.known[number] == int(known.sum())
    assert (found.auc[2], found.precision[2]) == (None, None)
    assert found.mean_auc == pytest.approx(np.mean(found.auc[:2]))
    rows = list(found.rows())
    assert (rows[0]["class"], rows[2]["ROC AUC"]) == ("a", None)
    assert rows[0]["low"] < found.auc[0] < rows[0]["high"]


def test_parts_add_up_to_the_whole():
    labels, scores = labels_and_scores()
    masks = torch.from_numpy(np.random.default_rng(1).integers(0, 3, (6, 5, 5)))
    pixels = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    for kind, outputs, known in ((MULTILABEL, scores, labels), (MASKS, pixels, masks)):
        parts = []
        whole = make_counter(kind, 3, CPU)
        whole.update(outputs, known)
        for half in (slice(0, 2), slice(2, None)):
            counter = make_counter(kind, 3, CPU)
            counter.update(outputs[half], known[half])
            parts.append(json.loads(json.dumps(as_part(counter.result(0.5)))))
        one, two = whole.result(1.0).to_dict(), merge_parts(parts).to_dict()
        assert one.pop("loss") == pytest.approx(two.pop("loss"), rel=1e-6)
        one.pop("loss_sum", None), two.pop("loss_sum", None)
        assert one == two


def test_dice_and_iou_by_hand():
    masks = torch.tensor([[[0, 1, 1, IGNORED]], [[0, 0, 0, 0]]])
    scores = torch.tensor([[[[-1.0, 2.0, -3.0, 9.0]]], [[[-1.0, -1.0, -1.0, -1.0]]]])
    counter = MaskCounter(1, CPU)
    counter.update(scores, masks)
    found = counter.result(1.0)
    assert found.confusion == ((5, 0), (1, 1))
    assert found.dice == (pytest.approx(10 / 11), pytest.approx(2 / 3))
    assert found.iou == (pytest.approx(5 / 6), pytest.approx(1 / 2))
    assert (found.mean_dice, found.mean_iou) == (found.dice[1], found.iou[1])
    # The second image shows nothing and is given nothing.
    assert found.image_dice == (pytest.approx(2 / 3),)
    known = torch.tensor([-1.0, 2.0, -3.0, -1.0, -1.0, -1.0, -1.0])
    right = torch.tensor([0.0, 1.0, 1.0, 0, 0, 0, 0])
    expected = functional.binary_cross_entropy_with_logits(known, right)
    assert found.loss == pytest.approx(float(expected), rel=1e-6)


def test_dice_and_iou_are_those_of_torchmetrics():
    from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(3, 4, 9, 9, generator=generator)
    masks = torch.randint(4, (3, 9, 9), generator=generator)
    masks[:, 0] = IGNORED
    counter = MaskCounter(4, CPU)
    counter.update(scores, masks)
    found = counter.result(1.0)
    for metric, values in ((MulticlassF1Score, found.dice), (MulticlassJaccardIndex, found.iou)):
        expected = metric(4, average="none", ignore_index=IGNORED)(scores, masks)
        assert values == pytest.approx(expected.tolist(), abs=1e-6)


def test_losses_leave_out_what_is_unknown():
    scores = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    labels = torch.tensor([[1.0, NAN], [0.0, 1.0]])
    loss = masked_cross_entropy(scores, labels)
    by_hand = (np.log1p(np.exp(-1)) + np.log1p(np.exp(0.5)) + np.log1p(np.exp(-3))) / 3
    assert float(loss.detach()) == pytest.approx(by_hand, rel=1e-6)
    loss.backward()
    assert scores.grad[0, 1] == 0
    assert float(masked_cross_entropy(torch.zeros(1, 2), torch.full((1, 2), NAN))) == 0
    masks = torch.tensor([[[0, 2], [1, IGNORED]]])
    pixels = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = -pixels.log_softmax(1)
    by_hand = (expected[0, 0, 0, 0] + expected[0, 2, 0, 1] + expected[0, 1, 1, 0]) / 3
    assert float(pixel_cross_entropy(pixels, masks)) == pytest.approx(float(by_hand), rel=1e-5)


def test_the_dice_loss_by_hand():
    masks = torch.tensor([[[1, 1, 0, IGNORED]]])
    scores = torch.tensor([[[[0.0, 2.0, -1.0, 7.0]]]])
    shares = torch.sigmoid(scores)[0, 0, 0, :3]
    expected = 1 - 2 * (shares[0] + shares[1]) / (shares.sum() + 2)
    assert float(dice_loss(scores, masks)) == pytest.approx(float(expected), rel=1e-6)
    # Two outputs whose difference is the one.
    pair = torch.cat([torch.zeros_like(scores), scores], 1)
    assert float(dice_loss(pair, masks)) == pytest.approx(float(expected), rel=1e-6)
    recipe = TrainingRecipe(dice_weight=0.5)
    total = make_loss(recipe, MASKS)(scores, masks)
    assert float(total) == pytest.approx(
        float(pixel_cross_entropy(scores, masks) + 0.5 * expected), rel=1e-6
    )
    with pytest.raises(OptionError, match="mixup and cutmix"):
        make_loss(TrainingRecipe(mixup=0.2), MASKS)


def test_divergences_of_outputs_and_pixels():
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 5, 3, generator=generator)
    p, q = (two / 2).sigmoid(), (one / 2).sigmoid()
    by_hand = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean() * 4
    found = softened_divergence(one, two, 2.0, MULTILABEL)
    assert float(found) == pytest.approx(float(by_hand), rel=1e-4)
    rows = softened_divergence(one, two, 2.0)
    pixels = softened_divergence(one.T[None, :, :, None], two.T[None, :, :, None], 2.0, MASKS)
    assert float(pixels) == pytest.approx(float(rows), rel=1e-5)


ENDS = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(1),
    "log-softmax": lambda x: x.log_softmax(1),
    "": lambda x: x.sigmoid() * 2,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_how_a_network_ends(end, mode):
    layer = nn.Conv2d(1, 2, 1)
    with mode():
        with Endings() as endings:
            outputs = ENDS[end](layer(torch.randn(1, 1, 4, 4)))
        assert endings.of(outputs) == end
        assert endings.of(outputs.squeeze(0)) == end
        assert endings.of(layer(torch.randn(1, 1, 4, 4))) == ""


def test_probabilities_become_logits_again():
    layer, image = nn.Conv2d(1, 2, 1), torch.randn(1, 1, 4, 4)
    expected = layer(image)
    for kind, end in ((MASKS, "sigmoid"), (MASKS, "softmax"), (MASKS, "log-softmax")):
        read = ScoreReader(kind)
        for _ in range(2):
            found = read(lambda x, end=end: {"out": ENDS[end](layer(x)), "aux": x}, image)
            if end != "sigmoid":
                found, wanted = found.log_softmax(1), expected.log_softmax(1)
            torch.testing.assert_close(found, wanted if end != "sigmoid" else expected)
    with pytest.raises(DataError, match="ends in a softmax"):
        ScoreReader(MULTILABEL)(lambda x: layer(x).mean((2, 3)).softmax(1), image)


class Pixels(nn.Module):
    """One convolution."""

    def __init__(self, classes, stride=1, padding=1):
        super().__init__()
        self.conv = nn.Conv2d(1, classes, 3, padding=padding, stride=stride)

    def forward(self, x):
        return self.conv(x)


class Labels(Pixels):
    """One convolution and a mean."""

    def forward(self, x):
        return self.conv(x).mean((2, 3))


def numbers(labels, count=4, side=6):
    images = torch.randn(count, 1, side, side, generator=torch.Generator().manual_seed(1))
    return images, labels


def scores_of(module, data, **options):
    torch.manual_seed(0)
    options = {"rescale": False, "batch_size": 4, **options}
    found = fs.kernel_scores(module, "saliency", data=data, options=options,
                             example_inputs=(1, 6, 6))  # fmt: skip
    return found.layers["conv"]


def by_hand(module, images, outputs):
    weight = module.conv.weight
    slope = torch.autograd.grad(outputs(module(images)).sum(), weight)[0]
    return (slope * weight).detach().abs().sum((2, 3)).numpy()


def test_saliency_of_several_labels():
    torch.manual_seed(3)
    module, table = Labels(3), torch.tensor([[1.0, 0, NAN], [0, 1, 1], [0, 0, 0], [1, 1, NAN]])
    images, _ = numbers(table)
    found = scores_of(module, (images, table))
    expected = by_hand(module, images, lambda x: x[table == 1])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    found = scores_of(module, (images, table), target=2)
    np.testing.assert_allclose(found, by_hand(module, images, lambda x: x[:, 2]), rtol=1e-4)
    assert (found[:2] == 0).all()


def test_saliency_of_masks():
    torch.manual_seed(3)
    masks = torch.randint(3, (4, 6, 6), generator=torch.Generator().manual_seed(0))
    masks[:, 0] = -1
    module = Pixels(3)
    images, _ = numbers(masks)
    seen = masks >= 0
    chosen = functional.one_hot(masks.clamp(min=0), 3).movedim(-1, 1) * seen[:, None]
    found = scores_of(module, (images, masks))
    expected = by_hand(module, images, lambda x: (x * chosen).sum((1, 2, 3)) / 30)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    found = scores_of(module, (images, masks), target=1)
    expected = by_hand(module, images, lambda x: (x[:, 1] * seen).sum((1, 2)) / 30)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    binary, one = (masks > 0).long(), Pixels(1)
    found = scores_of(one, (images, binary))
    count = binary.sum((1, 2))
    expected = by_hand(one, images, lambda x: (x[:, 0] * binary).sum((1, 2)) / count)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_outputs_that_do_not_go_with_the_labels():
    images, masks = numbers(torch.ones(4, 6, 6, dtype=torch.int64))
    table = torch.ones(4, 2)
    for module, labels, expected in (
        (Pixels(2, padding=0), masks, r"4x4 pixels, and the masks have 6x6"),
        (Labels(2), masks, "masks need scores of every pixel"),
        (Pixels(2), table, "class scores"),
        (Labels(3), table, "labels of 2 classes but the network has 3 outputs"),
        (Pixels(2), masks * 2, "the mask holds class 2"),
    ):
        with pytest.raises(fs.FilterSurgeonError, match=expected):
            fs.evaluate(module, (images, labels), example_inputs=(1, 6, 6))


class Small(Pixels):
    """One convolution of stride 2, and what torchvision's networks return beside the scores."""

    def __init__(self, classes):
        super().__init__(classes, stride=2)

    def forward(self, x):
        return {"out": self.conv(x), "aux": x}


class Whole(Small):
    """The same, enlarged by the network itself."""

    def forward(self, x):
        out = self.conv(x)
        return functional.interpolate(out, size=x.shape[2:], mode="bilinear", align_corners=False)


def small_and_whole(classes=3, side=7):
    torch.manual_seed(5)
    small, whole = Small(classes), Whole(classes)
    whole.load_state_dict(small.state_dict())
    masks = torch.randint(classes, (4, side, side), generator=torch.Generator().manual_seed(0))
    return small, whole, numbers(masks, side=side)


def test_scores_of_smaller_maps_are_enlarged_as_torchvision_does():
    small, whole, data = small_and_whole()
    found, expected = (fs.evaluate(x, data, example_inputs=(1, 7, 7)) for x in (small, whole))
    assert found.confusion == expected.confusion
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    options = {"data": data, "example_inputs": (1, 7, 7)}
    compared = [
        fs.compare([x, x], data, fs.ComparisonSettings(latency_runs=0), example_inputs=(1, 7, 7))
        for x in (small, whole)
    ]
    assert compared[0].first.evaluation.dice == compared[1].first.evaluation.dice
    found, expected = (fs.kernel_scores(x, "saliency", **options) for x in (small, whole))
    np.testing.assert_allclose(found.layers["conv"], expected.layers["conv"], rtol=1e-5)
    found, expected = (
        fs.gradcam([x], data=data[0], layer="conv", target=1, example_inputs=(1, 7, 7)).looks[0]
        for x in (small, whole)
    )
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-6)
    assert found.probability == pytest.approx(expected.probability)


def test_networks_with_smaller_maps_are_trained_and_judged():
    small, whole, data = small_and_whole(1)
    data = (data[0], (data[0][:, 0] > 0).long())
    losses, worth = [], []
    for module in (small, whole):
        images = TrainingImages(data, data)
        _, result = fs.tune(
            module, images, TrainingRecipe(optimizer="sgd", lr=0.1, schedule="none"),
            RunSettings(epochs=2, batch_size=2), example_inputs=(1, 7, 7),
        )  # fmt: skip
        losses.append([row.train_loss for row in result.history])
        worth.append(compare_worth(module, module, [data], MASKS).score)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][1] < losses[0][0]
    assert worth[0] == pytest.approx(worth[1])


@pytest.mark.parametrize(
    ("small", "whole", "fits"),
    [
        ((12, 12), (48, 48), True),
        ((13, 8), (50, 30), True),  # halved twice, rounded up
        ((12, 7), (50, 30), True),  # and down
        ((7, 4), (100, 60), True),
        ((388, 388), (572, 572), False),  # convolutions without padding
        ((44, 44), (48, 48), False),
        ((24, 12), (48, 48), False),
        ((48, 48), (48, 48), False),
        ((96, 96), (48, 48), False),
    ],
)
def test_which_maps_are_enlarged(small, whole, fits):
    scores = torch.randn(1, 1, *small)
    found = enlarge(scores, whole)
    assert tuple(found.shape[2:]) == (whole if fits else small)
    assert fits or found is scores


def test_every_kind_of_labels_has_a_running_metric():
    labels, scores = labels_and_scores()
    counter = make_counter(MULTILABEL, 3, CPU)
    counter.update(scores[:1], labels[:1])
    assert counter.running_metric() == ""
    counter.update(scores[1:], labels[1:])
    said = counter.running_metric()
    assert said == f"mean ROC AUC {100 * counter.result(0.0).mean_auc:.2f} %"
    counter.update(scores[:2], labels[:2])  # too few to compute it anew
    assert counter.running_metric() == said
    counter = MaskCounter(1, CPU)
    assert counter.running_metric() == ""
    counter.update(torch.tensor([[[[2.0, 2.0, -1.0]]]]), torch.tensor([[[1, 0, 0]]]))
    assert counter.running_metric() == "mean Dice 66.67 %"
    counter = make_counter(CLASSES, 3, CPU)
    counter.update(torch.eye(3), torch.tensor([0, 1, 1]))
    assert counter.running_metric() == "top-1 66.67 %"


def test_the_head_of_a_network_for_pixels_need_not_be_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, padding=1)
            self.head = nn.Conv2d(8, 2, 1)
            self.middle = nn.Conv2d(4, 8, 3, padding=1)

        def forward(self, x):
            return self.head(self.middle(self.stem(x)))

    images, masks = numbers(torch.ones(4, 6, 6, dtype=torch.int64))
    found = fs.evaluate(Backwards(), (images, masks), example_inputs=(1, 6, 6))
    assert len(found.confusion) == 2


class Auxiliary(nn.Module):
    """A head that runs last, beside the one whose output is looked at."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)
        self.aux = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return {"out": self.head(x), "aux": self.aux(x)}


def test_gradcam_passes_over_an_auxiliary_head():
    images, _ = numbers(None)
    given = {"data": images, "example_inputs": (1, 6, 6)}
    assert fs.gradcam([Auxiliary()], **given).looks[0].layer == "head"
    with pytest.raises(LayerError, match="scores do not depend on layer aux"):
        fs.gradcam([Auxiliary()], layer="aux", **given)


def test_gradcam_of_a_network_for_pixels():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1))
    images, _ = numbers(None)
    found = fs.gradcam([module], data=images, layer="1", target=2, example_inputs=(1, 6, 6))
    look = found.looks[0]
    assert look.maps.shape == (4, 6, 6)
    values = module[:2](images)
    scores = module[2](values)
    seen = scores.argmax(1) == 2
    assert seen.flatten(1).any(1).any()
    first = int(seen.flatten(1).any(1).nonzero()[0])
    # The gradient of the mean of output 2 over these pixels.
    weights = module[2].weight[2, :, 0, 0] * seen[first].sum() / seen[first].sum() / 36
    heat = (weights[:, None, None] * values[first]).sum(0).relu()
    heat = (heat / heat.max()).detach().double().numpy()
    np.testing.assert_allclose(look.maps[first], heat, atol=1e-5)
    counts = scores.argmax(1)[first].flatten().bincount(minlength=3)
    assert look.predicted[first] == int(counts[1:].argmax()) + 1
