"""Networks of torchvision's own classes with few channels and blocks, one for each family."""

from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import Bottleneck


class NarrowBottleneck(Bottleneck):
    expansion = 1


class ResNeXt(nn.Module):
    """What an encoder takes of a ResNet, whose own class starts at 64 channels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        channels = 8
        for stage, (out, stride) in enumerate(((8, 1), (12, 2), (16, 2), (24, 2)), start=1):
            conv = nn.Conv2d(channels, out, 1, stride, bias=False)
            down = nn.Sequential(conv, nn.BatchNorm2d(out))
            first = NarrowBottleneck(channels, out, stride, down, groups=2)
            blocks = nn.Sequential(first, NarrowBottleneck(out, out, groups=2))
            setattr(self, f'layer{stage}', blocks)
            channels = out


def regnet():
    sizes = {'depths': [1, 2, 3, 2], 'widths': [8, 16, 24, 32], 'group_widths': [4] * 4}
    params = BlockParams(**sizes, bottleneck_multipliers=[1.0] * 4, strides=[2] * 4, se_ratio=0.25)
    return RegNet(params, stem_width=8)


def mobilenet():
    network = MobileNetV2(width_mult=0.125, round_nearest=4)
    block = network.features[-1]  # 1,280 channels whatever the width
    block[0] = nn.Conv2d(block[0].in_channels, 32, 1, bias=False)
    block[1] = nn.BatchNorm2d(32)
    return network


def efficientnet():
    setting = [
        MBConvConfig(2, 3, stride, channels, out, blocks)
        for stride, channels, out, blocks in (
            (1, 8, 4, 1), (2, 4, 8, 1), (2, 8, 8, 2), (2, 8, 12, 1), (1, 12, 16, 2), (2, 16, 24, 2),
            (1, 24, 28, 1),
        )
    ]  # fmt: skip
    return EfficientNet(setting, dropout=0.0, stochastic_depth_prob=0.0, last_channel=32)


def convnext():
    sizes = ((8, 12, 1), (12, 16, 2), (16, 24, 3), (24, None, 2))
    return ConvNeXt([CNBlockConfig(*size) for size in sizes], layer_scale=0.5)


NARROW_NETWORKS = {
    'resnext50_32x4d': ResNeXt,
    'regnet_y_400mf': regnet,
    'mobilenet_v2': mobilenet,
    'efficientnet_b0': efficientnet,
    'convnext_tiny': convnext,
}


def narrow_network(name, **_):
    """In place of ``torchvision.models.get_model``."""
    return NARROW_NETWORKS[name]()
