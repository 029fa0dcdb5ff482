"""Synthesis: a trained model makes a patient's missing contrasts, here or where it was handed over to.

synthesiser.py   a trained model with all that it needs to be used: recipe, units, metric card
models.py        where it comes from: a run, the best of a sweep, an exported model
tasks.py         what a model can make of what a patient has
cases.py         one patient's named files
patient.py       a patient's scans as the recipe makes them, and made volumes back on the patient's grid
tiles.py         a brain larger than the training crop, in overlapping crops
session.py       one call: patients made and written one after another
outcome.py       what a call asks of every patient, and what became of each
naming.py        the names of the files that are written
sidecar.py       the JSON beside each image
quicklook.py     a picture of a patient's inputs and synthesised contrasts
bundle.py        an exported model; archive.py, its zip, and model_card.py, its texts
forms.py         the network as ONNX or pt2
mlflow_model.py  the model as MLflow serves it; pyfunc.py, the code that MLflow runs, and served.py, its answers
"""
