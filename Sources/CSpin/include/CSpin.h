#ifndef UBLK_CAS_CSPIN_H
#define UBLK_CAS_CSPIN_H
// What a thread does while it waits for a lock that is held for a few hundred instructions.
#include <sched.h>

// Tells the processor that this is a spin loop.
static inline void ucas_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Lets another thread run: the holder may have been scheduled away.
static inline void ucas_yield(void) { sched_yield(); }
#endif
