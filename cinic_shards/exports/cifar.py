"""CIFAR-10's pickled batches."""

from collections.abc import Sequence

import numpy as np

from cinic_shards.cinic.cifar10 import IMAGE_SHAPE, META, TRAIN_BATCHES
from cinic_shards.cinic.pickles import write_pickle
from cinic_shards.errors import FormatError
from cinic_shards.exports.base import Create, Export


class CifarWriter:
    """Five batches of the split ``train``, one of any other, and ``batches.meta``."""

    def names(self, export: Export) -> list[str]:
        return list(TRAIN_BATCHES) if export.name == "train" else [f"{export.name}_batch"]

    def write(self, export: Export, create: Create) -> None:
        images, labels, keys = export.read_images(), export.labels, export.keys
        if images.shape[1:] != IMAGE_SHAPE:
            height, width, _ = images.shape[1:]
            raise FormatError(
                str(export.dataset.store), f"images of {height}x{width}; CIFAR-10's are 32x32"
            )
        names = self.names(export)
        # CIFAR-10's batches are mixed; these have ImageFolder's order if they are joined.
        for number, name in enumerate(names):
            part = slice(number * len(keys) // len(names), (number + 1) * len(keys) // len(names))
            planes = np.ascontiguousarray(images[part].transpose(0, 3, 1, 2))
            content = {
                b"batch_label": f"{export.name} batch {number + 1} of {len(names)}".encode(),
                b"labels": labels[part].tolist(),
                b"data": planes.reshape(len(planes), -1),
                b"filenames": [f"{key.rpartition('/')[2]}.png".encode() for key in keys[part]],
            }
            create(name).write(write_pickle(content))

    def common_names(self) -> list[str]:
        return [META]

    def write_common(self, exports: Sequence[Export], create: Create) -> None:
        sizes = [-(-len(one.keys) // len(self.names(one))) for one in exports]
        content = {
            b"num_cases_per_batch": max(sizes),
            b"label_names": [name.encode() for name in exports[0].classes],
            b"num_vis": int(np.prod(IMAGE_SHAPE)),
        }
        create(META).write(write_pickle(content))
