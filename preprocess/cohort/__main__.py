"""Shows what a cohort holds, and checks every byte of it against its manifest.

python -m preprocess.cohort info COHORT.zarr       what is in it
python -m preprocess.cohort tree COHORT.zarr       its groups and arrays
python -m preprocess.cohort verify COHORT.zarr     lists changed, missing and unexpected files; exit status 1 if there are any
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from preprocess.cohort.files import IMAGE, SEG, shard_path, subject_path
from preprocess.cohort.reader import Cohort
from preprocess.cohort.summary import print_splits
from preprocess.cohort.verify import verify
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import command, flatten


def main(words: Sequence[str]) -> int:
    verbs: dict[str, Callable[[Cohort], int]] = {"info": info, "tree": tree, "verify": verify_all}
    if len(words) != 2 or words[0] not in verbs:
        raise SettingError(f"give one of {', '.join(verbs)} and a cohort, for example: info data/brats.zarr")
    return verbs[words[0]](Cohort.open(words[1]))


def info(cohort: Cohort) -> int:
    """Print the recipe, the subjects by split and grade, and counts of all else."""
    records = list(cohort.records.values())
    files = [path for path in cohort.path.rglob("*") if path.is_file()]
    print(f"{cohort.path}: {len(records)} subjects of {len({r.patient for r in records})} patients, {size(files)}")
    print_splits(cohort)
    print("contrasts: " + ", ".join(f"{m} {sum(m in r.modalities for r in records)}" for m in cohort.modalities)
          + f"; segmentations {sum(r.has_labels for r in records)}")  # fmt: skip
    for name, shapes in (
        (
            "stored grids (z, y, x)",
            Counter(f"{'x'.join(map(str, r.shape))} of {'x'.join(f'{s:g}' for s in r.spacing)} mm" for r in records),
        ),
        ("scanned (x, y, z)", Counter(f"{'x'.join(map(str, r.original_shape))} {r.original_orientation}" for r in records)),
    ):
        print(f"{name}: " + ", ".join(f"{shape} ({count})" for shape, count in shapes.most_common(5)))
    if cohort.rejected:
        print(f"cases set aside: {len(cohort.rejected)}, see {cohort.path / 'rejected.json'}")
    print(f"digest {cohort.digest}")
    for key, value in flatten(cohort.recipe, "recipe."):
        print(f"{key}={value}")
    return 0


def tree(cohort: Cohort) -> int:
    """Print each subject's arrays with their type, shape, chunks and bytes."""
    print(f"{cohort.path} (Zarr v3, OME-Zarr 0.5 images)")
    for subject in cohort.subjects:
        print(f"  subjects/{subject}")
        for name, array in ((IMAGE, cohort.lazy_image(subject)), (SEG, cohort.lazy_labels(subject))):
            shard = shard_path(subject_path(cohort.path, subject) / name, array.ndim)
            print(f"    {name}  {array.dtype}  {array.shape}  chunks {array.chunks}  {size([shard])}")
    return 0


def verify_all(cohort: Cohort) -> int:
    """Print one line per fault; the exit status."""
    faults = 0
    for sentence in verify(cohort):
        faults += 1
        print(sentence)
    result = f"{faults} fault{'s' * (faults > 1)}" if faults else "no byte has changed"
    print(f"{cohort.path}: {len(cohort.subjects)} subjects, {result}")
    return 1 if faults else 0


def size(paths: Sequence[Path]) -> str:
    from rich.filesize import decimal

    return decimal(sum(path.stat().st_size for path in paths))


if __name__ == "__main__":
    command(main, __doc__)
