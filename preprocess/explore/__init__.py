"""Looking at a cohort before anything is trained on it: figures, one page, and what is odd.

    python -m preprocess.explore COHORT.zarr

flags.py finds what is odd, sample.py reads some subjects, stages.py repeats the recipe on one, pictures.py and charts.py draw, page.py
makes the one page.
"""
