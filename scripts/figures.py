#!/usr/bin/env python3
"""Measures how a cluster on this machine comes back together: the figures of docs/performance.md, by the release binary.

    scripts/figures.py heal          keys of which one replica knows nothing become equal, without reads and without hints
    scripts/figures.py hints         what was kept for a node that was away is delivered under load
    scripts/figures.py replace       an empty node takes the place of a dead one under load
    scripts/figures.py idle          what a converged cluster uses while nobody asks for anything

Needs Python 3.11 and nothing else. Requests are sent at a fixed rate whatever the answers do, and their time counts from the
moment at which they were due: a cluster that stalls is not asked less. Nodes live in a temporary directory and on loopback,
and are ended by pid.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

CARTWHEEL = os.environ.get("CARTWHEEL_BIN") or os.path.join(
    os.environ.get("CARGO_TARGET_DIR", "target"), "release", "cartwheel"
)
BUCKET = "figures"
VALUE = os.urandom(1024)
CONNECTIONS = 32


class Cluster:
    """Nodes on ports of their own, each with a directory."""

    def __init__(self, count, first_port, **env):
        self.dir = tempfile.mkdtemp(prefix="cartwheel-figures-")
        self.first_port, self.env, self.nodes = first_port, env, {}
        try:
            for index in range(count):
                self.start(index)
            for index in range(count):
                self.await_ready(index)
        except BaseException:
            self.close()
            raise

    def http(self, index):
        return f"127.0.0.1:{self.first_port + 2 * index}"

    def data_dir(self, index):
        return os.path.join(self.dir, f"n{index}")

    def start(self, index, *more):
        seed = [] if index == 0 else ["--seed", f"127.0.0.1:{self.first_port + 1}"]
        if index == 0 and os.path.exists(self.data_dir(0)):
            seed = ["--seed", f"127.0.0.1:{self.first_port + 3}"]
        command = [CARTWHEEL, "node", "--http", self.http(index)]
        command += ["--peer", f"127.0.0.1:{self.first_port + 2 * index + 1}", "--data-dir", self.data_dir(index)]
        env = {**os.environ, **{f"CARTWHEEL_{name.upper()}": str(value) for name, value in self.env.items()}}
        with open(os.path.join(self.dir, f"n{index}.log"), "ab") as log:
            self.nodes[index] = subprocess.Popen([*command, *seed, *more], stdout=log, stderr=log, env=env)

    def end(self, index, how=signal.SIGTERM):
        node = self.nodes.pop(index)
        node.send_signal(how)
        node.wait()

    def ask(self, index, path):
        with urllib.request.urlopen(f"http://{self.http(index)}{path}", timeout=10) as answer:
            return json.load(answer)

    def await_ready(self, index):
        until(60, lambda: self.is_ready(index), f"node {index} is ready")

    def is_ready(self, index):
        try:
            cluster = self.ask(index, "/v1/cluster")
            urllib.request.urlopen(f"http://{self.http(index)}/health/ready", timeout=5).close()
        except OSError:
            return False
        return all(member["status"] in ("up", "removed", "down") for member in cluster["members"])

    def cli(self, *args):
        command = [CARTWHEEL, *args, "--url", f"http://{self.http(0)}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def aae(self, name):
        return sum(self.ask(index, "/v1/aae")[name] for index in self.nodes)

    def hints(self):
        return sum(self.ask(index, "/v1/hints")["waiting"] for index in self.nodes)

    def cpu_seconds(self, index):
        with open(f"/proc/{self.nodes[index].pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        for index in list(self.nodes):
            self.end(index, signal.SIGKILL)
        shutil.rmtree(self.dir)


def until(seconds, holds, what):
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            sys.exit(f"after {seconds} s it is not so that {what}")
        time.sleep(0.05)
    return time.monotonic() - began


class Connection:
    """One connection that is kept, with one request on it at a time."""

    def __init__(self, address):
        self.host, self.port = address.split(":")
        self.stream = None

    async def request(self, method, path, body=b""):
        return (await self.exchange(method, path, body))[0]

    async def exchange(self, method, path, body=b"", **headers):
        """The status, the headers by their names in lower case, and the body of an answer."""
        if self.stream is None:
            self.stream = await asyncio.open_connection(self.host, self.port)
        reader, writer = self.stream
        headers = {"host": self.host, "content-length": len(body), **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            status = int(first.split(" ", 2)[1])
            answer = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
            if "content-length" not in answer and status not in (204, 304):
                raise ConnectionError("an answer without a length")
            return status, answer, await reader.readexactly(int(answer.get("content-length", 0)))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.stream = None
            raise


def key_path(number):
    return f"/v1/buckets/{BUCKET}/keys/k{number}"


async def write_all(addresses, numbers):
    """Writes keys as quickly as can be. Each must be acknowledged."""
    numbers = iter(numbers)

    async def work(address):
        connection = Connection(address)
        for number in numbers:
            status = await connection.request("PUT", key_path(number), VALUE)
            if status != 204:
                sys.exit(f"k{number} was answered by {status}")

    await asyncio.gather(*(work(addresses[at % len(addresses)]) for at in range(CONNECTIONS)))


class Load:
    """Requests at a fixed rate, half of them reads of keys that are there; `seconds` may be cut short by `over`."""

    def __init__(self, addresses, rate, keys, prefix="load"):
        self.addresses, self.rate, self.keys, self.prefix = addresses, rate, keys, prefix
        self.times, self.bad, self.written = [], {}, []

    async def run(self, seconds, over=lambda: False):
        loop = asyncio.get_running_loop()
        free = [Connection(self.addresses[at % len(self.addresses)]) for at in range(CONNECTIONS * 4)]
        began, running = loop.time(), set()
        for count in range(int(seconds * self.rate)):
            due = began + count / self.rate
            await asyncio.sleep(max(0, due - loop.time()))
            if over():
                break
            running.add(task := asyncio.create_task(self.one(free, count, due)))
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        return loop.time() - began

    def some_connection(self, free):
        """One that is free. Where all wait for an answer there is one more: what is due is asked."""
        return free.pop(random.randrange(len(free))) if free else Connection(random.choice(self.addresses))

    async def one(self, free, count, due):
        connection = self.some_connection(free)
        number = random.randrange(self.keys)
        try:
            if count % 2:
                status = await connection.request("GET", key_path(number) + "?r=2")
            else:
                path = f"/v1/buckets/{BUCKET}/keys/{self.prefix}{count}"
                status = await connection.request("PUT", path, VALUE)
                self.written += [path] if status == 204 else []
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        free.append(connection)
        self.times.append(asyncio.get_running_loop().time() - due)
        if status not in (200, 204):
            self.bad[status] = self.bad.get(status, 0) + 1

    def summary(self):
        times = sorted(self.times)
        part = lambda share: f"{times[int(share * (len(times) - 1))] * 1000:.1f} ms"
        return f"{len(times)} requests, p50 {part(0.5)}, p99 {part(0.99)}, not 2xx: {self.bad or 'none'}"


def converged(cluster, index, numbers):
    """Whether all replicas of these keys are equal, as `explain` sees them: it repairs nothing."""
    for number in numbers:
        told = cluster.ask(index, f"/v1/explain?bucket={BUCKET}&key=k{number}")
        if told["verdict"] != "converged":
            return False
    return True


def heal(args):
    cluster = Cluster(3, args.port, limits_hint_bytes=0)
    try:
        addresses = [cluster.http(index) for index in range(3)]
        asyncio.run(write_all(addresses, range(args.keys)))
        for behind in args.behind or (args.keys // 100, args.keys // 1000):
            cluster.end(2)
            numbers = random.sample(range(args.keys), behind)
            asyncio.run(write_all(addresses[:2], numbers))
            bytes_before, began = sum(cluster.ask(index, "/v1/aae")["bytes"] for index in (0, 1)), time.monotonic()
            cluster.start(2)
            cluster.await_ready(2)
            if converged(cluster, 0, numbers):
                sys.exit("nothing was behind")
            until(120, lambda: converged(cluster, 0, numbers), "all are equal")
            took = time.monotonic() - began
            sent = cluster.aae("bytes") - bytes_before
            print(f"{behind} of {args.keys} keys behind: all equal after {took:.1f} s; {sent / 1e6:.2f} MB of exchanges")
            time.sleep(5)
        idle_for(cluster, 20)
    finally:
        cluster.close()


def idle_for(cluster, seconds):
    repairs, cpu = cluster.aae("repairs"), {index: cluster.cpu_seconds(index) for index in cluster.nodes}
    time.sleep(seconds)
    used = [100 * (cluster.cpu_seconds(index) - before) / seconds for index, before in cpu.items()]
    shown = ", ".join(f"{share:.2f}" for share in used)
    print(f"idle for {seconds} s: {cluster.aae('repairs') - repairs} repairs; {shown} % of a core for each node")


def hints(args):
    cluster = Cluster(3, args.port)
    try:
        addresses = [cluster.http(index) for index in range(3)]
        asyncio.run(write_all(addresses, range(min(1000, args.keys))))
        load = Load(addresses, args.rate, 1000)
        asyncio.run(load.run(20))
        print(f"three up, nothing kept: {load.summary()}")
        cluster.end(2, signal.SIGKILL)
        asyncio.run(write_all(addresses[:2], range(1000, args.keys)))
        load = Load(addresses[:2], args.rate, args.keys)
        asyncio.run(load.run(20))
        kept = cluster.hints()
        print(f"one away, {kept} hints kept: {load.summary()}")
        asyncio.run(deliver(cluster, addresses[:2], args))
        load = Load(addresses[:2], args.rate, args.keys)
        asyncio.run(load.run(20))
        print(f"after: {load.summary()}")
    finally:
        cluster.close()


async def deliver(cluster, addresses, args):
    began = time.monotonic()
    cluster.start(2)
    load, done = Load(addresses, args.rate, args.keys), []

    async def watch():
        while not cluster.is_ready(2) or await asyncio.to_thread(cluster.hints) > 0:
            await asyncio.sleep(0.2)
        done.append(time.monotonic() - began)

    watching = asyncio.create_task(watch())
    await load.run(300, lambda: bool(done))
    await watching
    print(f"all delivered {done[0]:.1f} s after the start of the process; meanwhile {load.summary()}")


def replace(args):
    cluster = Cluster(5, args.port)
    try:
        asyncio.run(write_all([cluster.http(index) for index in range(5)], range(args.keys)))
        dead = next(m["id"] for m in cluster.ask(0, "/v1/cluster")["members"] if m["http"] == cluster.http(4))
        asyncio.run(replaced(cluster, dead, args))
        numbers = random.sample(range(args.keys), 1000)
        wrong = sum(not converged(cluster, 0, [number]) for number in numbers)
        print(f"of 1000 sampled keys {wrong} are not converged")
        print(cluster.cli("explain", BUCKET, f"k{numbers[0]}"))
    finally:
        cluster.close()


async def replaced(cluster, dead, args):
    load, done = Load([cluster.http(index) for index in range(4)], 400, args.keys), []

    async def operate():
        await asyncio.sleep(5)
        cluster.end(4, signal.SIGKILL)
        shutil.rmtree(cluster.data_dir(4))
        print(f"node {dead} killed, its disk wiped")
        await asyncio.sleep(5)
        cluster.start(4, "--join", "manual")
        new = None
        while new is None:
            await asyncio.sleep(0.2)
            members = (await asyncio.to_thread(cluster.ask, 0, "/v1/cluster"))["members"]
            new = next((m["id"] for m in members if m["status"] == "joining"), None)
        print(await asyncio.to_thread(cluster.cli, "cluster", "replace", dead, new))
        print(plan := await asyncio.to_thread(cluster.cli, "cluster", "plan"))
        began = time.monotonic()
        print(await asyncio.to_thread(cluster.cli, "cluster", "commit"))
        print(await asyncio.to_thread(cluster.cli, "cluster", "status", "--wait"))
        print(f"every partition active {time.monotonic() - began:.1f} s after the commit")
        await asyncio.sleep(3)
        done.append(plan)

    operating = asyncio.create_task(operate())
    await load.run(300, lambda: bool(done) or operating.done())
    await operating
    print(f"from 5 s before the kill to 3 s after the end, r=2: {load.summary()}")


def idle(args):
    cluster = Cluster(3, args.port)
    try:
        asyncio.run(write_all([cluster.http(index) for index in range(3)], range(args.keys)))
        time.sleep(10)
        idle_for(cluster, 60)
    finally:
        cluster.close()


def measure(about, what, add_options):
    """Does what the command line names, with what it says of it."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=what)
    parser.add_argument("--rate", type=int, default=300, help="requests per second of the load")
    parser.add_argument("--port", type=int, default=28_000, help="the first of a dozen ports")
    add_options(parser)
    args = parser.parse_args()
    if not os.access(CARTWHEEL, os.X_OK):
        sys.exit(f"{CARTWHEEL} is missing: run `make build` first")
    # Whoever ends it has its nodes ended all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    what[args.what](args)


def options(parser):
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--behind", type=int, nargs="+", help="how many keys are behind, one time after the other (heal)")


def main():
    measure(__doc__, {"heal": heal, "hints": hints, "replace": replace, "idle": idle}, options)


if __name__ == "__main__":
    main()
