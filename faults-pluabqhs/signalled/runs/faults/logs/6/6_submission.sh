#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=1
#SBATCH --error=/work/main/faults-pluabqhs/signalled/runs/faults/logs/%j/%j_0_log.err
#SBATCH --job-name=distsynth-faults
#SBATCH --mem=2GB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/work/main/faults-pluabqhs/signalled/runs/faults/logs/%j/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=720
#SBATCH --wckey=submitit

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /work/main/faults-pluabqhs/signalled/runs/faults/logs/%j/%j_%t_log.out --error /work/main/faults-pluabqhs/signalled/runs/faults/logs/%j/%j_%t_log.err --kill-on-bad-exit=1 /work/main/.venv/bin/python -u -m submitit.core._submit /work/main/faults-pluabqhs/signalled/runs/faults/logs/%j
