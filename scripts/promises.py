#!/usr/bin/env python3
"""Measures what a cluster on this machine promises while parts of it are away: rows of docs/reliability.md, by the release binary.

    scripts/promises.py siblings     how many values stand side by side when clients read, change and write the same keys
    scripts/promises.py fresh        how many reads at R = 1 show a write at W = 1, by the time since its answer
    scripts/promises.py quorums      answers by W and PW with a node killed, with two stopped and with three; how soon it is noticed
    scripts/promises.py pause        how long clients wait while one of five nodes stands still for 40 s
    scripts/promises.py alarms       how often a living node is taken for dead while every 20th packet is lost (needs root)
    scripts/promises.py overload     how much is answered well at five times the clients and the rate that it can carry (needs wrk)

Needs Python 3.11, and figures.py beside it. Nodes live in a temporary directory and on loopback, and are ended by pid; `alarms` runs
in a network of its own, where iptables drops packets, and leaves no rule behind. `overload` gives the nodes one core and the clients,
wrk of Debian's package, another one, so that what the clients take is not taken from the nodes.
"""

import asyncio
import base64
import json
import os
import random
import signal
import subprocess
import sys
import time

from figures import BUCKET, VALUE, Cluster, Connection, Load, key_path, measure, until, write_all

CONTEXT = "cartwheel-context"
SIBLINGS = "cartwheel-siblings"
DEADLINE_MS = 5000


class Values:
    """What one client reads and writes, how many reads found something, and the most values that it has seen side by side."""

    def __init__(self, addresses):
        self.connections = [Connection(address) for address in addresses]
        self.reads, self.several, self.most = 0, 0, 0

    async def read(self, path):
        """The elements of all values, and their context."""
        status, headers, body = await random.choice(self.connections).exchange("GET", path)
        self.most = max(self.most, int(headers.get(SIBLINGS, 0)))
        if status == 404:
            return set(), headers.get(CONTEXT)
        self.reads += 1
        if status == 300:
            self.several += 1
            versions = json.loads(body)["versions"]
            return set().union(*(elements(version) for version in versions)), headers[CONTEXT]
        assert status == 200, (status, body)
        return set(json.loads(body)), headers[CONTEXT]

    async def write(self, path, values, context):
        headers = {"content_type": "application/json", **({CONTEXT: context} if context else {})}
        body = json.dumps(sorted(values)).encode()
        status, headers, body = await random.choice(self.connections).exchange("PUT", path, body, **headers)
        assert status == 204, (status, body)
        self.most = max(self.most, int(headers[SIBLINGS]))
        return headers[CONTEXT]


def elements(version):
    return version["value"] if "value" in version else json.loads(base64.b64decode(version["value_base64"]))


async def siblings_of_one_key(addresses, writers, each):
    """Clients add elements to a set in one key: read, add, write with what was read."""
    path, clients = f"/v1/buckets/{BUCKET}/keys/set-of-{writers}", [Values(addresses) for _ in range(writers)]

    async def work(number, client):
        for count in range(each):
            values, context = await client.read(path)
            await client.write(path, values | {f"{number}-{count}"}, context)

    await asyncio.gather(*(work(number, client) for number, client in enumerate(clients)))
    last = Values(addresses)
    values, _ = await last.read(path)
    missing = writers * each - len(values)
    print(
        f"{writers} writers, {each} changes each of one set: at most {max(c.most for c in clients)} values side by side, "
        f"{last.most} in the end; {missing} of {writers * each} elements lost"
    )


async def siblings_of_two(addresses):
    """Two clients write in turn, each with the context of its own last write and without a look at the other's."""
    path, contexts, client = f"/v1/buckets/{BUCKET}/keys/two", [None, None], Values(addresses)
    for count in range(100):
        contexts[count % 2] = await client.write(path, {str(count)}, contexts[count % 2])
    print(f"two clients in turn, 100 writes, each knows its own: at most {client.most} values side by side")


async def siblings_of_carts(addresses, seconds):
    """Ten clients change carts among 10,000 as above, without a fault."""
    clients, stop = [Values(addresses) for _ in range(10)], time.monotonic() + seconds

    async def work(client):
        while time.monotonic() < stop:
            path = f"/v1/buckets/{BUCKET}/keys/cart{random.randrange(10_000)}"
            values, context = await client.read(path)
            await client.write(path, values | {f"sku{random.randrange(100)}"}, context)

    await asyncio.gather(*map(work, clients))
    reads, several = sum(c.reads for c in clients), sum(c.several for c in clients)
    print(f"ten clients, 10,000 carts: {several} of {reads} reads showed more than one value ({100 * several / reads:.4f} %)")


def siblings(args):
    cluster = Cluster(3, args.port)
    try:
        addresses = [cluster.http(index) for index in range(3)]
        asyncio.run(siblings_of_one_key(addresses, 5, 2000))
        asyncio.run(siblings_of_two(addresses))
        asyncio.run(siblings_of_carts(addresses, args.seconds))
    finally:
        cluster.close()


async def fresh_after(addresses, wait_ms, count):
    """A value is written through one node at W = 1 and read through another at R = 1, so long after the answer."""

    async def one(number):
        path = f"/v1/buckets/{BUCKET}/keys/fresh-{wait_ms}-{number}"
        here, there = (Connection(address) for address in random.sample(addresses, 2))
        await there.request("GET", "/ping")
        assert await here.request("PUT", f"{path}?w=1", VALUE) == 204
        await asyncio.sleep(wait_ms / 1000)
        status = await there.request("GET", f"{path}?r=1")
        for connection in (here, there):
            connection.stream[1].close()
        return status == 200

    shown = 0
    for first in range(0, count, 4):
        shown += sum(await asyncio.gather(*map(one, range(first, min(first + 4, count)))))
    print(f"{wait_ms} ms after the answer: {shown} of {count} reads show it ({100 * shown / count:.3f} %)")


def fresh(args):
    cluster = Cluster(5, args.port)
    try:
        for wait_ms in (0, 5, 50):
            asyncio.run(fresh_after([cluster.http(index) for index in range(5)], wait_ms, 5000))
    finally:
        cluster.close()


class Asks(Load):
    """Requests at a fixed rate, with a query; when each was due, whether it was answered well, and how long that took."""

    def __init__(self, addresses, rate, query, prefix):
        super().__init__(addresses, rate, 0, prefix)
        self.query, self.answers = query, []

    async def one(self, free, count, due):
        connection, loop = self.some_connection(free), asyncio.get_running_loop()
        try:
            async with asyncio.timeout(2 * DEADLINE_MS / 1000):
                path = f"/v1/buckets/{BUCKET}/keys/{self.prefix}{count}?{self.query}&timeout_ms={DEADLINE_MS}"
                status = await connection.request("PUT", path, VALUE)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            status = 0
        free.append(connection)
        self.answers.append((due, status, loop.time() - due, count))

    def share(self, begin, end):
        """The share of those due from then to then, counted from the first, that were answered well; and how many that are."""
        first = min(due for due, *_ in self.answers)
        good = [status == 204 for due, status, *_ in self.answers if begin <= due - first < end]
        return f"{100 * sum(good) / len(good):.2f} % of {len(good)}"

    def others(self):
        counts = {}
        for _, status, *_ in self.answers:
            if status != 204:
                counts[status] = counts.get(status, 0) + 1
        return counts or "none"


def reachable(cluster, index, away):
    """How many of those other nodes a node says that it reaches."""
    urls = {cluster.http(other) for other in away}
    return sum(m["reachable"] for m in cluster.ask(index, "/v1/cluster")["members"] if m["http"] in urls)


def noticed(cluster, among, away, there):
    """When all of these say of all of those that they are there, or away."""
    wanted = len(away) if there else 0
    return until(30, lambda: all(reachable(cluster, index, away) == wanted for index in among), "it was noticed")


def killed(cluster, args):
    """One of five nodes is killed under load, for each W."""
    rest = [0, 1, 2, 3]
    addresses = [cluster.http(index) for index in rest]
    for w in (1, 2, 3):
        load = Asks(addresses, args.rate, f"w={w}", f"w{w}-")

        async def course():
            running = asyncio.create_task(load.run(5 + 20))
            await asyncio.sleep(5)
            cluster.end(4, signal.SIGKILL)
            down = await asyncio.to_thread(noticed, cluster, rest, [4], False)
            await running
            return down

        down = asyncio.run(course())
        cluster.start(4)
        up = until(30, lambda: answers(cluster, 4), "it answers") and noticed(cluster, rest, [4], True)
        print(
            f"w={w}, one of five killed: {load.share(5, 8)} in the first 3 s, {load.share(8, 25)} then (others: {load.others()}); "
            f"down after {down:.1f} s, up {up:.1f} s after it answered"
        )
        cluster.await_ready(4)
        until(60, lambda: cluster.hints() == 0, "no hint is left")


def answers(cluster, index):
    try:
        return bool(cluster.ask(index, "/v1/cluster"))
    except OSError:
        return False


def strictly(cluster, args):
    """With one of five dead, owners alone must answer: `pw`."""
    rest = [0, 1, 2, 3]
    dead = next(m["id"] for m in cluster.ask(0, "/v1/cluster")["members"] if m["http"] == cluster.http(4))
    cluster.end(4, signal.SIGKILL)
    noticed(cluster, rest, [4], False)
    for pw in (2, 3):
        load = Asks([cluster.http(index) for index in rest], args.rate, f"w={pw}&pw={pw}", f"pw{pw}-")
        asyncio.run(load.run(10))
        wrong = sum(status not in (204, 503) for _, status, *_ in load.answers)
        sample = random.sample(load.answers, 500)
        as_owned = 0
        for _, status, _, count in sample:
            told = cluster.ask(0, f"/v1/explain?bucket={BUCKET}&key=pw{pw}-{count}")
            as_owned += (status == 204) == (pw < 3 or dead not in told["preference_list"])
        print(
            f"pw={pw}, one of five dead: {load.share(0, 10)} answered 204, {wrong} neither 204 nor 503; "
            f"{as_owned} of {len(sample)} looked at are as their owners would have it"
        )
    cluster.start(4)
    cluster.await_ready(4)
    until(60, lambda: cluster.hints() == 0, "no hint is left")


def sides(cluster, args):
    """Two and three nodes that hear nothing of each other: what each side sees when the other side is stopped."""
    for side, other in (([0, 1, 2], [3, 4]), ([3, 4], [0, 1, 2])):
        for index in other:
            cluster.nodes[index].send_signal(signal.SIGSTOP)
        for w in (2, 3):
            load = Asks([cluster.http(index) for index in side], args.rate, f"w={w}", f"side{len(side)}-{w}-")
            asyncio.run(load.run(13))
            slowest = max(took for _, _, took, _ in load.answers)
            print(
                f"w={w}, {len(side)} of five on this side: {load.share(0, 3)} answered 204 in the first 3 s, {load.share(3, 13)} then "
                f"(others: {load.others()}); the slowest after {slowest:.2f} s (deadline {DEADLINE_MS / 1000:.0f} s)"
            )
        for index in other:
            cluster.nodes[index].send_signal(signal.SIGCONT)
        noticed(cluster, side, other, True)
        until(60, lambda: cluster.hints() == 0, "no hint is left")


def quorums(args):
    cluster = Cluster(5, args.port)
    try:
        killed(cluster, args)
        strictly(cluster, args)
        sides(cluster, args)
    finally:
        for node in cluster.nodes.values():
            node.send_signal(signal.SIGCONT)
        cluster.close()


def pause(args):
    cluster = Cluster(5, args.port)
    try:
        addresses = [cluster.http(index) for index in range(4)]
        asyncio.run(write_all(addresses, range(10_000)))
        before = Load(addresses, args.rate, 10_000)
        asyncio.run(before.run(40))
        print(f"all five there, 40 s: {before.summary()}")
        cluster.nodes[4].send_signal(signal.SIGSTOP)
        paused = Load(addresses, args.rate, 10_000, "paused")
        asyncio.run(paused.run(40))
        cluster.nodes[4].send_signal(signal.SIGCONT)
        print(f"one stands still, 40 s: {paused.summary()}")
        after = Load(addresses, args.rate, 10_000)
        asyncio.run(after.run(10))
        print(f"it goes on, 10 s: {after.summary()}")
        lost = asyncio.run(not_there(addresses, paused.written))
        print(f"{lost} of {len(paused.written)} writes acknowledged meanwhile are lost")
    finally:
        cluster.nodes[4].send_signal(signal.SIGCONT)
        cluster.close()


async def not_there(addresses, paths):
    connections, lost = [Connection(address) for address in addresses], 0
    for number, path in enumerate(paths):
        lost += await connections[number % len(connections)].request("GET", path + "?r=2") != 200
    return lost


def peer_port(cluster, index):
    return cluster.first_port + 2 * index + 1


def alarms(args):
    """In a network of its own: the process starts itself again there, for the rules to be nobody else's."""
    if os.environ.get("CARTWHEEL_ALARMS") != "here":
        env = {**os.environ, "CARTWHEEL_ALARMS": "here"}
        sys.exit(subprocess.run(["unshare", "--net", sys.executable, *sys.argv], env=env).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    cluster = Cluster(5, args.port)
    try:
        every = range(5)
        until(30, lambda: all(reachable(cluster, index, every) >= 4 for index in every), "all hear all")
        ports = ",".join(str(peer_port(cluster, index)) for index in every)
        for side in ("--dports", "--sports"):
            rule = ["-p", "tcp", "-m", "multiport", side, ports, "-m", "statistic", "--mode", "random"]
            subprocess.run(["iptables", "-A", "INPUT", *rule, "--probability", "0.05", "-j", "DROP"], check=True)
        before = sum(doubts(cluster, index) for index in every)
        addresses = [cluster.http(index) for index in every]
        asyncio.run(write_all(addresses, range(1000)))
        load = Load(addresses, args.rate, 1000)
        asyncio.run(load.run(args.seconds))
        counted = subprocess.run(["iptables", "-L", "INPUT", "-v", "-x", "-n"], check=True, capture_output=True, text=True)
        dropped = sum(int(line.split()[0]) for line in counted.stdout.splitlines() if "DROP" in line)
        false = sum(doubts(cluster, index) for index in every) - before
        print(f"{args.seconds} s, {dropped} packets lost (5 %): a living node was taken for dead {false} times; {load.summary()}")
    finally:
        cluster.close()


def doubts(cluster, index):
    """How often a node has said in its log that it hears somebody no more."""
    with open(os.path.join(cluster.dir, f"n{index}.log")) as log:
        return sum("a member is not heard any more" in line for line in log)


# Half reads at R = 2 of keys that are there, half writes of new ones; a thread, and so a third of the clients, for each node.
WRK = """
local threads, path = {}, "/v1/buckets/BUCKET/keys/"
function setup(thread)
  table.insert(threads, thread)
  thread.addr = wrk.lookup("127.0.0.1", PORT + 2 * (#threads - 1))[1]
  thread:set("id", #threads)
end
function init()
  math.randomseed(id)
  count, good, refused, other, body = 0, 0, 0, 0, string.rep("x", 1024)
end
function request()
  count = count + 1
  if count % 2 == 0 then return wrk.format("GET", path .. "k" .. math.random(0, 9999) .. "?r=2") end
  return wrk.format("PUT", path .. "RUN-" .. id .. "-" .. count, nil, body)
end
function response(status)
  if status == 200 or status == 204 then good = good + 1
  elseif status == 429 or status == 503 then refused = refused + 1
  else other = other + 1 end
end
DELAY
function done(summary, latency)
  local sum = { good = 0, refused = 0, other = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(sum) do sum[name] = sum[name] + thread:get(name) end
  end
  local unanswered = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  print(string.format('{"good":%d,"refused":%d,"other":%d,"unanswered":%d,"seconds":%f,"p50":%f,"p99":%f,"p998":%f}',
    sum.good, sum.refused, sum.other, unanswered, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency:percentile(99.8) / 1e3))
end
"""


def wrk(cluster, run, clients, seconds, delay_ms=None):
    """What so many clients get, each of whom asks again at once, or after that pause."""
    pause = f"function delay() return {delay_ms} end" if delay_ms else ""
    script = WRK.replace("BUCKET", BUCKET).replace("PORT", str(cluster.first_port)).replace("RUN", run).replace("DELAY", pause)
    file = os.path.join(cluster.dir, f"{run}.lua")
    with open(file, "w") as lua:
        lua.write(script)
    command = ["taskset", "-c", "1", "wrk", "-t", "3", "-c", str(clients), "-d", f"{seconds}s", "--timeout", "10s", "-s", file]
    said = subprocess.run([*command, f"http://{cluster.http(0)}"], check=True, capture_output=True, text=True).stdout
    told = json.loads(said.strip().splitlines()[-1])
    told["rate"] = told["good"] / told["seconds"]
    told["memory"] = max(resident(node.pid) for node in cluster.nodes.values())
    print(
        f"{run}, {clients} clients: {told['rate']:.0f} answered well each second, {told['refused'] / told['seconds']:.0f} by 429 or 503, "
        f"{told['other']} otherwise, {told['unanswered']} not; p50 {told['p50']:.1f} ms, p99 {told['p99']:.1f} ms, "
        f"p99.8 {told['p998']:.1f} ms; at most {told['memory']:.0f} MiB a node"
    )
    return told


def resident(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def overload(args):
    """Five times the clients at which most is answered; and five times that rate, where a node takes no more than those at once."""
    os.sched_setaffinity(0, {0})  # the nodes inherit it
    cluster = Cluster(3, args.port)
    try:
        asyncio.run(write_all([cluster.http(index) for index in range(3)], range(10_000)))
        peak = max((wrk(cluster, f"peak{clients}", clients, 10)["rate"], clients) for clients in (24, 48, 96, 192, 384))
        five = wrk(cluster, "five-times-the-clients", 5 * peak[1], args.seconds)
        after = wrk(cluster, "after", peak[1], 10)
        print(f"goodput at five times the clients: {100 * five['rate'] / peak[0]:.1f} % of the best, after it {100 * after['rate'] / peak[0]:.1f} %")
    finally:
        cluster.close()
    overload_by_rate(args, *peak)


def overload_by_rate(args, rate, clients):
    """Each node takes no more at once than it had of those clients. Clients ask again after a pause, by which they would ask five times
    the rate if they were read as they send."""
    cluster = Cluster(3, args.port, limits_in_flight=clients // 3)
    try:
        asyncio.run(write_all([cluster.http(index) for index in range(3)], range(10_000)))
        alone = wrk(cluster, "those-clients", clients, 10)
        many = 3000
        five = wrk(cluster, "five-times-the-rate", many, args.seconds, round((many - clients) / (5 * rate) * 1000))
        wrk(cluster, "those-again", clients, 10)
        offered = (five["good"] + five["refused"] + five["other"]) / five["seconds"] / alone["rate"]
        print(f"goodput at {offered:.1f} times the rate: {100 * five['rate'] / alone['rate']:.1f} %")
    finally:
        cluster.close()


def options(parser):
    parser.add_argument("--seconds", type=int, default=30, help="how long to look (siblings, alarms, overload)")


def main():
    what = {"siblings": siblings, "fresh": fresh, "quorums": quorums, "pause": pause, "alarms": alarms, "overload": overload}
    measure(__doc__, what, options)


if __name__ == "__main__":
    main()
