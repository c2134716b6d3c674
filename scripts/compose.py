#!/usr/bin/env python3
"""Runs the cluster of docker-compose.yml in earnest, and takes it down again.

    scripts/compose.py [--image NAME]     the image must be there: scripts/image.sh makes it

What a reader of docker-compose.yml would expect: five nodes become healthy, know each other, listen on 127.0.0.1 alone, run as
nobody in particular, of a small image, and share a secret that stands in no log. One is killed and misses nothing, a sixth comes by `--scale` and goes again, all
but the first start again where that one can't, and when it has lost its disk it joins the others and founds no cluster of its own. And `cartwheel chaos --target compose`, of the
release build or of CARTWHEEL_BIN, says in a line what it lacks, and leaves nothing when it is ended in the midst of a trouble.

The last line is the count: `compose: 16 passed, 0 failed`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from readme import Output

PORTS = [8098, 8108, 8118, 8128, 8138]
PROJECT = f"cartwheel-test-{os.getpid()}"
START_SECONDS_MAX = 120
STEP_SECONDS_MAX = 90
CHAOS_SECONDS_MAX = 120
KEYS = 100
# 111 MiB of Debian, and some 30 of a binary without debug information.
IMAGE_MIB_MAX = 160
CARTWHEEL = os.environ.get("CARTWHEEL_BIN") or os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release", "cartwheel")


def compose_command():
    """`docker compose` where there is one, and Compose 1.29 elsewhere."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True)
    if plugin.returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    sys.exit("compose: neither `docker compose` nor `docker-compose` is here")


def run(*command, check=True):
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def docker(*args, check=True):
    return run("docker", *args, check=check)


def until(seconds, holds, what):
    """Waits until `holds` says nothing, and fails with what it said last."""
    end = time.monotonic() + seconds
    while True:
        try:
            wrong = holds()
        except (OSError, AssertionError, KeyError, ValueError) as error:
            wrong = str(error) or repr(error)
        if not wrong:
            return
        if time.monotonic() > end:
            raise AssertionError(f"{what}: {wrong}")
        time.sleep(0.2)


def ask(port, path, method="GET", body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, method=method)
    with urllib.request.urlopen(request, timeout=10) as reply:
        return reply.read()


def cluster(port):
    return json.loads(ask(port, "/v1/cluster"))


def key(number):
    return f"/v1/buckets/compose/keys/k{number}"


class Compose:
    def __init__(self, command):
        self.command = [*command, "-p", PROJECT]

    def __call__(self, *args, check=True):
        return run(*self.command, *args, check=check)

    def container(self, service):
        return self("ps", "-q", service).split()[0]

    def containers(self):
        return self("ps", "-q").split()

    def settled(self, members, through=8108):
        def look():
            view = cluster(through)
            up = [member for member in view["members"] if member["status"] == "up" and member["reachable"]]
            if len(up) != members or not view["ring"]["settled"]:
                return json.dumps(view)[:1000]
            return None

        until(STEP_SECONDS_MAX, look, f"{members} nodes that own the ring")


class Chaos:
    """`cartwheel chaos run … --target compose` beside this. Where something fails it is told to end, and takes down what it has put up."""

    def __init__(self, scenario, **env):
        self.out = tempfile.TemporaryDirectory()
        command = [CARTWHEEL, "chaos", "run", scenario, "--target", "compose", "--seconds", "60", "--out", self.out.name]
        env = dict(os.environ, **env)
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.output = Output(self.process.stdout)
        self.project = f"cartwheel-chaos-{self.process.pid}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(CHAOS_SECONDS_MAX)
        self.out.cleanup()

    def end(self):
        """Its exit code, and all that it has said."""
        try:
            code = self.process.wait(CHAOS_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs after {CHAOS_SECONDS_MAX} s: {self.output.text}") from None
        # Nothing matches this: it waits for the end of what is said.
        self.output.wait_for("(?!)", STEP_SECONDS_MAX)
        return code, self.output.text


def the_image_is_small(_):
    mib = int(docker("image", "inspect", "-f", "{{.Size}}", os.environ["CARTWHEEL_IMAGE"])) >> 20
    assert mib <= IMAGE_MIB_MAX, f"{mib} MiB, and {IMAGE_MIB_MAX} at most"


def five_become_healthy(compose):
    compose("up", "-d", "--no-build")

    def look():
        states = [docker("inspect", "-f", "{{.State.Health.Status}}", one).strip() for one in compose.containers()]
        return None if states == ["healthy"] * 5 else str(states)

    until(START_SECONDS_MAX, look, "five healthy containers")
    compose.settled(5)


def what_one_takes_the_others_give(_):
    for number in range(KEYS):
        ask(PORTS[number % 5], key(number), "PUT", f"v{number}".encode())
    for number in range(KEYS):
        assert ask(PORTS[(number + 1) % 5], key(number)) == f"v{number}".encode(), number


def nobody_else_reaches_them(compose):
    for one in compose.containers():
        for line in docker("port", one).splitlines():
            assert line.split(" -> ")[1].startswith("127.0.0.1:"), line
            assert line.startswith("8098/"), f"the peer protocol is published: {line}"


def they_run_as_nobody_in_particular(compose):
    for one in compose.containers():
        assert docker("exec", one, "id", "-u").strip() == "10001"
        status = dict(line.split(":\t", 1) for line in docker("exec", one, "cat", "/proc/1/status").splitlines() if ":\t" in line)
        assert int(status["CapBnd"], 16) == 0, f"{one} may gain {status['CapBnd']}"
        assert status["NoNewPrivs"] == "1", f"{one} may gain privileges"


def the_secret_is_one_and_in_no_log(compose):
    secrets = {docker("exec", one, "cat", "/run/cartwheel/secret") for one in compose.containers()}
    assert len(secrets) == 1 and len(secrets.copy().pop()) == 64, "not one secret of 32 bytes"
    secret = secrets.pop()
    for one in compose.containers():
        assert docker("exec", one, "stat", "-c", "%a", "/run/cartwheel/secret").strip() == "600"
        said = subprocess.run(["docker", "logs", one], capture_output=True, text=True)
        assert secret not in said.stdout + said.stderr, "it stands in a log"
        assert secret not in docker("inspect", one), "it stands in the environment"


def one_that_is_killed_misses_nothing(compose):
    docker("kill", "-s", "KILL", compose.container("n3"))
    for number in range(KEYS):
        ask(PORTS[0], key(KEYS + number), "PUT", b"meanwhile")
    compose("up", "-d", "--no-build")
    compose.settled(5)

    until(STEP_SECONDS_MAX, not_alike, "all replicas alike")


def not_alike():
    """The first key whose owners do not all have the same, looked at and not repaired."""
    for number in range(KEYS):
        told = json.loads(ask(PORTS[2], f"/v1/explain?bucket=compose&key=k{KEYS + number}"))
        if told["verdict"] != "converged":
            return json.dumps(told)[:600]
    return None


def a_sixth_comes_by_scale(compose):
    compose("up", "-d", "--no-build", "--scale", "node=1")
    compose.settled(6)


def it_goes_again_and_leaves_everything_behind(compose):
    own = [f"n{number}:" for number in range(1, 6)]
    members = cluster(PORTS[1])["members"]
    sixth = [member["id"] for member in members if not member["peer"].startswith(tuple(own))]
    assert len(sixth) == 1, members
    run(CARTWHEEL, "cluster", "leave", sixth[0])
    run(CARTWHEEL, "cluster", "commit")
    compose.settled(5)
    compose("up", "-d", "--no-build", "--scale", "node=0")
    assert len(compose.containers()) == 5, compose.containers()
    # Nothing repairs them meanwhile: as many copies as there are to be are there when it has gone.
    wrong = not_alike()
    assert wrong is None, wrong


def the_others_start_while_the_founder_can_t(compose):
    compose("stop", "-t", "20")
    spoil = "find /var/lib/cartwheel -name CURRENT | while read -r file; do echo nothing >$file; done"
    volume = f"{PROJECT}_data1:/var/lib/cartwheel"
    docker("run", "--rm", "--network", "none", "-v", volume, os.environ["CARTWHEEL_IMAGE"], "sh", "-c", spoil)
    compose("up", "-d", "--no-build", "--scale", "node=1")
    compose.settled(5)
    for number in range(KEYS):
        assert ask(PORTS[1], key(KEYS + number)) == b"meanwhile", number


def a_founder_without_its_disk_joins_the_others(compose):
    before = cluster(PORTS[1])["cluster"]
    compose("rm", "-s", "-f", "-v", "n1")
    docker("volume", "rm", f"{PROJECT}_data1")
    compose("up", "-d", "--no-build", "--scale", "node=1")

    def look():
        view = cluster(PORTS[0])
        assert view["cluster"] == before, f"it is in {view['cluster']} and not in {before}"
        mine = [member for member in view["members"] if member["id"] == view["node"]]
        return None if mine and mine[0]["status"] == "up" else json.dumps(view)[:600]

    until(STEP_SECONDS_MAX, look, "the founder among the others")
    # What it had is with the others.
    for number in range(KEYS):
        assert ask(PORTS[1], key(KEYS + number)) == b"meanwhile", number


def look_for_rests(project):
    """Fails if a container, a volume, a network or a process of a project is there."""
    label = f"label=com.docker.compose.project={project}"
    for kind in (["ps", "-aq"], ["volume", "ls", "-q"], ["network", "ls", "-q"]):
        assert not docker(*kind, "--filter", label).strip(), f"left of {project}: {kind}"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as line:
                assert project not in line.read(), f"left of {project}: the process {pid}"
        except (FileNotFoundError, ProcessLookupError):
            # It ended while this looked.
            continue


def nothing_is_left(compose):
    compose("down", "-v", "--remove-orphans", "-t", "20")
    look_for_rests(PROJECT)


def chaos_is_refused(expected, **env):
    """A run that can't even begin ends as wrong usage does, says why in one line, and leaves nothing."""
    with Chaos("crash", **env) as chaos:
        code, said = chaos.end()
    assert code == 2, f"exit code {code}: {said}"
    assert len(said.splitlines()) == 1, f"not one line: {said}"
    assert expected in said, said
    look_for_rests(chaos.project)


def chaos_without_an_image_says_so(_):
    chaos_is_refused("the image of the nodes is not there", CARTWHEEL_IMAGE=f"{PROJECT}-nosuch")


def chaos_beside_another_cluster_says_so(compose):
    chaos_is_refused("and one is taken")
    compose.settled(5)


def chaos_leaves_nothing(scenario, broken, by, code_of_that):
    """It is told to end in the midst of a trouble, and takes down what is broken too."""
    with Chaos(scenario) as chaos:
        assert chaos.output.wait_for(broken, CHAOS_SECONDS_MAX), f"never {broken}: {chaos.output.text}"
        chaos.process.send_signal(by)
        code, said = chaos.end()
    assert code == code_of_that and "everything was taken down again" in said, f"exit code {code}: {said}"
    look_for_rests(chaos.project)


def chaos_ended_while_containers_are_paused_leaves_nothing(_):
    chaos_leaves_nothing("pause", r" paused$", signal.SIGINT, 130)


def chaos_ended_while_containers_are_cut_off_leaves_nothing(_):
    chaos_leaves_nothing("partition", r" cut off$", signal.SIGTERM, 143)


STEPS = [
    the_image_is_small,
    chaos_without_an_image_says_so,
    five_become_healthy,
    chaos_beside_another_cluster_says_so,
    what_one_takes_the_others_give,
    nobody_else_reaches_them,
    they_run_as_nobody_in_particular,
    the_secret_is_one_and_in_no_log,
    one_that_is_killed_misses_nothing,
    a_sixth_comes_by_scale,
    it_goes_again_and_leaves_everything_behind,
    the_others_start_while_the_founder_can_t,
    a_founder_without_its_disk_joins_the_others,
    nothing_is_left,
    chaos_ended_while_containers_are_paused_leaves_nothing,
    chaos_ended_while_containers_are_cut_off_leaves_nothing,
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", default="cartwheel")
    os.environ["CARTWHEEL_IMAGE"] = parser.parse_args().image
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    # Whoever ends it has the containers taken down all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    compose = Compose(compose_command())
    passed = failed = 0
    try:
        for step in STEPS:
            began = time.monotonic()
            try:
                step(compose)
            except (AssertionError, OSError, KeyError, ValueError, IndexError) as error:
                failed += 1
                print(f"{step.__name__}: FAILED after {time.monotonic() - began:.1f} s: {error}", flush=True)
                print(compose("logs", "--tail", "20", check=False)[-6000:], flush=True)
                break
            passed += 1
            print(f"{step.__name__}: ok, {time.monotonic() - began:.1f} s", flush=True)
    finally:
        compose("down", "-v", "--remove-orphans", "-t", "5", check=False)
    print(f"compose: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
