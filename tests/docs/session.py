"""The code blocks of a page, and a shell that runs them as a reader would: in order, in one directory, with their output compared."""
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time

from broker import free_port

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
NOTE = re.compile(r"<!-- (file|exit|not run|in the checkout|same as)(?:: (.*?))? -->\s*\Z")
# The last reader of a group waits five seconds for more; a killed member is removed after 45.
BLOCK_SECONDS_MAX = 25.0
# What is run in the checkout is built first.
BUILD_SECONDS_MAX = 300.0
KAFKA, HTTP = "9092", "9644"


class Block:
    """A fenced block: its language, text, line, and the annotation before it (`<!-- file: NAME -->`)."""

    def __init__(self, page, match):
        self.language, self.text = match[1], match[2]
        self.line = page.count("\n", 0, match.start()) + 1
        note = NOTE.search(page[: match.start()])
        self.note, self.value = (note[1], note[2]) if note else (None, None)


def blocks(path):
    text = path.read_text()
    return [Block(text, match) for match in FENCE.finditer(text)]


def matches(wanted, found):
    """Whether lines match the wanted ones: `…` is any text within a line, a line `…` any number of lines. The spaces between two
    columns may differ from those shown, because column widths depend on the content."""
    if not wanted or not found:
        return all(line.strip() == "…" for line in wanted) and not found
    if wanted[0].strip() == "…":
        return any(matches(wanted[1:], found[at:]) for at in range(len(found) + 1))
    texts = (re.sub(r" {2,}", "  ", text) for text in wanted[0].rstrip().split("…"))
    pattern = ".*?".join(re.escape(text).replace(r"\ \ ", " {2,}") for text in texts)
    return re.fullmatch(pattern, found[0].rstrip()) is not None and matches(wanted[1:], found[1:])


class Session:
    """One shell in a directory of its own. The ports of the pages are mapped to free ones, in both directions."""

    def __init__(self, root, cache, program):
        self.root, self.folder = root, pathlib.Path(tempfile.mkdtemp(prefix="millstream-docs-"))
        self.ports = {KAFKA: str(free_port()), HTTP: str(free_port())}
        programs, self.work = self.folder / "bin", self.folder / "work"
        programs.mkdir()
        self.work.mkdir()
        (programs / "millstream").symlink_to(pathlib.Path(program).resolve())
        keep = {"GOPATH", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOFLAGS", "GONOSUMDB", "GONOSUMCHECK", "GOSUMDB", "CARGO_TARGET_DIR"}
        home = pathlib.Path.home()
        environment = {name: value for name, value in os.environ.items() if name in keep or name.lower().endswith("_proxy")}
        environment |= {
            "HOME": str(self.folder), "LC_ALL": "C.UTF-8", "PATH": f"{programs}:{cache}/venv/bin:{os.environ['PATH']}",
            "NODE_PATH": f"{cache}/node/node_modules", "KAFKA_LIB": f"{cache}/kafka-4.3.1/lib",
            "MILLSTREAM_BOOTSTRAP": f"127.0.0.1:{self.ports[KAFKA]}", "MILLSTREAM_KAFKA_ADDR": f"127.0.0.1:{self.ports[KAFKA]}",
            "MILLSTREAM_HTTP_ADDR": f"127.0.0.1:{self.ports[HTTP]}",
            # Toolchains stay where they are although HOME is new.
            "CARGO_HOME": os.environ.get("CARGO_HOME", str(home / ".cargo")),
            "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(home / ".rustup")),
        }
        environment.setdefault("GOPATH", str(home / "go"))
        environment.setdefault("GOCACHE", str(home / ".cache/go-build"))
        self.shell = subprocess.Popen(["bash", "--noprofile", "--norc"], cwd=self.work, env=environment, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    def _tell(self, line):
        self.shell.stdin.write(line.encode() + b"\n")
        self.shell.stdin.flush()

    def translated(self, text, back=False):
        for shown, used in self.ports.items():
            text = re.sub(rf"\b{used if back else shown}\b", shown if back else used, text)
        return text

    def write(self, name, text):
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.translated(text))

    def run(self, text, code_wanted=0, in_checkout=False):
        """Its output lines. If no other exit code is wanted, the shell ends at the first command that fails."""
        script, mark = self.folder / "block.sh", f"done-{time.monotonic_ns()}"
        where = f"cd '{self.root}'\n" if in_checkout else ""
        script.write_text(where + self.translated(text) + (f"\ncd '{self.work}'" if in_checkout else ""))
        # The redirection keeps a command from reading the session's own input.
        strict = "set -e" if code_wanted == 0 else "set +e"
        self._tell(f"{strict}; source '{script}' </dev/null; printf '\\n%s %s\\n' {mark} $?")
        seconds_max = BUILD_SECONDS_MAX if in_checkout else BLOCK_SECONDS_MAX
        printed, deadline = "", time.monotonic() + seconds_max
        while not (ended := re.search(rf"\n?^{mark} (\d+)\n", printed, re.M)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.shell.stdout], [], [], left)[0]:
                raise AssertionError(f"not done after {seconds_max:.0f} s; printed so far:\n{printed}")
            chunk = os.read(self.shell.stdout.fileno(), 65536)
            if not chunk:
                raise AssertionError(f"a command failed; printed:\n{printed}")
            printed += chunk.decode(errors="replace")
        lines = self.translated(printed[: ended.start()], back=True).splitlines()
        assert int(ended[1]) == code_wanted, f"exit {ended[1]}, not {code_wanted}; printed:\n{printed[: ended.start()]}"
        return lines

    def close(self):
        """Ends the shell and everything that it started."""
        try:
            os.killpg(self.shell.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.shell.stdin.close()
        self.shell.stdout.close()
        self.shell.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


def run_page(path, root, cache, program):
    """Runs a page's blocks; a `text` block directly after a `sh` block is its expected output."""
    session, ran, compared, printed = Session(root, cache, program), 0, 0, None
    try:
        for block in blocks(path):
            where = f"{path.relative_to(root)}:{block.line}"
            if block.note == "file":
                session.write(block.value, block.text)
            elif block.note == "same as":
                assert (root / block.value).read_text() == block.text, f"{where} is not the same as {block.value}"
                compared += 1
            elif block.note == "not run":
                assert block.value, f"{where}: say why it is not run"
                printed = None
            elif block.language == "sh":
                wanted = int(block.value) if block.note == "exit" else 0
                try:
                    printed = session.run(block.text, wanted, block.note == "in the checkout")
                except AssertionError as reason:
                    raise AssertionError(f"{where}: {reason}") from None
                ran += 1
            elif block.language == "text" and printed is not None:
                shown = block.text.splitlines()
                assert matches(shown, printed), f"{where}: shown:\n" + "\n".join(shown) + "\nprinted:\n" + "\n".join(printed)
                compared, printed = compared + 1, None
        assert ran, "nothing on it is run"
        return f"{ran} blocks run, {compared} compared"
    finally:
        session.close()
