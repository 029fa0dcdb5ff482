"""Figures of merit of the preprocessing, measured on the machine at hand.

    python -m preprocess.bench                  every bench
    python -m preprocess.bench n4 subjects=4    one of them, with settings (--help lists them)

subjects: seconds of a subject by stage, peak memory of a worker, store against sources, two workers against one.
n4: CPU time and residual of bias correction against the phantom's known field, over a grid of settings and against common practice.
chunks: reading times of the two chunk layouts of the store.
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
        raise SettingError(f"'{words[0]}' is no bench: name one first ({', '.join(BENCHES)}), or none for all")
    for name in words[:1] or BENCHES:
        schema, run = BENCHES[name]
        run(parse(schema, words[1:]))
    return 0


if __name__ == "__main__":
    named = next((word for word in sys.argv[1:] if word in BENCHES), None)
    command(main, __doc__, BENCHES[named][0] if named else None)
