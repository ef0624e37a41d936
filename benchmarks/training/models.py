"""The seven models of CINIC-10's page, for images of 32x32 pixels, and a tiny one for tests.

    python -m benchmarks.training.models     # parameters of each, beside the page's

Each is written from its paper, in the form that suits CIFAR-10: the first convolution keeps the
resolution, there is no pooling before the first stage, and the classifier gets the mean over the
remaining pixels. Convolutions followed by batch norm have no bias. Torch initialises the weights.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks import argument_parser

PUBLISHED_PARAMETERS = {
    "vgg16": 14.7,
    "resnet18": 11.2,
    "preact_resnet18": 11.2,
    "googlenet": 6.2,
    "resnext29_2x64d": 9.2,
    "densenet121": 7.0,
    "mobilenet": 3.2,
}
"""Millions of parameters, as given by https://github.com/BayesWatch/cinic-10. By its paper,
ResNeXt29_2x64d has 9.13 million, where the page says 9.2."""


def conv_norm(
    channels_in: int, channels_out: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Make a convolution that divides the resolution only by its stride, and batch norm."""
    convolution = nn.Conv2d(
        channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


def conv_norm_relu(
    channels_in: int, channels_out: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Make ``conv_norm`` followed by ReLU."""
    both = conv_norm(channels_in, channels_out, kernel, stride=stride, groups=groups)
    return both.append(nn.ReLU(inplace=True))


def classifier(channels: int, num_classes: int) -> nn.Sequential:
    """Make a mean over the image, followed by a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


class Residual(nn.Module):
    """``body(x) + shortcut(x)``, followed by ReLU."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return torch.relu(self.body(images) + self.shortcut(images))


def shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Make the identity, or a projection if the shape changes."""
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return conv_norm(channels_in, channels_out, 1, stride=stride)


def vgg16(num_classes: int) -> nn.Module:
    """Make configuration D of arXiv:1409.1556 with batch norm, and one linear layer, not three."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers.append(conv_norm_relu(channels, width))
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, classifier(channels, num_classes))


def stages(widths: tuple[int, ...], depth: int) -> Iterator[tuple[int, int]]:
    """Yield width and stride of each block; every stage but the first halves the resolution."""
    for number, width in enumerate(widths):
        for block in range(depth):
            yield width, 2 if number > 0 and block == 0 else 1


def resnet18(num_classes: int) -> nn.Module:
    """Make ResNet-18 of arXiv:1512.03385."""
    layers: list[nn.Module] = [conv_norm_relu(3, 64)]
    channels = 64
    for width, stride in stages((64, 128, 256, 512), 2):
        body = nn.Sequential(
            conv_norm_relu(channels, width, stride=stride), conv_norm(width, width)
        )
        layers.append(Residual(body, shortcut(channels, width, stride)))
        channels = width
    return nn.Sequential(*layers, classifier(channels, num_classes))


class PreActivation(nn.Module):
    """A residual block whose norm and ReLU come before each convolution (arXiv:1603.05027)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            conv_norm_relu(channels, width, stride=stride),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )
        self.projection: nn.Module | None = None
        if stride != 1 or channels != width:
            self.projection = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        active = self.before(images)
        kept = images if self.projection is None else self.projection(active)
        out: Tensor = self.body(active) + kept
        return out


def preact_resnet18(num_classes: int) -> nn.Module:
    """Make ResNet-18 with pre-activation, of arXiv:1603.05027."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False)]
    channels = 64
    for width, stride in stages((64, 128, 256, 512), 2):
        layers.append(PreActivation(channels, width, stride))
        channels = width
    layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, classifier(channels, num_classes))


class Branches(nn.Module):
    """Several modules on the same images; their channels are concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H, W)."""
        return torch.cat([branch(images) for branch in self.branches], 1)


def inception(channels: int, *widths: int) -> Branches:
    """Make GoogLeNet's module; two 3x3 convolutions replace one of 5x5, as in arXiv:1512.00567.

    Args:
        channels: channels of its input.
        widths: a row of the paper's table: 1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5, pooled.
    """
    one, reduced3, three, reduced5, five, pooled = widths
    return Branches(
        conv_norm_relu(channels, one, 1),
        nn.Sequential(conv_norm_relu(channels, reduced3, 1), conv_norm_relu(reduced3, three)),
        nn.Sequential(
            conv_norm_relu(channels, reduced5, 1),
            conv_norm_relu(reduced5, five),
            conv_norm_relu(five, five),
        ),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm_relu(channels, pooled, 1)),
    )


def googlenet(num_classes: int) -> nn.Module:
    """Make GoogLeNet of arXiv:1409.4842 from its first inception module on, with batch norm."""
    return nn.Sequential(
        conv_norm_relu(3, 192),
        inception(192, 64, 96, 128, 16, 32, 32),
        inception(256, 128, 128, 192, 32, 96, 64),
        nn.MaxPool2d(3, 2, 1),
        inception(480, 192, 96, 208, 16, 48, 64),
        inception(512, 160, 112, 224, 24, 64, 64),
        inception(512, 128, 128, 256, 24, 64, 64),
        inception(512, 112, 144, 288, 32, 64, 64),
        inception(528, 256, 160, 320, 32, 128, 128),
        nn.MaxPool2d(3, 2, 1),
        inception(832, 256, 160, 320, 32, 128, 128),
        inception(832, 384, 192, 384, 48, 128, 128),
        classifier(1024, num_classes),
    )


def resnext29_2x64d(num_classes: int) -> nn.Module:
    """Make ResNeXt-29 of arXiv:1611.05431 with two groups of 64 channels in the first stage."""
    groups, channels = 2, 64
    layers: list[nn.Module] = [conv_norm_relu(3, channels)]
    for width, stride in stages((64, 128, 256), 3):
        inner, outer = groups * width, 2 * groups * width
        body = nn.Sequential(
            conv_norm_relu(channels, inner, 1),
            conv_norm_relu(inner, inner, stride=stride, groups=groups),
            conv_norm(inner, outer, 1),
        )
        layers.append(Residual(body, shortcut(channels, outer, stride)))
        channels = outer
    return nn.Sequential(*layers, classifier(channels, num_classes))


def norm_relu_conv(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """Make batch norm, ReLU and a convolution that keeps the resolution."""
    return nn.Sequential(
        nn.BatchNorm2d(channels_in),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False),
    )


def densenet121(num_classes: int) -> nn.Module:
    """Make DenseNet-121 of arXiv:1608.06993: growth 32, bottlenecks, halving transitions."""
    growth = 32
    channels = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for number, depth in enumerate((6, 12, 24, 16)):
        if number > 0:
            layers += [norm_relu_conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            grown = nn.Sequential(
                norm_relu_conv(channels, 4 * growth, 1), norm_relu_conv(4 * growth, growth, 3)
            )
            layers.append(Branches(grown, nn.Identity()))
            channels += growth
    layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, classifier(channels, num_classes))


def mobilenet(num_classes: int) -> nn.Module:
    """Make MobileNet v1 of arXiv:1704.04861; the first convolution and block do not downsample."""
    layers: list[nn.Module] = [conv_norm_relu(3, 32)]
    channels = 32
    blocks = [
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
        *((512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)),
    ]
    for width, stride in blocks:
        layers.append(conv_norm_relu(channels, channels, stride=stride, groups=channels))
        layers.append(conv_norm_relu(channels, width, 1))
        channels = width
    return nn.Sequential(*layers, classifier(channels, num_classes))


def tiny(num_classes: int) -> nn.Module:
    """Make a network of three convolutions, for a CPU.

    Group norm treats each image separately, so several ranks compute the same as one, except for
    rounding.
    """
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.GroupNorm(8, width),
            nn.ReLU(inplace=True),
        ]
        channels = width
    return nn.Sequential(*layers, classifier(channels, num_classes))


_BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "vgg16": vgg16,
    "resnet18": resnet18,
    "preact_resnet18": preact_resnet18,
    "googlenet": googlenet,
    "resnext29_2x64d": resnext29_2x64d,
    "densenet121": densenet121,
    "mobilenet": mobilenet,
    "tiny": tiny,
}
NAMES = tuple(_BUILDERS)
"""Models that ``build`` makes: the seven published ones, and ``tiny``."""


def build(name: str, num_classes: int = 10) -> nn.Module:
    """Make a model that maps float32 (N, 3, 32, 32) to float32 (N, num_classes).

    Args:
        name: one of ``NAMES``.
        num_classes: number of classes.

    Raises:
        ValueError: there is no such model.
    """
    if name not in _BUILDERS:
        raise ValueError(f"no model {name!r}; there is {', '.join(NAMES)}")
    return _BUILDERS[name](num_classes)


def num_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Print the parameters of each model."""
    argument_parser(__doc__).parse_args()
    print("| model | parameters | published |\n| --- | ---: | ---: |")
    for name in NAMES:
        published = PUBLISHED_PARAMETERS.get(name)
        beside = f"{published:.1f} M" if published else ""
        print(f"| {name} | {num_parameters(build(name)):,} | {beside} |")


if __name__ == "__main__":
    main()
