"""Several hosts on one machine: network namespaces on a bridge. Needs Linux and root."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNET = 0x40000000
INTERFACE = "eth0"
"""Network interface of each host."""


@dataclass(frozen=True)
class Host:
    """One host: a namespace, and its address on the bridge."""

    namespace: str
    address: str

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread, and the processes and threads that it starts, to this host."""
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{self.namespace}") as host:
            _enter(host.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def received(self) -> int:
        """Return the bytes that this host has received, including headers."""
        with self.inside():
            return received()


def received() -> int:
    """Return the bytes that the host of this thread has received."""
    counters = Path("/proc/thread-self/net/dev").read_text()
    return int(counters.split(f"{INTERFACE}:")[1].split()[0])


def _enter(descriptor: int) -> None:
    """Move this thread to a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def _ip(*arguments: object) -> None:
    subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True)


def can_make_hosts() -> bool:
    """Return True if this process may make namespaces."""
    try:
        with hosts(1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make ``count`` hosts that reach only one another; remove them at the end."""
    mark = f"cs{os.getpid()}"
    switch = f"{mark}-switch"
    with ExitStack() as stack:

        def make_namespace(name: str) -> None:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
            _ip("-netns", name, "link", "set", "lo", "up")

        make_namespace(switch)
        _ip("-netns", switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-netns", switch, "link", "set", "bridge0", "up")
        made = []
        for number in range(count):
            host = Host(f"{mark}-{number}", f"10.77.0.{number + 1}")
            make_namespace(host.namespace)
            port = f"port{number}"
            _ip("-netns", switch, "link", "add", port, "type", "veth",
                "peer", INTERFACE, "netns", host.namespace)  # fmt: skip
            _ip("-netns", switch, "link", "set", port, "master", "bridge0", "up")
            _ip("-netns", host.namespace, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            _ip("-netns", host.namespace, "link", "set", INTERFACE, "up")
            made.append(host)
        yield made
