"""`python -m o1jax.sandbox`: the isolation tier in force on this machine, what is missing and how to get it.

T0 needs no privileges, T1 namespaces, T2 root and a cgroup: see jail/isolation.py."""

import asyncio
import os

from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job

HOW = {
    "user": "allow unprivileged user namespaces (sysctl user.max_user_namespaces), or run as root",
    "root": "needs Linux 5.12, a directory /tmp, and the right to mount in a namespace",
    "uid": "run as root, in a user namespace (if in one) that maps all of the kernel's numbers",
    "cgroup": "mount cgroup2 writable, with memory and pids delegated to this process's cgroup",
    "landlock": "needs Linux 6.2 with Landlock among its security modules",
    "seccomp": "needs a kernel with seccomp filters on x86_64 or aarch64",
}
NAMESPACE = "needs CAP_SYS_ADMIN (in a container: --cap-add SYS_ADMIN) or a user namespace"


async def main() -> None:
    async with ForkJudge(slots=1, insecure=True) as judge:
        job = Job("print(int(input()) + 1)", (TestCase("1\n", "2\n"),), "stdin")
        verdict = await judge.judge(job)
        print(f"isolation: {judge.isolation}")
        if os.geteuid() != 0:
            print("missing: uid, cgroup: this user is not root; T2 needs root")
        for name, why in judge.missing.items():
            print(f"missing: {name}: {why}; {HOW.get(name, NAMESPACE)}")
        print(f"a program that adds one: {verdict.cases[0].status} {verdict.cases[0].detail}".rstrip())


if __name__ == "__main__":
    asyncio.run(main())
