"""Kernels: their results, lazy loading, and safety with threads and forks."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from cinic_shards.codec import kernels
from cinic_shards.codec.kernels import base, blocks, images, permutation, png
from cinic_shards.codec.kernels.one_compiler import begin_compiling, end_compiling
from cinic_shards.loader import plan
from cinic_shards.loader.warmup import warm_up


def images_of(count: int, side: int = 8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)


def test_the_predictor_subtracts_green_then_left_and_above() -> None:
    pixels = images_of(3)
    residuals = np.empty((3, 3, 8, 8), np.uint8)
    kernels.predict_batch(pixels, residuals)
    expected = pixels.transpose(3, 0, 1, 2).astype(np.int64)
    expected[[0, 2]] -= expected[1]
    for axis in (2, 3):
        expected = np.diff(expected, axis=axis, prepend=0)
    np.testing.assert_array_equal(residuals, expected % 256)
    restored = np.empty_like(pixels)
    kernels.unpredict_batch(residuals.reshape(-1), restored)
    np.testing.assert_array_equal(restored, pixels)


def test_blocks_and_addresses_of_rows() -> None:
    rows, starts, out = np.array([5, 0, 6, 9, 1]), np.array([0, 3, 6, 10]), np.zeros(5, np.int64)
    kernels.blocks_of_rows(rows, starts, out)
    assert out.tolist() == [1, 0, 2, 2, 0]
    assert kernels.addresses_of_rows(rows, starts, np.array([7, 900, 5000]), 10, out) == -1
    assert out.tolist() == [920, 7, 5000, 5030, 17]
    assert kernels.addresses_of_rows(rows, starts, np.array([7, 900, 0]), 10, out) == 2


def test_images_are_gathered_and_counted() -> None:
    pixels = images_of(6)
    addresses = pixels.ctypes.data + np.arange(6) * pixels[0].size
    gathered = np.empty_like(pixels)
    kernels.gather_images(addresses[::-1].copy(), gathered)
    np.testing.assert_array_equal(gathered, pixels[::-1])

    sums, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
    kernels.add_channel_sums(pixels.reshape(-1, 3), sums, squares)
    values = pixels.reshape(-1, 3).astype(np.int64)
    assert (sums.tolist(), squares.tolist()) == (
        values.sum(0).tolist(),
        (values**2).sum(0).tolist(),
    )

    counts = np.zeros((2, 3, 256), np.int64)
    kernels.add_histograms(pixels, np.arange(6) % 2, counts)
    for group in range(2):
        for channel in range(3):
            expected = np.bincount(pixels[group::2, :, :, channel].ravel(), minlength=256)
            np.testing.assert_array_equal(counts[group, channel], expected)


def test_every_kernel_is_compiled_by_warm_up() -> None:
    warm_up()
    named = {
        name: one
        for module in (base, blocks, images, permutation, plan, png)
        for name, one in vars(module).items()
        if isinstance(one, Dispatcher) and one.targetoptions.get("nogil")
    }
    slow_path = {"find_png_data_batch", "unfilter_batch"}  # used if no library exports libdeflate
    assert len(named) > 10
    assert {name for name, one in named.items() if not one.signatures} <= slow_path


def test_an_unknown_kernel() -> None:
    with pytest.raises(AttributeError, match="kernels' has no attribute 'decode_gif'"):
        kernels.decode_gif  # noqa: B018


def run(code: str, **environment: str) -> str:
    """Run code in a fresh process; return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numba_is_loaded_on_first_use_of_a_kernel() -> None:
    """For commands that never load it, see ``test_libraries_that_a_command_does_not_import``."""
    assert run("""
    import sys
    import cinic_shards
    from cinic_shards.check import verify
    from cinic_shards.codec import kernels, meter
    from cinic_shards.read import dataset, split, subset
    from cinic_shards.view import montage, stats
    from cinic_shards.write import pack, unpack
    print("numba" in sys.modules)
    kernels.gather_images
    print("numba" in sys.modules)
    """) == "False\nTrue\n"  # fmt: skip


@pytest.mark.parametrize("is_on", [True, pytest.param(False, marks=pytest.mark.real)])
def test_loading_numba_collects_no_garbage_and_restores_the_collector(is_on: bool) -> None:
    """With torch loaded, garbage collections would double the time."""
    assert run(f"""
    import gc, sys
    if not {is_on}:
        gc.disable()
    from cinic_shards.codec import kernels
    collected = []
    def note(phase, info):
        base = sys.modules.get("cinic_shards.codec.kernels.base")
        collected.append("numba" in sys.modules and not hasattr(base, "cpu_target"))
    gc.callbacks.append(note)
    kernels.gather_images
    print(gc.isenabled(), True in collected, "numba" in sys.modules)
    """) == f"{is_on} False True\n"  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_forked_while_a_thread_compiles_has_its_kernels() -> None:
    assert run("""
    import os, threading
    import numpy as np
    from numba.core.compiler_lock import global_compiler_lock
    from cinic_shards.codec import kernels

    def call():
        out = np.empty(3, np.int64)
        kernels.blocks_of_rows(np.arange(3), np.array([0, 2, 4]), out)
        assert out.tolist() == [0, 0, 1]

    kernels.blocks_of_rows  # loaded, not yet compiled
    compiling, forking = threading.Event(), threading.Event()

    def compile():
        with global_compiler_lock:
            compiling.set()
            forking.wait()
            call()

    thread = threading.Thread(target=compile)
    thread.start()
    compiling.wait()
    forking.set()
    child = os.fork()
    call()
    if child == 0:
        os._exit(0)
    thread.join()
    print(os.waitpid(child, 0)[1])
    """) == "0\n"  # fmt: skip


def test_without_a_writable_cache_folder_there_is_one_warning() -> None:
    assert run("""
    import warnings
    import numpy as np
    import numba.core.caching as caching
    from cinic_shards.codec import kernels

    caching.CacheImpl._locator_classes = []
    rows, out = np.arange(50), np.empty(50, np.int64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kernels.blocks_of_rows(rows, np.array([0, 50]), out)
        kernels.gather_images(rows[:0], np.empty((0, 4, 4, 3), np.uint8))
    print(len(caught), "compiled again in every process" in str(caught[0].message))
    """) == "1 True\n"  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_one_process_compiles_at_a_time(tmp_path: Path) -> None:
    """A lock of another process is like one of another open file."""
    import fcntl

    with open(tmp_path / "cinic-shards.lock", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=begin_compiling, args=(str(tmp_path),))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        fcntl.flock(other, fcntl.LOCK_UN)
        waiting.join(10)
        begin_compiling(str(tmp_path))  # a kernel that the first one needs
        end_compiling(1)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end_compiling(1)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
