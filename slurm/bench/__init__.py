"""Measurements of the launcher on real processes.

    python -m slurm.bench.faults store=data/phantom.zarr      what each fault does to a run (--help lists the settings)

faults   the faults and the table
trial    the small training run that each fault is done to
"""
