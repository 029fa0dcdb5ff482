"""What all three storeys (slurm, distsynth, preprocess) use.

settings.py   typed settings from `key=value` words, and how a command runs
errors.py     errors that are one sentence to the user
files.py      writing files atomically
locks.py      locks between processes
"""
