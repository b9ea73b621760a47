#ifndef UBLK_CAS_CBYTES_H
#define UBLK_CAS_CBYTES_H
// Byte searches and checksums that need machine instructions Swift does not expose, and memory that
// costs nothing before it is touched.
//
// The searches are static inline and use SSE2, which every x86-64 has, so they vanish into their
// callers. The portable versions give the same answers and are what other machines run.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// Large pieces come from the kernel as they are: zero, and not touched before they are used.
static inline void *ucas_allocate_zeroed(size_t byte_count) { return calloc(1, byte_count); }
static inline void ucas_deallocate(void *memory) { free(memory); }

// Bit i is set if bytes[i] == value, for 32 bytes.
static inline uint32_t ucas_match_mask32_portable(const uint8_t *bytes, uint8_t value) {
    uint32_t mask = 0;
    for (int i = 0; i < 32; i++) mask |= (uint32_t)(bytes[i] == value) << i;
    return mask;
}

// Bit i is set if (bytes[i] & and_mask) == value, for 32 bytes.
static inline uint32_t ucas_masked_match_mask32_portable(
    const uint8_t *bytes, uint8_t and_mask, uint8_t value) {
    uint32_t mask = 0;
    for (int i = 0; i < 32; i++) mask |= (uint32_t)((bytes[i] & and_mask) == value) << i;
    return mask;
}

#if defined(__x86_64__)
typedef char ucas_v16 __attribute__((vector_size(16)));
typedef char ucas_v16u __attribute__((vector_size(16), aligned(1)));

// By a multiplication: SSE2 has no instruction for it, and shuffles are more of them.
static inline ucas_v16 ucas_splat16(uint8_t b) {
    uint64_t eight = b * UINT64_C(0x0101010101010101);
    typedef uint64_t ucas_v2 __attribute__((vector_size(16)));
    return (ucas_v16)(ucas_v2){eight, eight};
}

static inline uint32_t ucas_match_mask32(const uint8_t *bytes, uint8_t value) {
    ucas_v16 wanted = ucas_splat16(value);
    ucas_v16 low = *(const ucas_v16u *)bytes, high = *(const ucas_v16u *)(bytes + 16);
    return (uint32_t)__builtin_ia32_pmovmskb128((ucas_v16)(low == wanted))
        | (uint32_t)__builtin_ia32_pmovmskb128((ucas_v16)(high == wanted)) << 16;
}

static inline uint32_t ucas_masked_match_mask32(
    const uint8_t *bytes, uint8_t and_mask, uint8_t value) {
    ucas_v16 wanted = ucas_splat16(value), keep = ucas_splat16(and_mask);
    ucas_v16 low = *(const ucas_v16u *)bytes & keep;
    ucas_v16 high = *(const ucas_v16u *)(bytes + 16) & keep;
    return (uint32_t)__builtin_ia32_pmovmskb128((ucas_v16)(low == wanted))
        | (uint32_t)__builtin_ia32_pmovmskb128((ucas_v16)(high == wanted)) << 16;
}
#else
static inline uint32_t ucas_match_mask32(const uint8_t *bytes, uint8_t value) {
    return ucas_match_mask32_portable(bytes, value);
}
static inline uint32_t ucas_masked_match_mask32(
    const uint8_t *bytes, uint8_t and_mask, uint8_t value) {
    return ucas_masked_match_mask32_portable(bytes, and_mask, value);
}
#endif

// CRC-32C (Castagnoli, reflected), continuing from `seed` (0 to begin with): the value the
// crc32 instruction computes, with the usual inversions before and after.
uint32_t ucas_crc32c(uint32_t seed, const void *bytes, size_t count);
// The same from a table.
uint32_t ucas_crc32c_portable(uint32_t seed, const void *bytes, size_t count);
#endif
