#define _GNU_SOURCE
#include "CUblk.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#define PR_GET_IO_FLUSHER 58
#endif

int ucas_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC) == 0 ? 0 : -errno; }

void *ucas_map_descriptors(int descriptor, uint64_t offset, uint64_t length) {
    void *at = mmap(NULL, length, PROT_READ, MAP_SHARED | MAP_POPULATE, descriptor, (off_t)offset);
    return at == MAP_FAILED ? NULL : at;
}

int ucas_become_io_flusher(void) {
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) return -errno;
    int is_set = prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0);
    return is_set == 1 ? 0 : is_set < 0 ? -errno : -EINVAL;
}

int ucas_lock_memory(void) {
    // On fault: what is never touched costs nothing.
    return mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0 ? 0 : -errno;
}

int ucas_own_mounts(void) {
    if (unshare(CLONE_NEWNS) != 0) return -errno;
    // What is mounted elsewhere from now on does not arrive here.
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 ? 0 : -errno;
}

int ucas_detach_mount(const char *path) {
    return umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0 ? 0 : -errno;
}
