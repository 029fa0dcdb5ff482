"""An exported model is the run's model, tells nothing of its machine, and is refused in one sentence when anything in it is not as it was."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import torch as safetensors

from distsynth import synthesise
from distsynth.synthesis import archive, bundle
from distsynth.synthesis.models import load
from distsynth.synthesis.synthesiser import Synthesiser
from distsynth.train import main as train
from preprocess.cohort.files import json_digest
from preprocess.shared.errors import StoreError, UserError
from preprocess.shared.files import json_text
from preprocess.source.images import load as load_image

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="session")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained for two updates."""
    words = ["variant=miso_flair", "method=unet_small", "method.width=4", "train.epochs=1", "train.steps_per_epoch=2"]
    run = tmp_path_factory.mktemp("runs") / "first"
    assert train([*words, f"data.store={store}", "evaluate.figures=0", f"run={run}"]) == 0
    return run


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.zip"
    bundle.write(load(trained), path, "CC BY 4.0")
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as opened:
        return {name.removeprefix("model/"): opened.read(name) for name in opened.namelist()}


def resealed(content: dict[str, bytes], edit: Edit = lambda known: None) -> bytes:
    """An archive of changed members, as one who knows the layout would forge it."""
    known = json.loads(content[bundle.MODEL])
    known.pop("sha256")
    known["files"] = {name: hashlib.sha256(content[name]).hexdigest() for name in known["files"]}
    edit(known)
    text = json_text({**known, "sha256": json_digest(known)}, sort_keys=True)
    return archive.pack("model", {**content, bundle.MODEL: text.encode()})


def refused(tmp_path: Path, content: bytes) -> str:
    """The one sentence that an archive is refused with, which names the file."""
    path = tmp_path / "bad.zip"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"bad\.zip") as refusal:
        load(path)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# -- what it is --------------------------------------------------------------------------------------------------------------


def test_it_is_the_runs_model(trained: Path, exported: Path, tmp_path: Path) -> None:
    run, model = load(trained), load(exported)
    shutil.unpack_archive(exported, tmp_path)
    assert run.digest == model.digest == load(tmp_path / "model").digest
    assert (run.name, run.card, run.recipe, run.trained_on) == (model.name, model.card, model.recipe, model.trained_on)


def test_the_same_image_comes_of_both(trained: Path, exported: Path, phantoms: Path, tmp_path: Path) -> None:
    folder = sorted(path for path in phantoms.rglob("*") if path.is_dir() and any(path.glob("*.nii*")))[0]
    scans = {kind: next(folder.glob(f"*_{kind}.nii*")) for kind in ("t1", "t2")}
    made = []
    for number, model in enumerate((trained, exported)):
        words = [f"{kind}={path}" for kind, path in scans.items()]
        assert synthesise.main([*words, f"out={tmp_path / str(number)}", f"run={model}", "name=p"]) == 0
        made.append(tmp_path / str(number) / "p_flair_synth.nii.gz")
    assert np.array_equal(load_image("p", made[0]).array, load_image("p", made[1]).array)
    assert made[0].read_bytes() == made[1].read_bytes()


def test_the_bytes_are_the_same_each_time_and_an_existing_file_is_kept(trained: Path, exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "model.zip"
    bundle.write(load(trained), again, "CC BY 4.0")
    assert again.read_bytes() == exported.read_bytes()
    with pytest.raises(StoreError, match="exists"):
        bundle.write(load(exported), again)
    assert again.read_bytes() == exported.read_bytes()


def test_an_export_of_an_export_is_the_same_model(exported: Path, tmp_path: Path) -> None:
    bundle.write(load(exported), tmp_path / "model.zip", "CC BY 4.0")
    assert (tmp_path / "model.zip").read_bytes() == exported.read_bytes()


def test_it_tells_nothing_of_the_machine(store: Path, trained: Path, exported: Path) -> None:
    content = members(exported)
    for private in (str(store), str(store.parent), str(trained.parent)):
        assert not any(private.encode() in text for text in content.values())
    records = [path.stem.encode() for path in (store / "records").iterdir()]
    assert records
    assert not any(name in text for name in records for text in content.values())


def test_it_says_what_it_is(exported: Path) -> None:
    content = members(exported)
    card, terms, about = (
        content["docs/README.md"].decode(),
        content["LICENSE"].decode(),
        json.loads(content["configs/metadata.json"]),
    )
    assert "For research use only" in card
    assert "| FLAIR | 2 test | brain |" in card
    assert "CC BY 4.0" in card
    assert "CC BY 4.0" in terms
    required = {
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "required_packages_version",
        "task",
        "description",
    }
    assert required | {"authors", "copyright", "network_data_format", "changelog"} <= about.keys()
    inputs = about["network_data_format"]["inputs"]["sources"]
    specified = {
        "type",
        "format",
        "modality",
        "num_channels",
        "spatial_shape",
        "dtype",
        "value_range",
        "is_patch_data",
        "channel_def",
    }
    assert inputs.keys() == specified


def test_no_image_of_a_training_patient_leaves(store: Path, tmp_path: Path) -> None:
    """CycleGAN keeps synthesised training slices in pools, which its checkpoints hold."""
    words = ["method=cyclegan_small", "variant=siso", "method.generator.width=2", "method.discriminator.width=2"]
    few = ["train.epochs=1", "train.steps_per_epoch=2", "evaluate.figures=0", "evaluate.baselines=false"]
    assert train([*words, *few, f"data.store={store}", f"run={tmp_path / 'run'}"]) == 0
    made = load(tmp_path / "run")
    assert any(name.endswith("_extra_state") for name in made.model.method.state_dict())
    bundle.write(made, tmp_path / "model.zip")
    assert not any("extra_state" in name for name in safetensors.load(members(tmp_path / "model.zip")[bundle.WEIGHTS]))
    assert load(tmp_path / "model.zip").digest == made.digest


# -- what is refused ---------------------------------------------------------------------------------------------------------


def test_any_flipped_byte_is_refused(exported: Path, tmp_path: Path) -> None:
    whole = exported.read_bytes()
    draw = random.Random(0)
    for at in [*range(64), *range(len(whole) - 1200, len(whole), 7), *draw.sample(range(len(whole)), 60)]:
        changed = bytearray(whole)
        changed[at] ^= 1 << draw.randrange(8)
        refused(tmp_path, bytes(changed))


def test_a_flipped_byte_in_the_folder_is_refused(exported: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(exported, tmp_path)
    for name in bundle.MEMBERS:
        file = tmp_path / "model" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(StoreError, match=name):
            load(tmp_path / "model")
        file.write_bytes(whole)
    load(tmp_path / "model")


def test_a_part_of_it_is_refused(exported: Path, tmp_path: Path) -> None:
    whole = exported.read_bytes()
    for length in (0, 1, 21, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        refused(tmp_path, whole[:length])
    refused(tmp_path, whole + b"\0")
    refused(tmp_path, whole[100:])
    assert "no exported model" in refused(tmp_path, archive.pack("model", {"LICENSE": b""}))


@pytest.mark.parametrize("name", ["models/model.pt", "models/x.pkl", "configs/run.py", "x", "models/", "configs/MODEL.JSON"])
def test_a_member_that_no_export_has_is_refused(name: str, exported: Path, tmp_path: Path) -> None:
    assert "which no exported model does" in refused(tmp_path, archive.pack("model", {**members(exported), name: b"x"}))


@pytest.mark.parametrize(
    "name", ["model/../../x", "/etc/passwd", "model/configs\\..\\x", "../model/LICENSE", "model/configs/../LICENSE"]
)
def test_a_path_that_climbs_out_is_refused(name: str, exported: Path, tmp_path: Path) -> None:
    whole = exported.read_bytes()
    file = io.BytesIO(whole)
    with zipfile.ZipFile(file, "a") as opened:
        opened.writestr(zipfile.ZipInfo(name), b"x")
    assert "leads out of its folder" in refused(tmp_path, file.getvalue())
    assert not (tmp_path.parent / "x").exists()


def test_a_pickle_appended_by_a_zip_tool_is_refused(exported: Path, tmp_path: Path) -> None:
    file = io.BytesIO(exported.read_bytes())
    with zipfile.ZipFile(file, "a") as opened:
        opened.writestr("model/models/model.pt", b"\x80\x04.")
    assert "holds 'model/models/model.pt'" in refused(tmp_path, file.getvalue())


def rezipped(content: dict[str, bytes], **changes: Any) -> bytes:
    """The same members zipped by another tool; `changes` are of the entry of the weights."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, text in content.items():
            info = zipfile.ZipInfo(f"model/{name}")
            for key, value in changes.items() if name == bundle.WEIGHTS else ():
                setattr(info, key, value)
            opened.writestr(info, text)
    return file.getvalue()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "not written by distsynth.export"),
        ({"compress_type": zipfile.ZIP_DEFLATED}, "compressed"),
        ({"external_attr": (stat.S_IFLNK | 0o777) << 16}, "not a plain file"),
    ],
)
def test_another_zip_of_its_files_is_refused(changes: dict[str, Any], why: str, exported: Path, tmp_path: Path) -> None:
    assert why in refused(tmp_path, rezipped(members(exported), **changes))


def test_a_bomb_takes_no_memory(exported: Path, tmp_path: Path) -> None:
    """Many zeros in a few bytes, and a header that promises more than there is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened, opened.open(f"model/{bundle.WEIGHTS}", "w") as weights:
        for _ in range(32):
            weights.write(bytes(2**22))
    assert "compressed" in refused(tmp_path, file.getvalue())
    whole = exported.read_bytes()
    at = whole.rindex(b"PK\1\2")  # the entry of the last file: its sizes
    promised = whole[: at + 20] + b"\xff\xff\xff\x7e" * 2 + whole[at + 28 :]
    refused(tmp_path, promised)
    many = b"PK\5\6" + bytes(8) + (2**31).to_bytes(4, "little") + bytes(6)
    assert "implausible" in refused(tmp_path, many)


def test_a_file_twice_is_refused(exported: Path, tmp_path: Path) -> None:
    file = io.BytesIO(exported.read_bytes())
    with zipfile.ZipFile(file, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr(f"model/{bundle.WEIGHTS}", b"x")
    assert "twice" in refused(tmp_path, file.getvalue())


def test_what_a_newer_version_wrote_is_refused(exported: Path, tmp_path: Path) -> None:
    content = members(exported)
    assert "install a newer distsynth" in refused(tmp_path, resealed(content, lambda known: known.update(format=2)))
    assert "install a newer distsynth" in refused(tmp_path, resealed(content, lambda known: known["model"].update(format=99)))
    new = resealed({**content, bundle.CONFIG: content[bundle.CONFIG] + b"dreams: 3\n"})
    assert "unknown setting dreams" in refused(tmp_path, new)


def test_no_model_json_is_refused(exported: Path, tmp_path: Path) -> None:
    content = members(exported)
    content.pop(bundle.MODEL)
    assert f"has no {bundle.MODEL}" in refused(tmp_path, archive.pack("model", content))
    assert "damaged" in refused(tmp_path, archive.pack("model", {**members(exported), bundle.MODEL: b"[]"}))
    assert "damaged" in refused(tmp_path, archive.pack("model", {**members(exported), bundle.MODEL: b"[" * 100_000}))


def test_weights_that_do_not_fit_are_refused(exported: Path, tmp_path: Path) -> None:
    content = members(exported)
    weights = safetensors.load(content[bundle.WEIGHTS])
    name = next(iter(weights))

    def with_weights(changed: dict[str, torch.Tensor]) -> str:
        return refused(tmp_path, resealed({**content, bundle.WEIGHTS: safetensors.save(changed)}))

    assert "lacks" in with_weights({key: value for key, value in weights.items() if key != name})
    assert "has 'extra'" in with_weights({**weights, "extra": torch.zeros(1)})
    assert "unlike the model" in with_weights({**weights, name: torch.zeros(3)})
    assert "unlike the model" in with_weights({**weights, name: weights[name].half()})
    assert "not finite" in with_weights({**weights, name: weights[name] * float("nan")})
    assert "digest" in with_weights({**weights, name: weights[name] + 1})
    assert "does not fit" in refused(tmp_path, resealed({**content, bundle.WEIGHTS: b"\x80\x04."}))


def test_a_config_that_would_fill_the_memory_is_refused(exported: Path, tmp_path: Path) -> None:
    content = members(exported)
    wide = content[bundle.CONFIG].replace(b"width: 4", b"width: 40000")
    assert "unlike the model" in refused(tmp_path, resealed({**content, bundle.CONFIG: wide}))
    laughs = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*{'a' if not n else f'b{n - 1}'}, *a]\n" for n in range(40))
    assert "alias" in refused(tmp_path, resealed({**content, bundle.CONFIG: laughs.encode()}))
    assert "interpolation" in refused(tmp_path, resealed({**content, bundle.CONFIG: b"seed: ${oc.env:HOME}\n"}))
    assert "implausible" in refused(tmp_path, resealed(content, lambda known: known["model"].update(size=[10**9, 32])))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no configs/model.json.* give a run's folder"):
        load(tmp_path)
    assert "give a run's folder" in refused(tmp_path, b"hello")


def test_a_link_out_of_the_folder_is_refused(exported: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(exported, tmp_path)
    file = tmp_path / "model" / bundle.WEIGHTS
    file.rename(tmp_path / "weights")
    file.symlink_to(tmp_path / "weights")
    with pytest.raises(StoreError, match="leads out"):
        load(tmp_path / "model")


def test_a_full_disk_leaves_nothing(trained: Path, small_disk: Path) -> None:
    made: Synthesiser = load(trained)
    (small_disk / "fill").write_bytes(bytes(590_000))
    with pytest.raises(OSError, match="space"):
        bundle.write(made, small_disk / "model.zip")
    assert [path.name for path in small_disk.iterdir()] == ["fill"]
