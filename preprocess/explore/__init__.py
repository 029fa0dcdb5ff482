"""Shows a cohort before anything is trained on it: figures on one page, and what is odd in it.

    python -m preprocess.explore COHORT.zarr

flags.py detects odd subjects, sample.py reads some of the subjects, stages.py repeats the recipe on one, pictures.py and charts.py draw,
report.py decides what is on the page and page.py writes it.
"""
