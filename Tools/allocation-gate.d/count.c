// Counts heap allocations. Preloaded into a program, it writes at the program's end, to the file
// that ALLOCATION_COUNT_FILE names, first the number of all allocations, then one line for each
// place that allocated: the number, and the callers from the innermost on, as module+offset.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// The allocator itself; glibc exports it under these names for such wrappers.
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

enum { depth = 12, skipped = 2, place_count = 1 << 16 };

struct place {
    _Atomic uint64_t key;
    _Atomic uint64_t count;
    void *frames[depth];
};

static struct place places[place_count];
static _Atomic uint64_t total;
static _Atomic bool is_ready;
static __thread bool is_inside;

static uint64_t hash(void *const *frames, int count) {
    uint64_t value = 0xcbf29ce484222325;
    for (int index = 0; index < count; index++)
        value = (value ^ (uint64_t)frames[index]) * 0x100000001b3;
    return value | 1;
}

// Notes one allocation and who asked for it. What the unwinder allocates itself is not counted.
__attribute__((noinline)) static void note(void) {
    if (is_inside) return;
    atomic_fetch_add_explicit(&total, 1, memory_order_relaxed);
    if (!atomic_load_explicit(&is_ready, memory_order_acquire)) return;
    is_inside = true;
    void *frames[depth + skipped] = {0};
    backtrace(frames, depth + skipped);
    uint64_t key = hash(frames + skipped, depth);
    for (uint64_t step = 0; step < place_count; step++) {
        struct place *place = &places[(key + step) % place_count];
        uint64_t found = 0;
        if (atomic_compare_exchange_strong(&place->key, &found, key))
            memcpy(place->frames, frames + skipped, sizeof place->frames);
        else if (found != key)
            continue;
        atomic_fetch_add_explicit(&place->count, 1, memory_order_relaxed);
        break;
    }
    is_inside = false;
}

void *malloc(size_t size) {
    note();
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    note();
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) {
    note();
    return __libc_realloc(old, size);
}

void *reallocarray(void *old, size_t count, size_t size) {
    note();
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_realloc(old, bytes);
}

void *memalign(size_t alignment, size_t size) {
    note();
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    note();
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **result, size_t alignment, size_t size) {
    note();
    if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0) return EINVAL;
    void *memory = __libc_memalign(alignment, size);
    if (memory == NULL) return ENOMEM;
    *result = memory;
    return 0;
}

__attribute__((constructor)) static void start(void) {
    // The first backtrace loads the unwinder.
    is_inside = true;
    void *frames[2];
    backtrace(frames, 2);
    is_inside = false;
    atomic_store_explicit(&is_ready, true, memory_order_release);
}

static void print_place(FILE *file, const struct place *place) {
    fprintf(file, "%llu", (unsigned long long)place->count);
    for (int index = 0; index < depth && place->frames[index] != NULL; index++) {
        Dl_info info;
        if (dladdr(place->frames[index], &info) == 0) continue;
        // The call, not the instruction after it.
        ptrdiff_t offset = (char *)place->frames[index] - (char *)info.dli_fbase - 1;
        fprintf(file, " %s+0x%tx", info.dli_fname, offset);
    }
    fputc('\n', file);
}

__attribute__((destructor)) static void finish(void) {
    uint64_t count = atomic_load(&total);
    is_inside = true;
    const char *path = getenv("ALLOCATION_COUNT_FILE");
    FILE *file = path != NULL ? fopen(path, "we") : NULL;
    if (file == NULL) {
        static const char message[] = "allocation counter: no ALLOCATION_COUNT_FILE to write\n";
        if (write(STDERR_FILENO, message, sizeof message - 1) < 0) _exit(1);
        _exit(1);
    }
    fprintf(file, "%llu\n", (unsigned long long)count);
    for (int index = 0; index < place_count; index++)
        if (places[index].key != 0) print_place(file, &places[index]);
    fclose(file);
}
