"""A control group with a memory limit, of version 1 or 2, for a process of a test."""
import os
import pathlib
import uuid

MOUNTS = "/proc/self/mountinfo"


def _memory_root():
    """(version, directory) of the hierarchy of the memory controller."""
    for line in pathlib.Path(MOUNTS).read_text().splitlines():
        place, kind = line.split(" - ", 1)
        point, (name, *_rest), options = place.split()[4], kind.split(), kind.split()[-1]
        if name == "cgroup" and "memory" in options.split(","):
            return 1, pathlib.Path(point)
        if name == "cgroup2" and "memory" in (pathlib.Path(point) / "cgroup.subtree_control").read_text().split():
            return 2, pathlib.Path(point)
    raise OSError("no control group here can limit memory")


class ControlGroup:
    """Nested groups, the outermost with the limit. Processes that `prefix` starts are in the innermost."""

    def __init__(self, limit_bytes, levels=1):
        self.version, root = _memory_root()
        self.folders, folder = [], root
        for level in range(levels):
            folder = folder / (f"millstream-test-{uuid.uuid4().hex[:8]}" if level == 0 else "inner")
            self.folders.append(folder)
        self.limit_file = self.folders[0] / ("memory.limit_in_bytes" if self.version == 1 else "memory.max")
        self.limit_bytes = limit_bytes

    def __enter__(self):
        for folder in self.folders:
            folder.mkdir()
            if self.version == 2 and folder != self.folders[-1]:
                (folder / "cgroup.subtree_control").write_text("+memory")
        self.limit_file.write_text(str(self.limit_bytes))
        return self

    def __exit__(self, *_):
        for folder in reversed(self.folders):
            os.rmdir(folder)

    def prefix(self):
        """The command prefix that moves a command into the group."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folders[-1] / "cgroup.procs")]

    def kills(self):
        """Number of the group's processes that were killed for lack of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        found = 0
        for folder in self.folders:
            words = dict(line.split() for line in (folder / name).read_text().splitlines())
            found += int(words.get("oom_kill", 0))
        return found
