#include "CBytes.h"

#include <string.h>

static uint32_t crc_table[256];

__attribute__((constructor)) static void fill_crc_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
        crc_table[i] = c;
    }
}

uint32_t ucas_crc32c_portable(uint32_t seed, const void *bytes, size_t count) {
    const uint8_t *p = bytes;
    uint32_t c = ~seed;
    while (count--) c = crc_table[(c ^ *p++) & 0xff] ^ c >> 8;
    return ~c;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2")))
static uint32_t crc32c_sse42(uint32_t seed, const void *bytes, size_t count) {
    const uint8_t *p = bytes;
    uint64_t c = (uint32_t)~seed;
    for (; count >= 8; count -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        c = __builtin_ia32_crc32di(c, word);
    }
    uint32_t tail = (uint32_t)c;
    for (; count > 0; count--, p++) tail = __builtin_ia32_crc32qi(tail, *p);
    return ~tail;
}

uint32_t ucas_crc32c(uint32_t seed, const void *bytes, size_t count) {
    if (__builtin_cpu_supports("sse4.2")) return crc32c_sse42(seed, bytes, count);
    return ucas_crc32c_portable(seed, bytes, count);
}
#else
uint32_t ucas_crc32c(uint32_t seed, const void *bytes, size_t count) {
    return ucas_crc32c_portable(seed, bytes, count);
}
#endif
