"""Small networks of other packages, with random weights, and the inputs that they are called with.

Nothing is downloaded. Detectors end at the outputs of their heads: what follows picks boxes by
their values, and holds no parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Made = tuple[nn.Module, Any]
"""A network, and a tensor, a tuple of arguments or a dict of arguments by name."""


class FeaturesAndHead(nn.Module):
    """A detector of torchvision without its choice of boxes."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Any:
        return self.head(list(self.backbone(images).values()))


class ProposalsAndHeads(nn.Module):
    """A two-stage detector of torchvision; the heads see a whole map instead of a region."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.proposals = detector.backbone, detector.rpn.head
        self.box_head = detector.roi_heads.box_head
        self.box_predictor = detector.roi_heads.box_predictor
        self.mask_head = getattr(detector.roi_heads, "mask_head", None)
        self.mask_predictor = getattr(detector.roi_heads, "mask_predictor", None)

    def forward(self, images: Tensor) -> Any:
        maps = list(self.backbone(images).values())
        region = functional.adaptive_avg_pool2d(maps[0], 7)
        found = [self.proposals(maps), self.box_predictor(self.box_head(region))]
        if self.mask_head is not None and self.mask_predictor is not None:
            found.append(self.mask_predictor(self.mask_head(region)))
        return found


class RawMaps(nn.Module):
    """A body and head of YOLO that gives the head's maps, as it does in training."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        head: Any = self.network.model[-1]  # type: ignore[index,union-attr]
        training, head.training = head.training, True
        try:
            return self.network(images)
        finally:
            head.training = training


class Encoder(nn.Module):
    """The encoder and decoder of an audio codec, without its quantiser."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = network.encoder, network.decoder

    def forward(self, signal: Tensor) -> Tensor:
        return self.decoder(self.encoder(signal))


def image(*size: int) -> Tensor:
    """Give a batch of one."""
    return torch.randn(1, *(size or (3, 64, 64)), generator=torch.Generator().manual_seed(1))


def torchvision_networks() -> Iterator[tuple[str, Callable[[], Made]]]:
    from torchvision.models import detection, optical_flow, segmentation, video
    from torchvision.models.detection import faster_rcnn, mask_rcnn
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import mobilenet_backbone
    from torchvision.models.video import resnet, swin_transformer
    from torchvision.ops import FrozenBatchNorm2d

    bare: dict[str, Any] = {"weights": None, "weights_backbone": None}

    def pyramid(norm: Any = nn.BatchNorm2d) -> Any:
        return mobilenet_backbone(
            backbone_name="mobilenet_v3_small", weights=None, fpn=True, trainable_layers=6,
            norm_layer=norm,
        )  # fmt: skip

    def one_stage(detector: Any, side: int = 64) -> Made:
        return FeaturesAndHead(detector.backbone, detector.head), image(3, side, side)

    def two_stage(kind: Any, norm: Any, **more: Any) -> Made:
        body = pyramid(norm)
        head = faster_rcnn.TwoMLPHead(body.out_channels * 49, 64)
        predictor = faster_rcnn.FastRCNNPredictor(64, 5)
        sizes = AnchorGenerator(((32, 64),) * 3, ((0.5, 1.0),) * 3)
        detector = kind(
            body, box_head=head, box_predictor=predictor, rpn_anchor_generator=sizes, **more
        )
        return ProposalsAndHeads(detector), image()

    def anchors() -> Any:
        return AnchorGenerator(((32,),) * 3, ((0.5, 1.0),) * 3)

    yield (
        "ssdlite320_mobilenet_v3_large",
        lambda: one_stage(detection.ssdlite320_mobilenet_v3_large(num_classes=5, **bare), 128),
    )
    yield (
        "RetinaNet (mobilenet_v3_small)",
        lambda: one_stage(detection.RetinaNet(pyramid(), 5, anchor_generator=anchors())),
    )
    yield (
        "FCOS (mobilenet_v3_small)",
        lambda: one_stage(
            detection.FCOS(
                pyramid(FrozenBatchNorm2d),
                5,
                anchor_generator=AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3),
            )
        ),
    )
    yield "FasterRCNN (mobilenet_v3_small)", lambda: two_stage(detection.FasterRCNN, nn.BatchNorm2d)
    yield (
        "MaskRCNN (mobilenet_v3_small)",
        lambda: two_stage(
            detection.MaskRCNN,
            FrozenBatchNorm2d,
            mask_predictor=mask_rcnn.MaskRCNNPredictor(256, 64, 5),
        ),
    )
    yield "deeplabv3_mobilenet_v3_large", lambda: (
        segmentation.deeplabv3_mobilenet_v3_large(num_classes=5, **bare), image(),
    )  # fmt: skip
    yield "lraspp_mobilenet_v3_large", lambda: (
        segmentation.lraspp_mobilenet_v3_large(num_classes=5, **bare), image(),
    )  # fmt: skip
    yield (
        "raft_small",
        lambda: (
            optical_flow.raft_small(),
            {
                "image1": image(3, 128, 128),
                "image2": image(3, 128, 128),
                "num_flow_updates": 2,
            },
        ),
    )
    clip = (3, 4, 32, 32)
    for name, kind, stem in (
        ("VideoResNet 3-D", resnet.Conv3DSimple, resnet.BasicStem),
        ("VideoResNet (2+1)-D", resnet.Conv2Plus1D, resnet.R2Plus1dStem),
    ):
        yield (
            name,
            lambda kind=kind, stem=stem: (
                video.VideoResNet(resnet.BasicBlock, [kind] * 4, [1, 1, 1, 1], stem, num_classes=5),
                image(*clip),
            ),
        )
    yield (
        "SwinTransformer3d",
        lambda: (
            swin_transformer.SwinTransformer3d(
                [2, 4, 4], 24, [1, 1], [2, 4], [4, 4, 4], num_classes=5
            ),
            image(3, 4, 32, 32),
        ),
    )


def smp_networks() -> Iterator[tuple[str, Callable[[], Made]]]:
    import segmentation_models_pytorch as smp

    bare = {"encoder_weights": None, "classes": 3}
    for name, encoder in (
        ("Unet", "resnet18"), ("UnetPlusPlus", "mobilenet_v2"), ("MAnet", "mobilenet_v2"),
        ("Linknet", "timm-mobilenetv3_small_100"), ("FPN", "efficientnet-b0"),
        ("PSPNet", "mobilenet_v2"), ("DeepLabV3", "mobilenet_v2"),
        ("DeepLabV3Plus", "mobilenet_v2"), ("PAN", "mobilenet_v2"), ("UPerNet", "mobilenet_v2"),
        ("Segformer", "mit_b0"),
    ):  # fmt: skip
        size = (3, 128, 128) if name == "PAN" else (3, 64, 64)
        yield f"{name} ({encoder})", lambda name=name, encoder=encoder, size=size: (
            getattr(smp, name)(encoder, **bare), image(*size),
        )  # fmt: skip


def transformers_networks() -> Iterator[tuple[str, Callable[[], Made]]]:
    import transformers as hf

    def plain(kind: str, model: str, /, *size: int, **config: Any) -> Callable[[], Made]:
        def make() -> Made:
            made = getattr(hf, model)(getattr(hf, f"{kind}Config")(**config))
            return made, {"pixel_values": image(*size)}

        return make

    stages = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
    yield (
        "ResNetForImageClassification",
        plain("ResNet", "ResNetForImageClassification", embedding_size=16, num_labels=5, **stages),
    )
    yield (
        "ConvNextV2ForImageClassification",
        plain("ConvNextV2", "ConvNextV2ForImageClassification", num_labels=5, **stages),
    )
    yield (
        "ConvNextForImageClassification",
        plain("ConvNext", "ConvNextForImageClassification", num_labels=5, **stages),
    )
    yield "RegNetForImageClassification", plain(
        "RegNet", "RegNetForImageClassification", embedding_size=16, groups_width=8, num_labels=5,
        **stages,
    )  # fmt: skip
    yield "SegformerForSemanticSegmentation", plain(
        "Segformer", "SegformerForSemanticSegmentation", hidden_sizes=[16, 32, 40, 64],
        depths=[1, 1, 1, 1], decoder_hidden_size=32, num_labels=5,
    )  # fmt: skip

    def detr() -> Made:
        body = hf.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1],
            out_features=["stage4"],
        )  # fmt: skip
        config = hf.DetrConfig(
            use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
            backbone_config=body, d_model=32, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
            decoder_ffn_dim=64, num_queries=8, num_labels=5,
        )  # fmt: skip
        return hf.DetrForObjectDetection(config), {"pixel_values": image()}

    yield "DetrForObjectDetection", detr
    yield (
        "MobileNetV1ForImageClassification",
        plain(
            "MobileNetV1", "MobileNetV1ForImageClassification", depth_multiplier=0.25, num_labels=5
        ),
    )
    yield (
        "MobileNetV2ForImageClassification",
        plain(
            "MobileNetV2", "MobileNetV2ForImageClassification", depth_multiplier=0.5, num_labels=5
        ),
    )
    yield (
        "MobileNetV2ForSemanticSegmentation",
        plain(
            "MobileNetV2", "MobileNetV2ForSemanticSegmentation", depth_multiplier=0.5, num_labels=5
        ),
    )
    yield "MobileViTForImageClassification", plain(
        "MobileViT", "MobileViTForImageClassification", hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64], num_labels=5,
    )  # fmt: skip
    yield "PoolFormerForImageClassification", plain(
        "PoolFormer", "PoolFormerForImageClassification", hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1], num_labels=5,
    )  # fmt: skip
    yield "EfficientNetForImageClassification", plain(
        "EfficientNet", "EfficientNetForImageClassification", width_coefficient=0.5,
        depth_coefficient=0.3, hidden_dim=640, num_labels=5,
    )  # fmt: skip
    yield "BitForImageClassification", plain(
        "Bit", "BitForImageClassification", embedding_size=32, num_labels=5,
        hidden_sizes=[32, 64, 64, 96], depths=[1, 1, 1, 1], num_groups=8,
    )  # fmt: skip
    yield "HGNetV2ForImageClassification", plain(
        "HGNetV2", "HGNetV2ForImageClassification", num_labels=5, embedding_size=16,
        stem_channels=[3, 8, 16], stage_in_channels=[16, 32, 48, 64],
        stage_mid_channels=[8, 16, 24, 32], stage_out_channels=[32, 48, 64, 96],
        hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 1, 1],
        stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[2, 2, 2, 2],
    )  # fmt: skip
    yield "ViTForImageClassification", plain(
        "ViT", "ViTForImageClassification", hidden_size=32, num_hidden_layers=2, num_labels=5,
        num_attention_heads=4, intermediate_size=64, image_size=64,
    )  # fmt: skip
    yield "SwinForImageClassification", plain(
        "Swin", "SwinForImageClassification", embed_dim=16, depths=[1, 2], num_heads=[2, 4],
        window_size=4, image_size=64, num_labels=5,
    )  # fmt: skip
    yield "FocalNetForImageClassification", plain(
        "FocalNet", "FocalNetForImageClassification", embed_dim=16, depths=[1, 2],
        hidden_sizes=[16, 32], focal_levels=[2, 2], focal_windows=[3, 3], image_size=64,
        num_labels=5,
    )  # fmt: skip
    yield "LevitForImageClassification", plain(
        "Levit", "LevitForImageClassification", image_size=64, hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[8, 8, 8], num_labels=5,
        down_ops=[["Subsample", 8, 4, 4, 2, 2], ["Subsample", 8, 6, 4, 2, 2], [""]],
    )  # fmt: skip
    yield "SuperPointForKeypointDetection's encoder", lambda: (
        hf.SuperPointForKeypointDetection(hf.SuperPointConfig()).encoder, image(1, 64, 64),
    )  # fmt: skip
    yield "Swin2SRForImageSuperResolution", plain(
        "Swin2SR", "Swin2SRForImageSuperResolution", image_size=32, embed_dim=24, depths=[2, 2],
        num_heads=[2, 2], window_size=8,
    )  # fmt: skip
    yield "DPTForDepthEstimation", plain(
        "DPT", "DPTForDepthEstimation", hidden_size=32, num_hidden_layers=4, image_size=64,
        num_attention_heads=4, intermediate_size=64, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=32, is_hybrid=False,
    )  # fmt: skip
    yield "YolosForObjectDetection", plain(
        "Yolos", "YolosForObjectDetection", hidden_size=32, num_hidden_layers=2, num_labels=5,
        num_attention_heads=4, intermediate_size=64, image_size=[64, 64], num_detection_tokens=8,
    )  # fmt: skip
    yield (
        "EncodecModel's encoder and decoder",
        lambda: (
            Encoder(hf.EncodecModel(hf.EncodecConfig(num_filters=8, hidden_size=32))),
            image(1, 1280),
        ),
    )
    yield (
        "DacModel's encoder and decoder",
        lambda: (
            Encoder(
                hf.DacModel(
                    hf.DacConfig(encoder_hidden_size=8, decoder_hidden_size=128, hidden_size=128)
                )
            ),
            image(1, 2048),
        ),
    )
    yield (
        "SpeechT5HifiGan",
        lambda: (
            hf.SpeechT5HifiGan(hf.SpeechT5HifiGanConfig(upsample_initial_channel=64)),
            image(20, 80),
        ),
    )


def monai_networks() -> Iterator[tuple[str, Callable[[], Made]]]:
    from monai.networks import nets

    volume = (1, 32, 32, 32)
    yield "UNet 3-D", lambda: (
        nets.UNet(3, 1, 3, (8, 16, 32, 64), (2, 2, 2), num_res_units=2), image(*volume),
    )  # fmt: skip
    yield "UNet 1-D", lambda: (
        nets.UNet(1, 1, 3, (8, 16, 32), (2, 2), num_res_units=1), image(1, 64),
    )  # fmt: skip
    yield "BasicUNet 3-D", lambda: (
        nets.BasicUNet(3, 1, 3, (8, 8, 16, 24, 32, 8)), image(*volume),
    )  # fmt: skip
    yield "BasicUNetPlusPlus 3-D", lambda: (
        nets.BasicUNetPlusPlus(3, 1, 3, (8, 8, 16, 24, 32, 8)), image(*volume),
    )  # fmt: skip
    yield "AttentionUnet 3-D", lambda: (
        nets.AttentionUnet(3, 1, 3, (8, 16, 32), (2, 2)), image(*volume),
    )  # fmt: skip
    yield "DynUNet 3-D", lambda: (
        nets.DynUNet(3, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[8, 16, 24]), image(*volume),
    )  # fmt: skip
    yield (
        "SegResNet 3-D",
        lambda: (
            nets.SegResNet(3, init_filters=8, blocks_down=(1, 1, 1), blocks_up=(1, 1)),
            image(*volume),
        ),
    )
    yield (
        "SegResNetDS 3-D",
        lambda: (
            nets.SegResNetDS(3, init_filters=8, blocks_down=(1, 1, 1), blocks_up=(1, 1)),
            image(*volume),
        ),
    )
    yield "HighResNet 3-D", lambda: (nets.HighResNet(3, 1, 3), image(1, 16, 16, 16))
    yield "RegUNet 3-D", lambda: (
        nets.RegUNet(3, 1, 8, 2, out_channels=3), image(*volume),
    )  # fmt: skip
    yield (
        "DenseNet121 3-D",
        lambda: (
            nets.DenseNet(3, 1, 3, init_features=16, growth_rate=8, block_config=(2, 2, 2)),
            image(*volume),
        ),
    )
    yield (
        "ResNet 3-D",
        lambda: (
            nets.ResNet(
                "bottleneck", [1, 1, 1, 1], [8, 16, 32, 64], n_input_channels=1, num_classes=3
            ),
            image(*volume),
        ),
    )
    yield "EfficientNetBN 2-D", lambda: (
        nets.EfficientNetBN("efficientnet-b0", pretrained=False, num_classes=3), image(),
    )  # fmt: skip
    yield "AutoEncoder 3-D", lambda: (
        nets.AutoEncoder(3, 1, 1, (8, 16, 32), (2, 2, 2)), image(*volume),
    )  # fmt: skip
    yield (
        "UNETR 3-D",
        lambda: (
            nets.UNETR(1, 3, (32, 32, 32), feature_size=8, hidden_size=48, mlp_dim=64, num_heads=4),
            image(*volume),
        ),
    )
    yield "FullyConnectedNet", lambda: (nets.FullyConnectedNet(10, 3, [32, 16]), image(10))


def pytorchcv_networks() -> Iterator[tuple[str, Callable[[], Made]]]:
    from pytorchcv.model_provider import get_model

    for name, side in (
        ("preresnet18_wd4", 224), ("diaresnet10", 224), ("shufflenet_g3_wd4", 224),
        ("shufflenetv2_wd2", 224), ("igcv3_wd4", 224), ("mnasnet_small", 224), ("peleenet", 224),
        ("hardnet39ds", 224), ("squeezenet_v1_1", 224), ("menet108_8x1_g3", 224),
        ("espnetv2_wd2", 224), ("octresnet10_ad2", 224), ("resneta10", 64),
        ("fastscnn_cityscapes", 96), ("sinet_cityscapes", 128), ("dabnet_cityscapes", 96),
        ("cgnet_cityscapes", 96), ("lednet_cityscapes", 128), ("erfnet_cityscapes", 96),
        ("lwopenpose2d_mobilenet_cmupan_coco", 64),
    ):  # fmt: skip
        yield name, lambda name=name, side=side: (
            get_model(name, pretrained=False, in_size=(side, side)), image(3, side, side),
        )  # fmt: skip


def ultralytics_networks() -> Iterator[tuple[str, Callable[[], Made]]]:
    from ultralytics.nn import tasks

    for name, kind in (
        ("yolov3-tiny", "DetectionModel"), ("yolov5n", "DetectionModel"),
        ("yolov8n", "DetectionModel"), ("yolov8n-seg", "SegmentationModel"),
        ("yolov10n", "DetectionModel"), ("yolo11n", "DetectionModel"),
        ("yolo12n", "DetectionModel"), ("yolo11n-pose", "PoseModel"),
        ("yolo11n-cls", "ClassificationModel"),
    ):  # fmt: skip
        raw = (lambda network: network) if name.endswith("cls") else RawMaps
        yield name, lambda name=name, kind=kind, raw=raw: (
            raw(getattr(tasks, kind)(f"{name}.yaml", ch=3, nc=5, verbose=False)), image(),
        )  # fmt: skip


def effdet_networks() -> Iterator[tuple[str, Callable[[], Made]]]:
    import effdet

    for name in ("tf_efficientdet_lite0", "efficientdet_d0"):
        config = effdet.get_efficientdet_config(name)
        config.image_size = (128, 128)
        yield name, lambda config=config: (
            effdet.EfficientDet(config, pretrained_backbone=False), image(3, 128, 128),
        )  # fmt: skip


def diffusers_networks() -> Iterator[tuple[str, Callable[[], Made]]]:
    import diffusers

    blocks = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
    yield "UNet2DModel", lambda: (
        diffusers.UNet2DModel(
            16, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8, **blocks,
        ),
        (image(3, 16, 16), torch.tensor([3])),
    )  # fmt: skip
    yield "AutoencoderKL", lambda: (
        diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            **blocks,
        ),
        image(3, 32, 32),
    )  # fmt: skip


def other_networks() -> Iterator[tuple[str, str, Callable[[], Made]]]:
    """Give networks of packages that have one or two each, with the package."""

    def plain_unet(residual: bool) -> Made:
        from dynamic_network_architectures.architectures import unet

        common: dict[str, Any] = {
            "n_stages": 3, "features_per_stage": (8, 16, 24), "conv_op": nn.Conv3d,
            "kernel_sizes": 3, "strides": (1, 2, 2), "num_classes": 3,
            "n_conv_per_stage_decoder": 1, "conv_bias": True, "norm_op": nn.InstanceNorm3d,
            "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU, "deep_supervision": True,
        }  # fmt: skip
        if residual:
            made = unet.ResidualEncoderUNet(1, n_blocks_per_stage=(1, 1, 1), **common)
        else:
            made = unet.PlainConvUNet(1, n_conv_per_stage=1, **common)
        return made, image(1, 16, 16, 16)

    yield "dynamic-network-architectures", "PlainConvUNet 3-D", lambda: plain_unet(False)
    yield "dynamic-network-architectures", "ResidualEncoderUNet 3-D", lambda: plain_unet(True)

    def efficientnet() -> Made:
        from efficientnet_pytorch import EfficientNet

        return EfficientNet.from_name("efficientnet-b0", num_classes=5, image_size=64), image()

    yield "efficientnet_pytorch", "efficientnet-b0", efficientnet

    def rrdb() -> Made:
        from spandrel.architectures.ESRGAN import ESRGAN

        return ESRGAN(num_filters=16, num_blocks=2, scale=2), image(3, 16, 16)

    yield "spandrel", "ESRGAN", rrdb

    def rcan() -> Made:
        from spandrel.architectures.RCAN import RCAN

        return RCAN(n_resgroups=2, n_resblocks=2, n_feats=32, scale=2), image(3, 16, 16)

    yield "spandrel", "RCAN", rcan

    def nafnet() -> Made:
        from spandrel.architectures.NAFNet import NAFNet

        made = NAFNet(width=16, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1], middle_blk_num=1)
        return made, image(3, 32, 32)

    yield "spandrel", "NAFNet", nafnet

    def x3d() -> Made:
        from pytorchvideo.models.x3d import create_x3d

        made = create_x3d(input_clip_length=4, input_crop_size=64, model_num_class=5)
        return made, image(3, 4, 64, 64)

    yield "pytorchvideo", "x3d", x3d

    def slow() -> Made:
        from pytorchvideo.models.resnet import create_resnet

        made = create_resnet(
            model_depth=50, model_num_class=5, stem_dim_out=16, head_pool_kernel_size=(4, 2, 2)
        )
        return made, image(3, 4, 64, 64)

    yield "pytorchvideo", "resnet (slow)", slow


PACKAGES: dict[str, Callable[[], Iterator[tuple[str, Callable[[], Made]]]]] = {
    "torchvision": torchvision_networks,
    "segmentation_models_pytorch": smp_networks,
    "transformers": transformers_networks,
    "monai": monai_networks,
    "pytorchcv": pytorchcv_networks,
    "ultralytics": ultralytics_networks,
    "effdet": effdet_networks,
    "diffusers": diffusers_networks,
}


def networks() -> Iterator[tuple[str, str, Callable[[], Made]]]:
    """Give package, name and maker of every network."""
    for package, listed in PACKAGES.items():
        for name, make in listed():
            yield package, name, make
    yield from other_networks()
