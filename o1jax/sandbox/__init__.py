"""Programs that nobody trusts, and tests of them, to Verdicts. Of use alone, on Linux only:

    import asyncio
    from o1jax.records import TestCase
    from o1jax.sandbox.fork_judge import ForkJudge
    from o1jax.sandbox.interface import Job, Limits

    async def main():
        async with ForkJudge(slots=2) as judge:
            tests = (TestCase("1 2\\n", "3\\n"), TestCase("2 2\\n", "4\\n"))
            job = Job("print(sum(map(int, input().split())))", tests, "stdin", limits=Limits(cpu_s=1.0))
            verdict = await judge.judge(job)
            print(verdict.passed, [case.status for case in verdict.cases], verdict.isolation)

    asyncio.run(main())

`python -m o1jax.sandbox` says which isolation this machine grants.

Form `stdin` compares what a program prints, `call` what its function `entry_point` returns, `assertion`
runs assert statements. Every test has a status (`o1jax.records.Status`): AC and PE pass; WA, TLE, MLE, OLE,
RE, CE, NORESULT and BADVALUE (a value of no built-in type) do not. SANDBOX_ERROR says that the infrastructure
failed on the job three times (`Verdict.lost`), which is no failure of the program's; SandboxError is raised
when that is so of too many. InputError says that the job is malformed.

`assert f(2) == 3` is asked of the program as `f(2)`. A test that would tell the program what it expects, or
is more than a question (a check function), runs in another process, a checker, where the program's names can
only be called, with plain values, and return plain values: such a test sees no argument changed in place,
cannot use the program's classes and methods, and cannot pass it a lambda or an object. An exception of the
program's arrives there as the nearest of its classes that is Python's, with its arguments (StopIteration as
a RuntimeError, which ends no loop); leaving, and a value that is not plain, decide a test whatever it
catches. Give `entry_point` in form `assertion` too: it says which calls are the program's.

Of a problem's setup a program under assertions gets imports, what is made of its own classes, what it is
asked about, and what no test names. The rest (`WANT = 3`, a check function) stays with the checker.

What `python program.py` prints is what is judged, to the last object that writes when it dies. Programs have
no network, no sockets, no child processes, no files to write and no packages but those that the judge allows;
threads, asyncio, /dev/stdin and temporary files (in the program's own memory) are fine.
"""
