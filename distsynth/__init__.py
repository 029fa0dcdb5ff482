"""MRI contrast synthesis: data feeds, networks, methods, training, evaluation and tracking."""

import os

# torch reads this when it is imported: a lost rank is reported in one sentence (distsynth.ranks.watchdog), not by pages of C++ frames.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
