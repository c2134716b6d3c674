#!/usr/bin/env python3
"""Runs every command of the README, in order, as a reader would.

    scripts/readme.py README.md [--docker]

    ```sh             a block of commands, run in one bash session from top to bottom
    ```sh tour        one that any cluster on these ports can take: it is run with the others, and with --docker as well
    ```sh docker      one that needs a Docker engine, run with --docker alone: the first of them, the tour, and the rest of them
    ```text           right after it: lines that its output must hold, in this order; … stands for anything

Each block must end with exit code 0; any other fence (```json, ```console) is prose. Two blocks are special:
`make up` stays in the foreground, so it runs beside the session until all is done and is then stopped as by Ctrl-C;
`make test` is what runs this file, so it is not run again and not counted. `docker compose` is `docker-compose` where only that is
there, and its project has a name of its own: a cluster of the reader's stays as it is.

The README speaks of the ports 8098 to 8129. They may be taken on this machine, so the cluster gets others, and the
addresses in the blocks are rewritten to match. The last line is the count: `readme: 14 passed, 0 failed`.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

UP_SECONDS_MAX = 40 * 60  # a cold release build on two cores, RocksDB included
BLOCK_SECONDS_MAX = 60
DOCKER_SECONDS_MAX = 600  # an image, its base included, and five containers
STOP_SECONDS_MAX = 20
README_PORT = 8098
NODES = 3
NODES_MORE = 1  # that the README starts itself


def blocks(text, *wanted):
    """The blocks of some kinds: (line number, commands, expected output or None)."""
    fences = re.finditer(r"^```(\S+[^\n]*)\n(.*?)^```[ \t]*$", text, re.M | re.S)
    found = []
    last_end = None
    for fence in fences:
        kind, body = fence.group(1).strip(), fence.group(2)
        if kind in wanted:
            found.append([text.count("\n", 0, fence.start()) + 1, body.strip(), None])
        elif kind == "text" and last_end is not None and not text[last_end : fence.start()].strip():
            found[-1][2] = body.strip().splitlines()
        last_end = fence.end() if kind in wanted else None
    return found


def blocks_to_run(text, in_docker):
    """All that is run, in the order in which it is."""
    if not in_docker:
        return blocks(text, "sh", "sh tour")
    in_containers = blocks(text, "sh docker")
    return in_containers[:1] + blocks(text, "sh tour") + in_containers[1:]


def free_base_port():
    """A base port such that every port of the cluster is free at this moment."""
    for _ in range(200):
        base = 20000 + secrets.randbelow(12000)
        taken = []
        try:
            for port in [base + 10 * node + side for node in range(NODES + NODES_MORE) for side in (0, 1)]:
                taken.append(socket.socket())
                taken[-1].bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
        finally:
            for s in taken:
                s.close()
    sys.exit("readme: no free ports")


def compose_command():
    """`docker compose` where there is one, and Compose 1.29 elsewhere."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True)
    return "docker compose" if plugin.returncode == 0 else "docker-compose"


def moved(commands, base):
    """The commands with the README's ports replaced by those of this run."""
    return re.sub(r"\b80(9[89])\b|\b81([012])([89])\b", lambda m: str(base + int(m.group(0)) - 8098), commands)


def missing(expected, output):
    """The first expected line that the output does not hold at its place, or None."""
    lines = iter(" ".join(line.split()) for line in output.splitlines())
    for want in expected:
        parts = [re.escape(part) for part in " ".join(want.split()).split("…")]
        pattern = re.compile(".*".join(parts), re.I)
        if not any(pattern.fullmatch(line) for line in lines):
            return want
    return None


class Output:
    """Collects what a process prints while it runs."""

    def __init__(self, pipe, echo=None):
        self.text = ""
        self.ended = False
        self.news = threading.Condition()
        threading.Thread(target=self._read, args=(pipe, echo), daemon=True).start()

    def _read(self, pipe, echo):
        while chunk := os.read(pipe.fileno(), 65536):
            chunk = chunk.decode("utf-8", "replace")
            if echo:
                print(chunk, end="", flush=True)
            with self.news:
                self.text += chunk
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def wait_for(self, pattern, seconds, start=0):
        """The match of a pattern after a position, or None when the output ends or time is up."""
        found = lambda: re.compile(pattern, re.M).search(self.text, start)
        with self.news:
            self.news.wait_for(lambda: self.ended or found(), seconds)
            return found()


class Cluster:
    """`make up`, in a process group of its own, as a terminal would run it."""

    def __init__(self, commands, env):
        self.process = subprocess.Popen(
            ["bash", "-c", commands], env=env, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.output = Output(self.process.stdout, echo=True)

    def ready(self):
        return self.output.wait_for(r"^.*\bcurl\b.*https?://.*$", UP_SECONDS_MAX)

    def stop(self):
        """Ctrl-C: the whole group is interrupted. Returns what went wrong, or None."""
        pids = {int(pid) for pid in re.findall(r"^n\d+ .*\bpid (\d+)", self.output.text, re.M)}
        if self.process.poll() is not None:
            return f"it had ended before Ctrl-C, with exit code {self.process.returncode}"
        try:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"it did not end within {STOP_SECONDS_MAX} s of Ctrl-C"
        # make itself dies of the signal (130); an exit code of dev other than 0 it reports as an error of its own.
        if self.process.returncode not in (0, 130, -signal.SIGINT) and "Interrupt" not in self.output.text:
            return f"exit code {self.process.returncode}"
        if failed := re.search(r"\bError ([1-9]\d*)\s*$", self.output.text, re.M):
            return f"cartwheel dev ended with exit code {failed.group(1)}"
        if len(pids) != NODES:
            return f"it printed {len(pids)} pids of nodes, not {NODES}"
        left = [pid for pid in pids if os.path.exists(f"/proc/{pid}") and not is_zombie(pid)]
        return f"nodes outlived it: {left}" if left else None

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


class Session:
    """One bash that lives through all blocks, so that variables and background jobs do too."""

    def __init__(self, env):
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], env=env, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.output = Output(self.process.stdout)
        # Commands come through this pipe: without a file of its own, a block that reads stdin would eat the next one.
        self.dir = tempfile.mkdtemp(prefix="cartwheel-readme-")

    def run(self, commands, seconds_max):
        """Exit code (None when time is up) and output of a block. Any failing line fails it, as with `set -e`."""
        path = os.path.join(self.dir, "block.sh")
        with open(path, "w") as f:
            f.write(commands + "\n")
        mark = f"--- {secrets.token_hex(8)}"
        start = len(self.output.text)
        # With -e the session itself would end; the trap remembers the first failure instead.
        line = (
            f"failed=0; set -E -o pipefail; trap 'failed=${{failed/#0/$?}}' ERR; . {path} < /dev/null; "
            f"trap - ERR; printf '\\n{mark} %s\\n' \"$failed\"\n"
        )
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()
        end = self.output.wait_for(rf"^{mark} (\d+)$", seconds_max, start)
        if not end:
            return None, self.output.text[start:]
        return int(end.group(1)), self.output.text[start : end.start()]

    def close(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def main():
    in_docker = "--docker" in sys.argv
    path = next((arg for arg in sys.argv[1:] if not arg.startswith("--")), "README.md")
    with open(path, encoding="utf-8") as f:
        todo = blocks_to_run(f.read(), in_docker)
    if not todo:
        sys.exit(f"readme: {path} holds nothing to run")

    # The ports of containers stand in docker-compose.yml.
    base = README_PORT if in_docker else free_base_port()
    print(f"readme: {len(todo)} blocks of {path}; the ports {README_PORT}… are {base}… here", flush=True)
    env = dict(os.environ, CARTWHEEL_URL=f"http://127.0.0.1:{base}", DEV_ARGS=f"--base-port {base}")
    env["COMPOSE_PROJECT_NAME"] = f"cartwheel-readme-{os.getpid()}"
    command = compose_command() if in_docker else None
    # Else the make below would take itself for a part of the one that called us.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
        env.pop(name, None)

    # Whoever ends it has everything taken down all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cluster = up = None
    session = Session(env)
    passed = failed = 0
    total = len(todo)

    def verdict(line, commands, problem, output="", seconds=0.0):
        nonlocal passed, failed
        head = commands.splitlines()[0]
        if problem is None:
            passed += 1
            print(f"readme: ok   {path}:{line}  {head}  ({seconds:.1f} s)", flush=True)
        else:
            failed += 1
            print(f"readme: FAIL {path}:{line}  {problem}\n{commands}\n--- output\n{output}\n---", flush=True)

    try:
        for line, commands, expected in todo:
            start = time.monotonic()
            if commands == "make test":
                print(f"readme: --   {path}:{line}  {commands}  (it is what runs this)", flush=True)
                total -= 1
                continue
            if commands == "make up":
                up = (line, commands)
                cluster = Cluster(commands, env)
                if not cluster.ready():
                    verdict(line, commands, "it never printed a first curl")
                    up = None
                    break
                continue
            if in_docker:
                code, output = session.run(commands.replace("docker compose", command), DOCKER_SECONDS_MAX)
            else:
                code, output = session.run(moved(commands, base), BLOCK_SECONDS_MAX)
            problem = None
            if code is None:
                problem = "it ended the session" if session.output.ended else "no end in time"
            elif code != 0:
                problem = f"exit code {code}"
            elif expected and (want := missing(expected, output)):
                problem = f"the output lacks: {want}"
            verdict(line, commands, problem, output, time.monotonic() - start)
            if code is None:
                break
        if up:
            start = time.monotonic()
            verdict(*up, cluster.stop(), cluster.output.text, time.monotonic() - start)
    finally:
        # Whatever goes on in it would make anew what is taken down.
        session.close()
        if in_docker:
            down = subprocess.run(["bash", "-c", f"{command} down -v -t 2"], env=env, capture_output=True, text=True)
            if down.returncode != 0:
                print(f"readme: the containers could not be taken down: {down.stderr.strip()}")
                failed += 1
        if cluster:
            cluster.kill()
    not_run = total - passed - failed
    if not_run:
        print(f"readme: {not_run} blocks were not reached")
    print(f"readme: {passed} passed, {failed + not_run} failed")
    sys.exit(1 if failed + not_run else 0)


if __name__ == "__main__":
    main()
