"""Measures the preprocessing on this machine.

    python -m preprocess.bench                  all benchmarks
    python -m preprocess.bench n4 subjects=4    one of them, with settings (--help lists them)

subjects: seconds per subject by stage, peak memory of a worker, size of the store, and the gain of a second worker.
n4: CPU time of bias correction and what it leaves of the phantoms' known field, for a grid of settings and for common practice.
chunks: reading times of the store's two chunk layouts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from preprocess.bench import chunks, n4, subjects
from preprocess.shared.errors import SettingError
from preprocess.shared.settings import command, parse

BENCHES: dict[str, tuple[type, Callable[[Any], None]]] = {
    "subjects": (subjects.Settings, subjects.run),
    "n4": (n4.Settings, n4.run),
    "chunks": (chunks.Settings, chunks.run),
}


def main(words: Sequence[str]) -> int:
    if words and words[0] not in BENCHES:
        raise SettingError(f"'{words[0]}' is not a benchmark: give one of {', '.join(BENCHES)} first, or none for all")
    for name in words[:1] or BENCHES:
        schema, run = BENCHES[name]
        run(parse(schema, words[1:]))
    return 0


if __name__ == "__main__":
    named = next((word for word in sys.argv[1:] if word in BENCHES), None)
    command(main, __doc__, BENCHES[named][0] if named else None)
