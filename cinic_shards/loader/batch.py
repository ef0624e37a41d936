"""A batch: the tuple ``(images, labels)``, with what belongs to its samples as attributes."""

from collections.abc import Iterable
from typing import Any, NoReturn, Self

import torch
from torch.utils import _pytree as pytree

from cinic_shards.errors import OptionError

_KEY = "_cinic_shards_batch"
"""Name of a label tensor's attribute: the batch's ``indices``, ``valid`` and ``loss_scale``."""

_Extras = tuple[torch.Tensor, torch.Tensor, float]
_new_tuple = tuple.__new__


class Batch(tuple[torch.Tensor, torch.Tensor]):
    """N samples: the tuple ``(images, labels)``, with more about them in attributes.

    The attributes survive ``to``, ``pin_memory``, pickling and copying, ``torch.utils._pytree``,
    and the moves and conversions of a DataLoader, Lightning, Fabric and Accelerate: these call
    ``to`` or ``pin_memory``, or rebuild the batch with the same tensor of labels, which carries
    the attributes. They are lost, and raise an AttributeError, where code makes a batch of a new
    tensor of labels (a slice of it; Accelerate's ``dispatch_batches``, DataParallel) or a plain
    tuple or list (Ray Train, Composer, a slice of the batch).

    Args:
        images: see ``images``.
        labels: see ``labels``.
        indices: see ``indices``; give this and the next two, or none of them.
        valid: see ``valid``.
        loss_scale: see ``loss_scale``.

    Example:
        >>> batch = ShardLoader("shards", split="test", batch_size=32, shuffle=False).peek()
        >>> batch
        Batch(32 images (3, 32, 32) uint8, labels int64)
        >>> images, labels = batch
        >>> batch.indices[:3], batch.num_samples, batch.loss_scale
        (tensor([0, 1, 2]), 32, 1.0)
    """

    # DataLoader, Lightning and Accelerate rebuild a tuple that has these two names from its items,
    # like a namedtuple; others become lists. A list, because torch's pytree would take a class with
    # a tuple of names for a namedtuple, and ignore what is registered below.
    _fields = ["images", "labels"]  # noqa: RUF012
    _extras: _Extras | None

    def __new__(
        cls,
        images: torch.Tensor,
        labels: torch.Tensor,
        indices: torch.Tensor | None = None,
        valid: torch.Tensor | None = None,
        loss_scale: float | None = None,
    ) -> Self:
        self = _new_tuple(cls, (images, labels))
        if indices is None or valid is None or loss_scale is None:
            if not (indices is None and valid is None and loss_scale is None):
                raise TypeError("Batch: give all of indices, valid and loss_scale, or none of them")
            self._extras = labels.__dict__.get(_KEY) if isinstance(labels, torch.Tensor) else None
            if isinstance(labels, torch.Tensor) and (images.ndim, labels.ndim) == (5, 2):
                raise OptionError(
                    "a DataLoader joins batches to batches of batches; give it batch_size=None: "
                    "DataLoader(ShardIterable(...), batch_size=None)"
                )
        else:
            self._extras = extras = indices, valid, loss_scale
            if isinstance(labels, torch.Tensor):
                labels.__dict__[_KEY] = extras
        return self

    @property
    def images(self) -> torch.Tensor:
        """uint8, or the requested float type; shape (N, 3, H, W), in the loader's memory format."""
        return self[0]

    @property
    def labels(self) -> torch.Tensor:
        """int64, shape (N,)."""
        return self[1]

    @property
    def indices(self) -> torch.Tensor:
        """The samples' ids in the dataset, int64, shape (N,), on the CPU."""
        return (self._extras or self._missing("indices"))[0]

    @property
    def valid(self) -> torch.Tensor:
        """False for samples that must not count; bool, shape (N,).

        They are the padding of ``tail="pad"``, and the black image of a batch whose samples were
        all skipped.
        """
        return (self._extras or self._missing("valid"))[1]

    @property
    def loss_scale(self) -> float:
        """Factor for the mean loss over this batch's valid samples.

        The mean of the scaled losses over all ranks is then the mean over the global batch. 1 if
        all ranks' parts are equal, 0 if no sample is valid. A damaged sample that was skipped still
        counts in the global batch.
        """
        return (self._extras or self._missing("loss_scale"))[2]

    @property
    def num_samples(self) -> int:
        """N. The length of the batch itself is 2."""
        return self[1].size(0)  # len() of a tensor takes a microsecond

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Return the batch on a device; ``indices`` stay on the CPU."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Return the batch in pinned memory; a DataLoader's ``pin_memory=True`` calls this."""
        return self._mapped(torch.Tensor.pin_memory)

    def _mapped(self, function: Any) -> "Batch":
        images, labels = map(function, self)
        if self._extras is None:
            return Batch(images, labels)
        indices, valid, loss_scale = self._extras
        return Batch(images, labels, indices, function(valid), loss_scale)

    def _missing(self, name: str) -> NoReturn:
        raise AttributeError(
            f"this batch has no {name}: it was made from other tensors than the loader's, and only "
            f"from images and labels; take {name} from the loader's batch before that"
        )

    def _asdict(self) -> dict[str, torch.Tensor]:
        """Return images and labels by name: Lightning and Accelerate look for this method too."""
        return dict(zip(self._fields, self, strict=True))

    def __reduce__(self) -> tuple[type["Batch"], tuple[Any, ...]]:
        return type(self), (*self, *(self._extras or ()))

    def __repr__(self) -> str:
        images, labels = (
            (tuple(one.shape), str(one.dtype).removeprefix("torch."), str(one.device))
            if isinstance(one, torch.Tensor)
            else None
            for one in self
        )
        if images is None or labels is None:  # pytree's functions may make a batch of anything
            return f"Batch{tuple.__repr__(self)}"
        (shape, dtype, device), (_, label_dtype, _) = images, labels
        on_device = "" if device == "cpu" else f" on {device}"
        number = shape[0] if shape else 0
        return f"Batch({number} images {shape[1:]} {dtype}{on_device}, labels {label_dtype})"


class _Context:
    """A batch's attributes, for pytree. All are equal: trees of batches have the same structure."""

    def __init__(self, batch: Batch) -> None:
        self.extras = batch._extras
        self.num_labels = _length(batch[1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Context)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return ""


def _length(labels: Any) -> int | None:
    return len(labels) if isinstance(labels, torch.Tensor) and labels.ndim else None


def _flatten(batch: Batch) -> tuple[list[Any], _Context]:
    return list(batch), _Context(batch)


def _flatten_with_keys(batch: Batch) -> tuple[list[tuple[Any, Any]], _Context]:
    return list(zip(map(pytree.GetAttrKey, Batch._fields), batch, strict=True)), _Context(batch)


def _unflatten(items: Iterable[Any], context: _Context) -> Batch:
    images, labels = items
    if _length(labels) not in (None, context.num_labels):  # other samples, such as a slice
        batch = tuple.__new__(Batch, (images, labels))
        batch._extras = None
        return batch
    return Batch(images, labels, *(context.extras or ()))


pytree.register_pytree_node(Batch, _flatten, _unflatten, flatten_with_keys_fn=_flatten_with_keys)
