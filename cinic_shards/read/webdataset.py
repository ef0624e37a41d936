"""Read block shards in a standard WebDataset pipeline.

    import webdataset
    from cinic_shards.read.webdataset import decode, unbatch

    urls = sorted(glob.glob("shards/train-*.tar"))
    dataset = webdataset.WebDataset(urls).map(decode).compose(unbatch).shuffle(5000)
    for image, label in dataset.to_tuple("image", "label"): ...

For ``raw`` shards, webdataset's own ``.decode()`` is enough. This module does not need torch.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

import cinic_shards.format as fmt
from cinic_shards.codec import ENCODINGS, Payloads
from cinic_shards.errors import DecodeError


def decode(sample: dict[str, Any]) -> dict[str, Any]:
    """Decode a block that webdataset has read from a ``raw`` or ``zstd`` shard.

    Args:
        sample: a dict with ``images.npy`` or ``images.zst``, and ``labels.npy``, as bytes.

    Returns:
        The dict with ``images`` uint8 (N, H, W, 3) and ``labels`` int64 (N,) instead.

    Raises:
        DecodeError: a member is damaged or missing; names the block.
    """
    rest = dict(sample)
    key = str(sample.get("__key__", "a block"))
    labels = fmt.parse_npy(rest.pop(fmt.LABELS_SUFFIX), "<i8", 1)
    if labels is None:
        raise DecodeError(0, f"{fmt.LABELS_SUFFIX} is not an array of labels", key)
    encodings = [encoding for encoding in ENCODINGS.values() if encoding.has_blocks]
    for encoding in encodings:
        suffix = encoding.suffix
        if suffix in rest:
            payload = np.frombuffer(rest.pop(suffix), np.uint8)
            shape = encoding.image_shape(payload)
            size = len(labels) * int(np.prod(shape or 0, dtype=object))
            if shape is None or not 1 <= size <= fmt.MAX_BLOCK_BYTES:
                raise DecodeError(0, f"{suffix} is not a block of images", key)
            images = np.empty((len(labels), *shape), np.uint8)
            if problems := encoding.decode(Payloads.one(payload), images):
                raise DecodeError(0, f"{suffix}: {problems[0]}", key)
            return rest | {"images": images, "labels": labels}
    suffixes = ", ".join(encoding.suffix for encoding in encodings)
    raise DecodeError(0, f"expected one of {suffixes}", key)


def unbatch(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Split blocks from ``decode`` into samples, dicts with ``image`` and ``label``.

    ``image`` is uint8 (H, W, 3), ``label`` an int. ``__key__`` is the block's key and the sample's
    position in the block, such as ``train/00003-00007/0041``.
    """
    for sample in samples:
        common = {name: value for name, value in sample.items() if name not in ("images", "labels")}
        for row, (image, label) in enumerate(zip(sample["images"], sample["labels"], strict=True)):
            key = f"{sample['__key__']}/{row:04d}"
            yield common | {"__key__": key, "image": image, "label": int(label)}
