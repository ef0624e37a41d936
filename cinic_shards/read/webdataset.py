"""Our block shards in a stock WebDataset pipeline.

    import webdataset
    from cinic_shards.read.webdataset import decode, unbatch

    urls = sorted(glob.glob("shards/train-*.tar"))
    dataset = webdataset.WebDataset(urls).map(decode).compose(unbatch).shuffle(5000)
    for image, label in dataset.to_tuple("image", "label"): ...

``raw`` shards need no more than webdataset's own ``.decode()``. Needs no torch.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

import cinic_shards.format as fmt
from cinic_shards.codec import decode_block
from cinic_shards.errors import DecodeError


def decode(sample: dict[str, Any]) -> dict[str, Any]:
    """Decode a block as webdataset reads it from a ``raw`` or ``zstd`` shard.

    Args:
        sample: with ``images.npy`` or ``images.zst``, and ``labels.npy``, as bytes.

    Returns:
        The sample with ``images`` uint8 (N, H, W, 3) and ``labels`` int64 (N,) in their place.

    Raises:
        DecodeError: a member is damaged; names the block.
    """
    rest = dict(sample)
    key = str(sample.get("__key__", "a block"))
    labels = fmt.parse_npy(rest.pop(fmt.LABELS_SUFFIX), "<i8", 1)
    if labels is None:
        raise DecodeError(0, f"{fmt.LABELS_SUFFIX} is no array of labels", key)
    for encoding, suffix in fmt.BLOCK_SUFFIXES.items():
        if suffix in rest:
            payload = np.frombuffer(rest.pop(suffix), np.uint8)
            shape = _image_shape(payload, encoding)
            if shape is None:
                raise DecodeError(0, f"{suffix} is no block of images", key)
            images = np.empty((len(labels), *shape), np.uint8)
            if problem := decode_block(payload, encoding, images):
                raise DecodeError(0, f"{suffix}: {problem}", key)
            return rest | {"images": images, "labels": labels}
    raise DecodeError(0, f"expected one of {', '.join(fmt.BLOCK_SUFFIXES.values())}", key)


def _image_shape(payload: NDArray[np.uint8], encoding: str) -> tuple[int, ...] | None:
    """(H, W, 3) as the block's npy header states it."""
    head = payload[: fmt.NPY_HEADER_BYTES].tobytes()
    if encoding == "zstd":
        try:
            with zstandard.ZstdDecompressor().stream_reader(payload.tobytes()) as reader:
                head = reader.read(fmt.NPY_HEADER_BYTES)
        except zstandard.ZstdError:
            return None
    shape = fmt.parse_npy_shape(head, "|u1", 4)
    if shape is None:
        return None
    height, width = shape[2:] if encoding == "zstd" else shape[1:3]
    if not 1 <= shape[0] * shape[1] * shape[2] * shape[3] <= fmt.MAX_BLOCK_BYTES:
        return None
    return height, width, 3


def unbatch(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Samples of blocks that ``decode`` has decoded: a dict with ``image`` and ``label`` each.

    ``__key__`` is the block's and the sample's place in it: ``train/00003-00007/0041``.
    """
    for sample in samples:
        common = {name: value for name, value in sample.items() if name not in ("images", "labels")}
        for row, (image, label) in enumerate(zip(sample["images"], sample["labels"], strict=True)):
            key = f"{sample['__key__']}/{row:04d}"
            yield common | {"__key__": key, "image": image, "label": int(label)}
