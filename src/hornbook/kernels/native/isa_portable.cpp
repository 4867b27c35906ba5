// The kernels in plain C++, for machines that none of the others fits.
#include "simd_portable.h"

#include "kernels.inc"

const hb::Kernels* hb::portable_kernels() {
    static const Kernels table = table_of("portable");
    return &table;
}
