#include "cores.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <vector>
#endif

namespace hb {
namespace {

#if defined(__linux__)
// The threads of one core name the same siblings ("0-1" or "0,64"): as many cores as there are different lines.
int cores_of_affinity() {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
    std::set<std::string> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        char path[96], line[256];
        std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
        std::FILE* file = std::fopen(path, "r");
        const bool read = file && std::fgets(line, sizeof line, file);
        if (file) std::fclose(file);
        cores.insert(read ? std::string(line) : std::to_string(cpu));
    }
    return static_cast<int>(cores.size());
}

// Control groups, version 2: "quota period" in microseconds, or "max period".
int cores_of_quota() {
    std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!file) return 0;
    long long quota = 0, period = 0;
    const bool limited = std::fscanf(file, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0;
    std::fclose(file);
    return limited ? static_cast<int>((quota + period - 1) / period) : 0;
}
#endif

int system_cores() {
#if defined(__linux__)
    const int cores = cores_of_affinity(), quota = cores_of_quota();
    return quota > 0 ? std::min(cores, quota) : cores;
#elif defined(__APPLE__)
    // Performance cores where there are two kinds: one slow core would hold up every step.
    int cores = 0;
    for (const char* name : {"hw.perflevel0.physicalcpu", "hw.physicalcpu"}) {
        size_t size = sizeof cores;
        if (sysctlbyname(name, &cores, &size, nullptr, 0) == 0 && cores > 0) return cores;
    }
    return 0;
#elif defined(_WIN32)
    DWORD bytes = 0;
    GetLogicalProcessorInformation(nullptr, &bytes);
    std::vector<SYSTEM_LOGICAL_PROCESSOR_INFORMATION> all(bytes / sizeof(SYSTEM_LOGICAL_PROCESSOR_INFORMATION));
    if (all.empty() || !GetLogicalProcessorInformation(all.data(), &bytes)) return 0;
    return static_cast<int>(std::count_if(all.begin(), all.end(), [](const auto& one) {
        return one.Relationship == RelationProcessorCore;
    }));
#else
    return 0;
#endif
}

}  // namespace

int physical_cores() {
    const int cores = system_cores();
    return cores > 0 ? cores : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace hb
