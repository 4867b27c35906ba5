// Which of the instruction sets that were built this machine can run, and the fastest of them.
//
// HB_WITH_<ISA> says that isa_<isa>.cpp is part of this build (setup.py). HB_EMULATED_<ISA>: its intrinsics are emulated, so
// that every machine has it (tests/kernels/check_native.py).
#include <atomic>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace {

#if defined(__x86_64__) || defined(_M_X64)

struct Registers {
    uint32_t a, b, c, d;
};

Registers cpuid(uint32_t leaf) {
    Registers r = {0, 0, 0, 0};
#if defined(_MSC_VER)
    int out[4];
    __cpuid(out, 0);
    if (static_cast<uint32_t>(out[0]) < leaf) return r;
    __cpuidex(out, static_cast<int>(leaf), 0);
    std::memcpy(&r, out, sizeof r);
#else
    __get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d);
#endif
    return r;
}

// The registers that the operating system keeps for a process: a processor's instructions are of no use without them.
uint64_t kept_registers() {
    if (!(cpuid(1).c >> 27 & 1)) return 0;  // OSXSAVE
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<uint64_t>(high) << 32 | low;
#endif
}

bool all(uint32_t bits, std::initializer_list<int> wanted) {
    for (int bit : wanted)
        if (!(bits >> bit & 1)) return false;
    return true;
}

[[maybe_unused]] bool has_avx2() {
    return (kept_registers() & 0x06) == 0x06 && all(cpuid(1).c, {12, 28, 29})  // FMA, AVX, F16C
           && all(cpuid(7).b, {5});
}

[[maybe_unused]] bool has_avx512vnni() {
    return has_avx2() && (kept_registers() & 0xe6) == 0xe6 && all(cpuid(7).b, {16, 17, 30, 31})  // F, DQ, BW, VL
           && all(cpuid(7).c, {11});
}

#endif

#if defined(__aarch64__) || defined(_M_ARM64)

[[maybe_unused]] bool has_neon() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1;  // the dot product of four bytes, which armv8.0 lacks
#else
    return true;  // every machine that macOS and Windows run on has it
#endif
}

#endif

const hb::Kernels* fastest();

const hb::Kernels* table(const char* name) {
    const auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
#if defined(HB_EMULATED_AVX512VNNI)
    if (is("avx512vnni")) return hb::avx512vnni_kernels();
#elif defined(HB_WITH_AVX512VNNI)
    if (is("avx512vnni")) return has_avx512vnni() ? hb::avx512vnni_kernels() : nullptr;
#endif
#if defined(HB_WITH_AVX2)
    if (is("avx2")) return has_avx2() ? hb::avx2_kernels() : nullptr;
#endif
#if defined(HB_EMULATED_NEON)
    if (is("neon")) return hb::neon_kernels();
#elif defined(HB_WITH_NEON)
    if (is("neon")) return has_neon() ? hb::neon_kernels() : nullptr;
#endif
    if (is("auto")) return fastest();
    if (is("portable")) return hb::portable_kernels();
    return nullptr;
}

const hb::Kernels* fastest() {
    for (const char* name : {"avx512vnni", "avx2", "neon"})
        if (const hb::Kernels* found = table(name)) return found;
    return hb::portable_kernels();
}

std::atomic<const hb::Kernels*>& chosen() {
    static std::atomic<const hb::Kernels*> kernels{fastest()};
    return kernels;
}

}  // namespace

const hb::Kernels& hb::kernels() { return *chosen().load(std::memory_order_acquire); }

int hb_set_isa(const char* name) {
    const hb::Kernels* found = name ? table(name) : nullptr;
    if (!found) return hb::fail("this machine or this build has no kernels for %.40s", name ? name : "nothing");
    chosen().store(found, std::memory_order_release);
    return 0;
}
