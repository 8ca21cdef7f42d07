"""Put libnuma.so.1 into this virtual environment where the machine lacks it: vLLM's CPU build is linked against it.

Debian and Ubuntu have it as a package of its own, libnuma1, which a bare machine is without. apt fetches it here without
being root, with lists of its own; a line in site-packages then loads it when an interpreter of this environment starts.
"""

import ctypes
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

NAME, PACKAGE = "libnuma.so.1", "libnuma1"


def loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def fetched(folder: Path) -> Path:
    """The library out of the newest package that apt finds. Raises CalledProcessError, OSError, StopIteration."""
    (folder / "lists" / "partial").mkdir(parents=True)
    own = ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
    for words in (["update"], ["download", PACKAGE]):
        subprocess.run(["apt-get", "-qq", *own, *words], cwd=folder, check=True, capture_output=True, timeout=300)
    package = next(folder.glob(f"{PACKAGE}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", package.name, "root"], cwd=folder, check=True, capture_output=True)
    return next((folder / "root").rglob(NAME)).resolve()


def main() -> None:
    target = Path(sys.prefix, "lib", NAME)
    if loads(NAME) or target.exists():
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(fetched(Path(folder)), target)
    except (OSError, subprocess.SubprocessError, StopIteration):
        print(f"{NAME} is missing, without which vLLM does not run: apt install {PACKAGE}", file=sys.stderr)
        return
    start = f"import ctypes, sys; ctypes.CDLL(sys.prefix + '/lib/{NAME}')\n"
    Path(sysconfig.get_path("purelib"), "libnuma.pth").write_text(start, encoding="utf-8")
    print(f"{NAME} was not on this machine and is now in {target.parent}")


if __name__ == "__main__":
    main()
