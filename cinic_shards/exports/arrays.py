"""Arrays: ``.npz``, ``.npy``, and torch's ``.pt``."""

from collections.abc import Sequence

import numpy as np

from cinic_shards.exports.base import Create, Export


class _NothingInCommon:
    """Splits share no file."""

    def common_names(self) -> list[str]:
        return []

    def write_common(self, exports: Sequence[Export], create: Create) -> None:
        """Write nothing."""


class NpzWriter(_NothingInCommon):
    """One ``.npz`` of a split, without compression."""

    def names(self, export: Export) -> list[str]:
        return [f"{export.name}.npz"]

    def write(self, export: Export, create: Create) -> None:
        np.savez(
            create(f"{export.name}.npz"), images=export.read_images(), labels=export.labels,
            keys=np.array(export.keys), classes=np.array(export.classes),
        )  # fmt: skip


class NpyWriter:
    """Two ``.npy`` of a split, and its keys as text."""

    def names(self, export: Export) -> list[str]:
        return [f"{export.name}_{what}" for what in ("images.npy", "labels.npy", "keys.txt")]

    def write(self, export: Export, create: Create) -> None:
        images, labels, keys = self.names(export)
        np.save(create(images), export.read_images())
        np.save(create(labels), export.labels)
        create(keys).write("".join(f"{key}\n" for key in export.keys).encode())

    def common_names(self) -> list[str]:
        return ["classes.txt"]

    def write_common(self, exports: Sequence[Export], create: Create) -> None:
        create("classes.txt").write("".join(f"{name}\n" for name in exports[0].classes).encode())


class TorchWriter(_NothingInCommon):
    """A ``.pt`` of a split, which ``torch.load`` reads with ``weights_only=True``."""

    def names(self, export: Export) -> list[str]:
        return [f"{export.name}.pt"]

    def write(self, export: Export, create: Create) -> None:
        import torch

        content = {
            "images": torch.from_numpy(export.read_images()).permute(0, 3, 1, 2),
            "labels": torch.from_numpy(export.labels),
            "keys": export.keys,
            "classes": export.classes,
        }
        torch.save(content, create(f"{export.name}.pt"))
