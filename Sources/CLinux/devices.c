#define _GNU_SOURCE
#include "CDevices.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

static int result(int value) { return value < 0 ? -errno : value; }

int ucas_open_device(const char *path, int direct, int exclusive) {
    int flags = O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0) | (exclusive ? O_EXCL : 0);
    return result(open(path, flags));
}

int ucas_open_read_only(const char *path, int direct, int exclusive) {
    int flags = O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0) | (exclusive ? O_EXCL : 0);
    return result(open(path, flags));
}

int64_t ucas_write_durably(int fd, const void *bytes, uint64_t count, uint64_t offset) {
    struct iovec piece = {(void *)bytes, count};
    ssize_t written = pwritev2(fd, &piece, 1, (off_t)offset, RWF_DSYNC);
    return written < 0 ? -errno : written;
}

int ucas_block_limits(int fd, struct ucas_block_limits *limits) {
    int logical = 0;
    unsigned int physical = 0, io_min = 0, io_opt = 0;
    unsigned short rotational = 0;
    if (ioctl(fd, BLKGETSIZE64, &limits->bytes) < 0) return -errno;
    if (ioctl(fd, BLKSSZGET, &logical) < 0) return -errno;
    if (ioctl(fd, BLKPBSZGET, &physical) < 0) return -errno;
    if (ioctl(fd, BLKIOMIN, &io_min) < 0) return -errno;
    if (ioctl(fd, BLKIOOPT, &io_opt) < 0) return -errno;
    if (ioctl(fd, BLKROTATIONAL, &rotational) < 0) return -errno;
    limits->logical_block_bytes = (uint32_t)logical;
    limits->physical_block_bytes = physical;
    limits->io_min_bytes = io_min;
    limits->io_opt_bytes = io_opt;
    limits->is_rotational = rotational;
    return 0;
}

int ucas_direct_io_alignment(int fd, struct ucas_direct_io_alignment *alignment) {
    struct statx status;
    alignment->memory_bytes = alignment->offset_bytes = 0;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0) return -errno;
    if (status.stx_mask & STATX_DIOALIGN) {
        alignment->memory_bytes = status.stx_dio_mem_align;
        alignment->offset_bytes = status.stx_dio_offset_align;
    }
    return 0;
}

int ucas_block_discard(int fd, uint64_t offset, uint64_t length) {
    uint64_t range[2] = {offset, length};
    return result(ioctl(fd, BLKDISCARD, range));
}

uint32_t ucas_device_major(uint64_t device) { return major(device); }
uint32_t ucas_device_minor(uint64_t device) { return minor(device); }

int ucas_event_create(void) { return result(eventfd(0, EFD_CLOEXEC)); }

int ucas_pin_thread(uint32_t cpu) {
    cpu_set_t set;
    if (cpu >= CPU_SETSIZE) return -EINVAL;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return -pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

int ucas_run_on(int thread, const uint32_t *cpus, uint32_t count) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (uint32_t index = 0; index < count; index++) {
        if (cpus[index] >= CPU_SETSIZE) return -EINVAL;
        CPU_SET(cpus[index], &set);
    }
    return result(sched_setaffinity(thread, sizeof set, &set));
}

int ucas_thread_id(void) { return (int)syscall(SYS_gettid); }

int ucas_name_thread(const char *name) { return -pthread_setname_np(pthread_self(), name); }

int ucas_cpus_of(int thread, uint32_t *cpus, uint32_t capacity) {
    cpu_set_t set;
    uint32_t count = 0;
    if (sched_getaffinity(thread, sizeof set, &set) < 0) return -errno;
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE && count < capacity; cpu++)
        if (CPU_ISSET(cpu, &set)) cpus[count++] = cpu;
    return (int)count;
}

int ucas_allowed_cpus(uint32_t *cpus, uint32_t capacity) {
    return ucas_cpus_of(0, cpus, capacity);
}

int ucas_raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
    limit.rlim_cur = limit.rlim_max;
    return result(setrlimit(RLIMIT_NOFILE, &limit));
}

int ucas_advise_huge_pages(const char *directory) {
    int context = (int)syscall(SYS_fspick, AT_FDCWD, directory, FSPICK_CLOEXEC);
    if (context < 0) return -errno;
    int result = 0;
    if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "huge", "advise", 0) != 0
        || syscall(SYS_fsconfig, context, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) != 0)
        result = -errno;
    close(context);
    return result;
}
