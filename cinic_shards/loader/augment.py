"""Augment and normalise the pixels of a batch: in one pass on the CPU, or batched on a device.

Random numbers are keyed by (seed, epoch, sample id): a sample is augmented in the same way on any
number of ranks and threads, on the CPU and on a device, and after a resume.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from cinic_shards.codec import kernels
from cinic_shards.errors import OptionError
from cinic_shards.options import checked, integer, one_of

Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel, on the scale 0 to 1."""

CINIC10_STATISTICS: Statistics = (
    (0.47889522, 0.47227842, 0.43047404),
    (0.24205776, 0.23828046, 0.25874835),
)
"""CINIC-10's statistics as its authors publish them (https://github.com/BayesWatch/cinic-10)."""

PublishedStatistics = Literal["cinic10"]
Normalize = bool | PublishedStatistics | Statistics
PaddingMode = Literal["zero", "edge", "reflect"]
DtypeName = Literal["uint8", "float32", "float16", "bfloat16"]

_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(DtypeName)}
_AUGMENT_VERSION = 1
_FROM_0_TO_1: Statistics = (0, 0, 0), (1, 1, 1)
"""Statistics that leave values on the scale 0 to 1."""


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Random crop, flip and cutout, then normalisation, in one step.

    Without ``cutout`` it does what torchvision's ``RandomCrop(size, padding, padding_mode=...)``,
    ``RandomHorizontalFlip``, ``ToTensor`` and ``Normalize`` do, in this order.

    Raises:
        OptionError: a value is out of range or unknown, or ``normalize`` is set for uint8 images.

    Example:
        >>> augment = Augment(cutout=8, normalize="cinic10", dtype="float16")
        >>> ShardLoader("shards", batch_size=32, augment=augment).peek().images.dtype
        torch.float16
    """

    crop_padding: int = 4
    """Pixels of padding on each side before a random crop to the image's size: 0 to 1024; 0
    disables the crop."""
    padding_mode: PaddingMode = "zero"
    """Kind of padding, as in torchvision and numpy: ``zero`` (black), ``edge`` (the nearest
    pixel), or ``reflect`` (the image, mirrored at its border pixel)."""
    flip: bool = True
    """Flip left and right with probability 1/2."""
    cutout: int = 0
    """Side in pixels of a square of the mean colour, drawn at a random position and clipped at the
    border; 0 for none."""
    normalize: Normalize | None = None
    """Subtract the mean and divide by the standard deviation. True, the default unless ``dtype`` is
    uint8, uses the dataset's statistics; ``"cinic10"`` uses CINIC-10's published statistics; a pair
    is (mean, std) of the three channels on the scale 0 to 1. False gives floats from 0 to 1."""
    dtype: DtypeName | torch.dtype = "float32"
    """Type of the images: ``float32``, ``float16``, ``bfloat16`` or ``uint8``."""
    seed: int | None = None
    """Seed of the random numbers; by default the loader's. With two seeds, two loaders of the same
    order give two independent views of each image."""

    def __post_init__(self) -> None:
        if not 0 <= self.crop_padding <= 1024:
            raise OptionError(f"crop_padding={self.crop_padding}: expected 0 to 1024, in pixels")
        if self.seed is not None:
            integer("seed", self.seed)
        if self.cutout < 0:
            raise OptionError(f"cutout={self.cutout}: expected a square's side in pixels, or 0")
        if self.torch_dtype == torch.uint8 and self.normalize not in (None, False):
            raise OptionError("dtype uint8 cannot be normalised; choose a float dtype")

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as a torch dtype."""
        name = str(self.dtype).removeprefix("torch.")
        one_of("dtype", name, DtypeName)
        return _DTYPES[name]


PLAIN = Augment(crop_padding=0, flip=False, dtype="uint8")
"""Leaves images unchanged, as uint8."""


def augment_options(augment: Augment | None, normalize: Normalize) -> Augment:
    """Return the ``Augment`` that a loader's options stand for.

    Raises:
        OptionError: both are given.
    """
    if augment is not None and normalize is not False:
        raise OptionError("give normalize to Augment, or to a loader without augment")
    if augment is not None:
        return augment
    return PLAIN if normalize is False else Augment(crop_padding=0, flip=False, normalize=normalize)


def value_table(statistics: Statistics | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Return the table that maps each channel's 256 values to normalised ones.

    An entry is ``(value / 255 - mean) / std`` in double precision, rounded once. A device looks up
    values in the table; a CPU does too, or computes the same bits with ``value_line``.

    Args:
        statistics: None for mean 0 and standard deviation 1.
        dtype: type of the table.

    Returns:
        Shape (3, 256); None if ``dtype`` is uint8.

    Raises:
        OptionError: ``statistics`` are not three channels with deviations above 0.
    """
    if dtype == torch.uint8:
        return None
    means, stds = (np.asarray(values, np.float64) for values in statistics or _FROM_0_TO_1)
    if means.shape != (3,) or stds.shape != (3,) or not (stds > 0).all():
        raise OptionError(
            f"mean {means.tolist()} and std {stds.tolist()}: expected three channels each, and "
            "standard deviations above 0"
        )
    values = (np.arange(256) / 255 - means[:, None]) / stds[:, None]
    return torch.from_numpy(values).to(dtype)


def value_line(statistics: Statistics | None, table: torch.Tensor) -> NDArray[np.float64] | None:
    """Return a scale and an offset for each channel that give the same values as a table.

    ``value * scale + offset`` in double precision, rounded once, equals the table to the bit. That
    holds for nearly all statistics: double precision has 29 bits to spare.

    Args:
        statistics: the statistics that the table was made from.
        table: from ``value_table``, shape (3, 256).

    Returns:
        float64, shape (2, 3); None if any bit would differ, or if the table is not float32.
    """
    if table.dtype != torch.float32:
        return None
    means, stds = np.asarray(statistics or _FROM_0_TO_1, np.float64)
    scales, offsets = 1 / (255 * stds), -means / stds
    values = np.arange(256) * scales[:, None] + offsets[:, None]
    is_exact = np.array_equal(values.astype(np.float32), table.numpy())
    return np.stack([scales, offsets]) if is_exact else None


class Transform:
    """An ``Augment`` for one dataset, seed and device.

    Args:
        augment: the options.
        measured: the dataset's mean and standard deviation.
        image_shape: (H, W, 3).
        seed: seed of all random numbers.
        device: the device of ``on_device``; None if it is not used.
        memory_format: order of the values in memory; the values do not depend on it.

    Raises:
        OptionError: the statistics are not three channels with deviations above 0, or
            ``memory_format`` is not one of images.
    """

    def __init__(
        self,
        augment: Augment,
        measured: Statistics,
        image_shape: tuple[int, int, int],
        *,
        seed: int,
        device: torch.device | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        if memory_format not in (torch.contiguous_format, torch.channels_last):
            raise OptionError(
                f"memory_format={memory_format}: expected torch.contiguous_format or "
                "torch.channels_last"
            )
        self.augment = augment
        self.is_channels_last = memory_format == torch.channels_last
        """True if an image is (H, W, 3) in memory, False if it is (3, H, W)."""
        self.dtype = augment.torch_dtype
        self._height, self._width, _ = image_shape
        self._seed = seed if augment.seed is None else augment.seed
        self._padding_mode = get_args(PaddingMode).index(augment.padding_mode)
        padding, least = augment.crop_padding, min(self._height, self._width)
        if augment.padding_mode == "reflect" and padding >= least:
            raise OptionError(
                f"crop_padding={padding}: reflect needs less than the {least} pixels of an image"
            )
        statistics: Statistics | None
        if augment.normalize is False or self.dtype == torch.uint8:
            statistics = None
        elif augment.normalize is True or augment.normalize is None:
            statistics = measured
        elif augment.normalize == "cinic10":
            statistics = CINIC10_STATISTICS
        else:
            assert not isinstance(augment.normalize, str)
            statistics = augment.normalize
        table = value_table(statistics, self.dtype)
        values = "" if statistics is None else f", mean and std {np.asarray(statistics).tolist()}"
        mode = "" if augment.padding_mode == "zero" else f" {augment.padding_mode}"
        own_seed = "" if augment.seed is None else f", seed {augment.seed}"
        self.description = (
            f"crop_padding {augment.crop_padding}{mode}, flip {augment.flip}, "
            f"cutout {augment.cutout}, {str(self.dtype).removeprefix('torch.')}{values}{own_seed}"
        )
        """Everything that the pixels depend on; part of a loader's state."""
        mean = np.asarray((statistics or measured)[0], np.float64)
        self._fill = np.clip(np.rint(255 * mean), 0, 255).astype(np.uint8)
        # Numba has no 16-bit floats: the kernel looks up a value's bits.
        self._table = None if table is None else _bits(table).numpy()
        line = None if table is None else value_line(statistics, table)
        self._line = None if line is None else np.tile(line, self._width)
        self._device_table = None if table is None or device is None else table.to(device)
        self._device_fill = None if device is None else torch.from_numpy(self._fill).to(device)

    @property
    def moves_pixels(self) -> bool:
        """True if crop, flip or cutout is on."""
        return self.augment.crop_padding > 0 or self.augment.flip or self.augment.cutout > 0

    @property
    def is_plain(self) -> bool:
        """True if images are left unchanged."""
        return self._table is None and not self.moves_pixels

    def buffer_shape(self, num_images: int) -> tuple[int, ...]:
        """Return the shape of N images in memory: (N, H, W, 3) or (N, 3, H, W)."""
        if self.is_channels_last:
            return num_images, self._height, self._width, 3
        return num_images, 3, self._height, self._width

    def as_images(self, buffer: torch.Tensor) -> torch.Tensor:
        """Return a view of shape (N, 3, H, W) of images of ``buffer_shape``."""
        return buffer.permute(0, 3, 1, 2) if self.is_channels_last else buffer

    def draw(self, ids: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Draw the random numbers of N samples in an epoch.

        Args:
            ids: the samples' ids in the dataset, shape (N,).
            epoch: the epoch.

        Returns:
            int64, shape (N, 5), see ``kernels.draw_augmentations``.
        """
        if not self.moves_pixels:
            return np.zeros((len(ids), 5), np.int64)
        text = f"cinic-shards augment {_AUGMENT_VERSION} seed {self._seed} epoch {epoch}"
        key = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=8).digest(), "<u8")[0]
        draws = np.empty((len(ids), 5), np.int64)
        augment = self.augment
        kernels.draw_augmentations(
            ids, key, augment.crop_padding, augment.flip, self._height, self._width, draws
        )
        return draws

    def on_cpu(
        self, addresses: NDArray[np.int64], draws: NDArray[np.int64] | None, *outs: torch.Tensor
    ) -> None:
        """Make the images of one or several buffers from those at the given addresses, in one pass.

        Args:
            addresses: addresses of N uint8 images of shape (H, W, 3); shape (N,).
            draws: from ``draw``, shape (N, 5); None if ``is_plain``.
            outs: one or several buffers for N images in all: type ``dtype``, of ``buffer_shape``,
                contiguous; overwritten in order.
        """
        like = _bits(outs[0]).numpy()
        planar = not self.is_channels_last
        if draws is None:
            kernels.gather_into(addresses, *buffers_of(outs), planar, like)
            return
        kernels.augment_into(
            addresses,
            draws,
            self.augment.crop_padding,
            self._padding_mode,
            self.augment.cutout,
            self._fill,
            self._table,
            self._line,
            *buffers_of(outs),
            planar,
            like,
        )

    def on_device(
        self, images: torch.Tensor, rows: torch.Tensor | None, draws: torch.Tensor
    ) -> torch.Tensor:
        """Do the same as ``on_cpu`` with batched torch operations, on the device of ``images``.

        Args:
            images: uint8, shape (M, H, W, 3).
            rows: positions of the batch's images in ``images``, int64, shape (N,); None if the
                batch is ``images``, and ``is_plain``.
            draws: from ``draw``, shape (N, 5), on the same device.

        Returns:
            Type ``dtype``, shape (N, 3, H, W).
        """
        if rows is None:
            batch = images
        elif self.moves_pixels:
            batch = self._move_pixels(images, rows, draws)
        else:
            batch = images.index_select(0, rows)
        if not self.is_channels_last:  # here, because floats are four times as many bytes
            batch = batch.permute(0, 3, 1, 2).contiguous()
        if self._device_table is not None:
            first = torch.arange(0, 3 * 256, 256, dtype=torch.int64, device=images.device)
            if not self.is_channels_last:
                first = first[:, None, None]
            batch = torch.take(self._device_table, batch.to(torch.int64) + first)
        return self.as_images(batch)

    def _move_pixels(
        self, images: torch.Tensor, rows: torch.Tensor, draws: torch.Tensor
    ) -> torch.Tensor:
        height, width, padding = self._height, self._width, self.augment.crop_padding
        down = torch.arange(height, device=images.device)
        right = torch.arange(width, device=images.device)
        top, left, flip, cut_y, cut_x = draws.unbind(1)
        y = down + (top - padding)[:, None]
        x = torch.where(flip[:, None] == 1, width - 1 - right, right) + (left - padding)[:, None]
        if self.augment.padding_mode == "reflect":
            y = height - 1 - (height - 1 - y.abs()).abs()
            x = width - 1 - (width - 1 - x.abs()).abs()
        is_inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
        batch = images[
            rows[:, None, None], y.clamp(0, height - 1)[:, :, None], x.clamp(0, width - 1)[:, None]
        ]
        if self.augment.padding_mode == "zero":
            batch *= is_inside[..., None]
        if side := self.augment.cutout:
            assert self._device_fill is not None
            start_y, start_x = (cut_y - side // 2)[:, None], (cut_x - side // 2)[:, None]
            is_cut = ((down >= start_y) & (down < start_y + side))[:, :, None]
            is_cut = is_cut & ((right >= start_x) & (right < start_x + side))[:, None, :]
            batch = torch.where(is_cut[..., None], self._device_fill, batch)
        return batch


def buffers_of(tensors: Sequence[torch.Tensor]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the addresses and lengths of tensors, for kernels: int64, shape (B,)."""
    pairs = np.array([(tensor.data_ptr(), tensor.size(0)) for tensor in tensors], np.int64)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def _bits(values: torch.Tensor) -> torch.Tensor:
    """View 16-bit floats as integers; return other types as they are."""
    return values.view(torch.uint16) if values.dtype.itemsize == 2 else values
