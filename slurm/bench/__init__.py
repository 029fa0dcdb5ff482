"""How the launcher bears faults, measured on real processes.

    python -m slurm.bench.faults store=data/phantom.zarr      a table of faults: how soon noticed, updates repeated, result equal? (--help)

faults   the faults and the table
trial    the small training run that each fault is done to
"""
