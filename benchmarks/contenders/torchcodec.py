"""TorchCodec's PNG decoder in torchvision's ImageFolder, on the unchanged folder.

``decode_png`` reads and decodes a file to a tensor; only ``decode_jpeg`` takes a list of files. It
is the decoder that torchvision recommends instead of its own
(https://docs.pytorch.org/vision/0.29/io.html), and is faster than Pillow on larger images
(https://github.com/meta-pytorch/torchcodec/pull/1559). As its migration guide shows, torchvision's
v2 transforms get the tensor.
"""

from functools import partial
from typing import Any

from benchmarks.contenders import imagefolder
from benchmarks.contenders.base import Contender


def load(path: str) -> Any:
    """Read and decode a PNG, to a tensor uint8 (3, H, W)."""
    from torchcodec.decoders import decode_png

    return decode_png(path, mode="RGB")


CONTENDERS = [
    Contender(
        name="TorchCodec",
        build=imagefolder.build,
        epochs=partial(imagefolder.epochs, loader=load),
        modules=("torchcodec", "torchvision"),
        environment="torchcodec",
    ),
]
