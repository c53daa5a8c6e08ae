"""Downloading a data set: from a local server that speaks Zenodo's API, in all the ways it can go wrong."""

from __future__ import annotations

import email.utils
import errno
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import filelock
import pytest
from conftest import write_patient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from zenodo_server import Fault, Shop

from mrict_core import __version__, cli, web
from mrict_core.data.fetch.synthrad2023 import RECEIPT, download
from mrict_core.data.fetch.zenodo import MIRROR, RemoteFile, Zenodo
from mrict_core.errors import MrictError
from mrict_core.paths import ROOT
from mrict_core.web import BLOCK, TRIES

NAME = "synthrad2023-task1"
PARTIAL = f"{NAME}.partial"
PART = f"{PARTIAL}/Task1.zip.part"
HALF = 200_000  # bytes; the archive has more


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> dict[str, bytes]:
    """The files of Task1: two brains, one pelvis, a brain without CT, and an overview."""
    root = tmp_path_factory.mktemp("published")
    for number, patient in enumerate(("brain/1BA001", "brain/1BB002", "pelvis/1PA001", "brain/1BC003")):
        write_patient(root / "Task1" / patient, seed=number, shape=(40, 46, 16))
    (root / "Task1/brain/1BC003/ct.nii.gz").unlink()
    (root / "Task1/brain/overview").mkdir()
    (root / "Task1/brain/overview/1BA001_train.png").write_bytes(b"png")
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def archive(patients) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in patients.items():
            opened.writestr(name, content)
    assert len(buffer.getvalue()) > HALF + 2 * BLOCK
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server() -> Shop:
    with Shop() as shop:
        yield shop
        shop.shutdown()


@pytest.fixture
def shop(server, archive, monkeypatch) -> Shop:
    """The server, sound, with the archive of Task 1 and another one."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(MIRROR, server.url)
    server.reset(Task1_zip=archive, Task2_zip=b"another")
    return server


class Client(Zenodo):
    """A client that notes what it says and how long it would have waited."""

    def __init__(self, url: str = "", read_s: float = 5.0) -> None:
        self.lines: list[str] = []
        self.waits: list[float] = []
        super().__init__(url, say=self.lines.append, sleep=self.waits.append, timeout_s=(5.0, read_s))


@pytest.fixture
def client(shop) -> Client:
    return Client()


def content(folder: Path) -> dict[str, bytes]:
    """Return every file under `folder` but the lock and receipts."""
    ours = (".lock", RECEIPT)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in ours}


def names(folder: Path) -> set[str]:
    """Return what lies directly in `folder`, the lock left out."""
    return {p.name for p in folder.iterdir()} - {".lock"}


def error_of(dest: Path, client: Zenodo, **options: bool) -> str:
    with pytest.raises(MrictError) as caught:
        download(NAME, dest, client, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["download", *arguments])
    if isinstance(result.exception, MrictError):
        return 1, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


# ------------------------------------------------------------------------------------------------- when all goes well


def test_download_then_nothing_to_do(shop, patients, tmp_path):
    code, text = run(NAME, "--dest", str(tmp_path / "data"))
    assert code == 0
    assert content(tmp_path / "data") == patients
    assert names(tmp_path / "data") == {"Task1"}
    for words in ("CC BY-NC 4.0", "10.1002/mp.16529", "10.5281/zenodo.7260705", "brain: 2 patients, 1 skipped"):
        assert words in text
    assert "skipped 1BC003: " in text
    assert "ct.nii.gz is missing" in text
    assert "pelvis: 1 patients, 0 skipped" in text
    assert PARTIAL not in text
    assert {headers["User-Agent"].split(" ")[0] for _, headers in shop.requests} == {f"mrict_core/{__version__}"}
    assert {headers["Accept-Encoding"] for _, headers in shop.requests} == {"identity"}

    shop.requests.clear()
    code, text = run(NAME, "--dest", str(tmp_path / "data"))
    assert code == 0
    assert "nothing to do" in text
    assert "brain: 2 patients" in text
    assert shop.requests == []
    assert content(tmp_path / "data") == patients


def test_the_receipt_names_source_and_files(client, patients, archive, tmp_path):
    download(NAME, tmp_path, client)
    receipt = json.loads((tmp_path / "Task1" / RECEIPT).read_text())
    assert receipt["files"] == {name: len(content) for name, content in patients.items()}
    assert receipt["md5"] == hashlib.md5(archive).hexdigest()
    assert receipt["record"] == 7260705


def test_keep_archive_and_use_it_again(shop, client, patients, archive, tmp_path):
    download(NAME, tmp_path, client, keep_archive=True)
    assert content(tmp_path) == patients | {"Task1.zip": archive}
    shutil.rmtree(tmp_path / "Task1")
    shop.requests.clear()
    download(NAME, tmp_path, client)  # it is the user's now: used, and left alone
    assert shop.ranges() == []
    assert content(tmp_path) == patients | {"Task1.zip": archive}


def test_list_prints_files_and_writes_nothing(shop, archive, tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_DATA", str(tmp_path / "nothing"))
    code, text = run(NAME, "--list")
    assert code == 0
    lines = {line.split()[0]: line for line in text.splitlines() if ".zip" in line}
    assert f"{len(archive) / 1000:.1f} kB" in lines["Task1.zip"]
    assert hashlib.md5(archive).hexdigest() in lines["Task1.zip"]
    assert "7 bytes" in lines["Task2.zip"]
    assert shop.ranges() == []
    assert not (tmp_path / "nothing").exists()


def test_the_default_place_and_the_url_option(shop, patients, tmp_path, monkeypatch):
    monkeypatch.setenv("MRICT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv(MIRROR, "http://127.0.0.1:9")  # nobody listens there
    assert run(NAME, "--url", shop.url + "/")[0] == 0
    assert content(tmp_path / "data") == patients


def test_progress_counts_every_step_to_its_end(client, archive, patients, tmp_path):
    last = {}
    download(NAME, tmp_path, client, progress=lambda done, total, step: last.update({step: (done, total)}))
    unpacked = sum(map(len, patients.values()))
    assert last == {"fetch": (len(archive),) * 2, "verify": (len(archive),) * 2, "unpack": (unpacked,) * 2}


# ---------------------------------------------------------------------------------------------------- interrupted


def test_breaks_are_resumed_where_they_were(shop, client, patients, tmp_path):
    shop.faults.extend([Fault(stop_after=100_000), Fault(stop_after=90_000), Fault(stop_after=0)])
    download(NAME, tmp_path, client)
    assert content(tmp_path) == patients
    starts = [int(text.removeprefix("bytes=").rstrip("-") or 0) for text in shop.ranges()]
    assert starts[0] == 0
    assert starts[1] in range(100_000 - BLOCK, 100_001)
    assert starts[2] in range(starts[1] + 90_000 - BLOCK, starts[1] + 90_001)
    assert starts[3] == starts[2]
    assert sum("next try in" in line for line in client.lines) == 3


def test_a_second_call_goes_on(shop, client, patients, archive, tmp_path):
    shop.faults.extend([Fault(stop_after=HALF), *[Fault(stop_after=0)] * TRIES])
    assert "run again, the partial download is kept" in error_of(tmp_path, client)
    part = (tmp_path / PART).read_bytes()
    assert archive.startswith(part)
    assert len(part) > HALF - BLOCK
    assert names(tmp_path) == {PARTIAL}
    shop.faults.clear()
    shop.requests.clear()
    download(NAME, tmp_path, client)
    assert shop.ranges() == [f"bytes={len(part)}-"]
    assert content(tmp_path) == patients


def test_killed_in_mid_file_then_resumed(shop, client, patients, archive, tmp_path):
    gone = threading.Event()
    shop.faults.append(Fault(stop_after=HALF, wait=lambda: gone.wait(30)))
    command = [sys.executable, "-m", "mrict_core", "download", NAME, "--dest", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not ((tmp_path / PART).exists() and (tmp_path / PART).stat().st_size > BLOCK):
            assert process.poll() is None, "ended by itself"
            assert time.monotonic() < deadline, "never wrote its second block"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        gone.set()
    part = (tmp_path / PART).read_bytes()
    assert archive.startswith(part)
    assert names(tmp_path) == {PARTIAL}
    shop.requests.clear()
    download(NAME, tmp_path, client)
    assert shop.ranges() == [f"bytes={len(part)}-"]
    assert content(tmp_path) == patients
    assert names(tmp_path) == {"Task1"}


def test_leftovers_of_a_killed_unpacking_are_removed(client, patients, archive, tmp_path):
    client.fetch(client.files(7260705)[0].url, _made(tmp_path / PARTIAL) / "Task1.zip.part")
    write_patient(tmp_path / ".new-Task1-abcd1234/brain/1BZ999", seed=9)
    download(NAME, tmp_path, client)
    assert content(tmp_path) == patients


def test_leftovers_after_the_last_rename_are_removed(shop, client, patients, tmp_path):
    download(NAME, tmp_path, client)
    (_made(tmp_path / PARTIAL) / "Task1.zip.part").write_bytes(b"whole")
    shop.requests.clear()
    assert not download(NAME, tmp_path, client).fresh
    assert shop.requests == []
    assert names(tmp_path) == {"Task1"}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_ctrl_c_keeps_the_part(client, archive, tmp_path):
    def interrupt(done: int, total: int, step: str) -> None:
        if done >= HALF:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(NAME, tmp_path, client, progress=interrupt)
    assert archive.startswith((tmp_path / PART).read_bytes())
    assert (tmp_path / PART).stat().st_size >= HALF


# ------------------------------------------------------------------------------------------ servers that are not sound


def test_range_ignored_starts_anew(shop, client, patients, tmp_path):
    shop.faults.extend([Fault(stop_after=HALF), Fault(ranges=False)])
    download(NAME, tmp_path, client)
    assert any("sends the whole file again" in line for line in client.lines)
    assert content(tmp_path) == patients


def test_a_range_from_elsewhere_is_not_appended(shop, client, patients, tmp_path):
    shop.faults.extend([Fault(stop_after=HALF), Fault(shift=10)])
    download(NAME, tmp_path, client)
    assert content(tmp_path) == patients
    assert shop.ranges()[-1] == ""


def test_file_changed_between_tries_same_size(shop, client, patients, archive, tmp_path):
    """The checksum tells: the mixture of two versions is thrown away, and the next call fetches the new one."""
    shop.checksums["Task1.zip"] = hashlib.md5(archive).hexdigest()
    shop.files["Task1.zip"] = os.urandom(len(archive))
    shop.faults.append(Fault(stop_after=HALF, wait=lambda: shop.files.update({"Task1.zip": archive})))
    assert "the download was deleted; run again" in error_of(tmp_path, client)
    assert names(tmp_path) == set()
    download(NAME, tmp_path, client)
    assert content(tmp_path) == patients


@pytest.mark.parametrize("size", [HALF - 70_000, HALF + 90_000, 10_000_000])
def test_file_changed_between_tries_other_size(shop, client, archive, tmp_path, size):
    shop.faults.append(Fault(stop_after=HALF, wait=lambda: shop.files.update({"Task1.zip": os.urandom(size)})))
    text = error_of(tmp_path, client)
    assert f"the server has {size} bytes, expected {len(archive)}" in text
    assert names(tmp_path) == {PARTIAL}


def test_a_part_longer_than_the_file_is_begun_anew(client, shop, patients, archive, tmp_path):
    (_made(tmp_path / PARTIAL) / "Task1.zip.part").write_bytes(archive + b"more")
    download(NAME, tmp_path, client)
    assert shop.ranges()[-1] == ""
    assert content(tmp_path) == patients


def test_wrong_checksum_leaves_nothing(shop, client, archive, tmp_path):
    shop.checksums["Task1.zip"] = "0" * 32
    text = error_of(tmp_path, client)
    assert hashlib.md5(archive).hexdigest() in text
    assert "0" * 32 in text
    assert names(tmp_path) == set()


def test_more_bytes_than_stated(shop, client, tmp_path):
    shop.faults.append(Fault(chunked=True, extra=b"more"))
    assert "sends more than" in error_of(tmp_path, client)
    assert names(tmp_path) == {PARTIAL}


def test_a_stalled_server_is_left_and_asked_again(shop, patients, tmp_path):
    gone = threading.Event()
    shop.faults.append(Fault(stop_after=HALF, wait=lambda: gone.wait(10)))
    client = Client(read_s=0.3)
    download(NAME, tmp_path, client)
    gone.set()
    assert content(tmp_path) == patients
    assert shop.ranges()[1] != ""
    assert "timed out" in client.lines[0]


def test_a_server_that_never_answers_is_asked_again(shop, patients, tmp_path):
    gone = threading.Event()
    shop.api_faults.append(Fault(late=lambda: gone.wait(10)))
    client = Client(read_s=0.3)
    download(NAME, tmp_path, client)
    gone.set()
    assert client.waits == [1.0]
    assert content(tmp_path) == patients


def test_an_answer_that_ends_early_without_a_word_is_gone_on_with(shop, client, patients, tmp_path):
    shop.faults.append(Fault(chunked=True, stop_after=HALF))
    download(NAME, tmp_path, client)
    assert shop.ranges() == ["", f"bytes={HALF}-"]
    assert content(tmp_path) == patients


# ------------------------------------------------------------------------------------------------------- patience


@pytest.mark.parametrize(
    ("faults", "waits"),
    [
        ([Fault(429, {"Retry-After": "7"})], [7.0]),
        ([Fault(503)], [1.0]),
        ([Fault(503), Fault(502), Fault(429, {"Retry-After": "0"}), Fault(500)], [1.0, 2.0, 0.0, 8.0]),
        ([Fault(429, {"Retry-After": "soon"}), Fault(504), Fault(408)], [1.0, 2.0, 4.0]),
        ([Fault(stop_after=5), Fault(500)], [1.0, 2.0]),
        ([Fault(429, {"Retry-After": "-1"})], [1.0]),
    ],
)
@pytest.mark.parametrize("place", ["faults", "api_faults"])
def test_busy_servers_get_the_time_they_ask_for(shop, client, patients, tmp_path, faults, waits, place):
    getattr(shop, place).extend(faults)
    download(NAME, tmp_path, client)
    assert client.waits == waits
    assert content(tmp_path) == patients


def test_retry_after_as_a_date(shop, client, tmp_path):
    shop.faults.append(Fault(503, {"Retry-After": email.utils.formatdate(time.time() + 100, usegmt=True)}))
    shop.faults.append(Fault(503, {"Retry-After": email.utils.formatdate(time.time() - 100, usegmt=True)}))
    download(NAME, tmp_path, client)
    assert 60 < client.waits[0] <= 100
    assert client.waits[1] == 0


def test_a_server_that_asks_for_an_hour_is_not_waited_for(shop, client, tmp_path):
    shop.faults.append(Fault(429, {"Retry-After": "3600"}))
    assert "asks to wait 3600 s; run again after that" in error_of(tmp_path, client)
    assert client.waits == []


def test_tries_are_bounded(shop, client, tmp_path):
    shop.api_faults.extend([Fault(503)] * 100)
    text = error_of(tmp_path, client)
    assert f"503 Service Unavailable; gave up after {TRIES} tries" in text
    assert client.waits == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert len(shop.requests) == TRIES
    assert names(tmp_path) == set()


def test_a_try_that_brought_bytes_does_not_count(shop, client, patients, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "MIN_GAIN", 1)
    monkeypatch.setattr(web, "BLOCK", 1000)
    shop.faults.extend([Fault(stop_after=10_000)] * (2 * TRIES))
    download(NAME, tmp_path, client)
    assert client.waits == [1.0] * (2 * TRIES)
    assert content(tmp_path) == patients


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(404), "not found"),
        (Fault(410), "not found"),
        (Fault(403), "answers 403"),
        (Fault(body=b"<html>log in</html>"), "is not json"),
        (Fault(body=b"\xff\xfe"), "is not json"),
        (Fault(body=b"{}"), "lists no files"),
        (Fault(body=b"[]"), "lists no files"),
        (Fault(body=b'{"files": []}'), "lists no files"),
        (Fault(body=b'{"files": {"entries": {}}}'), "lists no files"),
        (Fault(body=b'{"files": [1]}'), "expected key, size"),
        (Fault(body=b'{"files": [{"key": "Task1.zip", "size": 5}]}'), "expected key, size"),
    ],
)
def test_records_that_cannot_be_used(shop, client, tmp_path, fault, words):
    shop.api_faults.append(fault)
    text = error_of(tmp_path, client)
    assert words in text
    assert f"{shop.url}/api/records/7260705" in text
    assert client.waits == []
    assert names(tmp_path) == set()


ENTRY = {"key": "Task1.zip", "size": 5, "checksum": "md5:" + "0" * 32, "links": {"self": "/Task1.zip"}}


@pytest.mark.parametrize(
    "change",
    [
        {"size": "5"},
        {"size": -5},
        {"size": True},
        {"checksum": "sha256:" + "0" * 64},
        {"checksum": "md5:short"},
        {"checksum": None},
        {"links": {}},
        {"links": {"self": 5}},
        {"key": "a\x1b[2J"},
        {"key": 5},
    ],
)
def test_odd_entries_of_a_record(shop, client, tmp_path, change):
    shop.api_faults.append(Fault(body=json.dumps({"files": [ENTRY | change]}).encode()))
    assert "expected key, size, checksum" in error_of(tmp_path, client)


def test_relative_links_are_of_the_same_server(shop, client):
    shop.api_faults.append(Fault(body=json.dumps({"files": [ENTRY]}).encode()))
    assert client.files(7260705) == (RemoteFile("Task1.zip", 5, "0" * 32, f"{shop.url}/Task1.zip"),)


def test_file_not_there(shop, client, tmp_path):
    shop.faults.append(Fault(404))
    assert "Task1.zip/content: not found" in error_of(tmp_path, client)
    assert client.waits == []


def test_archive_not_in_the_record(shop, client, tmp_path):
    del shop.files["Task1.zip"]
    assert "has no Task1.zip, but Task2.zip" in error_of(tmp_path, client)
    assert names(tmp_path) == set()


def test_nobody_listens(shop, tmp_path):
    text = error_of(tmp_path / "data", Client("http://127.0.0.1:9"))
    assert "/api/records/7260705: no connection (Failed to establish a new connection: [Errno 111] Conn" in text
    assert f"gave up after {TRIES} tries" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["ftp://zenodo.org", "zenodo.org", "file:///etc", "http://", "https:// x"])
def test_addresses_that_are_none(shop, url):
    code, text = run(NAME, "--url", url)
    assert code == 1
    assert "is not a server's address" in text


# ------------------------------------------------------------------------------------------------ the place on disk


def test_no_room_is_said_before_the_download(shop, client, archive, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(archive)))
    assert "needed to fetch and unpack Task1.zip" in error_of(tmp_path, client)
    assert shop.ranges() == []
    assert names(tmp_path) == set()


def test_disk_full_while_fetching_then_resumed(shop, client, patients, archive, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data: bytes) -> int:
            if self.tell() + len(data) > HALF:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr(web, "open", Full, raising=False)
    text = error_of(tmp_path, client)
    assert "No space left on device" in text
    assert "Task1.zip.part" in text
    assert client.waits == []
    part = (tmp_path / PART).read_bytes()
    assert archive.startswith(part)
    assert len(part) > HALF - BLOCK
    monkeypatch.undo()
    download(NAME, tmp_path, Client(shop.url))
    assert shop.ranges()[-1] == f"bytes={len(part)}-"
    assert content(tmp_path) == patients


def test_a_write_that_the_system_refuses(client, archive, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert "File too large" in error_of(tmp_path, client)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert archive[:100_000] == (tmp_path / PART).read_bytes()


def test_archives_that_cannot_be_used_leave_no_data(shop, client, tmp_path):
    """The checksum is right, so the record itself holds it: it is not unpacked, not even in part."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("Task1/brain/1BA001/mr.nii.gz", os.urandom(1000))
        opened.writestr("../x", b"out")
    for archive, words in ((buffer.getvalue(), "unsafe name"), (os.urandom(1000), "not a sound zip")):
        shop.files["Task1.zip"] = archive
        assert words in error_of(tmp_path / "data", client)
        assert content(tmp_path / "data").keys() == {PART}
        assert names(tmp_path) == {"data"}


def test_an_archive_of_the_users_own_stays_when_it_is_refused(shop, client, tmp_path):
    shop.files["Task1.zip"] = os.urandom(1000)
    (tmp_path / "Task1.zip").write_bytes(shop.files["Task1.zip"])
    assert "not a sound zip" in error_of(tmp_path, client)
    assert content(tmp_path) == {"Task1.zip": shop.files["Task1.zip"]}
    assert names(tmp_path) == {"Task1.zip"}


def test_an_archive_without_patients_is_not_put_in_place(shop, client, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("Task1/brain/1BA001/readme.txt", os.urandom(1000))
    shop.files["Task1.zip"] = buffer.getvalue()
    assert "no usable patient in brain or pelvis" in error_of(tmp_path, client)
    assert content(tmp_path).keys() == {PART}


def test_data_of_the_users_own_are_not_touched(shop, client, tmp_path):
    write_patient(tmp_path / "Task1/brain/1BA001", seed=1)
    before = content(tmp_path)
    assert "is not from this command" in error_of(tmp_path, client)
    assert content(tmp_path) == before
    assert shop.requests == []


@pytest.mark.parametrize("harm", ["delete", "cut", "receipt"])
def test_a_data_set_that_lost_files_is_said(client, tmp_path, harm):
    download(NAME, tmp_path, client)
    file = tmp_path / "Task1/pelvis/1PA001/mr.nii.gz"
    if harm == "delete":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        (tmp_path / "Task1" / RECEIPT).write_text("{")
    expected = "not valid json" if harm == "receipt" else "1 of its 12 files are missing or changed"
    assert expected in error_of(tmp_path, client)


def test_another_archive_of_that_name_is_not_replaced(shop, client, archive, tmp_path):
    for own in (b"mine", bytes(len(archive))):
        (tmp_path / "Task1.zip").write_bytes(own)
        assert "is not the file of record 7260705" in error_of(tmp_path, client)
        assert content(tmp_path) == {"Task1.zip": own}


def test_two_at_once(shop, client, tmp_path, monkeypatch):
    monkeypatch.setattr("mrict_core.data.fetch.synthrad2023.LOCK_WAIT_S", 0.05)
    with filelock.FileLock(tmp_path / ".lock"):
        assert "another process downloads to it" in error_of(tmp_path, client)
    assert shop.ranges() == []


def test_another_process_was_faster(shop, client, patients, tmp_path):
    """It finishes between this one's look at the folder and its turn: nothing is fetched twice."""
    shop.api_faults.append(Fault(late=lambda: download(NAME, tmp_path, Client())))
    assert not download(NAME, tmp_path, client).fresh
    assert shop.ranges() == [""]
    assert content(tmp_path) == patients


def test_a_complete_data_set_needs_no_lock(client, tmp_path, monkeypatch):
    monkeypatch.setattr("mrict_core.data.fetch.synthrad2023.LOCK_WAIT_S", 0.05)
    download(NAME, tmp_path, client)
    with filelock.FileLock(tmp_path / ".lock"):
        assert not download(NAME, tmp_path, client).fresh


def test_places_that_are_none(client, tmp_path):
    (tmp_path / "file").write_text("mine")
    for dest in (tmp_path / "file", tmp_path / "file" / "under", "", "a\0b", "~nobody_of_that_name/x"):
        error_of(dest, client)
    assert names(tmp_path) == {"file"}


def test_unknown_data_set():
    code, text = run("synthrad2023-task")
    assert code == 1
    assert "did you mean 'synthrad2023-task2' or 'synthrad2023-task1'?" in text


# --------------------------------------------------------------------------------------------------------- any faults

FAULTS = st.one_of(
    st.builds(Fault, stop_after=st.integers(0, 500_000), ranges=st.booleans(), shift=st.sampled_from([0, 0, 1, 9999])),
    st.builds(Fault, status=st.sampled_from([429, 500, 503])),
)


@given(faults=st.lists(FAULTS, max_size=TRIES - 1))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_the_file_is_the_file(shop, archive, tmp_path_factory, faults):
    shop.reset(Task1_zip=archive)
    shop.faults.extend(faults)
    folder = tmp_path_factory.mktemp("fetch")
    client = Client()
    remote = client.files(7260705)[0]
    client.fetch(remote.url, folder / "part", remote.size)
    assert (folder / "part").read_bytes() == archive
    shutil.rmtree(folder)


@pytest.mark.parametrize("proxy", ["", "http://no-proxy.invalid:3128"])
def test_a_name_that_cannot_be_found_is_said_at_once_unless_it_was_found_before(monkeypatch, proxy):
    if proxy:
        monkeypatch.setenv("http_proxy", proxy)
    client = Client("http://no-such-host.invalid")
    with pytest.raises(MrictError, match=r"no-such-host\.invalid.*name cannot be found") as caught:
        client.files(7260705)
    assert "\n" not in str(caught.value)
    assert client.waits == []
    client.answered = True  # this run has spoken with the server: the network may come back
    with pytest.raises(MrictError, match="gave up after 6 tries"):
        client.files(7260705)
    assert client.waits == [1, 2, 4, 8, 16]
