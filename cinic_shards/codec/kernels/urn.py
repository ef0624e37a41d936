"""Random shares without logarithms, whose last bits differ between machines."""

import numpy as np

from cinic_shards.codec.kernels.base import kernel, mix


@kernel
def draw_from_urn(weight, key, colors, counts):
    """Draw from Polya's urn, and count each colour; its shares tend to Dirichlet's distribution.

    A draw takes a new ball, of a random colour, with probability weight / (weight + draws so far);
    otherwise it repeats one of the earlier draws (Blackwell and MacQueen 1973). The only operations
    on floats are a sum, a product and a comparison, so every machine draws the same.

    Args:
        weight: alpha of the distribution times the number of colours; finite, above 0.
        key: uint64, chooses the draws.
        colors: int32 (n,), for the n draws' colours.
        counts: int64 (colours,), all 0; for the number of draws of each colour.
    """
    state = np.uint64(key)
    for i in range(len(colors)):
        state += np.uint64(0x9E3779B97F4A7C15)
        bits = mix(state)
        fraction = np.float64(bits >> np.uint64(11)) * 2.0**-53
        is_new = i == 0 or fraction * (weight + i) < weight
        state += np.uint64(0x9E3779B97F4A7C15)
        bits = mix(state) >> np.uint64(32)
        if is_new:
            color = np.int32((bits * np.uint64(len(counts))) >> np.uint64(32))
        else:
            color = colors[np.int64((bits * np.uint64(i)) >> np.uint64(32))]
        colors[i] = color
        counts[color] += 1
