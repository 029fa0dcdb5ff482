"""Benchmarks of the preprocessing: `python -m preprocess.bench`."""
