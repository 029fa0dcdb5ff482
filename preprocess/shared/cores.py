"""The CPU cores that this process may really use."""

from __future__ import annotations

import os
from pathlib import Path


def cores(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int:
    """The cores of the process's affinity mask, at most those of its control groups' quotas (Docker, Kubernetes, a login node's share per
    user); at least 1."""
    return max(1, min([len(os.sched_getaffinity(0)), *map(int, quotas(root, groups))]))


def quotas(root: Path, groups: Path) -> list[float]:
    """The cores that the process's groups and the groups around them allow; the kernel's files for cgroup v2 and v1."""
    found = []
    for line in read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        base = root if not controllers else root / "cpu" if "cpu" in controllers.split(",") else None
        here = base and base / path.lstrip("/")
        while base and here and here.is_relative_to(base):
            limit = read(here / "cpu.max").split() or [read(here / f"cpu.cfs_{each}_us").strip() for each in ("quota", "period")]
            if all(value.isdecimal() for value in limit):  # neither `max` nor -1: no limit
                found.append(int(limit[0]) / int(limit[1]))
            here = None if here == base else here.parent
    return found


def read(path: Path) -> str:
    """A file's text; empty if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
