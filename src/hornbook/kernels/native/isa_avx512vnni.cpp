// The kernels for x86 with AVX-512 and its dot products of bytes: Intel servers since 2019, AMD since 2022.
#include "simd_avx512vnni.h"

#include "kernels.inc"

const hb::Kernels* hb::avx512vnni_kernels() {
    static const Kernels table = table_of("avx512vnni");
    return &table;
}
