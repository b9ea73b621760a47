#ifndef UBLK_CAS_CSTORETRAP_H
#define UBLK_CAS_CSTORETRAP_H
// Memory as it is between two stores: for a simulated process that dies there.
//
// Regions are made read-only; each instruction that stores to one traps, is counted and is let
// through by itself. A watch is one thread's, other threads wait for its end; x86-64 only.
#include <stddef.h>
#include <stdint.h>

struct ucas_region {
    void *memory;       // Aligned to a page, as is its length.
    void *copy;         // As many bytes.
    size_t byte_count;
};

// Whether this machine can do it.
int ucas_store_trap_works(void);

// From now on stores to the regions are counted. Before store number `stop_after` + 1 the regions
// are copied, and nothing is counted any more.
void ucas_store_trap_begin(const struct ucas_region *regions, size_t count, uint64_t stop_after);

// Ends the watch. Copies the regions if there were not that many stores. Returns the stores
// counted, at most `stop_after` + 1.
uint64_t ucas_store_trap_end(void);
#endif
