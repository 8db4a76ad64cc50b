"""What a child of the sandbox gives up before a student's code runs: limits, capabilities, system calls.

The filter refuses, with EPERM, whatever makes a process or thread, opens a socket, reaches into another process,
changes mounts or namespaces, or holds memory that no limit counts. See seccomp(2); Linux on x86-64 only.
"""

import ctypes
import os
import resource
import struct

MIB = 2**20
DENIED = {
    "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322,
    "socket": 41, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240,
    "memfd_create": 319, "memfd_secret": 447, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440, "kcmp": 312,
    "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424, "move_pages": 279, "migrate_pages": 256,
    "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203,
    "sched_setattr": 314, "ioprio_set": 251,
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "name_to_handle_at": 303, "open_by_handle_at": 304, "fanotify_init": 300,
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "personality": 135, "syslog": 103, "acct": 163,
    "add_key": 248, "request_key": 249, "keyctl": 250, "quotactl": 179, "swapon": 167, "swapoff": 168,
    "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
    "reboot": 169, "settimeofday": 164, "clock_settime": 227, "sethostname": 170, "iopl": 172, "ioperm": 173,
}  # fmt: skip
"""System call -> its number on x86-64."""
CLONE3, PRLIMIT64 = 435, 302
_EPERM, _ENOSYS = 1, 38


def confine(memory_mib: int, seconds: int) -> None:
    """Give up everything, for good. Raises OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    _limit(memory_mib, seconds)
    _call(libc.prctl, 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _call(libc.capset, header, nothing)
    code = _filter()
    program = ctypes.create_string_buffer(code, len(code))
    _call(libc.prctl, 22, 2, struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(program)), 0, 0)


def _limit(memory_mib: int, seconds: int) -> None:
    """`memory_mib` counts from what the process has now; addresses may be reserved more freely than memory is used."""
    with open("/proc/self/statm") as file:
        pages = [int(word) for word in file.read().split()]
    page = os.sysconf("SC_PAGE_SIZE")
    limits = {
        resource.RLIMIT_AS: pages[0] * page + 8192 * MIB,
        resource.RLIMIT_DATA: pages[5] * page + memory_mib * MIB,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 32 * MIB,
        resource.RLIMIT_NOFILE: 128,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_STACK: 64 * MIB,
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def _filter() -> bytes:
    """The program of the filter, in the instructions of linux/filter.h."""
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
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
        line(equal, CLONE3, no=1),
        line(answer, errno | _ENOSYS),  # so that the C library falls back to clone
    ]
    for number in DENIED.values():
        program += [line(equal, number, no=1), line(answer, errno | _EPERM)]
    program += [
        line(equal, PRLIMIT64, no=3),
        line(load, 16),  # prlimit64's first argument: 0 is the process itself
        line(equal, 0, yes=1),
        line(answer, errno | _EPERM),
        line(answer, allow),
    ]
    return b"".join(program)


def _call(function: object, *args: object) -> None:
    if function(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"沙箱 (sandbox) 设置失败: {os.strerror(code)}")
