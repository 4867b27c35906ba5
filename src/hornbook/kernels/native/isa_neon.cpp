// The kernels for 64-bit ARM with NEON's dot products of bytes: Apple's processors, and others since armv8.2.
#include "simd_neon.h"

#include "kernels.inc"

const hb::Kernels* hb::neon_kernels() {
    static const Kernels table = table_of("neon");
    return &table;
}
