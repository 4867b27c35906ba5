// The kernels for x86 with AVX2, FMA and F16C: Intel since 2013, AMD since 2015.
#include "simd_avx2.h"

#include "kernels.inc"

const hb::Kernels* hb::avx2_kernels() {
    static const Kernels table = table_of("avx2");
    return &table;
}
