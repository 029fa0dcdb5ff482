#!/bin/sh
# How this folder was made, by the code of commit 59df38d in its own checkout, on 2026-11-30:
#     cd CHECKOUT && PYTHON=… sh HERE/how.sh /data/made_by_59df38d && $PYTHON HERE/collect.py /data/made_by_59df38d
# The configurations name that folder; the tests put their own in its place.
set -e
export OMP_NUM_THREADS=1 PYTHONPATH="$PWD" MLFLOW_TRACKING_URI=
WHERE=$1
COMMON="sweep.name=old runs=$WHERE/runs data.store=$WHERE/cohort.zarr cluster=local cluster.ranks=1 poll_seconds=0.2
    train.device=cpu train.steps_per_epoch=8 train.log_every=1 evaluate.figures=1"

rm -rf "$WHERE"
$PYTHON -m preprocess.phantom out="$WHERE/phantom" subjects=5 spacing=8 seed=59 workers=1
$PYTHON -m preprocess.to_zarr source="$WHERE/phantom" store="$WHERE/cohort.zarr" workers=1 'recipe.n4.iterations=[5]' 'split.counts=[1,3,1]'

# miso_flair_unet: finished.
$PYTHON slurm/launch.py variant=miso_flair method=unet_small method.width=4 method.depth=2 train.epochs=2 $COMMON
# simo_tcmgan: stopped by SIGTERM in the midst of an epoch of its second stage. Two settings that were renamed since are not at their default.
$PYTHON slurm/launch.py variant=simo method=tcmgan_small method.generator.width=3 method.generator.depth=2 method.generator.direct=false method.critic.width=3 \
    method.critic.depth=2 method.segmentor.width=2 method.segmentor.epochs=1 train.epochs=4 train.insight=false evaluate.floors=false $COMMON &
LAUNCHER=$!
$PYTHON - "$WHERE/runs/old/simo_tcmgan/journal.jsonl" 12 <<'STOP'
import json, os, signal, sys, time
from pathlib import Path

journal, step = Path(sys.argv[1]), int(sys.argv[2])
while True:
    lines = [json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")] if journal.is_file() else []
    if any(line.get("step", 0) >= step for line in lines):
        os.kill(lines[0]["pid"], signal.SIGTERM)
        break
    time.sleep(0.002)
STOP
wait $LAUNCHER || echo "the launcher ended with $?, as it should: a run is stopped"

# What this version makes of them: the scores of the finished one anew, and the stopped one's end.
cp -r "$WHERE/runs" "$WHERE/stopped"
$PYTHON -m distsynth.evaluate run="$WHERE/runs/old/miso_flair_unet" > "$WHERE/evaluated.txt"
$PYTHON -m distsynth.train run="$WHERE/runs/old/simo_tcmgan"
$PYTHON -m distsynth.tracking.sync sweep="$WHERE/runs/old"
