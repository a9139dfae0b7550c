"""How many processor cores this process may use, and of which kind."""
import contextlib
import importlib.metadata
import math
import os
import platform
from pathlib import Path

CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # which this process is in, and what they are granted

ABOUT = Path("/proc/cpuinfo")  # of Linux


def describe(*packages):
    """The machine in words, and the versions of installed packages: "2 cores (AMD EPYC 7763), torch 2.14.1"."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([f"{cores()} core{'s' * (cores() > 1)} ({processor()})", *versions])


def processor():
    """The processor's name, such as AMD EPYC 7763, without commas; elsewhere than on Linux what the system says."""
    with contextlib.suppress(OSError):
        for line in ABOUT.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.replace(",", " ").split())
    return (platform.processor() or platform.machine()).replace(",", " ")


def cores():
    """Number of cores that this process may use: those it may run on, or fewer by the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(*CGROUPS)
    return allowed if quota > allowed else max(1, math.ceil(quota))


def _quota(own, root):
    """Processor time per time that the control groups of Linux grant, in cores; infinite where there are none.

    own: a file as /proc/self/cgroup, lines of number:controllers:path; root: where the groups are mounted. In a
    container the path may be that of the host: then the group of the container is the root itself.
    """
    quotas = [math.inf]
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            base = root / "cpu" if controllers else root  # version 1, version 2
            for group in [base / path.strip("/"), *(base / path.strip("/")).parents]:
                if group.is_relative_to(base):  # a group's own quota and those of the groups around it
                    quotas.append(_quota_of(group))
    return min(quotas)


def _quota_of(group):
    """The same of one group's files."""
    with contextlib.suppress(OSError, ValueError):
        if (group / "cpu.max").exists():
            granted, period = (group / "cpu.max").read_text().split()
        else:
            granted, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(granted) > 0 < int(period):
            return int(granted) / int(period)
    return math.inf
