"""What the container image promises, as far as it can be seen without a container engine."""
import os
import pathlib
import re
import subprocess
import tempfile

from broker import Broker, binary

USER_ID = 10001


def dockerfile(root):
    return (root / "docker/Dockerfile").read_text()


def paths_and_flags_are_right(root):
    """Files that it copies exist, options of `serve` exist, the health check asks a path that there is."""
    text = dockerfile(root)
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M):
        for name in line.split()[:-1]:
            assert (root / name).exists(), f"COPY {name}: no such file"
    variables = set(re.findall(r"\b(MILLSTREAM_[A-Z_]+)[=:]", text + (root / "docker/compose.yaml").read_text()))
    reference = (root / "docs/command-line.md").read_text()
    assert variables and all(f"`{name}`" in reference for name in variables), f"one of {variables} is no variable of the broker"
    rust = re.search(r'channel = "([\d.]+)"', (root / "rust-toolchain.toml").read_text())[1]
    assert f"rust:{rust}" in text, f"the builder is not Rust {rust}"
    assert "STOPSIGNAL SIGTERM" in text and f"USER {USER_ID}" in text and "VOLUME" in text
    with Broker() as broker:
        path = re.search(r"HEALTHCHECK.*?http://127\.0\.0\.1:9644(/\S+?)[\s\"',\]]", text, re.S)[1]
        done = subprocess.run(["curl", "-fsS", f"http://{broker.http}{path}"], capture_output=True, text=True, timeout=10)
        assert done.returncode == 0 and done.stdout == "ready\n", done.stdout + done.stderr
    return f"{len(variables)} variables, {path}"


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
