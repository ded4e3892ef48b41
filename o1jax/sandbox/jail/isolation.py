"""How a slot is shut in, once, and which tier that makes.

T0: no_new_privs, seccomp, Landlock, no capabilities. T1: also namespaces and a root directory of its own.
T2: also a user of its own and a cgroup. What the kernel refuses is noted, not hidden; whether that is
too little is the supervisor's decision.
"""

import os
import resource
import sys
import sysconfig

import kernel
import landlock
import root
import seccomp

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
READABLE = (
    sysconfig.get_path("stdlib"),
    os.path.join(sys.base_prefix, "lib"),
    os.path.join(sys.base_exec_prefix, "lib"),
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache",
    "/etc/localtime", "/usr/share/zoneinfo", *DEVICES,
)  # fmt: skip
T1 = {*kernel.NAMESPACES, "root"}
T2 = T1 | {"uid", "cgroup"}


class Isolation:
    """What is in force (`names`) and what is not (`missing`, name: why). `highest` is the tier to try for."""

    def __init__(self, highest):
        self.highest, self.names, self.missing = highest, [], {}

    def attempt(self, name, action, *arguments):
        """Runs one step; an OSError is noted as a missing thing."""
        try:
            action(*arguments)
            self.names.append(name)
        except OSError as error:
            self.missing[name] = os.strerror(error.errno) if error.errno else str(error)

    def unshare(self):
        """Enters what namespaces the kernel allows (the pid namespace is the next child's)."""
        if self.highest == "T0":
            return
        if os.geteuid() != 0:
            self.attempt("user", kernel.enter_user_namespace)
        for name, flag in kernel.NAMESPACES.items():
            self.attempt(name, kernel.unshare, flag)

    def seal(self, uid, packages):
        """Everything else, in the only order that works. `uid` 0: this user stays; `packages`: more
        readable places. Raises OSError where even the least is refused."""
        readable = (*READABLE, *packages)
        if "mount" in self.names:
            self.attempt("root", root.pivot, readable)
        os.chdir("/")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if uid and "root" in self.names:  # elsewhere the new user might not reach the standard library
            self.attempt("uid", kernel.become_user, uid)
            kernel.die_with_parent()  # a change of user had cleared it
        if uid and "uid" not in self.names:  # files are the effective user's; the real one's threads count
            self.attempt("threads", os.setresuid, uid, -1, -1)
        kernel.prctl(kernel.SET_SUBREAPER, 1)
        kernel.prctl(kernel.SET_NO_NEW_PRIVS, 1)
        kernel.prctl(kernel.SET_DUMPABLE, 0)
        kernel.drop_capabilities()
        self.attempt("landlock", landlock.restrict, readable)
        if os.uname().machine in seccomp.ARCHITECTURES:
            self.attempt("seccomp", seccomp.install, seccomp.slot_filter())
        else:
            self.missing["seccomp"] = f"no table for {os.uname().machine}"

    @property
    def sealed(self):
        """Whether programs may be run here: system calls are filtered, and the file system is shut."""
        return "seccomp" in self.names and bool({"root", "landlock"} & set(self.names))

    @property
    def tier(self):
        if not self.sealed:
            return "insecure"
        names = set(self.names)
        return "T2" if names >= T2 else "T1" if names >= T1 else "T0"
