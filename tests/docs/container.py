"""The container image's guarantees, as far as they can be checked without a container engine."""
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import tomllib

from broker import Broker, binary

USER_ID = 10001
IMAGE_BYTES_MAX = 25_000_000


def dockerfile(root):
    return (root / "docker/Dockerfile").read_text()


def what_it_copies_is_there(root):
    """All files that it copies exist and are sent to the builder, and every crate of the workspace is among them."""
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile(root), re.M) for name in line.split()[:-1]}
    sent = set(re.findall(r"^!(.+)$", (root / "docker/Dockerfile.dockerignore").read_text(), re.M))
    assert copied == sent, f"only copied: {sorted(copied - sent)}; only sent: {sorted(sent - copied)}"
    absent = sorted(name for name in copied if not (root / name).exists())
    assert not absent, f"no such files: {absent}"
    members = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["members"]
    left = sorted(member for member in members if member.split("/")[0] not in copied)
    assert members and not left, f"crates that are not copied: {left}"
    return f"{len(copied)} paths"


def flags_and_versions_are_right(root):
    """Variables are those of `serve`, the compiler is the pinned one, user and signal are the documented ones."""
    text = dockerfile(root)
    variables = set(re.findall(r"\b(MILLSTREAM_[A-Z_]+)[=:]", text + (root / "docker/compose.yaml").read_text()))
    reference = (root / "docs/command-line.md").read_text()
    assert variables and all(f"`{name}`" in reference for name in variables), f"one of {variables} is no variable of the broker"
    rust = re.search(r'channel = "([\d.]+)"', (root / "rust-toolchain.toml").read_text())[1]
    assert f"rust:{rust}-" in text, f"the builder is not Rust {rust}"
    assert "STOPSIGNAL SIGTERM" in text and f"USER {USER_ID}:{USER_ID}" in text and "VOLUME" in text
    return f"{len(variables)} variables"


class Unready(http.server.BaseHTTPRequestHandler):
    """The responses of a broker that is full, starting or stopping."""

    def do_GET(self):
        self.send_error(503)

    def log_message(self, *_):
        pass


def health_check(root):
    """The image's health check: 0 with the broker's text if it is ready, not 0 if it is not or nothing responds."""
    command = json.loads(re.search(r"^HEALTHCHECK .*CMD (\[.+\])$", dockerfile(root), re.M)[1])
    assert command[0] == "millstream", f"{command[0]} is not in the image"

    def asked(address):
        environment = {"MILLSTREAM_HTTP_ADDR": address}
        return subprocess.run([binary(), *command[1:]], capture_output=True, text=True, timeout=10, env=environment)

    with Broker() as broker:
        # Bound to every address, as in the image.
        for address in (broker.http, broker.http.replace("127.0.0.1", "0.0.0.0")):
            done = asked(address)
            assert (done.returncode, done.stdout) == (0, "ready\n"), f"{address}: {done}"
        broker.kill()
        assert asked(broker.http).returncode != 0, "ready, though nothing answers"
    with http.server.HTTPServer(("127.0.0.1", 0), Unready) as server:
        threading.Thread(target=server.handle_request).start()
        assert asked(f"127.0.0.1:{server.server_port}").returncode != 0, "ready, though the answer is 503"
    return " ".join(command)


def compose_is_right(root):
    """It is valid YAML for the engine, its one service uses the Dockerfile, and the ports are those of the image."""
    text = (root / "docker/compose.yaml").read_text()
    assert "\t" not in text
    assert "dockerfile: docker/Dockerfile" in text and "context: .." in text
    ports = set(re.findall(r'"127\.0\.0\.1:\d+:(\d+)"', text))
    exposed = set(re.search(r"^EXPOSE (.+)$", dockerfile(root), re.M)[1].split())
    assert ports == exposed, f"{ports} against {exposed}"
    mounted = re.search(r"^\s+- \w+:(/\S+)$", text, re.M)[1]
    assert f'VOLUME ["{mounted}"]' in dockerfile(root), f"{mounted} is not the image's volume"
    for line in ("read_only: true", "cap_drop: [ALL]", '"no-new-privileges:true"', "restart: unless-stopped"):
        assert line in text, f"without {line}"


def fill_root(folder):
    """The content of the image, built as by its Dockerfile, and the engine's additions; returns the size of the former."""
    program = folder / "usr/local/bin/millstream"
    program.parent.mkdir(parents=True)
    subprocess.run(["strip", "--strip-debug", "-o", program, binary()], check=True)
    program.chmod(0o755)
    needed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for path in re.findall(r"/\S+", needed):
        place = folder / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    for name in ("proc", "etc", "var/lib/millstream"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/hosts").write_text("127.0.0.1 localhost broker.test\n")
    return size


def runs_as_another_user_on_a_read_only_root(root):
    """Runs the program as in the container: only the image's files, another user, one writable directory."""
    assert os.getuid() == 0, "needs root, to become another user"
    assert re.search(r"^FROM scratch$", dockerfile(root), re.M), "the image has a base with files of its own"
    with tempfile.TemporaryDirectory(prefix="millstream-image-") as folder:
        os.chmod(folder, 0o755)
        size = fill_root(pathlib.Path(folder))
        assert size <= IMAGE_BYTES_MAX, f"{size} bytes, at most {IMAGE_BYTES_MAX}"
        data = pathlib.Path(folder) / "var/lib/millstream"
        os.chown(data, USER_ID, USER_ID)
        # In a mount namespace of its own: everything is read-only except the data directory.
        inside = ("mount --make-rprivate / && mount --bind $1 $1 && mount --bind $2 $2 && mount -t proc proc $1/proc && "
                  "mount -o remount,ro,bind $1 && exec setpriv --no-new-privs chroot --userspec=$3:$3 --groups= $1 /usr/local/bin/millstream ")
        # The name is only in the image's /etc/hosts, where an engine puts the names of other containers.
        serve = "serve --data-dir /var/lib/millstream --kafka-addr broker.test:0 --http-addr 127.0.0.1:0"
        command = ["unshare", "--mount", "sh", "-c", inside + serve, "sh", folder, str(data), str(USER_ID)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            ready = process.stdout.readline()
            assert ready.startswith("millstream ready"), f"{ready}{process.stderr.read() if process.poll() is not None else ''}"
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            assert re.search(rf"^Uid:\s+{USER_ID}\b", status, re.M), "another user than it should be"
            process.terminate()
            assert process.wait(12) == 0, f"exit {process.returncode} after SIGTERM"
        finally:
            process.kill()
            process.wait(10)
    return f"user {USER_ID}, {size / 1e6:.1f} MB"
