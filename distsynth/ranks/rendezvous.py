"""Where and how the ranks of a run meet: the store that rank 0 or torchrun hosts, and the key that only this run's ranks know.

Whoever reaches the store's port can read and write it. So rank 0 binds it to loopback if all ranks are on one node, and else to the address of
MASTER_ADDR; torchrun's own store listens on every interface. What the ranks then believe is signed (see distsynth.ranks.heartbeat) with a key
that rank 0 draws at each start and that lies in a file that only its owner can read, until all ranks have joined.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
import struct
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist

from distsynth.ranks.heartbeat import Seal
from preprocess.shared.errors import SettingError, UserError

if TYPE_CHECKING:  # torch.distributed exports it too, but mypy does not know
    from torch._C._distributed_c10d import Store

SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
OUTSIDE = "192.0.2.1"  # an address for documentation (RFC 5737): its route is the default one


class PortTaken(UserError):
    """Another process listens on MASTER_PORT of rank 0's node. The launcher's next job has another port."""


def place() -> tuple[int, int, int]:
    """RANK, WORLD_SIZE and LOCAL_RANK. Raises SettingError if only some of torchrun's variables are there, or one is no number."""
    start = "start the ranks with torchrun --nproc-per-node=N -m distsynth.train …"
    numbers = {}
    for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_PORT", "0")):
        value = os.environ.get(name, default)
        if not value.isdecimal():
            raise SettingError(f"the environment variable {name}={value} must be a whole number: {start}, or unset it")
        numbers[name] = int(value)
    rank, size = numbers["RANK"], numbers["WORLD_SIZE"]
    lacking = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if size > 1 and lacking:
        raise SettingError(f"WORLD_SIZE={size} is set without {', '.join(lacking)}: {start}, or unset WORLD_SIZE for one process")
    if rank >= size:
        raise SettingError(f"RANK={rank} must be below WORLD_SIZE={size}: {start}, or unset both for one process")
    return rank, size, numbers["LOCAL_RANK"]


def meet(rank: int, size: int, seconds: float, run: Path | None) -> tuple[Store, Seal]:
    """The store, once all ranks have joined, and the seal that they share; without `run`, whose folder all ranks see, the key is empty.

    Raises UserError naming the ranks that do not join in time, and PortTaken.
    """
    deadline, key = time.monotonic() + seconds, b""
    where = None if run is None else run.with_name(f".{run.name}.key")
    unreachable = UserError(
        f"rank {rank} could not reach rank 0 at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} within {seconds:g} s "
        "(train.limits.start)"
    )
    try:
        if rank == 0:
            store = connect(seconds, host=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True")
            key = write_key(where)
        else:  # only once rank 0 has written the key: a stranger's listener on this port might never answer
            while where is not None and not (key := read_key(where)):
                if time.monotonic() > deadline:
                    raise unreachable
                time.sleep(0.1)
            store = connect(deadline - time.monotonic())
        while missing := missing_ranks(store, rank, size, Seal(key), deadline):
            if time.monotonic() > deadline:
                names = ", ".join(str(other) for other in missing)
                raise UserError(f"rank {names} of {size} did not join within {seconds:g} s (train.limits.start)")
            time.sleep(0.1)
            if rank and where is not None:
                key = read_key(where) or key  # what was read first may be left from a start that was killed
    except dist.DistError as error:
        raise unreachable from error
    finally:
        if rank == 0 and where is not None:
            where.unlink(missing_ok=True)
    return store, Seal(key)


def missing_ranks(store: Store, rank: int, size: int, seal: Seal, deadline: float) -> list[int]:
    """Join, wait for the others until the deadline, and return those that have not joined with this key."""
    joined = [f"joined/{other}" for other in range(size)]
    store.set(joined[rank], seal.close(joined[rank], {}))
    try:
        store.wait(joined, timedelta(seconds=max(0.1, deadline - time.monotonic())))
    except dist.DistError:
        return [other for other in range(size) if not store.check([joined[other]])]
    written = store.multi_get(joined)
    return [other for other in range(size) if seal.open(joined[other], written[other]) is None]


def write_key(path: Path | None) -> bytes:
    """A new key, in a file that only its owner can read. Raises UserError if it cannot be written."""
    if path is None:
        return b""
    key = secrets.token_hex(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
        with os.fdopen(handle, "w") as file:
            file.write(key)
        Path(partial).replace(path)
    except OSError as error:
        raise UserError(f"cannot write the ranks' key {path} ({error.strerror}): make its folder writable") from error
    return key.encode()


def read_key(path: Path) -> bytes:
    """The key; empty if it is not there (yet)."""
    with suppress(OSError):
        list(path.parent.iterdir())  # makes NFS look again for a file that was not there before
        return path.read_bytes()
    return b""


def one_node() -> bool:
    """Whether all ranks are known to be on this node."""
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")


def connect(seconds: float, host: bool = False) -> Store:
    """A connection to the store, which is hosted here or by rank 0 or torchrun. Raises PortTaken, and DistError."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if one_node() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        address = "127.0.0.1"
    listener = listen(address, port).detach() if host else None
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, None, host, timedelta(seconds=max(1, seconds)), wait_for_workers=False, master_listen_fd=listener
    )
    return dist.PrefixStore(f"attempt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)  # type: ignore[attr-defined]


def listen(address: str, port: int) -> socket.socket:
    """A listening socket on the interface that has the address. Raises PortTaken."""
    try:
        family, *_, (ip, *_) = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        if address == socket.gethostname() and str(ip).startswith(
            "127."
        ):  # as some nodes know themselves: no other node gets there
            family, ip = socket.AF_INET, ""
        return socket.create_server((str(ip), port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"port {port} is taken on {socket.gethostname()}, perhaps by another run: set another MASTER_PORT, or start the ranks with "
                "torchrun --standalone"
            ) from error
        if address == "":
            raise
        return listen("", port)  # the address is not this node's own, as behind a forwarded port


def choose_interface() -> None:
    """Tell gloo which network to use, unless it is set: loopback on one node, and on several the one that leads to rank 0. By itself gloo takes
    what the node's name resolves to, on some nodes 127.0.1.1. NCCL chooses well by itself, with more than one network card."""
    several = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])) < int(os.environ["WORLD_SIZE"])
    if one_node() or several:
        chosen = "lo" if one_node() else interface(os.environ["MASTER_ADDR"]) or interface(OUTSIDE)
        if chosen:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", chosen)


def interface(address: str) -> str | None:
    """The name of the network interface that packets to an address leave by, or that has it; None for loopback or if unknown (IPv6)."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        own = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                asked = struct.pack("256s", name.encode())
                if fcntl.ioctl(probe.fileno(), SIOCGIFADDR, asked)[20:24] == own and own[0] != 127:
                    return name
    return None
