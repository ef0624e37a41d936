"""Parquet as Hugging Face's image datasets have it."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cinic_shards.codec import ENCODINGS
from cinic_shards.errors import FormatError, OptionError, problem_lines
from cinic_shards.exports.base import Create, Export
from cinic_shards.write.samples.packed import PackedInput

_ROWS = 1024
"""Rows of a row group: a reader holds at least one group."""


class ParquetWriter:
    """One file of a split: a struct ``image`` of bytes and path, and an int64 ``label``.

    https://huggingface.co/docs/datasets/image_dataset (the columns), ``Features`` in the metadata.
    """

    def __init__(self) -> None:
        try:
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise OptionError(
                "parquet needs pyarrow; pip install 'cinic-shards[parquet]'"
            ) from error
        self._arrow: Any = pyarrow

    def names(self, export: Export) -> list[str]:
        name = "validation" if export.name == "valid" else re.sub(r"\W", "_", export.name)
        return [f"{name}-00000-of-00001.parquet"]

    def write(self, export: Export, create: Create) -> None:
        arrow, (name,) = self._arrow, self.names(export)
        new, manifest = export.chosen, export.dataset.manifest
        shape = manifest.image_shape if ENCODINGS[manifest.encoding].has_blocks else None
        samples = PackedInput(
            export.dataset.store, manifest.classes, shape, new.name, new.shards, new.shard,
            new.row, len(np.unique(new.labels)), True,
        ).open()  # fmt: skip
        image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        features = {
            "image": {"_type": "Image"},
            "label": {"_type": "ClassLabel", "names": export.classes},
        }
        metadata = {
            "huggingface": json.dumps({"info": {"features": features}}),
            "cinic-shards": json.dumps({"split": export.name}),
        }
        schema = arrow.schema([("image", image), ("label", arrow.int64())], metadata=metadata)
        problems: list[str] = []
        rows: list[dict[str, Any]] = []
        with arrow.parquet.ParquetWriter(create(name), schema) as file:
            for start, stop in samples.chunks():
                pngs, found = samples.png_files(start, stop)
                problems += [f"{samples.location(start + i)}: {text}" for i, text in found.items()]
                for row, png in enumerate(pngs, start):
                    path = f"{new.keys[row].rpartition('/')[2]}.png"
                    label = int(export.new_labels[row])
                    rows.append({"image": {"bytes": png, "path": path}, "label": label})
                export.tally.add(stop - start)
                if len(rows) >= _ROWS or stop == len(new.keys):
                    if problems:
                        break
                    file.write_table(arrow.Table.from_pylist(rows, schema))
                    rows = []
        if problems:
            listed = problem_lines(problems)
            raise FormatError(
                str(export.dataset.store), f"{len(problems):,} samples are damaged{listed}"
            )

    def common_names(self) -> list[str]:
        return []

    def write_common(self, exports: Sequence[Export], create: Create) -> None:
        """Write nothing: each file has the class names."""
