#ifndef UBLK_CAS_CLINUX_H
#define UBLK_CAS_CLINUX_H
// What Swift cannot import from the C library or an older kernel's headers.
#include "CDevices.h"
#include "CUblk.h"
#endif
