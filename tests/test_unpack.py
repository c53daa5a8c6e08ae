"""Unpacking a zip from elsewhere: what is unsafe or damaged is refused, and leaves nothing behind."""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrict_core.data.fetch import unpack as module
from mrict_core.data.fetch.unpack import readable, unpack
from mrict_core.errors import MrictError
from mrict_core.files import atomic_folder

NOISE = os.urandom(300_000)
GOOD = {"Task1/brain/1BA001/mr.nii.gz": NOISE, "Task1/overview.png": b"png", "Task1/empty": b""}


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_odd(path: Path, name: str, mode: int = 0, content: bytes = b"x", flags: int = 0) -> Path:
    """Write a good archive with one more member as it is given, whatever zipfile thinks of it."""
    member = zipfile.ZipInfo("Task1/odd")
    member.filename = member.orig_filename = name
    member.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Task1/fine", NOISE)
        archive.writestr(member, content)
    if flags:
        data = bytearray(path.read_bytes())
        central = data.rindex(b"PK\x01\x02")
        data[central + 8 : central + 10] = struct.pack("<H", flags)
        path.write_bytes(data)
    return path


def opened(archive: Path, *progress) -> dict[str, int]:
    """Unpack as a download does: `out` appears whole or not at all."""
    with atomic_folder(archive.parent / "out") as target:
        return unpack(archive, target, "Task1", *progress)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(archive: Path, words: str) -> None:
    """Assert that `archive` is refused with `words` in one line, and that nothing appears anywhere beside it."""
    before = {p: p.stat().st_mtime_ns for p in archive.parent.rglob("*")}
    with pytest.raises(MrictError, match=words) as caught:
        opened(archive)
    assert "\n" not in str(caught.value)
    assert archive.name in str(caught.value)
    assert {p: p.stat().st_mtime_ns for p in archive.parent.rglob("*")} == before


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_good_archive(tmp_path, method):
    steps = []
    archive = write_zip(tmp_path / "a.zip", GOOD | {"Task1/pelvis/": b"", "LICENSE": b"not wanted"}, method)
    files = opened(archive, lambda *step: steps.append(step))
    assert tree(tmp_path / "out") == {name.removeprefix("Task1/"): content for name, content in GOOD.items()}
    assert files == {name: len(content) for name, content in GOOD.items()}
    assert steps[-1] == (len(NOISE) + 3, len(NOISE) + 3, "unpack")


@pytest.mark.parametrize(
    ("name", "mode", "words"),
    [
        ("../x", 0, "unsafe name"),
        ("Task1/../../x", 0, "unsafe name"),
        ("Task1/..", 0, "unsafe name"),
        ("..", 0, "unsafe name"),
        (".", 0, "unsafe name"),
        ("/etc/x", 0, "unsafe name"),
        ("//server/x", 0, "unsafe name"),
        ("C:/x", 0, "unsafe name"),
        ("c:x", 0, "unsafe name"),
        ("Task1\\..\\..\\x", 0, "unsafe name"),
        ("Task1/x\x00.png", 0, "unsafe name"),
        ("Task1/\x1b[2Jx", 0, "unsafe name"),
        ("/", 0, "unsafe name"),
        ("Task1/link", stat.S_IFLNK | 0o777, "a link or a special file"),
        ("Task1/pipe", stat.S_IFIFO | 0o644, "a link or a special file"),
        ("Task1/device", stat.S_IFCHR | 0o644, "a link or a special file"),
        ("elsewhere/../../x", 0, "unsafe name"),
        ("Task1/" + "d/" * 2000 + "x", 0, "unsafe name"),
        ("Task1/" + "n" * 2000, 0, "unsafe name"),
        ("Task1/FINE", 0, "the same name"),
    ],
)
def test_unsafe_members(tmp_path, name, mode, words):
    refused(write_odd(tmp_path / "a.zip", name, mode), words)


def test_encrypted_member(tmp_path):
    refused(write_odd(tmp_path / "a.zip", "Task1/secret", flags=1), "encrypted")


def test_a_name_that_stands_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        archive = write_odd(tmp_path / "a.zip", "Task1/fine")
    refused(archive, "the same name")


def test_bomb(tmp_path):
    refused(write_zip(tmp_path / "a.zip", {"Task1/zeros": bytes(5_000_000)}), "unpack to 5000000")


def test_file_where_a_folder_must_be(tmp_path):
    refused(write_zip(tmp_path / "a.zip", {"Task1/a": NOISE, "Task1/A/b/c": b"x"}), "the same name")


@pytest.mark.parametrize("members", [{}, {"Task2/mr": b"x"}, {"Task1/": b""}, {"Task1": NOISE}])
def test_nothing_under_the_folder(tmp_path, members):
    refused(write_zip(tmp_path / "a.zip", members), "nothing under Task1/")


def test_not_a_zip(tmp_path):
    for content in (b"", b"<html>busy</html>", NOISE):
        (tmp_path / "a.zip").write_bytes(content)
        refused(tmp_path / "a.zip", "not a sound zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_byte_is_found(tmp_path, method, place):
    archive = write_zip(tmp_path / "a.zip", {"Task1/first": b"good", "Task1/mr.nii.gz": NOISE}, method)
    data = bytearray(archive.read_bytes())
    data[int(place * len(data))] ^= 0xFF
    archive.write_bytes(data)
    refused(archive, "not a sound zip")


@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_a_truncated_archive_is_found(tmp_path, keep):
    data = write_zip(tmp_path / "a.zip", GOOD).read_bytes()
    (tmp_path / "a.zip").write_bytes(data[: int(keep * len(data))])
    refused(tmp_path / "a.zip", "not a sound zip")


@pytest.mark.parametrize("stated", [10, 1_000_000])
def test_a_member_that_lies_about_its_size(tmp_path, stated):
    archive = write_zip(tmp_path / "a.zip", {"Task1/mr": NOISE})
    data = bytearray(archive.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<I", stated)
    archive.write_bytes(data)
    refused(archive, "not a sound zip")


def test_no_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", GOOD)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=module.MARGIN + len(NOISE)))
    refused(archive, "needed to unpack")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=module.MARGIN + len(NOISE) + 3))
    opened(archive)
    assert tree(tmp_path / "out") == {name.removeprefix("Task1/"): content for name, content in GOOD.items()}


def test_disk_full_while_writing(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", GOOD)

    class Full(io.FileIO):
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.name)

    monkeypatch.setattr(module, "open", Full, raising=False)
    with pytest.raises(MrictError, match="No space left on device"):
        opened(archive)
    assert list(tmp_path.iterdir()) == [archive]


def test_a_write_that_the_system_refuses(tmp_path):
    archive = write_zip(tmp_path / "a.zip", GOOD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(MrictError, match="File too large"):
            opened(archive)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [archive]


def test_interrupt_leaves_nothing(tmp_path):
    archive = write_zip(tmp_path / "a.zip", GOOD)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(archive, interrupt)
    assert list(tmp_path.iterdir()) == [archive]


PARTS = st.sampled_from(["..", ".", "", "Task1", "a", "C:", "/", "\\", "~", "\x00", "é", "nul", "a b"])


@given(names=st.lists(st.lists(PARTS, min_size=1, max_size=5).map("/".join), min_size=1, max_size=4, unique=True))
@settings(max_examples=100, deadline=None)
def test_no_name_whatever_leads_out(tmp_path_factory, names):
    """Either all is refused and nothing is there, or every file lies under the target with its own content."""
    folder = tmp_path_factory.mktemp("names")
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number, name in enumerate(names):
            member = zipfile.ZipInfo("x")
            member.filename = member.orig_filename = name
            archive.writestr(member, b"" if name.endswith("/") else str(number))
    try:
        files = opened(folder / "a.zip")
        assert {str(Path(name).relative_to("Task1")) for name in files} == set(tree(folder / "out"))
        assert all(Path(name).parts[0] == "Task1" for name in files)
    except MrictError:
        pass
    assert {p.name for p in folder.iterdir()} <= {"a.zip", "out"}
    assert {p.name for p in folder.parent.iterdir() if p.name in ("a", "Task1", "C:")} == set()
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (27e9, "27.0 GB")]
)
def test_sizes_as_people_read_them(size, text):
    assert readable(int(size)) == text
