"""How well 1 to 256 hosts are used by a search and by an update of RL: a discrete simulation.

    python tests/benchmarks/pod_simulation.py runs/sample
    python tests/benchmarks/pod_simulation.py runs/sample --real

The first argument is the directory of a finished stage of sampling (rollouts/): lengths of answers, whether
they passed, and the judge's times are drawn from its problems; the judge's limit counts for each case that
reached it, and JUDGE_S for each program. A host decodes up to `slots` answers at once, each token of all of
them in `step_s` seconds, and judges `judge_slots` programs at once. A problem is `rollouts` times
`samples` answers, those of `wave` rollouts at once; it ends with the first wave in which one passed. Hosts
die (`mtbf_h` hours apart) and come back after `restart_s`; a share of `slow` decodes at half the speed.

Printed are, by the way in which problems are shared out: efficiency (what the slots decoded of the problems,
once each, of what they could have), and why the rest stood idle: judging, nothing left to begin, dead hosts,
work that was done twice; opened files and bytes a second on the shared file system. --real runs one and two
real processes with leases.py on work that sleeps for as long, and prints both times beside the simulation's.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
import heapq
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from etils import epath

from o1jax.parallel.seeds import stable_hash
from o1jax.records import Rollout, Status
from o1jax.stages import beats, leases
from o1jax.stages.together import reporting_failure
from o1jax.store import ShardWriter, read_shards

JUDGE_S, LIMIT_S = 0.05, 2.0  # of a program, and of a case that reaches its limit
IDLE = ("judging", "nothing to begin", "dead hosts", "done twice")
WAYS = ("hash", "strides", "leases", "leases, longest first")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one real answer cost."""

    tokens: int
    judge_s: float
    passed: bool


def answers_of(directory: epath.Path) -> list[list[Answer]]:
    """The answers to each of a stage's problems."""
    groups: dict[str, list[Answer]] = {}
    for rollout in read_shards(directory / "rollouts", Rollout):
        cases = rollout.verdict.cases if rollout.verdict else ()
        spent = sum(LIMIT_S if case.status is Status.TLE else case.cpu_s for case in cases)
        answer = Answer(len(rollout.token_ids), spent + JUDGE_S * bool(cases), bool(rollout.reward))
        groups.setdefault(rollout.problem_id, []).append(answer)
    return list(groups.values())


def bytes_of(directory: epath.Path) -> float:
    """Of one stored answer."""
    paths = list((directory / "rollouts").iterdir())
    rows = len(read_shards(directory / "rollouts", Rollout))
    return sum(path.stat().length for path in paths) / rows


class Rounds(list):
    """The rounds of a problem, each a list of answers; `expected`: by what its work is put in order."""

    expected: tuple[bool, int] = (False, 0)


def rounds_of(groups: Sequence[Sequence[Answer]], number: int, args: argparse.Namespace) -> Rounds:
    """The rounds of problem `number`, like one of the real problems: drawn by its number, as seeds fold in
    its id."""
    chance, rounds = random.Random(number), Rounds()
    group = chance.choice(groups)
    rounds.expected = any(answer.passed for answer in group), -sum(answer.tokens for answer in group)
    done = 0
    while done < args.rollouts and not (rounds and any(answer.passed for answer in rounds[-1])):
        # The root is one leaf; then there are as many as were sampled.
        width = min(args.wave, args.rollouts - done, args.samples * done or 1)
        rounds.append([chance.choice(group) for _ in range(args.samples * width)])
        done += width
    return rounds


class Host:
    """Its slots, its judge, and what it has in work."""

    def __init__(self, index: int, speed: float, args: argparse.Namespace):
        self.index, self.speed = index, speed
        self.slots, self.judges = args.slots, args.judge_slots
        self.queue: collections.deque = collections.deque()  # answers that wait for a slot
        self.programs: collections.deque = collections.deque()  # programs that wait for a judge
        self.work: dict[int, list] = {}  # problem -> [number of its round, answers of it that are not judged]
        self.own: collections.deque[int] = collections.deque()
        self.life, self.dead, self.since, self.rests_since = 0, False, 0.0, 0.0


class Pod:
    """One run of a search on `hosts`."""

    def __init__(self, problems: list[Rounds], hosts: int, way: str, args: argparse.Namespace):
        # What a scout knows is what the problem's group did: in the stage that is drawn from.
        self.way, self.args = way.partition(",")[0], args
        self.problems = sorted(problems, key=lambda p: p.expected) if "longest" in way else problems
        chance = random.Random(hosts)
        speeds = [0.5 if chance.random() < args.slow else 1.0 for _ in range(hosts)]
        self.hosts = [Host(index, speed, args) for index, speed in enumerate(speeds)]
        self.chance, self.events, self.order = chance, [], itertools.count()
        self.done: set[int] = set()
        self.begun: set[int] = set()
        self.free: list[int] = []  # of hosts that are lost
        self.idle, self.used, self.twice = collections.Counter(), 0.0, 0.0
        self.now = 0.0
        self.opens = self.written = 0
        for number in range(len(problems)):
            at = stable_hash(f"p{number}") if self.way == "hash" else number
            self.hosts[at % hosts].own.append(number)

    def at(self, seconds: float, happens: Callable[..., None], *of: object) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), happens, of))

    def run(self) -> dict[str, float]:
        """The figures of the run."""
        for host in self.hosts:
            self.begin(host)
            if self.args.mtbf_h and len(self.hosts) > 1:
                self.at(self.chance.expovariate(1 / (3600 * self.args.mtbf_h)), self.on_die, host)
        while len(self.done) < len(self.problems):
            self.now, _, happen, of = heapq.heappop(self.events)
            happen(*of)
        # Until the last one has seen the board: two looks.
        rested = self.now - min(host.rests_since for host in self.hosts)
        wait = 2 * leases.pause_after(rested) if self.way == "leases" and len(self.hosts) > 1 else 0.2
        self.now += wait
        for host in self.hosts:
            self.count_idle(host)
        return self.figures(self.now)

    def count_idle(self, host: Host) -> None:
        """Up to now, before anything about the host changes."""
        seconds, host.since = self.now - host.since, self.now
        if host.dead:
            self.idle["dead hosts"] += self.args.slots * seconds
        elif len(host.work) < self.args.concurrency:
            self.idle["nothing to begin"] += host.slots * seconds
        else:
            self.idle["judging"] += host.slots * seconds

    def begin(self, host: Host) -> None:
        """Begins as many problems as the host may have in work."""
        self.count_idle(host)
        while not host.dead and len(host.work) < self.args.concurrency:
            number = self.next_for(host)
            if number is None:
                return
            self.begun.add(number)
            self.opens += self.way == "leases"
            host.work[number] = [0, 0]
            self.sample(host, number)

    def next_for(self, host: Host) -> int | None:
        while host.own:
            number = host.own.popleft()
            if number not in self.done and not (self.way == "leases" and number in self.begun):
                return number
        if self.way != "leases":
            return None
        if self.free:
            return self.free.pop()
        fullest = max(self.hosts, key=lambda other: len(other.own))
        while fullest.own:
            number = fullest.own.popleft()
            if number not in self.begun:
                return number
        return None

    def sample(self, host: Host, number: int) -> None:
        answers = self.problems[number][host.work[number][0]]
        host.work[number][1] = len(answers)
        host.queue.extend((number, answer) for answer in answers)
        self.fill(host)

    def fill(self, host: Host) -> None:
        while host.slots and host.queue:
            number, answer = host.queue.popleft()
            host.slots -= 1
            seconds = answer.tokens * self.args.step_s / host.speed
            self.at(seconds, self.on_decoded, host, host.life, number, answer)
        while host.judges and host.programs:
            number, answer = host.programs.popleft()
            host.judges -= 1
            self.at(answer.judge_s, self.on_judged, host, host.life, number)

    def on_decoded(self, host: Host, life: int, number: int, answer: Answer) -> None:
        if life != host.life:
            return
        self.count_idle(host)
        host.slots += 1
        host.programs.append((number, answer))
        self.fill(host)

    def on_judged(self, host: Host, life: int, number: int) -> None:
        if life != host.life:
            return
        self.count_idle(host)
        host.judges += 1
        state = host.work[number]
        state[1] -= 1
        if not state[1]:
            state[0] += 1
            if state[0] < len(self.problems[number]):
                self.sample(host, number)
            else:
                del host.work[number]
                self.end(number)
                host.rests_since = self.now
                self.begin(host)
        self.fill(host)

    def end(self, number: int) -> None:
        tokens = sum(answer.tokens for answers in self.problems[number] for answer in answers)
        self.done.add(number)
        self.used += tokens * self.args.step_s
        self.written += sum(len(answers) for answers in self.problems[number])

    def on_die(self, host: Host) -> None:
        if host.dead:
            return
        self.count_idle(host)
        for number, (round_, _) in host.work.items():
            done = self.problems[number][:round_]
            self.twice += sum(answer.tokens for answers in done for answer in answers) * self.args.step_s
        lost = list(host.work)
        host.life, host.dead, host.work = host.life + 1, True, {}
        host.slots, host.judges = 0, self.args.judge_slots
        host.queue.clear(), host.programs.clear()
        if self.way == "leases":
            self.at(beats.LOST_S + leases.pause_after(self.now), self.on_freed, lost)
        else:
            host.own.extendleft(lost)
        self.at(self.args.restart_s, self.on_back, host)
        self.at(self.chance.expovariate(1 / (3600 * self.args.mtbf_h)), self.on_die, host)

    def on_freed(self, lost: list[int]) -> None:
        self.free += lost
        for host in self.hosts:
            self.begin(host)

    def on_back(self, host: Host) -> None:
        self.count_idle(host)
        host.dead, host.slots = False, self.args.slots
        self.begin(host)

    def figures(self, seconds: float) -> dict[str, float]:
        could = len(self.hosts) * self.args.slots * seconds
        count, shards = len(self.hosts), len(self.problems) / 64 + len(self.hosts)
        if self.way == "leases":
            rounds = seconds / beats.ROUND_S
            looks = seconds / leases.pause_after(seconds) if count > 1 else 0
            opens = self.opens + 2 * count * rounds + looks * count + 3 * shards if count > 1 else shards
        else:
            opens = shards + 5 * self.idle["nothing to begin"] / self.args.slots  # a look every 0.2 s
        idle = {name: self.idle[name] / could for name in IDLE[:3]} | {"done twice": self.twice / could}
        return {
            "seconds": seconds,
            "efficiency": self.used / could,
            **idle,
            "opens_a_second": opens / seconds,
            "answers_a_second": self.written / seconds,
        }


def update(
    groups: list[list[Answer]], hosts: int, problems: int, args: argparse.Namespace
) -> dict[str, float]:
    """One update of RL: `problems` in strides, each of 8 answers at once, then a training step over all hosts
    that takes half as long as decoding all tokens would."""
    chance, used = random.Random(problems), 0.0
    lanes = [[0.0] * args.slots for _ in range(hosts)]
    for number in range(problems):
        lane, group = lanes[number % hosts], chance.choice(groups)
        for _ in range(8):
            seconds = chance.choice(group).tokens * args.step_s
            used += seconds
            heapq.heapreplace(lane, lane[0] + seconds)
    ends = [max(lane) for lane in lanes]
    sampling, alone, ideal = max(ends), sum(ends) / hosts, used / (hosts * args.slots)
    whole = sampling + ideal / 2
    return {
        "seconds": whole,
        "efficiency": 1.5 * ideal / whole,
        "ends of answers": (alone - ideal) / whole,
        "other hosts": (sampling - alone) / whole,
    }


# Real processes, whose work sleeps.


async def slept(out: epath.Path, problems: list[Rounds], args: argparse.Namespace) -> None:
    """The problems by leases.py: a slot and a judge are held for as long as decoding and judging take."""
    slots, judges = asyncio.Semaphore(args.slots), asyncio.Semaphore(args.judge_slots)

    async def answered(answer: Answer) -> None:
        async with slots:
            await asyncio.sleep(answer.tokens * args.step_s)
        async with judges:
            await asyncio.sleep(answer.judge_s)

    with ShardWriter(out / "shards", Done) as kept:

        async def work(problem: SimpleNamespace) -> None:
            for answers in problems[int(problem.id)]:
                await asyncio.gather(*map(answered, answers))
            kept.append(Done(problem.id))

        named = [SimpleNamespace(id=str(number)) for number in range(len(problems))]
        await leases.work_through(out, "search", named, work, kept, args.concurrency)


@dataclasses.dataclass(frozen=True)
class Done:
    problem_id: str


def real(hosts: int, args: argparse.Namespace) -> float:
    """Seconds of so many processes, from when the last has begun."""
    with tempfile.TemporaryDirectory() as out:
        place = {"O1JAX_COORDINATOR": "localhost:1", "O1JAX_PROCESSES": str(hosts)}
        command = [sys.executable, __file__, *sys.argv[1:], f"--part={out}"]
        running = [
            subprocess.Popen(command, env=os.environ | place | {"O1JAX_PROCESS_INDEX": str(index)}, stdout=-1)
            for index in range(hosts)
        ]
        return max(float(process.communicate()[0]) for process in running)


def part(out: epath.Path, problems: list[Rounds], args: argparse.Namespace) -> None:
    """One of them; prints its seconds."""
    count = int(os.environ["O1JAX_PROCESSES"])
    with reporting_failure(out):
        (out / f"ready.{os.environ['O1JAX_PROCESS_INDEX']}").touch()
        while len(list(out.glob("ready.*"))) < count:
            time.sleep(0.01)
        began = time.monotonic()
        asyncio.run(slept(out, problems, args))
        print(time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=epath.Path)
    for name, default in (
        *(("problems", 25_000), ("slots", 64), ("judge_slots", 16), ("concurrency", 64)),
        *(("rollouts", 12), ("samples", 3), ("wave", 1), ("restart_s", 300)),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("step_s", 0.02), ("mtbf_h", 500.0), ("slow", 0.02)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--hosts", default="1,8,64,256")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--part", type=epath.Path)
    args = parser.parse_args()
    groups = answers_of(args.run)
    problems = [rounds_of(groups, number, args) for number in range(args.problems)]
    if args.part:
        part(args.part, problems, args)
    elif args.real:
        for hosts in (1, 2):
            simulated, seen = Pod(problems, hosts, "leases", args).run()["seconds"], real(hosts, args)
            print(f"{hosts}: {seen:.1f} s, simulated {simulated:.1f} s, {seen / simulated - 1:+.1%}")
    else:
        table(groups, problems, args)


def table(groups: list[list[Answer]], problems: list[Rounds], args: argparse.Namespace) -> None:
    size = bytes_of(args.run)
    print("| hosts | shares | seconds | efficiency | " + " | ".join(IDLE) + " | opens/s | KB/s |")
    print("| --- " * (6 + len(IDLE)) + "|")
    for hosts in map(int, args.hosts.split(",")):
        for way in WAYS if hosts > 1 else WAYS[-1:]:
            f = Pod(problems, hosts, way, args).run()
            idle = " | ".join(f"{f[name]:.3f}" for name in IDLE)
            rates = f"{f['opens_a_second']:.1f} | {f['answers_a_second'] * size / 1000:.0f}"
            cells = (hosts, way, f"{f['seconds']:.0f}", f"{f['efficiency']:.3f}", idle, rates)
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print("\n| hosts | problems of an update | seconds | efficiency | ends of answers | other hosts |")
    print("| --- " * 6 + "|")
    for hosts in map(int, args.hosts.split(",")):
        for number in sorted({64, 64 * hosts}):
            u = update(groups, hosts, number, args)
            shares = f"{u['ends of answers']:.3f} | {u['other hosts']:.3f}"
            print(f"| {hosts} | {number} | {u['seconds']:.1f} | {u['efficiency']:.3f} | {shares} |")


if __name__ == "__main__":
    main()
