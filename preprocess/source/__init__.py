"""The source: finding and reading the cases of a folder.

brats.py     the cases of a folder, from the names of its files
layouts.py   how each year's challenge, BIDS or the user names files
grades.py    HGG or LGG, from folders and tables
scans.py     one case as arrays on one grid, with its brain mask
images.py    one file as an array
"""
