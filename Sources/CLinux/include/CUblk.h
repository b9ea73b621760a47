#ifndef UBLK_CAS_CUBLK_H
#define UBLK_CAS_CUBLK_H
// The ublk interface of the kernel, declared anew: Debian 12's header is that of kernel 6.1 and
// lacks the ioctl-encoded commands. Numbers from the kernel's documentation of ublk.
#include <stdint.h>

struct ucas_ublk_control_command {
    uint32_t device;
    uint16_t queue;
    uint16_t length;
    uint64_t address;
    uint64_t data;
    uint16_t path_length;
    uint16_t pad;
    uint32_t reserved;
};
_Static_assert(sizeof(struct ucas_ublk_control_command) == 32, "ublksrv_ctrl_cmd");

struct ucas_ublk_device_info {
    uint16_t queue_count;
    uint16_t queue_depth;
    uint16_t state;
    uint16_t pad0;
    uint32_t request_bytes_max;
    uint32_t device;
    int32_t server_pid;
    uint32_t pad1;
    uint64_t flags;
    uint64_t server_flags;
    uint32_t owner_uid;
    uint32_t owner_gid;
    uint64_t reserved[2];
};
_Static_assert(sizeof(struct ucas_ublk_device_info) == 64, "ublksrv_ctrl_dev_info");

struct ucas_ublk_io_command {
    uint16_t queue;
    uint16_t tag;
    int32_t result;
    uint64_t address;
};
_Static_assert(sizeof(struct ucas_ublk_io_command) == 16, "ublksrv_io_cmd");

// 32 bytes at offset 8 of the parameters.
struct ucas_ublk_basic {
    uint32_t attributes;
    uint8_t logical_shift;
    uint8_t physical_shift;
    uint8_t io_opt_shift;
    uint8_t io_min_shift;
    uint32_t max_sectors;
    uint32_t chunk_sectors;
    uint64_t sectors;
    uint64_t virt_boundary_mask;
};
_Static_assert(sizeof(struct ucas_ublk_basic) == 32, "ublk_param_basic");

struct ucas_ublk_discard {
    uint32_t alignment;
    uint32_t granularity;
    uint32_t max_discard_sectors;
    uint32_t max_write_zeroes_sectors;
    uint16_t max_segments;
    uint16_t reserved;
};
_Static_assert(sizeof(struct ucas_ublk_discard) == 20, "ublk_param_discard");

struct ucas_ublk_dma_align {
    uint32_t mask;
    uint8_t reserved[4];
};
_Static_assert(sizeof(struct ucas_ublk_dma_align) == 8, "ublk_param_dma_align");

// The parts of struct ublk_params that a server of plain block devices sets.
struct ucas_ublk_parameters {
    uint32_t length;
    uint32_t types;
    struct ucas_ublk_basic basic;
    struct ucas_ublk_discard discard;
    uint8_t device_numbers_and_zones[108 - 60];
    struct ucas_ublk_dma_align dma_align;
    uint8_t rest[152 - 116];
};
_Static_assert(__builtin_offsetof(struct ucas_ublk_parameters, dma_align) == 108, "ublk_params");
_Static_assert(sizeof(struct ucas_ublk_parameters) == 152, "ublk_params");

struct ucas_ublk_descriptor {
    uint32_t op_flags;
    uint32_t sectors;
    uint64_t start_sector;
    uint64_t address;
};
_Static_assert(sizeof(struct ucas_ublk_descriptor) == 24, "ublksrv_io_desc");

// A pipe that ends with this program (O_CLOEXEC): reading end, writing end. 0 or -errno.
int ucas_pipe(int ends[2]);

// Maps the descriptors of one queue read-only; NULL and errno if it fails.
void *ucas_map_descriptors(int descriptor, uint64_t offset, uint64_t length);

// What a server of block devices asks of the kernel for itself. Each returns 0 or -errno.
//
// Marks the calling thread, and all it starts later, as one that block I/O depends on: its memory
// allocations never wait for writeback. Checked by asking back.
int ucas_become_io_flusher(void);
int ucas_lock_memory(void);
// Own mount namespace: the end of this process never unmounts a filesystem on its own device.
int ucas_own_mounts(void);

// Takes a mount away from this process's namespace alone. 0 or -errno.
int ucas_detach_mount(const char *path);
#endif
