"""Calls by the 32-bit convention, as any 64-bit program can make them to be misread: int 0x80."""
import ctypes
import mmap
import os

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
PROT, PRIVATE, LOW = 7, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 0x40
page = libc.mmap(None, 8192, PROT, PRIVATE | LOW, -1, 0)
# push rbx; eax = edi; ebx = esi; r8d = ecx; ecx = edx; edx = r8d; int 0x80; rax = eax; pop rbx
code = bytes.fromhex("53 89f8 89f3 4189c8 89d1 4489c2 cd80 4898 5b c3")
ctypes.memmove(page, code, len(code))
enter = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_uint] * 4)(page)
place = page + 4096


def text(words):
    ctypes.memmove(place, words + b"\0", len(words) + 1)
    return place


MINUS = 0xFFFFFFFF
READ, WRITE, OPEN, CLOSE, LINK, UNLINK, CHDIR, CHMOD, LSEEK = 3, 4, 5, 6, 9, 10, 12, 15, 19
GETPID, ACCESS, KILL, MKDIR, RMDIR, DUP, READLINK, UMASK = 20, 33, 37, 39, 40, 41, 85, 60
FCHMOD, GETUID32, SOCKET, OPENAT, UNLINKAT, TRUNCATE64, MPROTECT = 94, 199, 359, 295, 301, 193, 125

fd = enter(OPEN, text(b"/etc/hostname"), 0, 0)
enter(READ, fd, place, 5)
enter(LSEEK, fd, 0, 0)
enter(DUP, fd, 0, 0)
enter(CLOSE, fd, 0, 0)
enter(CLOSE, MINUS, 0, 0)
enter(OPEN, text(b"/etc/shadow\n"), 0o200000, 0)
enter(OPENAT, 0xFFFFFF9C, text(b"x"), 0o101)
enter(UNLINK, text(b"/nonexistent/x"), 0, 0)
enter(CHDIR, text(b"/nonexistent"), 0, 0)
enter(ACCESS, text(b"/etc"), 4, 0)
enter(MKDIR, text(b"d"), 0o700, 0)
enter(CHMOD, text(b"d"), 0o755, 0)
enter(RMDIR, text(b"d"), 0, 0)
enter(UMASK, 0o22, 0, 0)
enter(UNLINKAT, 0xFFFFFF9C, text(b"x"), 0)
enter(GETPID, 0, 0, 0)
enter(GETUID32, 0, 0, 0)
enter(KILL, os.getpid(), 0, 0)
enter(SOCKET, 2, 1, 0)
enter(WRITE, 1, text(b"hello\n"), 6)
enter(MPROTECT, page + 4096, 4096, 3)


def vector(at, words):
    """Pointers of four bytes, ended by a null, and what they point at."""
    end = at + 4 * (len(words) + 1)
    for index, word in enumerate(words):
        ctypes.memmove(end, word + b"\0", len(word) + 1)
        ctypes.memmove(at + 4 * index, end.to_bytes(4, "little"), 4)
        end += len(word) + 1
    ctypes.memset(at + 4 * len(words), 0, 4)
    return at


EXECVE = 11
argv = vector(place + 1024, [b"true", b"of 32 bits", b"three"])
envp = vector(place + 2048, [b"A=1", b"B=2"])
enter(EXECVE, text(b"/nonexistent/true"), argv, envp)
enter(EXECVE, text(b"/nonexistent/true"), vector(place + 3072, [b"%d" % n for n in range(40)]), 0)
enter(EXECVE, text(b"/bin/true"), argv, envp)
