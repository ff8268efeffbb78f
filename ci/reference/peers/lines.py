"""The lines that peers speak with the bench: see guest/engine/examples/measure.rs.

A peer says what it took to be ready, then answers each task of standard input with wall-clock seconds, processor seconds
of all its threads, what it counted, and its resident memory.
"""

import json
import os
import sys
import time

# Before the libraries are imported: they read these when they are loaded.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_PROGRESS_BARS="1")


def resident():
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def say(**values):
    print(json.dumps(values), flush=True)


def serve(loaded, versions, tasks):
    """`loaded` is (wall, cpu) of before and after loading; `tasks` are functions by name, each returning what it counted."""
    (wall, cpu), (wall_after, cpu_after) = loaded
    say(ready={"wall": wall_after - wall, "cpu": cpu_after - cpu, "rss": resident()}, versions=versions)
    for line in sys.stdin:
        name, *numbers = line.split()
        prepared = tasks[name](*numbers)
        wall, cpu = clocks()
        count = prepared()
        wall_after, cpu_after = clocks()
        say(wall=wall_after - wall, cpu=cpu_after - cpu, count=count, rss=resident())


def blas():
    """The libraries that multiply for torch, as they are loaded: a generic one is many times slower than a tuned one."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        files = {os.path.basename(line.split()[-1]) for line in maps if "/lib" in line}
    return ", ".join(sorted(name for name in files if name.startswith("lib") and "blas" in name)) or "its own"


def clocks():
    return time.perf_counter(), time.process_time()
