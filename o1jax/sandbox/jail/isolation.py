"""How a slot is shut in, once, and which tier that makes.

T0: no_new_privs, seccomp, Landlock, no capabilities. T1: also namespaces and a root directory of its own.
T2: also a user of its own and a cgroup. What the kernel refuses is noted, not hidden; whether that is
too little is the supervisor's decision.
"""

import importlib.machinery
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
    f"/lib/{os.uname().machine}-linux-gnu", f"/usr/lib/{os.uname().machine}-linux-gnu", "/usr/lib/gcc",
    "/usr/lib/locale", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", *DEVICES,
)  # fmt: skip
STANDARD_LIBRARY = {
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("platstdlib", vars={"platbase": sys.base_exec_prefix}),
}
OWN_NAMES = sys.stdlib_module_names | {"__pycache__", "lib-dynload", "test"}
LIBRARIES = {
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", *(
        os.path.join(prefix, name)
        for prefix in (sys.base_prefix, sys.base_exec_prefix)
        for name in ("lib", sys.platlibdir)
    )
}  # fmt: skip
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
        keep_listings()
        readable = [*READABLE, *standard_library(), *shared_libraries(), *packages]
        if "mount" in self.names:
            self.attempt("root", root.pivot, readable)
        os.chdir("/")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if uid and "root" in self.names:  # elsewhere the new user might not reach the standard library
            self.attempt("uid", kernel.become_user, uid)
            kernel.die_with_parent()  # a change of user had cleared it
        if uid and "uid" not in self.names:
            self.attempt("threads", kernel.become_user_but_for_files, uid)
            kernel.die_with_parent()
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


def standard_library():
    """The files and directories of the standard library: by their names, for installed packages, and data
    with them, lie in the same directory."""
    for home in STANDARD_LIBRARY:
        for name in names_in(home):
            if name.partition(".")[0] in OWN_NAMES or name.startswith("_sysconfig"):
                yield os.path.join(home, name)


def shared_libraries():
    """Those that the standard library is linked to, one by one: Python's packages lie below the same
    directories (site-packages, dist-packages), and whatever else was installed there."""
    for home in LIBRARIES:
        yield from (os.path.join(home, name) for name in names_in(home) if ".so" in name)


def names_in(directory):
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def keep_listings():
    """Python finds modules by listings of directories, which it renews. The standard library's, which would
    show what is installed below it, can be read no more: the listing stays. Those of others are empty."""
    own = {
        os.path.realpath(os.path.join(home, name))
        for home in STANDARD_LIBRARY
        for name in ("", "lib-dynload")
    }
    for path in sys.path:
        importlib.machinery.PathFinder.find_spec("__main__", [path])  # makes the finder, with its listing
        finder = sys.path_importer_cache[path]
        if isinstance(finder, importlib.machinery.FileFinder):
            finder._fill_cache = do_nothing
            if os.path.realpath(path) not in own:
                finder._path_cache = set()


def do_nothing():
    pass
