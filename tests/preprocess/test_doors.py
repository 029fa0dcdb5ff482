"""What somebody else may have put into a source or a store: pipes, chunks that unpack to gigabytes, manifests that no version wrote."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from numcodecs import Blosc

from preprocess.cohort import Cohort
from preprocess.cohort.files import write_sealed
from preprocess.shared import terminal
from preprocess.shared.errors import SettingError, StoreError
from preprocess.shared.files import open_plain
from preprocess.source import decathlon
from preprocess.splits import read_list


@pytest.fixture
def cohort(store: Path, tmp_path: Path) -> Path:
    """A cohort to damage."""
    return Path(shutil.copytree(store, tmp_path / "c.zarr"))


@pytest.fixture
def subject(cohort: Path) -> str:
    return Cohort.open(cohort).subjects[0]


def with_chunks_of(shard: Path, size: int, chunks: int) -> None:
    """A shard as zarr writes it, each of whose chunks unpacks to `size` bytes of zeros."""
    chunk = bytes(Blosc(cname="lz4", clevel=9).encode(np.zeros(size, np.uint8)))
    chunk += int(google_crc32c.value(chunk)).to_bytes(4, "little")
    index = np.array([(number * len(chunk), len(chunk)) for number in range(chunks)], "<u8").tobytes()
    shard.write_bytes(chunk * chunks + index + int(google_crc32c.value(index)).to_bytes(4, "little"))


READ = r"""
import re, sys
from preprocess.cohort import Cohort
from preprocess.shared.errors import StoreError
try:
    Cohort.open(sys.argv[1]).image(sys.argv[2])
except StoreError as error:
    print(error)
print(int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) // 1024)  # ru_maxrss begins with that of the tests' process
"""


def test_a_chunk_that_claims_more_than_a_chunk_holds_is_not_unpacked(cohort: Path, subject: str) -> None:
    shard = cohort / "subjects" / subject / "image" / "c" / "0" / "0" / "0" / "0"
    array = Cohort.open(cohort).lazy_image(subject)
    with_chunks_of(shard, 10**9, array.shape[1] // array.chunks[1])
    done = subprocess.run([sys.executable, "-c", READ, str(cohort), subject], capture_output=True, text=True, timeout=120)
    sentence, megabytes = done.stdout.splitlines()
    assert sentence.startswith(f"{shard} is damaged (a chunk claims 1000000000 bytes, not "), done.stderr
    assert int(megabytes) < 600
    with pytest.raises(StoreError, match="claims"):
        Cohort.open(cohort).lazy_image(subject)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_another_packing_is_refused_before_it_is_unpacked(cohort: Path, subject: str, codec: str) -> None:
    file = cohort / "subjects" / subject / "image" / "zarr.json"
    about = json.loads(file.read_text())
    about["codecs"][0]["configuration"]["codecs"][1] = {"name": codec, "configuration": {"level": 1}}
    if codec == "zstd":
        about["codecs"][0]["configuration"]["codecs"][1]["configuration"]["checksum"] = False
    file.write_text(json.dumps(about))
    with pytest.raises(StoreError, match="is not stored as this version stores arrays"):
        Cohort.open(cohort).lazy_image(subject)


PIPES = (
    "manifest.json",
    "rejected.json",
    "records/{}.json",
    "subjects/{}/image/zarr.json",
    "subjects/{}/image/c/0/0/0/0",
    "zarr.json",
)


@pytest.mark.parametrize("file", PIPES)
def test_a_pipe_in_a_store_is_waited_for_by_nobody(cohort: Path, subject: str, file: str) -> None:
    file = file.format(subject)
    (cohort / file).unlink()
    os.mkfifo(cohort / file)
    code = "import sys\nfrom preprocess.cohort import Cohort\nc = Cohort.open(sys.argv[1])\nc.rejected\nc.image(sys.argv[2])"
    done = subprocess.run([sys.executable, "-c", code, str(cohort), subject], capture_output=True, text=True, timeout=60)
    assert done.returncode == (file != "zarr.json"), done.stderr
    assert "StoreError: " in done.stderr or not done.returncode


def test_a_pipe_beside_the_scans_is_waited_for_by_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "dataset.json"
    os.mkfifo(pipe)
    assert "dataset.json beside imagesTr cannot be read" in decathlon.dataset(tmp_path / "imagesTr").fault
    with pytest.raises(SettingError, match="cannot be read"):
        read_list(pipe)
    with pytest.raises(OSError, match="is not a plain file"):
        open_plain(Path("/dev/zero"))


def changed(manifest: dict[str, Any], what: str) -> dict[str, Any]:
    own = dict(manifest)
    if what == "a list":
        return {**own, "subjects": list(own["subjects"])}
    if what == "a list of folds":
        return {**own, "folds": [list(own["subjects"])]}
    if what == "no folds":
        return {**own, "folds": {}}
    name = {"NUL": "a\0b", "up": "../a", "escape": "a\x1b[2J", "half": "a\ud800"}[what]
    return {**own, "subjects": {**own["subjects"], name: next(iter(own["subjects"].values()))}}


@pytest.mark.parametrize("what", ["NUL", "up", "escape", "half", "a list", "a list of folds", "no folds"])
def test_a_sealed_manifest_that_no_version_wrote_is_one_sentence(cohort: Path, what: str) -> None:
    file = cohort / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest.pop("sha256")
    write_sealed(file, changed(manifest, what))
    refused(cohort)


@pytest.mark.parametrize(
    "content", [b"\0", b"\xff\xfe", b"[" * 100_000, b"[]", b'{"schema": 2, "x": 1e999}', b'{"schema": 1' + b"0" * 5000 + b"}"]
)
def test_a_manifest_that_is_none_is_one_sentence(cohort: Path, content: bytes) -> None:
    (cohort / "manifest.json").write_bytes(content)
    refused(cohort)


def refused(store: Path) -> None:
    with pytest.raises(StoreError) as caught:
        Cohort.open(store)
    assert str(store / "manifest.json") in str(caught.value)
    assert str(caught.value).isprintable()


def test_control_characters_are_shown() -> None:
    assert terminal.plain("a\x1b[2J\r\x9b\u202e\udcff\0") == "a\\x1b[2J\\r\\x9b\\u202e\\udcff\\x00"
    assert terminal.plain("é\t中\n") == "é\t中\n"


def test_a_case_that_would_command_the_terminal_is_set_aside(phantoms: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    for number, subject in enumerate(sorted(phantoms.glob("*/*/"))[:4]):
        name = subject.name if number else "P\x1b]0;owned\x07"
        shutil.copytree(subject, tmp_path / "w" / name)
        for scan in (tmp_path / "w" / name).iterdir():
            scan.rename(scan.with_name(scan.name.replace(subject.name, name)))
    done = run(
        "preprocess.to_zarr",
        f"source={tmp_path / 'w'}",
        "store=s.zarr",
        "recipe.n4.iterations=[2]",
        cwd=tmp_path,
        FORCE_COLOR="1",
    )
    assert "\x1b]0;" not in done.stdout + done.stderr
    assert "\x07" not in done.stdout + done.stderr
    assert done.returncode in (0, 1), done.stderr
