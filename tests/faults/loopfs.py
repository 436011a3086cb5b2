"""A file system in a file, which can lose power and become full."""
import fcntl
import os
import pathlib
import subprocess
import tempfile
import time

from broker import cache_dir

# _IOR('X', 125, __u32) of linux/ext4.h; flag 2 stops the file system at once, without flushing its journal.
EXT4_IOC_SHUTDOWN, WITHOUT_LOG_FLUSH = 0x8004587D, 2


class LoopUnavailable(Exception):
    """This machine does not permit mounting a file system in a file, so tests that need one cannot run."""


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    if done.returncode:
        raise LoopUnavailable(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()} (needs root and loop devices)")


class LoopFs:
    """An ext4 file system of `mib` MiB in a file below the cache, mounted while the object is in use."""

    def __init__(self, mib, inodes=None):
        self.mib, self.inodes = mib, inodes

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="loop-", dir=cache_dir()))
        self.image, self.mount = self.folder / "disk.img", self.folder / "mount"
        self.mount.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(self.mib << 20)
        # No blocks are reserved for root, so that "full" applies to every user.
        _run("mkfs.ext4", "-q", "-m", "0", *(["-N", str(self.inodes)] if self.inodes else []), str(self.image))
        self._mount()
        return self

    def __exit__(self, *_):
        self._unmount()
        self.image.unlink()
        self.mount.rmdir()
        for left in self.folder.iterdir():
            left.unlink()
        self.folder.rmdir()

    def _mount(self):
        _run("mount", "-o", "loop", str(self.image), str(self.mount))

    def _unmount(self):
        for _ in range(50):
            if subprocess.run(["umount", str(self.mount)], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        raise LoopUnavailable(f"{self.mount} cannot be unmounted")

    def lose_power(self):
        """Drops everything that was not made durable; from now on every access fails."""
        descriptor = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, WITHOUT_LOG_FLUSH.to_bytes(4, "little"))
        finally:
            os.close(descriptor)

    def power_on(self):
        """Mounts what survived. No process may have files open in it any more."""
        self._unmount()
        self._mount()

    def free_bytes(self):
        stat = os.statvfs(self.mount)
        return stat.f_bavail * stat.f_frsize
