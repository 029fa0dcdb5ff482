"""Learning: data feed, networks, methods, trainer, metrics and tracking for MRI contrast synthesis."""

import os

# A lost rank is told in one sentence (distsynth.ranks.watchdog), not in c10d's pages of C++ frames. Read when torch is loaded.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
