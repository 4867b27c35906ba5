// What the kernels ask of the compiler, in its own words.
#pragma once

// HB_KERNEL: what must be inline where vectors are registers. The portable vectors are arrays, and define it as nothing.
#if defined(_MSC_VER)
#define HB_INLINE __forceinline
#define HB_UNROLL
#else
#define HB_INLINE inline __attribute__((always_inline))
#define HB_UNROLL _Pragma("GCC unroll 16")  // a loop over vectors that must stay in registers
#endif
#if !defined(HB_KERNEL)
#define HB_KERNEL HB_INLINE
#endif
