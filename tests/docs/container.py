"""What the container image promises, as far as it can be seen without a container engine."""
import http.server
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import tomllib

from broker import Broker, binary

USER_ID = 10001


def dockerfile(root):
    return (root / "docker/Dockerfile").read_text()


def what_it_copies_is_there(root):
    """Everything that it copies exists and is sent to the builder, and every crate of the workspace is among it."""
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
    """Variables are those of `serve`, the compiler is ours, the user and the signal are what the pages say."""
    text = dockerfile(root)
    variables = set(re.findall(r"\b(MILLSTREAM_[A-Z_]+)[=:]", text + (root / "docker/compose.yaml").read_text()))
    reference = (root / "docs/command-line.md").read_text()
    assert variables and all(f"`{name}`" in reference for name in variables), f"one of {variables} is no variable of the broker"
    rust = re.search(r'channel = "([\d.]+)"', (root / "rust-toolchain.toml").read_text())[1]
    assert f"rust:{rust}-" in text, f"the builder is not Rust {rust}"
    assert "STOPSIGNAL SIGTERM" in text and f"USER {USER_ID}:{USER_ID}" in text and "VOLUME" in text
    return f"{len(variables)} variables"


class Unready(http.server.BaseHTTPRequestHandler):
    """What a broker that is full, starting or stopping answers."""

    def do_GET(self):
        self.send_error(503)

    def log_message(self, *_):
        pass


def health_is_told(root):
    """The image's health check: 0 and the broker's word while it is ready, not 0 when it is not or nothing answers."""
    script = root / "docker" / re.search(r'^HEALTHCHECK .*CMD \["(\w+)"\]$', dockerfile(root), re.M)[1]

    def asked(address):
        environment = {"PATH": os.environ["PATH"], "MILLSTREAM_HTTP_ADDR": address}
        return subprocess.run([script], capture_output=True, text=True, timeout=10, env=environment)

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
    return script.name


def compose_is_right(root):
    """It is YAML as the engine reads it, its one service uses the Dockerfile, and the ports are those of the image."""
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


def runs_as_nobody_on_a_read_only_root(_root):
    """The binary as the container runs it: another user, a root file system without write access, one folder to write in."""
    assert os.getuid() == 0, "needs root, to become somebody else"
    with tempfile.TemporaryDirectory(prefix="millstream-image-") as folder:
        os.chmod(folder, 0o755)
        data = pathlib.Path(folder) / "data"
        data.mkdir()
        os.chown(data, USER_ID, USER_ID)
        program = pathlib.Path(folder) / "millstream"
        program.write_bytes(pathlib.Path(binary()).read_bytes())
        program.chmod(0o755)
        # In a mount namespace of its own: everything is read-only but the data folder.
        inside = ("mount --make-rprivate / && mount --bind $1 $1 && mount -o remount,ro,bind / && "
                  "exec setpriv --reuid $2 --regid $2 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all $3 ")
        serve = "serve --data-dir $1 --kafka-addr 127.0.0.1:0 --http-addr 127.0.0.1:0"
        command = ["unshare", "--mount", "sh", "-c", inside + serve, "sh", str(data), str(USER_ID), str(program)]
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
    return f"user {USER_ID}"
