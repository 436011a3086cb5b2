"""Faults in a program's own calls, by strace; it works on the release binary as it is."""
WRITES = "pwrite64,pwritev,pwritev2"
SYNCS = "fsync,fdatasync,sync_file_range,syncfs"


def strace(*options):
    return ["strace", "-f", "-qq", "--signal=none", *options]


def injected(calls, what):
    """Runs a program so that `what` happens to those of its calls, and tells nobody of them."""
    return strace("-e", f"trace={calls}", "-e", f"inject={calls}:{what}", "-o", "/dev/null")
