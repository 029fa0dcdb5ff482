"""Interrupts to_zarr on purpose. A script of test_restart.py; worker processes run it too and can be interrupted as well.

python interrupted.py changes kill|full SOURCE FOLDER     before each change of the disk, then again without interruption: a line of JSON each
python interrupted.py stages kill SOURCE FOLDER           at each stage of a case
python interrupted.py STAGE:CASE WORDS                    to_zarr, killed when a process enters the stage of the case
"""

import errno
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from itertools import count
from pathlib import Path

import nibabel  # noqa: F401, imported once here, like the next ones, instead of in each child
import rich.table  # noqa: F401
import SimpleITK  # noqa: F401
import zarr.codecs  # noqa: F401

from preprocess import to_zarr
from preprocess.recipe import Stopwatch
from preprocess.shared.errors import UserError
from preprocess.shared.settings import command
from preprocess.source.brats import Case

os.environ.setdefault("COMMAND_PID", str(os.getpid()))  # of the command, in its workers too; 0: the process that calls `kill`
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
STAGES = ("read", "n4", "normalise", "write")


def kill(event: str = "") -> None:
    os.kill(int(os.environ["COMMAND_PID"]) or os.getpid(), signal.SIGKILL)
    time.sleep(60)  # in a worker, which must end with the command


def full(event: str) -> None:
    if event not in ("os.remove", "os.rmdir"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def before_change(number: int, store: Path, act: Callable[[str], None]) -> None:
    """Call `act` before the `number`-th change of the store, or of files beside it, and before every later change.

    A restart removes staged folders completely, so of the changes inside them only those of shards count.
    """
    seen = count(1)

    def hook(event: str, arguments: tuple) -> None:
        path = str(arguments[0]) if arguments else ""
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        inside = "/staged/whole/" in path and len(Path(path.partition("/staged/whole/")[2]).parts) > 1
        minor = inside and ("/zarr." in path or event == "os.mkdir")
        if (writes or event in CHANGES) and path.startswith(str(store)) and not minor and next(seen) >= number:
            act(event)

    sys.addaudithook(hook)


def at_stage(point: str) -> None:
    """Kill the command when a process enters the stage of the case, `STAGE:CASE`."""
    wanted, at_work = point.split(":"), [""]
    check, stage = Case.check, Stopwatch.stage

    def remember(self: Case, *arguments: object) -> None:
        at_work[0] = self.name
        check(self, *arguments)

    @contextmanager
    def enter(self: Stopwatch, name: str) -> Iterator[None]:
        if [name, *at_work] == wanted:
            kill()
        with stage(self, name):
            yield

    Case.check, Stopwatch.stage = remember, enter


def child(prepare: Callable[[], None], words: list[str]) -> tuple[int, str]:
    """Run to_zarr in a forked process, where everything is imported already. Returns its exit status and its error."""
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.environ["COMMAND_PID"] = str(os.getpid())
        status, sentence = 2, ""
        prepare()
        try:
            with redirect_stdout(io.StringIO()):
                status = to_zarr.main(words)
        except UserError as error:
            sentence = str(error)
        except BaseException as error:
            sentence = repr(error)
        os.write(write, sentence.encode())
        os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        sentence = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), sentence


def times(store: Path) -> dict[str, int]:
    """When the files of the committed subjects were last changed."""
    names = [path.stem for path in (store / "records").glob("*.json")]
    return {str(p): p.stat().st_mtime_ns for name in names for p in (store / "subjects" / name).rglob("*")}


def main(points: str, how: str, source: Path, folder: Path, *words: str) -> None:
    every = 1 if how == "kill" else 3  # a full disk stays full
    for point in count(1, every) if points == "changes" else [f"{stage}:case1" for stage in STAGES]:
        store = folder / str(point) / "c.zarr"
        store.parent.mkdir(parents=True)
        run = [f"source={source}", f"store={store}", "workers=1", *words]
        act = {"kill": kill, "full": full}[how]
        prepare = partial(at_stage, point) if points == "stages" else partial(before_change, point, store, act)
        status, sentence = child(prepare, run)
        beside, before = sorted(p.name for p in store.parent.iterdir()), times(store)
        again, _ = child(lambda: None, run)
        kept = before == {name: when for name, when in times(store).items() if name in before}
        left = sorted(p.name for p in store.parent.iterdir())
        print(json.dumps({"point": point, "status": status, "sentence": sentence, "beside": beside, "committed": len(before) > 0,
                          "again": again, "kept": kept, "left": left}))  # fmt: skip
        if status == 0:
            return


if ":" in sys.argv[1]:
    at_stage(sys.argv[1])
    if __name__ == "__main__":
        command(lambda words: to_zarr.main(words[1:]), "")
elif __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), *sys.argv[5:])
