"""The process that measures this package's kernels; see ``questions/ours.py``."""

import importlib
import io
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.worker import answer
from cinic_shards import Augment, Dataset, ShardLoader, codec
from cinic_shards.loader.augment import CINIC10_STATISTICS, Transform
from cinic_shards.loader.bench import count_images, import_torchvision, take_turns
from cinic_shards.options import usable_cores
from cinic_shards.read.split import SplitReader

BATCH = 512
DECODED = 1024
"""Images that ``decode`` decodes at a time."""
MAX_DECODED = 16 * DECODED
"""Most images that ``decode`` decodes in all."""

Jobs = dict[str, Callable[[], int]]
Rows = dict[str, list[dict[str, Any]]]

BARE = {
    "raw": "index_select",
    "raw, order full": "index_select",
    "zstd": "decoding its blocks",
    "zstd, ram, later epochs": "raw",
    "png": "decoding batches",
    "raw, augmented float32": "augmenting alone",
}
"""Loader -> the job that its rate is divided by."""


def measure(jobs: Jobs, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure jobs in turn, at least ``seconds`` each on average; return a row for each."""
    rates = take_turns(jobs, rounds=rounds, least_seconds=seconds * len(jobs))
    return [
        {
            "contender": name,
            "images_per_second": round(statistics.median(values), 1),
            "range": [round(min(values), 1), round(max(values), 1)],
            "rounds": len(values),
        }
        for name, values in rates.items()
    ]


def parts(count: int, size: int) -> list[slice]:
    """Cut ``count`` positions into slices of ``size``; the last may be shorter."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def blocks_of(reader: SplitReader) -> list[slice]:
    """Return the rows of each block."""
    starts = reader.block_starts.tolist()
    return [*map(slice, starts[:-1], starts[1:])]


class Bare:
    """The bare kernels, run on all images of a split with one thread per core."""

    def __init__(self, raw: SplitReader, zstd: SplitReader, png: SplitReader) -> None:
        self._threads = ThreadPoolExecutor(usable_cores())
        self._zstd, self._png = zstd, png
        self._shape = raw.image_shape
        self._images = np.empty((len(raw), *self._shape), np.uint8)
        for block, rows in enumerate(blocks_of(raw)):
            raw.read_block(block, self._images[rows])
        self._table = torch.from_numpy(self._images.reshape(len(raw), -1))
        self._rows = np.random.default_rng(0).permutation(len(raw))
        self._torch_rows = torch.from_numpy(self._rows)

    def jobs(self, transform: Transform) -> Jobs:
        """Return name -> job; each job processes every image once."""
        draws = transform.draw(self._rows, epoch=0)
        addresses = self._images.ctypes.data + self._rows * self._images[0].size

        def select_new(part: slice, out: torch.Tensor) -> None:
            torch.index_select(self._table, 0, self._torch_rows[part])

        def select(part: slice, out: torch.Tensor) -> None:
            torch.index_select(self._table, 0, self._torch_rows[part], out=out)

        def decode_block(part: slice, out: torch.Tensor) -> None:
            block = int(np.searchsorted(self._zstd.block_starts, part.start))
            self._zstd.read_block(block, out.numpy())

        def decode_pngs(part: slice, out: torch.Tensor) -> None:
            self._png.read_images(self._rows[part], out.numpy())

        def augment(part: slice, out: torch.Tensor) -> None:
            transform.on_cpu(addresses[part], draws[part], out)

        batches = parts(len(self._rows), BATCH)
        flat, augmented = self._table.shape[1:], transform.buffer_shape(BATCH)[1:]
        return {
            "index_select": self._job(select_new, batches, flat),
            "index_select, reused": self._job(select, batches, flat),
            "decoding its blocks": self._job(decode_block, blocks_of(self._zstd), self._shape),
            "decoding batches": self._job(decode_pngs, batches, self._shape),
            "augmenting alone": self._job(augment, batches, augmented, torch.float32),
        }

    def _job(
        self,
        one: Callable[[slice, torch.Tensor], None],
        slices: list[slice],
        shape: Iterable[int],
        dtype: torch.dtype = torch.uint8,
    ) -> Callable[[], int]:
        """Return a job that calls ``one`` for each slice in the threads, with reused memory."""
        sizes = [int(part.stop - part.start) for part in slices]
        buffers: SimpleQueue[torch.Tensor] = SimpleQueue()
        for _ in range(2 * usable_cores()):
            buffers.put(torch.empty((max(sizes), *shape), dtype=dtype))

        def step(part: slice, size: int) -> None:
            out = buffers.get()
            one(part, out[:size])
            buffers.put(out)

        def job() -> int:
            for _ in self._threads.map(step, slices, sizes):
                pass
            return sum(sizes)

        return job


class Kernels:
    """Answers the questions of ``questions/ours.py`` about shards, by encoding."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def kernels(self, shards: dict[str, str], rounds: int, seconds: float) -> Rows:
        """Measure the loaders and the bare kernels."""
        options: dict[str, tuple[str, dict[str, Any]]] = {
            "raw": ("raw", {}),
            "raw, order full": ("raw", {"order": "full"}),
            "zstd": ("zstd", {}),
            "zstd, ram, later epochs": ("zstd", {"cache": "ram"}),
            "png": ("png", {}),
            "raw, augmented float32": ("raw", {"augment": Augment()}),
            "raw, augmented uint8": ("raw", {"augment": Augment(dtype="uint8")}),
        }
        loaders = {
            name: ShardLoader(shards[encoding], batch_size=BATCH, tail="short", **given)
            for name, (encoding, given) in options.items()
        }
        jobs: Jobs = {name: partial(count_images, loader) for name, loader in loaders.items()}
        bare = Bare(*(loaders[encoding].dataset.reader for encoding in ("raw", "zstd", "png")))
        jobs |= bare.jobs(loaders["raw, augmented float32"]._transform)
        rows = measure(jobs, rounds, seconds)
        rates = {row["contender"]: row["images_per_second"] for row in rows}
        for row in rows:
            if of := BARE.get(row["contender"]):
                row |= {"of": of, "share": round(row["images_per_second"] / rates[of], 3)}
        return {"rows": rows}

    def decode(self, shards: dict[str, str], rounds: int, seconds: float) -> Rows:
        """Measure decoders on the same images, with one thread and with one per core."""
        decoders, slices = decoders_of(Dataset(shards["png"]).split("train"))
        rows = []
        for threads in sorted({1, usable_cores()}):
            with ThreadPoolExecutor(threads) as executor:

                def job(decode: Callable[[int], object], executor: Any = executor) -> int:
                    for _ in executor.map(decode, range(len(slices))):
                        pass
                    return int(slices[-1].stop)

                jobs: Jobs = {name: partial(job, decode) for name, decode in decoders.items()}
                rows += [row | {"threads": threads} for row in measure(jobs, rounds, seconds)]
        return {"rows": rows}

    def augment(self, shards: dict[str, str], rounds: int, seconds: float) -> Rows:
        """Measure ways to augment a batch."""
        shape = (32, 32, 3)
        images = np.random.default_rng(0).integers(0, 256, (BATCH, *shape), np.uint8)
        tensor = torch.from_numpy(images)
        device = torch.device("cpu")
        transform = Transform(Augment(), CINIC10_STATISTICS, shape, seed=0, device=device)
        addresses = images.ctypes.data + np.arange(BATCH) * images[0].size
        rows, out = torch.arange(BATCH), torch.empty(transform.buffer_shape(BATCH))

        def on_cpu() -> None:
            transform.on_cpu(addresses, transform.draw(rows.numpy(), epoch=0), out)

        def on_device() -> None:
            draws = torch.from_numpy(transform.draw(rows.numpy(), epoch=0))
            transform.on_device(tensor, rows, draws)

        import_torchvision()
        from torchvision.transforms import v2

        steps = v2.Compose([
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*CINIC10_STATISTICS),
        ])  # fmt: skip
        channels_first = tensor.permute(0, 3, 1, 2).contiguous()
        ways: dict[str, Callable[[], object]] = {
            "cinic-shards, one pass on the CPU": on_cpu,
            "cinic-shards, torch operations": on_device,
            "torchvision v2, each image": lambda: torch.stack(
                [steps(one) for one in channels_first]
            ),
            "torchvision v2, the batch alike": lambda: steps(channels_first),
        }

        def job(way: Callable[[], object]) -> int:
            way()
            return BATCH

        jobs: Jobs = {name: partial(job, way) for name, way in ways.items()}
        return {"rows": measure(jobs, rounds, seconds)}


def decoders_of(reader: SplitReader) -> tuple[dict[str, Callable[[int], object]], list[slice]]:
    """Return name -> function that decodes the batch with a given number; and each batch's rows."""
    slices = parts(min(len(reader), MAX_DECODED), DECODED)
    rows = [np.arange(part.start, part.stop) for part in slices]
    files = [[payloads[i] for i in range(len(payloads))] for payloads in map(reader.payloads, rows)]
    blocks: dict[str, list[NDArray[np.uint8]]] = {"zstd": [], "raw": []}

    def empty(number: int) -> NDArray[np.uint8]:
        return np.empty((len(rows[number]), *reader.image_shape), np.uint8)

    for number in range(len(rows)):
        images = empty(number)
        reader.read_images(rows[number], images)
        for encoding, payloads in blocks.items():
            payloads.append(np.frombuffer(codec.ENCODINGS[encoding].encode(images), np.uint8))

    def pngs(number: int) -> None:
        codec.decode_png(reader.payloads(rows[number]), empty(number))

    def block(encoding: str, number: int) -> None:
        payloads = codec.Payloads.one(blocks[encoding][number])
        codec.ENCODINGS[encoding].decode(payloads, empty(number))

    def one_by_one(decode: Callable[[bytes], Any], number: int) -> None:
        out = empty(number)
        for position, file in enumerate(files[number]):
            out[position] = decode(file)

    found: dict[str, Callable[[int], object]] = {"cinic-shards, png": pngs}
    found |= {f"cinic-shards, {encoding}": partial(block, encoding) for encoding in blocks}
    decoders = {"PIL": _pillow, "cv2": _opencv, "imagecodecs": _imagecodecs}
    for module, decoder in decoders.items():
        try:
            library = importlib.import_module(module)
        except ImportError:  # not installed
            continue
        found[decoder.__name__.removeprefix("_")] = partial(one_by_one, partial(decoder, library))
    return found, slices


def _pillow(library: Any, data: bytes) -> Any:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _opencv(library: Any, data: bytes) -> Any:
    return library.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1]  # it decodes to BGR


def _imagecodecs(library: Any, data: bytes) -> Any:
    return library.png_decode(data)


if __name__ == "__main__":
    answer(Kernels())
