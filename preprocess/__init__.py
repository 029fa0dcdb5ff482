"""Files to arrays: find BRATS cases, correct, normalise, crop, and keep them as a Zarr cohort. No torch here."""
