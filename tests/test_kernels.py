"""Kernels forked from one process: as separate as kernels started anew, and gone when the suite is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from mrict_core.paths import ROOT
from mrict_core.suite.kernels import FORKS, ForkedProcess, ForkServer, kernel_managers

pytestmark = pytest.mark.skipif(not FORKS, reason="kernels are forked on Linux only")


@pytest.fixture(scope="module")
def kernels():
    with kernel_managers() as managers:
        yield managers


def run(kernels: type, *cells: str, folder: Path = ROOT) -> list[str]:
    """Run cells in a kernel; return what each printed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="python3", kernel_manager_class=kernels, resources=resources).execute()
    return ["".join(output.get("text", "") for output in cell.outputs).strip() for cell in notebook.cells]


def test_begins_with_what_notebooks_import(kernels):
    (loaded,) = run(kernels, "import sys\nprint(*('torch' in sys.modules, 'matplotlib.pyplot' in sys.modules))")
    assert loaded == "True True"


def test_folder_and_environment_are_those_of_its_start(kernels, tmp_path, monkeypatch):
    run(kernels, "1")  # the server runs from here on
    monkeypatch.setenv("MRICT_REPORTS", str(tmp_path / "elsewhere"))
    (folder, there) = run(
        kernels, "import os\nprint(os.getcwd())", "print(os.environ['MRICT_REPORTS'])", folder=tmp_path
    )
    assert (folder, there) == (str(tmp_path), str(tmp_path / "elsewhere"))


def test_state_of_one_is_not_seen_in_the_next(kernels):
    change = (
        "import torch, numpy, matplotlib\ntorch.manual_seed(7)\ntorch.set_num_threads(1)\nmatplotlib.rc('font', size=3)"
    )
    tell = "import torch, matplotlib\nprint(torch.initial_seed() == 7, matplotlib.rcParams['font.size'])"
    threads = "import torch\nprint(torch.get_num_threads())"
    before = run(kernels, threads)
    run(kernels, change)
    assert run(kernels, tell) == ["False 10.0"]
    assert run(kernels, threads) == before


def test_computes_what_a_new_process_computes(kernels):
    """Linear algebra and convolutions use threads of their own, which a fork must make anew."""
    code = (
        "import numpy as np, torch\n"
        "torch.manual_seed(1); rng = np.random.default_rng(1)\n"
        "image, kernel = torch.rand(2, 24, 64, 64), torch.rand(24, 24, 3, 3)\n"
        "matrix = rng.random((300, 300))\n"
        "print(torch.nn.functional.conv2d(image, kernel).double().sum().item(), (matrix @ matrix).sum(),"
        " torch.get_num_threads())"
    )
    anew = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert run(kernels, code) == [anew]


def test_processes_of_a_kernel_end_as_usual(kernels):
    """The server reaps nothing for its children: a kernel learns how its own processes ended."""
    pool = (
        "from concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing import get_context\n"
        "with ProcessPoolExecutor(2, mp_context=get_context('spawn')) as pool:\n    print(list(pool.map(abs, [-1, 2])))"
    )
    status, values = run(kernels, "import subprocess, sys\nprint(subprocess.run(['false']).returncode)", pool)
    assert (status, values) == ("1", "[1, 2]")


def test_leads_a_group_of_its_own(kernels):
    """Ctrl-C in a terminal goes to a whole group; the suite ends its kernels in order."""
    (numbers,) = run(kernels, "import os\nprint(os.getpid(), os.getpgid(0))")
    process, group = map(int, numbers.split())
    assert process == group != os.getpgid(0)


def test_what_is_imported_before_forks_asks_for_no_gpu():
    """CUDA refuses to work in the forks of a process that has but counted its devices."""
    code = (
        "import torch\nasked = []\ntorch._C._cuda_getDeviceCount = lambda: asked.append('GPU') or 0\n"
        "torch.cuda.is_available(); assert asked; asked.clear()\n"
        "from mrict_core.suite.fork_server import preload\npreload()\nprint(asked)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_kernel_no_server():
    with kernel_managers() as managers:
        assert managers.server.process is None


def test_nothing_is_left_running():
    with kernel_managers() as managers:
        (number,) = run(managers, "import os\nprint(os.getpid())")
        server = psutil.Process(managers.server.process.pid)
        assert not psutil.pid_exists(int(number))
        assert server.is_running()
    assert not server.is_running()


def test_a_lost_server_makes_notebooks_slow_not_wrong(caplog):
    with kernel_managers() as managers:
        run(managers, "1")
        managers.server.process.kill()
        managers.server.process.wait()
        (printed,) = run(managers, "import sys\nprint('torch' in sys.modules)")
    assert printed == "False"
    assert "this notebook starts slowly: " in caplog.text


def test_kernels_end_with_the_suite(tmp_path):
    """Also where it is killed and can clean up nothing."""
    code = f"""
import nbformat, sys
from nbclient import NotebookClient
from mrict_core.suite.kernels import kernel_managers
cell = "import os, time; open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid())); time.sleep(300)"
with kernel_managers() as kernels:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(notebook, kernel_name="python3", kernel_manager_class=kernels).execute()
"""
    suite = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            assert suite.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        family = psutil.Process(suite.pid).children(recursive=True)
        assert int((tmp_path / "pid").read_text()) in {process.pid for process in family}
    finally:
        suite.kill()
        suite.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def test_forked_process_is_polled_signalled_and_waited_for():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    forked = ForkedProcess(child.pid)
    assert forked.poll() is None
    forked.send_signal(signal.SIGTERM)
    assert forked.wait() == 0
    assert forked.poll() == 0
    forked.kill()  # of what has ended: nothing happens
    assert child.wait() == -signal.SIGTERM


def test_a_server_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    server = ForkServer()
    with pytest.raises(OSError):  # noqa: PT011 - of several: who notices first is chance
        server.fork([], {}, "/")
    server.close()
