"""The contenders, one file for each library, in the order of the tables."""

from benchmarks.contenders import (
    cinic_shards,
    ffcv,
    grain,
    huggingface,
    imagefolder,
    lance,
    litdata,
    mosaicml,
    tensor,
    torchcodec,
    webdataset,
)
from benchmarks.contenders.base import Contender

OURS = "cinic-shards"

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for module in (
        imagefolder, torchcodec, webdataset, ffcv, mosaicml, litdata, lance, grain, huggingface,
        tensor, cinic_shards,
    )
    for contender in module.CONTENDERS
}  # fmt: skip
"""Contenders by name."""
