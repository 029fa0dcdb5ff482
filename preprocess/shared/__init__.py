"""What all three storeys (slurm, distsynth, preprocess) use.

settings.py   typed settings from `key=value` words, and how a command runs
errors.py     errors that are one sentence to the user
files.py      writing files atomically, reading plain files only
locks.py      locks between processes
terminal.py   control characters in names
"""
