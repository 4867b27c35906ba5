// What belongs to no kernel: the version of the interface, errors, the instruction set in use.
#include <cstdarg>
#include <cstdio>

#include "kernels.h"

namespace {
thread_local char message[512] = "";
}

namespace hb {

int fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return 1;
}

}  // namespace hb

int hb_abi(void) { return HB_ABI; }

const char* hb_error(void) { return message; }

const char* hb_isa(void) { return hb::kernels().name; }
