"""Synthesis: a trained model makes a patient's missing contrasts.

synthesiser.py   a trained model with all that it needs to be used: recipe, units, metric card
models.py        where it comes from: a run, the best of a sweep, an exported model
patient.py       a patient's scans as the recipe makes them, and made volumes back on the patient's grid
tiles.py         a brain larger than the training crop, in overlapping crops
naming.py        the names of the files that are written
sidecar.py       the JSON beside each image
quicklook.py     a picture of a patient's inputs and synthesised contrasts
"""
