"""Made-up patients: `python -m preprocess.phantom`."""
