"""Faults injected into a program's system calls with strace; works on the release binary unchanged."""
WRITES = "pwrite64,pwritev,pwritev2"
SYNCS = "fsync,fdatasync,sync_file_range,syncfs"


def strace(*options):
    return ["strace", "-f", "-qq", "--signal=none", *options]


def injected(calls, what):
    """Runs a program so that `what` happens to these calls of it, without a trace."""
    return strace("-e", f"trace={calls}", "-e", f"inject={calls}:{what}", "-o", "/dev/null")
