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

// How many processors' time a control group may take, or 0: "quota period" in microseconds, or "max period", in one file
// (version 2), or each in its own, where -1 stands for no limit (version 1).
int cores_of_group(const std::string& folder) {
    long long quota = 0, period = 0;
    const auto read = [&folder](const char* name, const auto... numbers) {
        std::FILE* file = std::fopen((folder + name).c_str(), "r");
        if (!file) return false;
        const bool all = std::fscanf(file, sizeof...(numbers) == 2 ? "%lld %lld" : "%lld", numbers...) == sizeof...(numbers);
        std::fclose(file);
        return all;
    };
    const bool known = read("/cpu.max", &quota, &period) ||
                       (read("/cpu.cfs_quota_us", &quota) && read("/cpu.cfs_period_us", &period));
    return known && quota > 0 && period > 0 ? static_cast<int>(std::min<long long>(1 << 20, (quota - 1) / period + 1)) : 0;
}

// The narrowest quota from this process's control group up to the root. In a container the path that the system gives may be
// the machine's own, of which only the root is there to be read.
int cores_of_quota() {
    std::FILE* file = std::fopen("/proc/self/cgroup", "r");  // lines of number:controllers:path
    if (!file) return 0;
    int least = 0;
    char line[4096];
    while (std::fgets(line, sizeof line, file)) {
        std::string path(line);
        path.erase(path.find_last_not_of('\n') + 1);
        const size_t first = path.find(':'), second = path.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = "," + path.substr(first + 1, second - first - 1) + ",";
        if (controllers != ",," && controllers.find(",cpu,") == std::string::npos) continue;
        const std::string root = controllers == ",," ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
        for (path.erase(0, second + 1);; path.erase(path.rfind('/'))) {
            const int cores = cores_of_group(root + path);
            if (cores > 0 && (least == 0 || cores < least)) least = cores;
            if (path.rfind('/') == std::string::npos) break;
        }
    }
    std::fclose(file);
    return least;
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
