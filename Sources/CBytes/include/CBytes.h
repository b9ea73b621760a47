#ifndef UBLK_CAS_CBYTES_H
#define UBLK_CAS_CBYTES_H
// Byte searches and checksums that need machine instructions Swift does not expose.
#include <stdint.h>
#endif
