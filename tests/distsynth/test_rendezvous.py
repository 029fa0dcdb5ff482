"""Where the ranks meet: what a stranger on the network or the node cannot do there, and how long a rank waits. With real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from distsynth.ranks import rendezvous
from distsynth.ranks.heartbeat import Heartbeat, Peer, Seal, Verdict, machine, start_time
from distsynth.ranks.watchdog import Watchdog
from distsynth.settings import LimitSettings
from slurm.outcome import outcome_of

Ranks = list[subprocess.Popen[str]]
JOIN = """
import os, sys, time
from pathlib import Path
from distsynth.ranks.world import world
from distsynth.settings import LimitSettings
from preprocess.shared.settings import command
def main(words):
    with world("cpu", LimitSettings(start=float(words[0]), silence=4), Path(words[1])) as ranks:
        print("joined", os.environ.get("GLOO_SOCKET_IFNAME"), flush=True)
        go = Path(words[1]).with_name("go")
        while not go.exists():
            time.sleep(.05)
        print(sum(ranks.gather(ranks.rank)), flush=True)
    return 0
command(main, "")
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def launch(code: str, words: list[str], port: int, ranks: range = range(2), **variables: str) -> Ranks:
    """Some of two ranks."""
    fixed = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env={**os.environ, **fixed, **variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this user that is no rank."""
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


def forged(number: int, pid: int) -> Heartbeat:
    return Heartbeat(1, machine(), pid, start_time(pid) or 0, number, "step", 3, number)


def test_a_stranger_can_neither_end_a_run_nor_have_a_process_killed(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    """Everything of the store, without a key: what it holds is read, replayed, overwritten and forged."""
    port = free_port()
    ranks = launch(JOIN, ["60", str(tmp_path / "run")], port)
    assert [rank.stdout.readline() for rank in ranks if rank.stdout] == ["joined lo\n"] * 2
    assert not list(tmp_path.iterdir()), "the key is gone once all have joined"
    store: Any = dist.TCPStore("127.0.0.1", port, None, False, timedelta(seconds=5), wait_for_workers=False)  # type: ignore[attr-defined]
    store = dist.PrefixStore("attempt/0", store)  # type: ignore[attr-defined]
    earlier = store.get("heartbeat/1")
    for number in range(10**6, 10**6 + 8):
        verdict = asdict(Verdict("rank 1 has been bad", (1,)))
        store.set("verdict", (json.dumps(verdict), Seal(b"guessed").close("verdict", verdict), b"\xff\x00", "")[number % 4])
        beat = asdict(forged(number, victim.pid))
        store.set("heartbeat/1", (json.dumps(beat), Seal(b"guessed").close("heartbeat/1", beat), earlier, b"\xff")[number % 4])
        time.sleep(0.6)
    assert victim.poll() is None
    assert [rank.poll() for rank in ranks] == [None, None]
    (tmp_path / "go").touch()
    assert [rank.communicate(timeout=30) for rank in ranks] == [("1\n", ""), ("1\n", "")]


def test_the_ranks_own_verdict_replaces_a_forged_one(tmp_path: Path) -> None:
    port = free_port()
    ranks = launch(JOIN, ["60", str(tmp_path / "run")], port)
    assert all(rank.stdout and rank.stdout.readline() for rank in ranks)
    store: Any = dist.TCPStore("127.0.0.1", port, None, False, timedelta(seconds=5), wait_for_workers=False)  # type: ignore[attr-defined]
    ranks[1].kill()
    for _ in range(20):
        store.set("attempt/0/verdict", '{"sentence": "nothing is wrong"}')
        time.sleep(0.1)
    errors = [rank.communicate(timeout=30)[1] for rank in ranks]
    assert "error: rank 1 has died during startup: its process" in errors[0]


def listening(port: int) -> set[str]:
    """The addresses, as the kernel writes them, at which somebody listens on the port."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and int(line[1].partition(":")[2], 16) == port}


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((rendezvous.OUTSIDE, 9))
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_store_listens_on_one_interface(tmp_path: Path, nodes: int) -> None:
    """On one node on loopback, whatever MASTER_ADDR is; on two (pretended) nodes on the network of MASTER_ADDR, which gloo uses too."""
    port, address = free_port(), own_address()
    ranks = launch(JOIN, ["60", str(tmp_path / "run")], port, MASTER_ADDR=address, LOCAL_WORLD_SIZE=str(2 // nodes))
    network = "lo" if nodes == 1 else rendezvous.interface(address)
    assert [rank.stdout.readline() for rank in ranks if rank.stdout] == [f"joined {network}\n"] * 2
    bound = "127.0.0.1" if nodes == 1 else address
    assert listening(port) == {socket.inet_aton(bound)[::-1].hex().upper()}
    (tmp_path / "go").touch()
    assert [rank.communicate(timeout=30) for rank in ranks] == [("1\n", "")] * 2


def test_a_node_that_knows_itself_as_loopback_listens_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")  # as with `127.0.1.1 node7` in /etc/hosts
    with rendezvous.listen("localhost", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
    assert rendezvous.interface("127.0.1.1") is None


def test_a_taken_port_is_named_and_the_launcher_tries_again(store: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    """The listener accepts connections and never answers; the limit holds on both ranks."""
    train = "import sys\nfrom distsynth.train import main\nfrom preprocess.shared.settings import command\ncommand(main, '')"
    words = [f"run={tmp_path / 'run'}", f"data.store={store}", *tiny, "train.limits.start=5"]
    with socket.create_server(("", 0), backlog=16) as stranger:
        port = stranger.getsockname()[1]
        began = time.monotonic()
        ranks = launch(train, words, port)
        errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert time.monotonic() - began < 25
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert errors[0].startswith(f"error: port {port} is taken on {socket.gethostname()}, perhaps by another run: ")
    assert errors[1] == f"error: rank 1 could not reach rank 0 at 127.0.0.1:{port} within 5 s (train.limits.start)\n"
    assert outcome_of(None, "FAILED", errors[0].strip()).status == "retry"
    assert not (tmp_path / "run").exists()


def test_the_limit_holds_when_a_stranger_listens_and_an_old_key_is_left(tmp_path: Path) -> None:
    (tmp_path / ".run.key").write_text("left from a start that was killed")
    with socket.create_server(("127.0.0.1", 0), backlog=16) as stranger:
        (rank,) = launch(JOIN, ["3", str(tmp_path / "run")], stranger.getsockname()[1], range(1, 2))
        error = rank.communicate(timeout=30)[1]
    assert rank.returncode == 2
    assert error.startswith("error: rank 1 hangs during startup, in rendezvous.py:")


def test_ranks_that_share_a_gpu_end_with_one_sentence(tmp_path: Path) -> None:
    """Each rank reports the same GPU, as where Slurm binds none."""
    shared = 'from distsynth.ranks import world as module\nmodule.identity = lambda device: ("node7", "GPU-1")\n'
    ranks = launch(shared + JOIN, ["60", str(tmp_path / "run")], free_port())
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert errors[0].startswith("error: ranks 0 and 1 share one GPU (GPU-1 on node7): start at most one rank per GPU")
    assert (errors[0].count("\n"), errors[1]) == (1, "")
    assert [rank.returncode for rank in ranks] == [2, 2]


def test_a_process_without_the_runs_key_has_not_joined(tmp_path: Path) -> None:
    (tmp_path / ".other.key").write_text("that of another run")
    port = free_port()
    ranks = launch(JOIN, ["4", str(tmp_path / "run")], port, range(1))
    ranks += launch(JOIN, ["4", str(tmp_path / "other")], port, range(1, 2))
    assert ranks[0].communicate(timeout=30)[1] == "error: rank 1 of 2 did not join within 4 s (train.limits.start)\n"
    ranks[1].communicate(timeout=30)
    assert ranks[1].returncode == 2


def test_an_old_key_is_no_hindrance_and_the_new_one_is_its_owners_alone(tmp_path: Path) -> None:
    key = tmp_path / ".run.key"
    key.write_text("left from a start that was killed")
    key.chmod(0o644)
    port = free_port()
    second = launch(JOIN, ["60", str(tmp_path / "run")], port, range(1, 2))
    time.sleep(4)  # it has read the old key
    first = launch(JOIN, ["60", str(tmp_path / "run")], port, range(1))
    (tmp_path / "go").touch()
    assert [rank.communicate(timeout=60)[1] for rank in (*first, *second)] == ["", ""]
    assert rendezvous.write_key(key) == key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600


def test_only_what_was_signed_under_that_name_is_opened() -> None:
    seal = Seal(b"key")
    written = seal.close("heartbeat/1", {"rank": 1})
    assert seal.open("heartbeat/1", written) == {"rank": 1}
    assert seal.open("heartbeat/2", written) is None
    assert Seal(b"other").open("heartbeat/1", written) is None
    assert all(seal.open("verdict", text) is None for text in ("", "{}", b"\xff", "é é", written[:-1]))


def test_a_heartbeat_that_is_written_again_is_no_sign_of_life(victim: subprocess.Popen[bytes]) -> None:
    watchdog = Watchdog(0, 2, LimitSettings())
    for number in (7, 8, 7):
        watchdog.record(forged(number, victim.pid))
    assert watchdog.peers[1].heartbeat.number == 8


def test_only_a_rank_of_this_run_is_killed(victim: subprocess.Popen[bytes]) -> None:
    """Even if its heartbeat is signed: the process must run this command, as this user."""
    watchdog = Watchdog(0, 2, LimitSettings())
    watchdog.peers[1] = Peer(forged(1, victim.pid), 0, 0)
    watchdog.kill((1,))
    assert victim.poll() is None
    child = os.fork()
    if not child:
        time.sleep(100)
    watchdog.peers[1] = Peer(forged(1, child), 0, 0)
    watchdog.kill((1,))
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
