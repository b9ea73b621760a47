#ifndef UBLK_CAS_CDEVICES_H
#define UBLK_CAS_CDEVICES_H
// Block devices, threads and events: calls and constants that Swift's Glibc module leaves out.
// Functions return a value >= 0 or -errno.
#include <stdint.h>

// Opens read-write, closed on exec; `direct` bypasses the page cache, `exclusive` claims a block
// device as a mounted filesystem would.
int ucas_open_device(const char *path, int direct, int exclusive);
// The same, for reading only.
int ucas_open_read_only(const char *path, int direct, int exclusive);

// As pwrite, but what was written is durable when it returns (RWF_DSYNC).
int64_t ucas_write_durably(int fd, const void *bytes, uint64_t count, uint64_t offset);

struct ucas_block_limits {
    uint64_t bytes;
    uint32_t logical_block_bytes;
    uint32_t physical_block_bytes;
    uint32_t io_min_bytes;
    uint32_t io_opt_bytes;
    uint32_t is_rotational;
};
int ucas_block_limits(int fd, struct ucas_block_limits *limits);
// What direct I/O on an open file has to be aligned to, in bytes; 0 where the kernel does not know.
struct ucas_direct_io_alignment {
    uint32_t memory_bytes;
    uint32_t offset_bytes;
};
int ucas_direct_io_alignment(int fd, struct ucas_direct_io_alignment *alignment);
// BLKDISCARD: `offset` and `length` in bytes.
int ucas_block_discard(int fd, uint64_t offset, uint64_t length);

uint32_t ucas_device_major(uint64_t device);
uint32_t ucas_device_minor(uint64_t device);

// An event counter. It blocks: a ring that reads it waits for it instead of failing.
int ucas_event_create(void);

// Binds the calling thread to one CPU.
int ucas_pin_thread(uint32_t cpu);
// Binds a thread (0: the calling one) to these CPUs.
int ucas_run_on(int thread, const uint32_t *cpus, uint32_t count);
// Writes the numbers of the CPUs a thread may run on; returns how many there are.
int ucas_cpus_of(int thread, uint32_t *cpus, uint32_t capacity);
// The kernel's number of the calling thread.
int ucas_thread_id(void);
// Names the calling thread: at most 15 bytes.
int ucas_name_thread(const char *name);
// The same of the calling one.
int ucas_allowed_cpus(uint32_t *cpus, uint32_t capacity);

// Begins the keeper (keeper.c): after the death of this process its devices are free before its
// memory is. Once in a process, from any thread. Returns the keeper's process id or -errno.
int ucas_keep_memory(void);

// Raises the limit of open files as far as this process may.
int ucas_raise_file_limit(void);

// Lets mappings of files in this tmpfs have huge pages if they ask for them (huge=advise); its
// other options stay. 0 or -errno.
int ucas_advise_huge_pages(const char *directory);
#endif
