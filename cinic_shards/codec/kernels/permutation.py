"""Keyed permutations of a range of integers: the package's only source of randomness."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.kernels.base import kernel, part

PLAN_VERSION = 1

_NUM_ROUNDS = 8


def choose(count: int, size: int, purpose: str, seed: int) -> NDArray[np.int64]:
    """``count`` of range(size) by chance, int64; fewer of them are the first of more."""
    out = np.empty(count, np.int64)
    permute(0, size, round_keys(purpose, seed, 0), out)
    return out


def round_keys(purpose: str, seed: int, epoch: int) -> NDArray[np.uint64]:
    """Round keys of one permutation: BLAKE2b over plan version, purpose, seed and epoch."""
    text = f"cinic-shards plan {PLAN_VERSION} {purpose} seed {seed} epoch {epoch}"
    digest = hashlib.blake2b(text.encode(), digest_size=8 * _NUM_ROUNDS).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


@kernel
def permute(start, size, keys, out):
    """Where a keyed permutation of range(size) sends start, start + 1, ...: into ``out`` int64.

    A Feistel network permutes the numbers of the fewest bits that hold ``size``; a result beyond
    ``size`` is sent through again, which ends because the network is a permutation. The two
    parts of a number differ by a bit where the bits are odd: each round changes one of them by a
    function of the other, so it can be undone.
    """
    low_bits, low_mask, high_mask = feistel_masks(size)
    for i in range(len(out)):
        out[i] = feistel(start + i, size, low_bits, low_mask, high_mask, keys, np.uint64(0))


@part
def feistel_masks(size):
    """Bits of a number's low part, and the masks of its low and high part: see ``permute``."""
    bits = np.uint64(0)
    while bits < 63 and (np.int64(1) << np.int64(bits)) < size:
        bits += np.uint64(1)
    low_bits = bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    return low_bits, low_mask, high_mask


@part
def feistel(number, size, low_bits, low_mask, high_mask, keys, tweak):
    """Where the permutation of range(size) with these keys and this tweak sends a number."""
    x = np.uint64(number)
    while True:
        low = x & low_mask
        high = x >> low_bits
        for pair in range(0, len(keys), 2):
            high ^= _round(low ^ keys[pair] ^ tweak) & high_mask
            low ^= _round(high ^ keys[pair + 1] ^ tweak) & low_mask
        x = (high << low_bits) | low
        if x < np.uint64(size):
            return np.int64(x)


@part
def _round(x):
    """The upper half of a product: every bit of the number and of its key has a part in it."""
    return (x * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
