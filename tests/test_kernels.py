"""Kernels: the same as plain Python, compiled at first need, safe among threads and forks."""

import copy
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_demo_tree import make_tree
from odd_pngs import damaged_pngs, odd_pngs

from cinic_shards import Augment, codec
from cinic_shards.codec import Payloads, kernels
from cinic_shards.codec.kernels.base import Kernel
from cinic_shards.codec.kernels.permutation import choose
from cinic_shards.codec.meter import ImageMeter
from cinic_shards.loader import plan
from cinic_shards.loader.augment import Transform
from cinic_shards.loader.plan import EpochPlan
from cinic_shards.loader.warmup import warm_up
from cinic_shards.write.pack import PackOptions, pack


def assert_same(plain: Any, compiled: Any) -> None:
    for one, other in zip(plain, compiled, strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)


@pytest.fixture
def both_forms(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Each kernel runs compiled and as plain Python, and must do the same; their names."""
    called: set[str] = set()

    def run_both(kernel: Kernel, *args: Any) -> Any:
        called.add(kernel.plain.__name__)
        again = copy.deepcopy(args)
        kernel.compile(*args)
        result = kernel._compiled(*args)
        assert kernel.run_plain(*again) == result
        assert_same(again, args)
        return result

    monkeypatch.setattr(Kernel, "__call__", run_both)
    return called


def images_of(count: int, side: int = 8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.mark.parametrize("num_samples", [1, 2, 63, 64, 1000, 2**40])
def test_plans(num_samples: int, both_forms: set[str]) -> None:
    full = EpochPlan(num_samples=num_samples, global_batch_size=10, order="full", tail="short")
    full.rows(len(full) - 1)
    assert both_forms == {"permute"}
    if num_samples > 1000:
        return
    starts = np.append(np.arange(0, num_samples, 7), num_samples)
    for blocks in ({"block_starts": starts}, {"block_size": 7}):
        window = EpochPlan(
            num_samples=num_samples, global_batch_size=10, order="window", tail="short", **blocks
        )
        for step in range(len(window)):
            window.rows(step)
    EpochPlan(
        num_samples=num_samples,
        global_batch_size=10,
        order="window",
        block_starts=starts,
        tail="short",
    ).last_steps()
    choose(num_samples // 2, num_samples, "test", 0)
    assert both_forms == {"permute", "_unpermute", "window_rows", "_last_positions"}


def test_pngs(both_forms: set[str]) -> None:
    files = [*odd_pngs().values(), *damaged_pngs().values()]
    lengths = np.array([len(file) for file in files], np.int64)
    buffer = np.frombuffer(b"".join(files), np.uint8)
    payloads = Payloads.in_buffer(buffer, np.cumsum(lengths) - lengths, lengths)
    out = np.zeros((len(files), 32, 32, 3), np.uint8)
    codec.decode_png(payloads, out)
    codec.checksums(payloads)
    assert both_forms == {"crc32_batch", "decode_png_batch"}


def test_blocks(both_forms: set[str]) -> None:
    images = images_of(3)
    block = np.frombuffer(codec.ENCODINGS["zstd"].encode(images), np.uint8)
    decoded = np.empty_like(images)
    assert not codec.ENCODINGS["zstd"].decode(Payloads.one(block), decoded)
    np.testing.assert_array_equal(decoded, images)
    rows, starts, out = np.array([5, 0, 6, 9, 1]), np.array([0, 3, 6, 10]), np.zeros(5, np.int64)
    kernels.blocks_of_rows(rows, starts, out)
    assert out.tolist() == [1, 0, 2, 2, 0]
    for addresses in ([7, 900, 5], [7, 900, 0]):
        kernels.addresses_of_rows(rows, starts, np.array(addresses), 10, out)
    assert both_forms == {
        "predict_batch", "unpredict_batch", "blocks_of_rows", "addresses_of_rows",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
def test_images(dtype: str, both_forms: set[str]) -> None:
    images = images_of(6)
    addresses = images.ctypes.data + np.arange(6) * images[0].size
    gathered = np.empty_like(images)
    kernels.gather_images(addresses[::-1].copy(), gathered)
    np.testing.assert_array_equal(gathered, images[::-1])
    for augment in (Augment(dtype=dtype, cutout=5), Augment(dtype=dtype, crop_padding=0)):
        transform = Transform(augment, ((0.5,) * 3, (0.25,) * 3), images.shape[1:], seed=1)
        out = torch.zeros(images.shape, dtype=transform.dtype)
        transform.on_cpu(addresses, transform.draw(np.arange(6), epoch=2), out)
    ImageMeter().add_images(images)
    kernels.add_histograms(images, np.arange(6) % 2, np.zeros((2, 3, 256), np.int64))
    assert both_forms == {
        "gather_images", "draw_augmentations", "augment_images", "add_channel_sums",
        "add_histograms",
    }  # fmt: skip


def test_every_kernel_is_compiled_by_warm_up() -> None:
    warm_up()
    modules = plan, kernels.base, kernels.blocks, kernels.images, kernels.png
    names = [one for module in modules for one in vars(module).values()]
    found = [one for one in names if isinstance(one, Kernel)]
    slow_path = {"find_png_data_batch", "unfilter_batch"}  # where no library offers libdeflate
    cold = {one.plain.__name__ for one in found if one._compiled is None}
    assert len(found) > 10
    assert cold <= slow_path


def run(code: str, **environment: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_raw_batch_needs_no_numba(tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", per_class=9, seed=3)
    pack(tmp_path / "tree", tmp_path / "raw", PackOptions(encoding="raw"), workers=1)
    assert run(f"""
        import sys
        from cinic_shards import ShardLoader
        images, labels = next(iter(ShardLoader({str(tmp_path / "raw")!r}, batch_size=16)))
        print(images.shape[0], "numba" in sys.modules)
    """) == "16 False\n"  # fmt: skip


MANY_CALLS = """
    import os, sys, threading
    import numpy as np
    from cinic_shards.codec.kernels import blocks_of_rows
    starts = np.array([0, 3, 6, 4000])

    def call():
        out = np.empty(4000, np.int64)
        blocks_of_rows(np.arange(4000), starts, out)
        assert out[:7].tolist() == [0, 0, 0, 1, 1, 1, 2] and (out[7:] == 2).all()
"""


def test_many_calls_and_large_ones_are_compiled() -> None:
    assert run(MANY_CALLS + """
    call()
    assert "numba" not in sys.modules
    for _ in range(2000):
        call()
    print("numba" in sys.modules)
    """) == "True\n"  # fmt: skip
    assert run("""
    import sys
    import numpy as np
    from cinic_shards.codec.kernels import blocks_of_rows
    blocks_of_rows(np.arange(5000), np.array([0, 5000]), np.empty(5000, np.int64))
    print("numba" in sys.modules)
    """) == "True\n"  # fmt: skip


@pytest.mark.parametrize("is_on", [True, False])
def test_loading_numba_collects_no_garbage_and_leaves_the_collector_as_it_was(is_on: bool) -> None:
    assert run(MANY_CALLS + f"""
    import gc
    if not {is_on}:
        gc.disable()
    collected = []
    def note(phase, info):
        collected.append("numba" in sys.modules and blocks_of_rows._compiled is None)
    gc.callbacks.append(note)
    blocks_of_rows.compile(np.arange(9), np.array([0, 9]), np.empty(9, np.int64))
    print(gc.isenabled(), True in collected, "numba" in sys.modules)
    """) == f"{is_on} False True\n"  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_forked_while_a_thread_loads_numba_has_its_kernels() -> None:
    assert run(MANY_CALLS + """
    def call_often():
        for _ in range(2000):
            call()

    thread = threading.Thread(target=call_often)
    thread.start()
    while "numba" not in sys.modules:
        pass
    child = os.fork()
    call_often()
    if child == 0:
        os._exit(0)
    thread.join()
    print(os.waitpid(child, 0)[1])
    """) == "0\n"  # fmt: skip


def test_without_a_folder_for_compiled_kernels_one_warning_says_so(tmp_path: Path) -> None:
    code = """
    import warnings
    import numpy as np
    import numba.core.caching as caching
    from cinic_shards.codec.kernels import blocks_of_rows, crc32_batch, gather_images

    caching.CacheImpl._locator_classes = []
    rows, out = np.arange(5000), np.empty(5000, np.int64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        blocks_of_rows(rows, np.array([0, 5000]), out)
        gather_images(rows[:0], np.empty((0, 4, 4, 3), np.uint8))
    print(len(caught), "compiled anew in every process" in str(caught[0].message))
    """
    assert run(code) == "1 True\n"
