"""Check one shard: its digests, its index, and every other byte."""

import hashlib
from dataclasses import replace

import cinic_shards.format as fmt
from cinic_shards.check.columns import IndexCheck
from cinic_shards.check.faults import FaultList
from cinic_shards.check.job import CheckedShard, CheckJob
from cinic_shards.check.layout import LayoutCheck
from cinic_shards.codec import ENCODINGS
from cinic_shards.codec.meter import ImageMeter
from cinic_shards.errors import FormatError, StoreError
from cinic_shards.format import Index
from cinic_shards.write.facts import shard_facts


def check_shard(job: CheckJob) -> CheckedShard:
    """Check one shard, in any process. Faults are in the result; nothing is raised for them."""
    faults, order_faults = FaultList(job.name), FaultList(job.name)
    checked = CheckedShard(job.name, job.split)
    try:
        checked = _check(job, faults, order_faults) or checked
    except StoreError as error:
        faults.add("unreadable", error.reason)
    except FormatError as error:
        faults.add("index", error.reason)
    return replace(
        checked,
        faults=tuple(faults.faults),
        num_more_faults=faults.num_more,
        order_faults=tuple(order_faults.faults),
        num_more_order_faults=order_faults.num_more,
    )


def _check(job: CheckJob, faults: FaultList, order_faults: FaultList) -> CheckedShard | None:
    info = job.info
    memory = job.store.map(job.name, info.size if info else job.store.size(job.name))
    sha256 = hashlib.sha256(memory.data).hexdigest()
    if info and sha256 != info.sha256:
        faults.add("digest", f"its SHA-256 is {sha256}, the manifest says {info.sha256}")
    if info:
        index_offset, index_length = info.index_offset, info.index_length
    else:
        index_offset, index_length = fmt.find_index(memory, job.location)
    its_index = f"its index, at offset {index_offset},"
    if index_offset < fmt.TAR_BLOCK:
        raise FormatError(job.location, f"{its_index} leaves no room for a tar header")
    index_bytes = memory[index_offset : index_offset + index_length].tobytes()
    index_sha256 = hashlib.sha256(index_bytes).hexdigest()
    if info and index_sha256 != info.index_sha256:
        says = f"the manifest says {info.index_sha256}"
        faults.add("digest", f"{its_index} has SHA-256 {index_sha256}, {says}")
        return None
    # The payloads end where the index's tar header begins.
    end = index_offset - fmt.TAR_BLOCK
    index = Index.from_bytes(
        index_bytes, location=job.location, end=end, num_classes=2**31 - 1, encodings=ENCODINGS
    )
    if not len(index):
        raise FormatError(job.location, "it holds no sample, expected at least one")
    columns = IndexCheck(index, job.location, job.split, faults)
    columns.check_bytes(index_bytes, index_offset)
    columns.check_columns(job.classes)
    order = columns.check_order(job.seed, order_faults)
    layout = LayoutCheck(job, faults, columns, memory, index_bytes, index_offset)
    meter = ImageMeter()
    sidecars = layout.check(meter)
    facts = shard_facts(
        split=job.split,
        name=job.name,
        size=len(memory),
        sha256=sha256,
        index=index,
        index_bytes=index_bytes,
        index_offset=index_offset,
        meter=meter,
    )
    names = [key.split("/")[1] for key in index.keys]
    return CheckedShard(
        job.name,
        job.split,
        facts=facts,
        encoding=index.encoding,
        block_size=index.block_size,
        class_of_label=dict(zip(index.label.tolist(), names, strict=True)),
        classes=index.classes,
        sidecars=sidecars,
        order=order,
        keys=tuple(index.keys) if job.keeps_keys else (),
    )
