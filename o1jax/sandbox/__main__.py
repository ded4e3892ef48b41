"""`python -m o1jax.sandbox`: the isolation in force on this machine, and what is missing."""

import asyncio

from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job

HOW = {
    "user": "allow unprivileged user namespaces (sysctl user.max_user_namespaces) or run as root",
    "landlock": "needs Linux 6.2 with Landlock among its security modules",
    "seccomp": "needs a kernel with seccomp filters on x86_64 or aarch64",
}


async def main() -> None:
    async with ForkJudge(slots=1, insecure=True) as judge:
        job = Job("print(int(input()) + 1)", (TestCase("1\n", "2\n"),), "stdin")
        verdict = await judge.judge(job)
        print(f"isolation: {judge.isolation}")
        for name, why in judge.missing.items():
            print(f"missing: {name}: {why}; {HOW.get(name, 'needs CAP_SYS_ADMIN or a user namespace')}")
        print(f"a program that adds one: {verdict.cases[0].status} {verdict.cases[0].detail}".rstrip())


if __name__ == "__main__":
    asyncio.run(main())
