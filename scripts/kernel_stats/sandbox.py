"""The folder with a newer Debian in it, whose drivers have compilers for GPUs that this machine does not have."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ["mesa-vulkan-drivers", "mesa-drm-shim", "libvulkan1"]


class Refused(Exception):
    """What is missing, and what to do."""


def folder():
    return Path(os.environ.get("HALFBYTE_MESA", "/var/tmp/halfbyte-mesa"))


def drivers_of(root):
    return root / "usr/share/vulkan/icd.d"


def is_ready(root):
    lib = root / "usr/lib/x86_64-linux-gnu"
    return any(drivers_of(root).glob("asahi_icd*.json")) and (lib / "libasahi_noop_drm_shim.so").exists()


def mirror():
    """The archive that this machine installs from."""
    for path in sorted(Path("/etc/apt").rglob("*.sources")) + sorted(Path("/etc/apt").rglob("*.list")):
        for line in path.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] in ("URIs:", "deb"):
                uri = next((word for word in words[1:] if "://" in word), "")
                if uri.rstrip("/").endswith("/debian"):
                    return uri
    raise Refused("no Debian archive in /etc/apt: this needs Debian's debootstrap and its archive; on another system, name a folder "
                  "that has Debian unstable with " + ", ".join(PACKAGES) + " in HALFBYTE_MESA")


def run(*command, log):
    with open(log, "w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode:
        tail = "\n".join(Path(log).read_text(errors="replace").splitlines()[-5:])
        raise Refused(f"{' '.join(command[:3])} failed:\n{tail}")


def prepare():
    """Makes the folder if need be (1 GB, a minute), and gives it."""
    root = folder()
    if os.geteuid() != 0:
        raise Refused("this runs programs in a folder of their own with chroot, which needs root: run it with sudo")
    if not is_ready(root):
        if not shutil.which("debootstrap"):
            if not shutil.which("apt-get"):
                raise Refused("no debootstrap and no apt-get: this needs a Debian or Ubuntu machine")
            run("apt-get", "update", log="/tmp/halfbyte-apt.log")
            run("apt-get", "install", "--yes", "debootstrap", log="/tmp/halfbyte-apt.log")
        print(f"Making {root}: Debian unstable with {', '.join(PACKAGES)}.", file=sys.stderr)
        root.parent.mkdir(parents=True, exist_ok=True)
        log = f"{root}.log"
        if not (root / "usr/bin/apt-get").exists():
            run("debootstrap", "--variant=minbase", "sid", str(root), mirror(), log=log)
        run(*inside(root), "apt-get", "-o", "Acquire::Check-Valid-Until=false", "update", log=log)
        run(*inside(root), "apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES, log=log)
    return root


def inside(root):
    """What a command is prefixed with to run in the folder. What it mounts is gone when it ends."""
    mounts = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
    return ["unshare", "--mount", "sh", "-c", mounts, str(root)]


def version(root):
    query = ["dpkg-query", "-W", "-f", "${Version}", "mesa-vulkan-drivers"]
    return subprocess.run([*inside(root), *query], capture_output=True, text=True, check=True).stdout.strip()
