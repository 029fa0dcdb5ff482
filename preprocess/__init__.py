"""Files to arrays: find the BRATS cases, correct, normalise and crop them, and store them as a Zarr cohort. No torch here.

From top to bottom; a file imports from its own folder or from a lower row:

    bench/                                       measures speed, memory and bias correction
    explore/  phantom/                           figures of a cohort; made-up patients
    to_zarr.py  restore.py                       the commands: cases into a cohort, and arrays back to a patient's grid
    recipe.py                                    the preprocessing settings, and what they make of one case
    cohort/                                      the Zarr store: its layout, reading, writing, checking and summary
    source/                                      finding and reading the cases: file names, grades, images, scans
    splits.py  bias.py  intensity.py             the steps, as functions of names and arrays
    geometry.py  spline.py                       grids: orientation, resampling, crop; cubic B-splines on them
    shared/                                      what all three storeys use: settings, errors, locks, files
"""
