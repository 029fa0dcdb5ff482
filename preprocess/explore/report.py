"""The page's content: the figures of a cohort, and the text of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from preprocess.cohort import BACKGROUND, Cohort, Record
from preprocess.cohort.oddities import FAR, LOST, OUTSIDE, Flag
from preprocess.explore import charts, pictures
from preprocess.explore.page import Section, Table, write
from preprocess.explore.sample import Cases, examples, histograms, losses
from preprocess.explore.stages import repeated, stored
from preprocess.explore.style import GRADES, SPLIT_TITLES, TITLES

WITHOUT_SOURCE = "Only from the store. With source=FOLDER, the folder that the cohort was made from, this also shows "


def report(
    cohort: Cohort, sample: Sequence[str], subject: str, cases: Cases, flagged: Sequence[Flag], out: Path, repeat: str
) -> Path:
    """Draw everything into the folder `out` and return the page. Raises StoreError for a damaged array, CaseError for a damaged source file."""
    sections = [
        flag_section(flagged),
        contrasts(cohort, sample, out),
        stages(cohort, subject, cases, out),
        augmentations(cohort, subject, out),
        split(cohort, out),
        intensities(cohort, sample, cases, out),
        *(labelled(cohort, out) if any(record.label_voxels for record in cohort.records.values()) else []),
        crop(cohort, out),
    ]
    page = out / "index.html"
    read = f"Read: records and labels of all {len(cohort.subjects)} subjects; images of {len(sample)}, evenly spread over the grades."
    footer = [repeat, f"digest {cohort.digest}"]
    write(page, sections, name=cohort.path.resolve().name, read=read, facts=facts(cohort), footer=footer)
    return page


def facts(cohort: Cohort) -> list[tuple[str, str]]:
    """The cohort in a few numbers."""
    records, recipe = list(cohort.records.values()), cohort.recipe
    grades = Counter(record.grade for record in records)
    having = {m: sum(m in record.modalities for record in records) for m in cohort.modalities}
    grids = Counter(f"{by(reversed(r.shape))} of {by(reversed(r.spacing))} mm" for r in records)
    grid, same = grids.most_common(1)[0]
    return [
        ("subjects, patients", f"{len(records)}, {len({record.patient for record in records})}"),
        ("grades", ", ".join(f"{grades[grade]} {grade}" for grade in GRADES if grades[grade])),
        ("contrasts", ", ".join(TITLES[m] + f" ({n})" * (n < len(records)) for m, n in having.items())),
        ("segmentations", str(sum(record.has_labels for record in records))),
        ("stored grid, x y z", grid if same == len(records) else f"{grid} ({same} subjects; {len(grids) - 1} other grids)"),
        ("clip at each end", f"{recipe['clip_percent']:g} %"),
        ("bias correction", f"N4 on {recipe['n4']['spacing']:g} mm" if recipe["n4"]["enabled"] else "none"),
    ]


def by(numbers: Iterable[float]) -> str:
    return " × ".join(f"{n:.3g}" for n in numbers)


def flag_section(flagged: Sequence[Flag]) -> Section:
    checked = (
        "Checked: cases set aside; contrasts and segmentations that other subjects have; the same image under two names; a maximum of "
        f"32767 or 65535, or over {FAR} standard deviations above the brain's mean; contrasts that are 0 in over {100 * OUTSIDE:g} % of the "
        f"brain of other contrasts; axial slices of one intensity; over {100 * LOST:g} % of the brain or of the tumour outside the crop; "
        "empty segmentations, unknown labels, tumour outside the brain."
    )
    if not flagged:
        return Section("Flags", lines=["Nothing is odd.", checked])
    rows = [(flag.subject, flag.contrast, flag.what, flag.number) for flag in flagged]
    first = f"{len(flagged)} flags in {len({flag.subject for flag in flagged})} subjects or cases."
    return Section(
        "Flags", lines=[first, checked], tables=[Table(("subject", "contrast", "what", "number"), rows, [3], tall=True)]
    )


def contrasts(cohort: Cohort, sample: Sequence[str], out: Path) -> Section:
    subjects = examples(cohort, sample)
    path = pictures.draw_contrasts(out / "contrasts.png", cohort, subjects)
    caption = "A few subjects, each in the axial slice with most brain, grey values between the clip bounds. The patient's left is on the left."
    if any(cohort.record(subject).label_voxels for subject in subjects):
        caption = (
            caption.replace("most brain", "most tumour")
            + " Right: the last contrast with the labels' outlines, by BRATS's names."
        )
    return Section("Contrasts and segmentation", caption, path, dark=True)


def stages(cohort: Cohort, subject: str, cases: Cases, out: Path) -> Section:
    steps = repeated(cohort, cases[subject]) if cases else stored(cohort, subject)
    z = pictures.fullest_slice(cohort.labels(subject), cohort.image(subject)[0] != BACKGROUND) + steps.offset[0]
    path = pictures.draw_stages(out / "stages.png", steps, z)
    caption = f"The recipe on {subject}, one contrast per row. Blue: the brain mask and the crop box; dashed: the clip bounds."
    caption += " The bias field is divided by its mean." if cases else ""
    if not cases:
        lines = [f"{WITHOUT_SOURCE}the scan, the brain mask, the bias field, and what is outside the crop."]
    elif steps.same:
        lines = ["Repeated from the source files; the result equals the stored image to the last bit."]
    else:
        lines = [
            "Repeated from the source files; the result is NOT equal to the stored image to the last bit: other files, or another machine."
        ]
    return Section("Stages of the recipe", caption, path, dark=True, lines=lines)


def augmentations(cohort: Cohort, subject: str, out: Path) -> Section:
    path = pictures.draw_augmentations(out / "augmentations.png", cohort, subject)
    caption = f"A slice of {subject} in the six ways in which training can use it: flipped left-right or not, rotated by 0, 90 or 180 degrees."
    return Section("Augmentations", caption, path, dark=True)


def split(cohort: Cohort, out: Path) -> Section:
    rows = charts.split_rows(cohort)
    folds = len(cohort.manifest["folds"])
    grades = [grade for grade in GRADES if any(counts[grade] for _, _, counts in rows)]
    table = [
        [*([str(fold)] * (folds > 1)), SPLIT_TITLES[name], *(str(counts[g]) for g in grades), str(counts.total())]
        for fold, name, counts in rows
    ]
    columns = [*(["fold"] * (folds > 1)), "split", *grades, "subjects"]
    numbers = range(len(columns) - len(grades) - 1, len(columns))
    path = charts.draw_split(out / "split.png", rows)
    caption = "Subjects by split and grade" + (f", for each of {folds} folds." if folds > 1 else ".")
    return Section("Split", caption, path, tables=[Table(columns, table, numbers)])


def intensities(cohort: Cohort, sample: Sequence[str], cases: Cases, out: Path) -> Section:
    before = "source units, as scanned" if cases else "source units, bias-corrected"
    path = charts.draw_histograms(out / "intensities.png", histograms(cohort, sample, cases), before)
    caption = (
        f"Intensities inside the brain of {len(sample)} subjects, before and after: a thin line per subject, black their mean. "
        "Ticks: each subject's clip bounds, which are of the bias-corrected intensities; dashed: their medians."
    )
    lines = [] if cases else [f"{WITHOUT_SOURCE}the intensities before bias correction."]
    return Section("Intensities", caption, path, lines=lines)


def labelled(cohort: Cohort, out: Path) -> list[Section]:
    """The sections that need segmentations."""
    volumes = "Tumour volume by label and grade, a point per subject. Boxes: quartiles; whiskers: furthest points within 1.5 times the box's height."
    clipped = (
        f"How much of the lesions the clip at {cohort.recipe['clip_percent']:g} % of the brain changes: the share of a label's voxels beyond "
        "the clip bounds, a point per subject. The store is unclipped; training clips on reading (data.clip)."
    )
    return [
        Section("Tumour volume", volumes, charts.draw_volumes(out / "volumes.png", cohort)),
        Section("Lesions and the clip", clipped, charts.draw_clip_shares(out / "clip.png", cohort)),
    ]


def crop(cohort: Cohort, out: Path) -> Section:
    worst = losses(cohort)
    path = charts.draw_losses(out / "crop.png", cohort, worst)
    box = cohort.recipe.get("box")
    size = f"{by(box)} voxels" if box else f"{by(cohort.recipe['crop'])} mm"
    caption = f"Brain outside the crop of {size} (x, y, z), which is centred on the brain; dashed: {100 * LOST:g} %."
    if not worst:
        return Section("Brain outside the crop", caption, path, lines=["All of the brain is inside the crop."])
    rows = [(s, f"{share:.2%}", *(f"{mm:.0f}" for mm in brain_mm(cohort.record(s)))) for s, share in worst]
    columns = ("subject", "outside", "brain x (mm)", "y", "z")
    return Section("Brain outside the crop", caption, path, tables=[Table(columns, rows, range(1, 5))])


def brain_mm(record: Record) -> list[float]:
    """The size x, y, z in mm of the whole brain, before the crop."""
    return [n * mm for n, mm in zip(record.brain_size, record.spacing, strict=True)][::-1]
