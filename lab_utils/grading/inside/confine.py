"""What a child of the sandbox gives up before a student's code runs: limits, capabilities, system calls.

The filter allows the calls in ALLOWED, of clone only those that make a thread, of mmap those that make no memory to be
shared, of fcntl those about no locks; every other call is refused. So a child starts no process, opens no socket,
reaches into no other process, locks no file that others have, changes no mounts or namespaces, writes no extended
attributes, and holds no memory that no limit counts. See seccomp(2); Linux on x86-64 only.
"""

import ctypes
import os
import resource
import struct
from collections.abc import Callable

MIB = 2**20
THREADS = 64
"""Threads of one sandbox, as `torch.set_num_threads` and thread pools start them."""
ALLOWED = {
    # files
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "lseek": 8, "ioctl": 16,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "dup": 32, "dup2": 33,
    "sendfile": 40, "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77,
    "getdents": 78, "getcwd": 79, "chdir": 80, "fchdir": 81, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85,
    "link": 86, "unlink": 87, "symlink": 88, "readlink": 89, "chmod": 90, "fchmod": 91, "umask": 95, "utime": 132,
    "statfs": 137, "fstatfs": 138, "getxattr": 191, "lgetxattr": 192, "fgetxattr": 193, "listxattr": 194,
    "llistxattr": 195, "flistxattr": 196, "getdents64": 217, "fadvise64": 221, "utimes": 235, "openat": 257,
    "mkdirat": 258, "futimesat": 261, "newfstatat": 262, "unlinkat": 263, "renameat": 264, "linkat": 265,
    "symlinkat": 266, "readlinkat": 267, "fchmodat": 268, "faccessat": 269, "utimensat": 280, "fallocate": 285,
    "dup3": 292, "pipe2": 293, "preadv": 295, "pwritev": 296, "renameat2": 316, "copy_file_range": 326,
    "preadv2": 327, "pwritev2": 328, "statx": 332, "close_range": 436, "openat2": 437, "faccessat2": 439,
    # memory and threads
    "mprotect": 10, "munmap": 11, "brk": 12, "mremap": 25, "msync": 26, "mincore": 27, "madvise": 28,
    "exit": 60, "futex": 202, "set_tid_address": 218, "exit_group": 231, "set_robust_list": 273,
    "get_robust_list": 274, "membarrier": 324, "rseq": 334, "futex_waitv": 449, "sched_yield": 24,
    "sched_getparam": 143, "sched_getscheduler": 145, "sched_get_priority_max": 146, "sched_get_priority_min": 147,
    "sched_getaffinity": 204, "getcpu": 309, "arch_prctl": 158, "prctl": 157,
    # waiting, time and signals
    "poll": 7, "select": 23, "pause": 34, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38, "wait4": 61,
    "waitid": 247, "gettimeofday": 96, "times": 100, "time": 201, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "epoll_create": 213, "epoll_wait": 232, "epoll_ctl": 233, "pselect6": 270, "ppoll": 271,
    "epoll_pwait": 281, "eventfd": 284, "eventfd2": 290, "epoll_create1": 291, "epoll_pwait2": 441,
    "restart_syscall": 219, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "rt_sigpending": 127,
    "rt_sigtimedwait": 128, "rt_sigsuspend": 130, "sigaltstack": 131, "kill": 62, "tkill": 200, "tgkill": 234,
    # the socket that is there already, and pairs of them
    "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "getsockname": 51, "getpeername": 52,
    "socketpair": 53, "setsockopt": 54, "getsockopt": 55,
    # what the process is
    "getpid": 39, "uname": 63, "getrlimit": 97, "setrlimit": 160, "getrusage": 98, "sysinfo": 99, "getuid": 102,
    "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115, "getresuid": 118,
    "getresgid": 120, "getpgid": 121, "getsid": 124, "capget": 125, "getpriority": 140, "gettid": 186,
    "sched_getattr": 315, "getrandom": 318,
}  # fmt: skip
"""System call -> its number on x86-64."""
MMAP, CLONE, FCNTL, PRLIMIT64 = 9, 56, 72, 302
NEWER = 424
"""From this number on, calls are refused as if the kernel didn't know them, so that the C library uses older ones."""
_LOCKS = (5, 6, 7, 36, 37, 38)
"""fcntl's commands for locks. Whoever can open the same library sees them, as those of flock: so children could talk."""
_CLONE_THREAD = 0x10000
_SHARED_MEMORY = 0x21
"""mmap's MAP_SHARED and MAP_ANONYMOUS: what is written there stays when it is no longer resident."""
_EPERM, _ENOSYS = 1, 38


def confine(memory_mib: int, seconds: int) -> None:
    """Give up everything, for good. Raises OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    _limit(memory_mib, seconds)
    call(libc.prctl, 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    call(libc.capset, header, nothing)
    code = _filter()
    program = ctypes.create_string_buffer(code, len(code))
    call(libc.prctl, 22, 2, struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(program)), 0, 0)


def undumpable() -> None:
    """Keep processes of the same user from reading or tracing this one. Raises OSError when the kernel refuses."""
    call(ctypes.CDLL(None, use_errno=True).prctl, 4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def _limit(memory_mib: int, seconds: int) -> None:
    """`memory_mib` counts from what the process has now; addresses may be reserved more freely than memory is used."""
    with open("/proc/self/statm") as file:
        pages = [int(word) for word in file.read().split()]
    page = os.sysconf("SC_PAGE_SIZE")
    limits = {
        resource.RLIMIT_AS: pages[0] * page + 8192 * MIB,
        resource.RLIMIT_DATA: pages[5] * page + memory_mib * MIB,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_NPROC: THREADS,
        resource.RLIMIT_FSIZE: 32 * MIB,
        resource.RLIMIT_NOFILE: 128,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_SIGPENDING: 128,
        resource.RLIMIT_STACK: 64 * MIB,
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def _filter() -> bytes:
    """The program of the filter, in the instructions of linux/filter.h."""
    load, equal, at_least, any_bit, keep, answer = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    allow, kill, errno = 0x7FFF0000, 0x80000000, 0x00050000

    def line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    program = [
        line(load, 4),  # the architecture
        line(equal, 0xC000003E, yes=1),
        line(answer, kill),
        line(load, 0),  # the number of the call
        line(at_least, 0x40000000, no=1),  # the x32 calls
        line(answer, errno | _EPERM),
    ]
    for number in sorted(ALLOWED.values()):
        program += [line(equal, number, no=1), line(answer, allow)]
    program += [
        line(equal, MMAP, no=5),
        line(load, 40),  # the low half of the fourth argument: mmap's flags
        line(keep, _SHARED_MEMORY),
        line(equal, _SHARED_MEMORY, yes=1),
        line(answer, allow),
        line(answer, errno | _EPERM),
        line(equal, FCNTL, no=len(_LOCKS) + 3),
        line(load, 24),  # the second argument: fcntl's command
        *(line(equal, command, yes=len(_LOCKS) - number) for number, command in enumerate(_LOCKS)),
        line(answer, allow),
        line(answer, errno | _EPERM),
        line(equal, CLONE, no=4),
        line(load, 16),  # the low half of the first argument: clone's flags
        line(any_bit, _CLONE_THREAD, no=1),
        line(answer, allow),
        line(answer, errno | _EPERM),
        line(equal, PRLIMIT64, no=4),
        line(load, 16),  # prlimit64's first argument: 0 is the process itself
        line(equal, 0, no=1),
        line(answer, allow),
        line(answer, errno | _EPERM),
        line(at_least, NEWER, no=1),
        line(answer, errno | _ENOSYS),
        line(answer, errno | _EPERM),
    ]
    return b"".join(program)


def call(function: Callable, *args: object) -> None:
    """A function of the C library that gives 0 when it did what it should; else OSError."""
    if function(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"沙箱 (sandbox) 设置失败: {os.strerror(code)}")
