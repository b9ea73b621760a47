// The keeper: a process that has the worker's memory too, and outlives it by a moment.
//
// Of a dead process the kernel lets go of the memory first and of the open files then, and the
// first takes the longer the more memory was touched: on user-mode Linux 80 ms for the table of a
// 68 GiB cache. So long its devices are held, and their users wait. While another process has the
// same memory, the files come at once.
//
// A mapping of a file holds the file as well: the rings, and the driver's descriptors. Of these the
// keeper lets go when the worker is dead; of the rest when it ends itself, which nobody waits for.
// Without it, or if it is killed, all is as the kernel does it: right, and later.
//
// The keeper runs with the thread pointer of the thread that made it, so nothing here may touch
// what belongs to a thread, not even errno: it calls the kernel, and nothing else.
#define _GNU_SOURCE
#include "CDevices.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static long call(long number, long a, long b, long c, long d, long e) {
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
#else
    (void)number, (void)a, (void)b, (void)c, (void)d, (void)e;
    return -ENOSYS;
#endif
}

// A line of /proc/self/maps, as far as it has been read: "first-end rw-s offset 00:0d inode  path".
struct mapping {
    unsigned long first, end;
    enum { in_first, in_end, in_columns, in_blank, in_path } place;
    int columns;
    size_t length;
    char path[32];
};

static unsigned long with_digit(unsigned long number, char digit) {
    return number * 16 + (unsigned long)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

static int begins(const struct mapping *mapping, const char *with) {
    for (size_t i = 0; with[i]; i++)
        if (i >= mapping->length || mapping->path[i] != with[i]) return 0;
    return 1;
}

static void take(struct mapping *mapping, char byte) {
    switch (mapping->place) {
    case in_first:
        if (byte == '-') mapping->place = in_end;
        else mapping->first = with_digit(mapping->first, byte);
        break;
    case in_end:
        if (byte == ' ') mapping->place = in_columns;
        else mapping->end = with_digit(mapping->end, byte);
        break;
    case in_columns:
        // Rights, offset, device and inode.
        if (byte == ' ' && ++mapping->columns == 4) mapping->place = in_blank;
        break;
    case in_blank:
        if (byte == ' ') break;
        mapping->place = in_path;
        // Fall through.
    case in_path:
        if (mapping->length < sizeof mapping->path) mapping->path[mapping->length++] = byte;
    }
}

// Of the mappings that hold devices. If they cannot be found, they go with the rest.
static void let_devices_go(void) {
    static char text[4096];
    long maps = call(SYS_openat, AT_FDCWD, (long)"/proc/self/maps", O_RDONLY, 0, 0);
    struct mapping mapping = {0};
    long count;
    if (maps < 0) return;
    while ((count = call(SYS_read, maps, (long)text, sizeof text, 0, 0)) > 0) {
        for (long i = 0; i < count; i++) {
            if (text[i] != '\n') {
                take(&mapping, text[i]);
                continue;
            }
            if (begins(&mapping, "anon_inode:[io_uring]") || begins(&mapping, "/dev/ublkc"))
                call(SYS_munmap, (long)mapping.first, (long)(mapping.end - mapping.first), 0, 0, 0);
            mapping = (struct mapping){0};
        }
    }
}

static int keep(void *argument) {
    long worker = (long)argument;
    struct pollfd death = {.fd = (int)worker, .events = POLLIN};
    call(SYS_prctl, PR_SET_NAME, (long)"cas keeper", 0, 0, 0);
    // Only its copies: the worker's stay open.
    if (worker > 0) call(SYS_close_range, 0, worker - 1, 0, 0, 0);
    call(SYS_close_range, worker + 1, ~0U, 0, 0, 0);
    // Ready when the last thread of the worker has closed its files. Whatever else ends the wait
    // would end it again at once: then there is no keeper.
    long result;
    do result = call(SYS_ppoll, (long)&death, 1, 0, 0, 0);
    while (result == -EINTR);
    if (result != 1) return 1;
    let_devices_go();
    // The rest is for nobody: it must not take the time of whoever goes on with the devices.
    call(SYS_setpriority, PRIO_PROCESS, 0, 19, 0, 0);
    return 0;
}

int ucas_keep_memory(void) {
    static char stack[16384] __attribute__((aligned(16)));
    sigset_t all, before;
    int worker = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (worker < 0) return -errno;
    // None of the worker's signal handlers may run in the keeper.
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int keeper = clone(keep, stack + sizeof stack, CLONE_VM, (void *)(long)worker);
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(worker);
    return keeper < 0 ? -error : keeper;
}
