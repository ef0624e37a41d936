"""Keyed permutations of a range of integers: the package's only source of randomness."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from cinic_shards.codec.kernels.base import kernel, part

_NUM_ROUNDS = 8


def choose(count: int, size: int, purpose: str, seed: int) -> NDArray[np.int64]:
    """Choose ``count`` random numbers of range(size), without repetition.

    Args:
        count: how many.
        size: size of the range.
        purpose: part of the permutation's key, as is the seed.
        seed: a smaller ``count`` with the same purpose and seed gives the first of these numbers.

    Returns:
        int64, shape (count,).
    """
    out = np.empty(count, np.int64)
    permute(0, size, round_keys(purpose, seed, 0), out)
    return out


def round_keys(purpose: str, seed: int, epoch: int) -> NDArray[np.uint64]:
    """Derive the round keys of a permutation: BLAKE2b over purpose, seed and epoch.

    The text also says ``plan 1``, in all versions of the plan: it must never change.

    Returns:
        uint64, shape (8,).
    """
    text = f"cinic-shards plan 1 {purpose} seed {seed} epoch {epoch}"
    digest = hashlib.blake2b(text.encode(), digest_size=8 * _NUM_ROUNDS).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


@kernel
def permute(start, size, keys, out):
    """Permute start, start + 1, ... by a keyed permutation of range(size), into ``out`` int64.

    A Feistel network permutes the numbers with the fewest bits that can hold ``size``. A result
    that is not below ``size`` is permuted again; this ends because the network is a permutation.
    For an odd number of bits, the two parts of a number differ by one bit in length: each round
    changes one part by a function of the other, so it can be inverted.
    """
    low_bits, low_mask, high_mask = feistel_masks(size)
    for i in range(len(out)):
        out[i] = feistel(start + i, size, low_bits, low_mask, high_mask, keys, np.uint64(0))


@part
def feistel_masks(size):
    """Return the bits of a number's low part, and masks of both parts, uint64: see ``permute``."""
    bits = np.uint64(0)
    while bits < 63 and (np.int64(1) << np.int64(bits)) < size:
        bits += np.uint64(1)
    low_bits = bits // np.uint64(2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    return low_bits, low_mask, high_mask


@part
def feistel(number, size, low_bits, low_mask, high_mask, keys, tweak):
    """Permute one number of range(size) with these keys and this tweak, int64."""
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
    """Return the upper half of a product; it depends on every bit of the number and its key."""
    return (x * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
