"""The loader: every sample once, Pillow's pixels, ImageFolder's labels, and a clean stop."""

import gc
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cinic_shards import CINIC10, Batch, ShardLoader
from cinic_shards.errors import DecodeError, FormatError, OptionError, StoreError
from cinic_shards.loader.augment import PLAIN, Augment
from cinic_shards.read.dataset import Dataset
from cinic_shards.write.pack import PackOptions, pack
from tests.support.sampling import sampled


@pytest.fixture
def tree(encoded_tree: Path) -> Path:
    return encoded_tree


@pytest.fixture
def shards(encoded: dict[str, Path]) -> Path:
    return encoded["png"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    if not set(threading.enumerate()) <= before:
        gc.collect()  # an iterator in a cycle of references
    assert set(threading.enumerate()) <= before


def keys_of(shards: Path, split: str) -> list[str]:
    return [key for index in Dataset(shards).split(split)._indexes for key in index.keys]


def ids_of(batches: Iterator[Batch]) -> list[int]:
    return [i for batch in batches for i in batch.indices.tolist()]


@pytest.mark.parametrize("split", ["test", "train", "valid"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_pixels_labels_and_ids(tree: Path, shards: Path, split: str, shuffle: bool) -> None:
    loader = ShardLoader(shards, split=split, batch_size=37, shuffle=shuffle, tail="short")
    keys = keys_of(shards, split)
    first_id = {"test": 0, "train": 180, "valid": 360}[split]
    classes = sorted(os.listdir(tree / split))
    assert list(loader.classes) == classes
    seen = []
    for batch in loader:
        images, labels = batch
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert images.shape == (batch.num_samples, 3, 32, 32)
        for image, label, i in zip(images, labels, batch.indices.tolist(), strict=True):
            key = keys[i - first_id]
            with Image.open(tree / f"{key}.png") as png:
                expected = np.asarray(png.convert("RGB")).transpose(2, 0, 1)
            np.testing.assert_array_equal(image.numpy(), expected)
            assert classes[label] == key.split("/")[1]
            seen.append(i)
    assert sorted(seen) == list(range(first_id, first_id + 180))
    assert (seen == sorted(seen)) == (not shuffle)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_any_number_of_threads_makes_the_same_batches(shards: Path, workers: int) -> None:
    expected = list(ShardLoader(shards, batch_size=16, workers=1))
    found = list(ShardLoader(shards, batch_size=16, workers=workers))
    assert len(found) == len(expected) == 11
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)


def test_epochs_differ_and_repeat(shards: Path) -> None:
    loader = ShardLoader(shards, batch_size=20)
    first, second = ids_of(iter(loader)), ids_of(iter(loader))
    assert sorted(first) == sorted(second) and first != second
    loader.set_epoch(0)
    assert ids_of(iter(loader)) == first
    assert loader.epoch == 1
    again = ShardLoader(shards, batch_size=20)
    again.set_epoch(1)
    assert ids_of(iter(again)) == second
    assert ids_of(iter(ShardLoader(shards, batch_size=20, seed=1))) != first


def test_length_and_tail(shards: Path) -> None:
    assert len(ShardLoader(shards, batch_size=50)) == 3
    assert len(ShardLoader(shards, batch_size=50, shuffle=False)) == 4
    sizes = [batch.num_samples for batch in ShardLoader(shards, batch_size=50, tail="short")]
    assert sizes == [50, 50, 50, 30]


def test_images_are_normalized_with_statistics_of_the_train_split(shards: Path) -> None:
    loader = ShardLoader(shards, split="test", batch_size=20, normalize=True)
    plain = ShardLoader(shards, split="test", batch_size=20)
    train = Dataset(shards).split("train").pixels
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (train.mean, train.std))
    for one, other in zip(loader, plain, strict=True):
        assert one.images.dtype == torch.float32
        expected = (other.images.double() / 255 - mean) / std
        torch.testing.assert_close(one.images.double(), expected, rtol=0, atol=3e-7)


def test_given_statistics(shards: Path) -> None:
    loader = ShardLoader(shards, batch_size=20, normalize=((0, 0, 0), (1, 1, 1)))
    plain = ShardLoader(shards, batch_size=20)
    one, other = next(iter(loader)), next(iter(plain))
    assert torch.equal(one.images, other.images.to(torch.float32) / 255)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_device_makes_the_same_batches_as_the_cpu(
    shards: Path, normalize: bool, device: str
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("NOT RUN: this machine has no CUDA device")
    loader = ShardLoader(shards, batch_size=20, normalize=normalize, device=device)
    plain = ShardLoader(shards, batch_size=20, normalize=normalize)
    for one, other in zip(list(loader), plain, strict=True):
        assert one.images.device.type == one.labels.device.type == device
        assert one.indices.device.type == "cpu"
        assert torch.equal(one.images.cpu(), other.images)
        assert one.images.stride() == other.images.stride()
        assert torch.equal(one.labels.cpu(), other.labels)


@pytest.mark.parametrize("normalize", [False, True])
def test_batches_stay_valid_while_held(shards: Path, normalize: bool) -> None:
    loader = ShardLoader(shards, batch_size=8, normalize=normalize)
    held = list(loader)
    copies = [batch.images.clone() for batch in held]
    for _ in loader:  # reuses only memory that nothing refers to
        pass
    assert all(torch.equal(batch.images, copy) for batch, copy in zip(held, copies, strict=True))
    assert len({batch.images.data_ptr() for batch in held}) == len(held)


@pytest.mark.parametrize(
    "part", [lambda t: t[3], lambda t: t.numpy(), lambda t: t.permute(0, 2, 3, 1)[1:2]]
)
def test_any_part_of_a_batch_keeps_its_memory(shards: Path, part: object) -> None:
    loader = ShardLoader(shards, batch_size=8, workers=1)
    iterator = iter(loader)
    kept = part(next(iterator).images)  # type: ignore[operator]
    copy = torch.as_tensor(kept).clone()
    for _ in iterator:
        pass
    assert torch.equal(torch.as_tensor(kept), copy)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("encoding", ["png", "zstd", "raw"])
@pytest.mark.parametrize("size", [1, 8])
def test_a_small_batch_is_saved_alone(
    encoded: dict[str, Path], dtype: Any, encoding: str, size: int
) -> None:
    """``torch.save`` writes a tensor's entire storage."""
    options: dict[str, Any] = {"batch_size": size, "augment": Augment(dtype=dtype), "workers": 1}
    loader = ShardLoader(encoded[encoding], **options)
    batches = list(loader)
    for batch in batches:
        images = batch.images
        assert images.untyped_storage().nbytes() == images.numel() * images.element_size()
        for column in (batch.labels, batch.indices, batch.valid):
            assert column.untyped_storage().nbytes() <= 4096 * column.element_size()
    values = [batch.images.float() for batch in batches]
    again = ShardLoader(encoded["png" if encoding == "raw" else "raw"], **options)
    assert all(torch.equal(one, b.images.float()) for one, b in zip(values, again, strict=True))


def test_the_memory_that_a_kept_image_keeps_is_bounded(
    encoded: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cinic_shards.loader.batches._BUFFER_BYTES", 3 * 4 * 3072)
    loader = ShardLoader(encoded["raw"], batch_size=4, workers=1)
    starts = sorted(batch.images.data_ptr() for batch in list(loader))
    assert len(starts) == 45
    # At most three batches follow each other in memory.
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert "AAA" not in "".join("A" if gap == 4 * 3072 else "B" for gap in gaps)
    assert len(loader._batch_maker()._buffers) <= loader._batch_maker()._buffers.max_buffers


def test_released_memory_is_used_again(shards: Path) -> None:
    loader = ShardLoader(shards, batch_size=8, workers=1)
    addresses = {batch.images.data_ptr() for _ in range(5) for batch in loader}
    assert len(addresses) <= 5


def test_memory_of_batches_that_were_let_go_is_freed(shards: Path) -> None:
    loader = ShardLoader(shards, batch_size=4, workers=1)
    held = list(loader)
    assert len(held) == 45
    del held
    pool = loader._batch_maker()._pixels
    assert len(pool) <= pool.max_buffers <= 5


def test_ranks_get_parts_of_the_batches_of_one_process(shards: Path) -> None:
    alone = ShardLoader(shards, batch_size=24)
    ranks = [ShardLoader(shards, batch_size=8, rank=rank, world_size=3) for rank in range(3)]
    for batch, *parts in zip(alone, *ranks, strict=True):
        assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)


def test_torchrun_sets_rank_and_threads(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "1000")):
        monkeypatch.setenv(name, value)
    loader = ShardLoader(shards, batch_size=8)
    assert (loader.rank, loader.world_size, loader.workers) == (1, 2, 1)
    explicit = ShardLoader(shards, batch_size=8, rank=0, world_size=1)
    assert (explicit.rank, explicit.world_size) == (0, 1)


def test_break_exception_and_nested_iteration_leave_nothing(shards: Path) -> None:
    loader = ShardLoader(shards, batch_size=8)
    for _ in loader:
        break
    with pytest.raises(RuntimeError, match="mine"):
        for _ in loader:
            raise RuntimeError("mine")
    loader.set_epoch(0)
    for _, batch in zip(range(2), loader, strict=False):
        loader.set_epoch(0)
        inner = next(iter(loader))
        assert inner.num_samples == batch.num_samples == 8
    descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for _ in range(50):
        next(iter(loader))
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_prefetch_is_bounded(shards: Path) -> None:
    loader = ShardLoader(shards, batch_size=2, workers=1)
    iterator = iter(loader)
    next(iterator)
    time.sleep(0.2)
    assert (
        len(loader._batch_maker()._pixels._free) <= 1
    )  # the rest is in at most three batches under way
    assert len({batch.images.data_ptr() for batch in [next(iterator) for _ in range(20)]}) == 20


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to one process needs POSIX")
def test_ctrl_c_ends_the_process_at_once(shards: Path) -> None:
    script = f"""
        from cinic_shards import ShardLoader
        loader = ShardLoader({str(shards)!r}, batch_size=2)
        print("ready", flush=True)
        while True:
            for batch in loader:
                pass
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1


@pytest.mark.real
def test_no_ctrl_c_is_lost(shards: Path) -> None:
    """Python drops an exception raised while it frees an object; a Ctrl-C must not come there."""
    script = f"""
        import signal, threading, time
        from cinic_shards import ShardLoader

        loader = ShardLoader({str(shards)!r}, batch_size=2)
        is_inside, caught, lost = False, 0, 0
        main = threading.main_thread().ident

        def press():
            global lost
            for number in range(300):
                time.sleep(0.002 + number % 7 / 5000)
                while not is_inside:
                    time.sleep(0.0002)
                before, end = caught, time.monotonic() + 5
                signal.pthread_kill(main, signal.SIGINT)
                while caught == before and time.monotonic() < end:
                    time.sleep(0.0002)
                lost += caught == before

        for _ in loader:  # compile
            pass
        thread = threading.Thread(target=press)
        thread.start()
        alive = True
        while alive:
            try:
                is_inside = True
                alive = thread.is_alive()
                for batch in loader:
                    pass
            except KeyboardInterrupt:
                is_inside = False
                caught += 1
        print(caught, lost)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120)
    assert result.stdout == "300 0\n"


def test_a_damaged_image_is_named(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "shards", PackOptions(shard_size=50), workers=1)
    reader = Dataset(tmp_path / "shards").split("train")
    index = reader._indexes[1]
    path = tmp_path / "shards" / "train-00001-of-00004.tar"
    with open(path, "r+b") as file:
        file.seek(int(index.offset[7]) + int(index.length[7]) // 2)
        file.write(b"\0\xff\0\xff\0\xff")
    location = f"train-00001-of-00004.tar: sample 7 \\({index.keys[7]}\\): CRC-32 is "
    with pytest.raises(DecodeError, match=location):
        for _ in ShardLoader(tmp_path / "shards", batch_size=20):
            pass


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_truncated_shard(tree: Path, tmp_path: Path, keep: int) -> None:
    pack(tree, tmp_path / "shards", PackOptions(shard_size=50), workers=1)
    path = tmp_path / "shards" / "train-00002-of-00004.tar"
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(StoreError, match=r"train-00002-of-00004.tar: [\d,]+ bytes, the manifest"):
        ShardLoader(tmp_path / "shards", batch_size=20)
    path.unlink()
    with pytest.raises(StoreError, match="No such file"):
        ShardLoader(tmp_path / "shards", batch_size=20)


def test_a_damaged_index(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "shards", workers=1)
    path = tmp_path / "shards" / "train-00000-of-00001.tar"
    data = bytearray(path.read_bytes())
    data[-5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"its index has SHA-256 .* the manifest says"):
        ShardLoader(tmp_path / "shards", batch_size=20)


def test_images_of_several_sizes(tree: Path, tmp_path: Path) -> None:
    for name, size in (("a", (40, 20)), ("b", (32, 32)), ("c", (32, 32))):
        folder = tmp_path / "tree" / "train" / "cat"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (1, 2, 3)).save(folder / f"{name}.png")
    pack(tmp_path / "tree", tmp_path / "shards", workers=1, warn=lambda text: None)
    with pytest.raises(FormatError, match=r"2 sizes .*: 32x32 \(2\), 20x40 \(1\); .* resize"):
        ShardLoader(tmp_path / "shards")


def test_a_packing_that_did_not_finish(tmp_path: Path) -> None:
    (tmp_path / "_packing").mkdir()
    with pytest.raises(StoreError, match=r"packing did not finish; run the same command again"):
        ShardLoader(tmp_path)


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no dataset; give a folder that cinic-shard pack"):
        ShardLoader(tmp_path / "nothing")
    (tmp_path / "train-00000-of-00001.tar").write_bytes(b"")
    with pytest.raises(
        StoreError,
        match=r"but no manifest.json; cinic-shard reindex",
    ):
        ShardLoader(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "nope"}, "no split 'nope'; there is test, train, valid"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"workers": 0}, "workers=0"),
        ({"order": "random"}, "order='random': expected one of window, full"),
        ({"tail": "none"}, "tail='none': expected one of drop, short"),
        ({"rank": 0}, "both rank and world_size"),
        ({"rank": 3, "world_size": 2}, "rank=3"),
        ({"batch_size": 181}, "180 samples, fewer than the 181 of a batch"),
        ({"normalize": ((0, 0), (1, 1))}, "three channels each"),
        ({"check": "never"}, "check='never': expected one of first, always, off"),
        ({"on_error": "ignore"}, "on_error='ignore': expected one of raise, skip"),
    ],
)
def test_invalid_options(shards: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message.replace("(", r"\(")):
        ShardLoader(shards, **options)  # type: ignore[arg-type]


def test_grey_and_palette_files_are_decoded_as_pillow_does(tmp_path: Path) -> None:
    from tests.support.odd_pngs import odd_pngs

    files = odd_pngs()
    folder = tmp_path / "tree" / "train" / "x"
    folder.mkdir(parents=True)
    for number, data in enumerate(files.values()):
        (folder / f"n{10_000_000 + number}_1.png").write_bytes(data)
    pack(tmp_path / "tree", tmp_path / "shards", workers=1)
    keys = keys_of(tmp_path / "shards", "train")
    batch = next(iter(ShardLoader(tmp_path / "shards", batch_size=64, shuffle=False)))
    assert batch.num_samples == len(files)
    for image, i in zip(batch.images, batch.indices.tolist(), strict=True):
        data = list(files.values())[int(keys[i].split("/n")[1][1:8])]
        with Image.open(io.BytesIO(data)) as png:
            png.info.pop("transparency", None) if png.mode == "P" else None
            expected = np.asarray(png.convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_array_equal(image.numpy(), expected)


# --- Damage -----------------------------------------------------------------------------------


@pytest.fixture
def damaged(tree: Path, tmp_path: Path) -> tuple[Path, int, int]:
    """A dataset with two damaged images in the split train, and their rows."""
    shards = tmp_path / "damaged"
    pack(tree, shards, PackOptions(shard_size=16), workers=1, warn=lambda text: None)
    split = Dataset(shards).split("train")
    for row in (3, 20):
        shard, sample = split._find(row)
        path = shards / split.shards[shard].name
        data = bytearray(path.read_bytes())
        index = split._indexes[shard]
        # The last bit of the IEND chunk's CRC: no decoder checks it, only the index's CRC-32.
        data[int(index.offset[sample] + index.length[sample]) - 1] ^= 1
        path.write_bytes(data)
    return shards, 3, 20


def rows_of(loader: ShardLoader) -> list[int]:
    first_id = loader.dataset.manifest.split("train").first_id
    return [int(i) - first_id for batch in loader for i in batch.indices]


@pytest.mark.parametrize("check", ["first", "always"])
def test_damage_that_no_decoder_finds_is_an_error(
    damaged: tuple[Path, int, int], check: str
) -> None:
    shards, first, _ = damaged
    loader = ShardLoader(shards, batch_size=8, shuffle=False, check=check)
    location = re.escape(Dataset(shards).split("train").locate(first))
    with pytest.raises(DecodeError, match=f"^{location}: CRC-32 is .*, the index says .*; the f"):
        list(loader)


def test_damage_is_not_found_without_checks(damaged: tuple[Path, int, int]) -> None:
    loader = ShardLoader(damaged[0], batch_size=8, shuffle=False, check="off")
    assert rows_of(loader) == list(range(len(loader.dataset.split("train"))))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("check", ["first", "always"])
def test_skipped_samples_are_counted_and_reported(
    damaged: tuple[Path, int, int], check: str, normalize: bool
) -> None:
    shards, *bad = damaged
    options = {"batch_size": 8, "shuffle": False, "normalize": normalize}
    unchecked = ShardLoader(shards, check="off", **options)  # type: ignore[arg-type]
    loader = ShardLoader(shards, check=check, on_error="skip", **options)  # type: ignore[arg-type]
    expected = list(unchecked)
    for _ in range(2):  # also in the second epoch
        with pytest.warns(UserWarning, match="2 damaged samples skipped so far; the first one: tr"):
            batches = list(loader)
        assert [batch.num_samples for batch in batches] == [
            7,
            8,
            7,
            *(b.num_samples for b in expected[3:]),
        ]
        for batch, other in zip(batches, expected, strict=True):
            good = torch.isin(other.indices, batch.indices)
            assert torch.equal(batch.images, other.images[good])
            assert torch.equal(batch.labels, other.labels[good])
    first_id = loader.dataset.manifest.split("train").first_id
    assert sorted(loader.skipped) == [first_id + row for row in bad]
    assert all("CRC-32 is" in reason for reason in loader.skipped.values())
    assert len(loader) == len(unchecked)


@pytest.mark.parametrize(
    ("cache", "device", "normalize"),
    sampled(itertools.product(["none", "ram", "device"], [None, "cpu"], [True, False])),
)
def test_a_batch_whose_samples_are_all_skipped_has_one_black_image(
    damaged: tuple[Path, int, int], normalize: bool, device: str | None, cache: Any
) -> None:
    shards, *bad = damaged
    options: dict[str, Any] = {"batch_size": 1, "shuffle": False, "normalize": normalize}
    loader = ShardLoader(shards, on_error="skip", device=device, cache=cache, **options)
    black = -torch.tensor(loader.dataset.reader.pixels.mean) / torch.tensor(
        loader.dataset.reader.pixels.std
    )
    expected = list(ShardLoader(shards, check="off", **options))
    for _ in range(2):
        with pytest.warns(UserWarning, match="2 damaged samples"):
            batches = list(loader)
        assert len(batches) == len(expected)
        for row, (batch, other) in enumerate(zip(batches, expected, strict=True)):
            assert torch.equal(batch.indices, other.indices)
            assert torch.equal(batch.labels, other.labels)
            assert batch.images.float().mean() * batch.loss_scale != float("nan")
            if row not in bad:
                assert torch.equal(batch.images, other.images)
                assert batch.valid.tolist() == [True] and batch.loss_scale == 1
                continue
            assert batch.valid.tolist() == [False] and batch.loss_scale == 0
            pixel = batch.images[0, :, 3, 5].double()
            torch.testing.assert_close(pixel, black if normalize else torch.zeros(3).double(),
                                       rtol=1e-4, atol=1e-4, check_dtype=False)  # fmt: skip


def test_ranks_have_equally_many_batches_whatever_is_skipped(
    damaged: tuple[Path, int, int],
) -> None:
    for world_size, tail in ((3, "drop"), (3, "pad"), (7, "pad")):
        options: dict[str, Any] = {"global_batch_size": 7, "shuffle": False, "tail": tail}
        sizes = []
        for rank in range(world_size):
            loader = ShardLoader(
                damaged[0], on_error="skip", rank=rank, world_size=world_size, **options
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sizes.append([batch.num_samples for batch in loader])
        assert len({len(one) for one in sizes}) == 1
        assert min(map(min, sizes)) >= 1


def test_an_image_that_changes_after_its_first_read(tree: Path, tmp_path: Path) -> None:
    """``first`` trusts the file after that; ``always`` does not."""
    shards = tmp_path / "shards"
    pack(tree, shards, workers=1, warn=lambda text: None)
    loaders = [ShardLoader(shards, batch_size=8, check=check) for check in ("first", "always")]
    for loader in loaders:
        list(loader)
    split = loaders[0].dataset.split("train")
    index = split._indexes[0]
    with open(shards / split.shards[0].name, "r+b") as file:
        file.seek(int(index.offset[0] + index.length[0]) - 1)
        file.write(b"\0")
    list(loaders[0])
    with pytest.raises(DecodeError, match="CRC-32"):
        list(loaders[1])


@pytest.mark.parametrize("augment", [Augment(), Augment(dtype="float16"), PLAIN])
def test_a_rank_without_samples_gets_an_empty_batch(shards: Path, augment: Augment) -> None:
    """180 samples in batches of 7 * 25 leave 5 for seven ranks."""
    sizes = []
    for rank in range(7):
        loader = ShardLoader(
            shards, batch_size=25, shuffle=False, augment=augment, rank=rank, world_size=7
        )
        batches = list(loader)
        assert len(batches) == 2
        assert batches[1].images.shape[1:] == (3, 32, 32)
        sizes.append(batches[1].num_samples)
    assert sum(sizes) == 5 and 0 in sizes


@pytest.mark.parametrize("name", ["LOCAL_WORLD_SIZE", "RANK", "WORLD_SIZE"])
def test_invalid_torchrun_variables(
    shards: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "two")
    with pytest.raises(OptionError, match=f"{name} is 'two', expected an integer"):
        ShardLoader(shards, batch_size=20).peek()


# --- Devices and paths ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device='gpu': unknown; expected a name such as cpu, cuda, cuda:0 or mps"),
        (3.5, "device=3.5: expected a string, a device or None"),
        ("meta", "device='meta': tensors on it have no data; choose a different device, or give n"),
        ("mps", "device='mps': cannot be used here .*; choose a different device"),
        ("cuda", "device='cuda': (this torch was built without CUDA; install|torch finds no GPU)"),
        ("cuda:7", "device='cuda:7': (this torch was built|torch finds no GPU|expected at most)"),
    ],
)
def test_a_device_that_is_not_there(shards: Path, device: Any, message: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("NOT RUN: this machine has an MPS device")
    if str(device).startswith("cuda") and torch.cuda.device_count() > 7 * (device != "cuda"):
        pytest.skip("NOT RUN: this machine has these CUDA devices")
    with pytest.raises(OptionError, match=message):
        ShardLoader(shards, device=device)


@pytest.mark.parametrize("open_path", [ShardLoader, Dataset, CINIC10])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "png/train-00000-of-00004.tar",
            "a file of a dataset; give the folder .*: .*png$",
        ),
        ("png/manifest.json", "a file of a dataset; give the folder that holds it: .*png$"),
        (
            "images.tar",
            "an archive, .*; if it holds images, pack it first: cinic-shard pack .*images.tar ",
        ),
        ("CINIC-10.tar.gz", "an archive, expected a folder of shards; .* cinic-shard pack "),
        ("notes.txt", "a file, expected a folder that cinic-shard pack has written"),
        ("tree", "a folder of images, not of shards; pack it first: cinic-shard pack .*tree ./sha"),
        (
            "tree/train",
            "a folder of images, .*; if it is a split, pack the folder above it: ",
        ),
        ("", "give one of the datasets in it: png, raw, zstd"),
        ("missing", "missing: no dataset; give a folder that cinic-shard pack has written"),
        ("memory://x/train-00000-of-00004.tar", "a file of a dataset; give .*: memory://x$"),
        ("memory://x/y/manifest.json", "a file of a dataset; give the .*: memory://x/y$"),
        ("memory://x/CINIC-10.tar.gz", "an archive, expected a folder of shards; "),
    ],
)
def test_paths_that_are_no_dataset(
    encoded: dict[str, Path], path: str, message: str, open_path: Any
) -> None:
    root = encoded["png"].parent
    if path in ("images.tar", "CINIC-10.tar.gz", "notes.txt"):
        (root / path).write_bytes(b"")
    with pytest.raises(StoreError, match=message):
        open_path(path if "://" in path else root / path)
