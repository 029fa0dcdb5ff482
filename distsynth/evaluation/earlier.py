"""What an earlier evaluation of the same checkpoint has scored stays beside the new scores: other cohorts, the baselines, a judge's Dice."""

from __future__ import annotations

import json
from typing import Any

from distsynth.evaluation.metrics import summarise
from distsynth.run_directory import RunDirectory
from preprocess.cohort.files import json_digest
from preprocess.shared.files import read_bytes, write_json

Scores = dict[str, Any]  # the content of scores.json, and WHOSE they are, and of each cohort its `digest`
WHOSE = ("made_of", "judge")  # identifies the checkpoint; the run that evaluate.judge names
ORIGIN = "made_of.json"
NAMES = ("cohort", "subject", "modality", "model", "region")  # which identify a row
CLOSE = 1e-3  # dB by which scores of the same weights may differ on another machine


def read(run: RunDirectory) -> Scores | None:
    """The scores of an earlier evaluation; None if there are none or they are damaged. Whose they are is known if made_of.json fits them."""
    try:
        scores: Scores = json.loads(read_bytes(run.scores))
        if not {"rows", "cohorts"} <= scores.keys():
            return None
        origin = json.loads((run.evaluation / ORIGIN).read_text()) if (run.evaluation / ORIGIN).is_file() else {}
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    if origin.get("scores") != json_digest(scores):  # of a version without it, or killed between the two files
        return scores
    for name, digest in origin["cohorts"].items():
        scores["cohorts"][name]["digest"] = digest
    return scores | {name: origin[name] for name in WHOSE if name in origin}


def write(run: RunDirectory, scores: Scores) -> None:
    """Write scores.json, and beside it made_of.json, which says whose scores they are."""
    plain = {name: value for name, value in scores.items() if name not in WHOSE}
    plain["cohorts"] = {
        name: {key: value for key, value in cohort.items() if key != "digest"} for name, cohort in scores["cohorts"].items()
    }
    digests = {name: cohort["digest"] for name, cohort in scores["cohorts"].items() if "digest" in cohort}
    write_json(run.scores, plain)
    origin = {name: scores[name] for name in WHOSE if name in scores}
    write_json(run.evaluation / ORIGIN, {**origin, "cohorts": digests, "scores": json_digest(json.loads(run.scores.read_text()))})


def added(earlier: Scores | None, new: Scores) -> tuple[Scores, str]:
    """The new scores with those of the earlier ones that are still valid, and a sentence on those that are not, or nothing."""
    if earlier is None:
        return new, ""
    if not same_checkpoint(earlier, new):
        gone = [name for name in earlier["cohorts"] if name not in new["cohorts"]]
        return new, dropped(gone, "another checkpoint of this run") if gone else ""
    kept = {name: cohort for name, cohort in earlier["cohorts"].items() if still(name, cohort, new)}
    replaced = [name for name in earlier["cohorts"] if name not in kept]
    rows = {key(row): row for row in earlier["rows"] if row["cohort"] in kept}
    notes = [dropped(replaced, "another cohort of that name")] if replaced else []
    if new.get("judge") and earlier.get("judge", new["judge"]) != new["judge"]:
        judged = {row["cohort"] for row in rows.values() if "judge_dice" in row} - set(new["cohorts"])
        rows = {place: without_judge(row) for place, row in rows.items() if len(row) > len(NAMES) + ("judge_dice" in row)}
        notes += (
            [f"the Dice of another judge in {', '.join(sorted(judged))} is dropped: name them again to judge them"]
            if judged
            else []
        )
    for row in new["rows"]:
        rows[key(row)] = rows.get(key(row), {}) | row
    return {**earlier, **new, **whole(kept | new["cohorts"], list(rows.values())), **compared(earlier, new)}, "; ".join(notes)


def same_checkpoint(earlier: Scores, new: Scores) -> bool:
    """Whether both are of the same weights; scores that do not say so, of an older version, are compared by what both have scored."""
    if "made_of" in earlier:
        return bool(earlier["made_of"] == new["made_of"])
    theirs = {key(row): row["psnr"] for row in earlier["rows"] if row.get("model") == "synthesised" and "psnr" in row}
    ours = {key(row): row["psnr"] for row in new["rows"] if row.get("model") == "synthesised" and "psnr" in row}
    both = theirs.keys() & ours.keys()
    return bool(both) and all(abs(theirs[place] - ours[place]) < CLOSE for place in both)


def still(name: str, cohort: dict[str, Any], new: Scores) -> bool:
    """Whether an earlier cohort is not one that has another content now."""
    now = new["cohorts"].get(name)
    return now is None or cohort.get("digest", now["digest"]) == now["digest"]  # of an older version it is not known


def whole(cohorts: dict[str, Any], rows: list[dict[str, Any]]) -> Scores:
    """The rows and their means by cohort."""
    named = {
        name: {**cohort, "scores": summarise([row for row in rows if row["cohort"] == name])} for name, cohort in cohorts.items()
    }
    return {"cohorts": named, "rows": rows}


def compared(earlier: Scores, new: Scores) -> Scores:
    """The baselines, of the evaluation that has any, and the last judge."""
    judge = new.get("judge") or earlier.get("judge")
    return {name: new.get(name) or earlier.get(name) for name in ("copied", "beaten_against")} | (
        {"judge": judge} if judge else {}
    )


def key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in NAMES)


def without_judge(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "judge_dice"}


def dropped(names: list[str], why: str) -> str:
    again = " ".join(f"data.external.{name}=…" for name in names if name not in ("val", "test"))
    return f"the earlier scores of {', '.join(names)} are of {why} and are dropped" + (
        f": {again} scores them again" if again else ""
    )
