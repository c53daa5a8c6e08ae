"""What the process asks of the machine: memory that training keeps and gives back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mrict_core.paths import ROOT

BLOCKS = """
import ctypes, sys
from pathlib import Path
from mrict_core.runtime import kept_memory

def resident_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

def use():
    block = ctypes.create_string_buffer(2**26)  # 64 MiB, written once
    del block

before = resident_mib()
try:
    with kept_memory():
        use()
        inside = resident_mib()
        if sys.argv[1] == "fails":
            raise KeyError
except KeyError:
    pass
after = resident_mib()
use()
print(inside - before, after - before, resident_mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and mallopt are Linux's")
@pytest.mark.parametrize("ending", ["ends", "fails"])
def test_freed_memory_stays_while_training_lasts_and_goes_back_afterwards(ending):
    done = subprocess.run([sys.executable, "-c", BLOCKS, ending], cwd=ROOT, capture_output=True, text=True, check=True)
    inside, after, later = map(float, done.stdout.split())
    assert inside > 60
    assert after < 8
    assert later < 8


def test_a_system_without_glibc_trains_as_before():
    use = "from mrict_core.runtime import kept_memory\nwith kept_memory(): print(1)"
    code = f"import sys; sys.platform = 'other'\n{use}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
