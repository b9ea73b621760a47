#define _GNU_SOURCE
#include "cstoretrap.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__x86_64__)

enum { regions_max = 4, trap_flag = 0x100 };

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static struct ucas_region watched[regions_max];
static size_t watched_count;
static uint64_t stores, stop;
static int is_copied;
static struct sigaction old_segv, old_trap;

static void protect(int protection) {
    for (size_t i = 0; i < watched_count; i++)
        if (mprotect(watched[i].memory, watched[i].byte_count, protection) != 0) abort();
}

static void copy(void) {
    for (size_t i = 0; i < watched_count; i++)
        memcpy(watched[i].copy, watched[i].memory, watched[i].byte_count);
    is_copied = 1;
}

static int is_watched(const char *address) {
    for (size_t i = 0; i < watched_count; i++) {
        const char *first = watched[i].memory;
        if (address >= first && address < first + watched[i].byte_count) return 1;
    }
    return 0;
}

static void on_store(int signal_number, siginfo_t *info, void *context) {
    (void)signal_number;
    if (!is_watched(info->si_addr)) {
        // Not ours: happens again, and ends the program.
        sigaction(SIGSEGV, &old_segv, NULL);
        return;
    }
    stores++;
    if (stores > stop) copy();
    protect(PROT_READ | PROT_WRITE);
    if (!is_copied) ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] |= trap_flag;
}

// The store is done.
static void on_step(int signal_number, siginfo_t *info, void *context) {
    (void)signal_number, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)trap_flag;
    protect(PROT_READ);
}

int ucas_store_trap_works(void) { return 1; }

void ucas_store_trap_begin(const struct ucas_region *regions, size_t count, uint64_t stop_after) {
    if (count > regions_max || pthread_mutex_lock(&turn) != 0) abort();
    memcpy(watched, regions, count * sizeof *regions);
    watched_count = count;
    stores = 0;
    stop = stop_after;
    is_copied = 0;
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = on_store;
    if (sigaction(SIGSEGV, &action, &old_segv) != 0) abort();
    action.sa_sigaction = on_step;
    if (sigaction(SIGTRAP, &action, &old_trap) != 0) abort();
    protect(PROT_READ);
}

uint64_t ucas_store_trap_end(void) {
    protect(PROT_READ | PROT_WRITE);
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGTRAP, &old_trap, NULL);
    if (!is_copied) copy();
    uint64_t counted = stores;
    if (pthread_mutex_unlock(&turn) != 0) abort();
    return counted;
}

#else

int ucas_store_trap_works(void) { return 0; }
void ucas_store_trap_begin(const struct ucas_region *regions, size_t count, uint64_t stop_after) {
    (void)regions, (void)count, (void)stop_after;
    abort();
}
uint64_t ucas_store_trap_end(void) { abort(); }

#endif
