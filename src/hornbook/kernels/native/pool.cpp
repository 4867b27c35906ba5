// The pool: helpers that join a job if they are awake in time, and are never waited for if they are not.
//
//   gate (64 bits):  [ job number : 47 | open : 1 | inside : 16 ]
//
//   caller   job n+1, open ---- takes pieces ---- closes ---- waits until nobody is inside ----> returns
//   helper      sees the gate, inside+1 ---- takes pieces ---- inside-1, watches the gate again, then sleeps
//
// Pieces are handed out by one counter, so a thread that the system has put aside costs at most the piece it holds; a helper
// that is still asleep costs nothing: the caller does the work alone. A step has some hundred jobs with microseconds between
// them, so helpers watch the gate for about 50 us before they sleep on a condition variable; the second half of that time
// they yield, so that a crowded machine gives the core to whoever has work.
#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "cores.h"
#include "kernels.h"

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
#include <immintrin.h>
#define HB_PAUSE() _mm_pause()
#elif defined(__aarch64__) && !defined(_MSC_VER)
#define HB_PAUSE() __asm__ __volatile__("yield")
#else
#define HB_PAUSE() std::this_thread::yield()
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace hb {
namespace {

// A turn of so many looks at the gate takes about a microsecond.
constexpr int looks = 32;
constexpr int eager = 20;    // turns without a break,
constexpr int patient = 50;  // then with yielding in between, then to sleep
constexpr int most_threads = 256;

constexpr uint64_t one_inside = 1, all_inside = 0xffff, open_flag = 1 << 16, one_job = 1 << 17;

thread_local bool at_work = false;  // this thread is inside a job: what it starts it does alone

class Pool {
public:
    explicit Pool(int count) : count_(count < 1 ? 1 : count > most_threads ? most_threads : count) {}

    int count() const { return count_.load(std::memory_order_relaxed); }

    void resize(int count) {
        std::lock_guard<std::mutex> turn(turn_);
        stop();
        count_ = count < 1 ? 1 : count > most_threads ? most_threads : count;
    }

    // For the end of the process or of the library: no helper may live on in code that is gone.
    void close() {
        std::lock_guard<std::mutex> turn(turn_);
        stop();
        count_ = 1;
    }

    // Throws bad_alloc where a piece did, on whichever thread, once nobody is at work any more.
    void run(int64_t items, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
        if (at_work || count() == 1 || items <= grain) return body(context, 0, items);
        std::unique_lock<std::mutex> turn(turn_);
        if (helpers_.empty() && !start()) {
            turn.unlock();  // what the body starts comes here again
            return body(context, 0, items);
        }
        body_ = body, context_ = context, items_ = items, grain_ = grain;
        failed_.store(false, std::memory_order_relaxed);
        next_.store(0, std::memory_order_relaxed);
        const uint64_t job = (gate_.load(std::memory_order_relaxed) & ~(all_inside | open_flag)) + one_job;
        gate_.store(job | open_flag);
        if (asleep_.load() > 0) {
            { std::lock_guard<std::mutex> bed(bed_); }
            wake_.notify_all();
        }
        at_work = true;
        work();
        at_work = false;
        gate_.fetch_and(~open_flag, std::memory_order_acq_rel);
        for (int turns = 0; gate_.load(std::memory_order_acquire) & all_inside;) {
            if (++turns < 2000) HB_PAUSE();
            else std::this_thread::yield();  // whoever holds the last piece may be waiting for this very core
        }
        if (failed_.load(std::memory_order_relaxed)) throw std::bad_alloc();
    }

private:
    bool start() {
        stopping_ = false;
        try {
            for (int i = 1; i < count(); ++i) helpers_.emplace_back([this] { help(); });
        } catch (const std::exception&) {  // the system gives no more threads: as many as there are
            count_ = static_cast<int>(helpers_.size()) + 1;
        }
        return !helpers_.empty();
    }

    void stop() {
        {
            std::lock_guard<std::mutex> bed(bed_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
        helpers_.clear();
    }

    void work() {
        const int64_t items = items_, grain = grain_;
        try {
            for (;;) {
                const int64_t begin = next_.fetch_add(grain, std::memory_order_relaxed);
                if (begin >= items) return;
                body_(context_, begin, items - begin < grain ? items : begin + grain);
            }
        } catch (const std::bad_alloc&) {  // a helper must not end the process, nor the caller leave while others work
            failed_.store(true, std::memory_order_relaxed);
            next_.store(items, std::memory_order_relaxed);
        }
    }

    bool join(uint64_t& seen) {
        uint64_t gate = gate_.load(std::memory_order_acquire);
        while ((gate & open_flag) && gate / one_job != seen) {
            if (gate_.compare_exchange_weak(gate, gate + one_inside, std::memory_order_acq_rel)) {
                seen = gate / one_job;
                return true;
            }
        }
        return false;
    }

    void help() {
        at_work = true;
        uint64_t seen = 0;
        while (!stopping_.load(std::memory_order_relaxed)) {
            if (join(seen)) {
                work();
                gate_.fetch_sub(one_inside, std::memory_order_release);
            } else if (!watch(seen)) {
                sleep(seen);
            }
        }
    }

    bool waiting(uint64_t seen) const {  // a job that this helper has not been in
        const uint64_t gate = gate_.load();
        return (gate & open_flag) && gate / one_job != seen;
    }

    // true: there is something to do. Time is counted in looks: a helper whom the system has put aside meanwhile must not
    // find that it has waited long enough.
    bool watch(uint64_t seen) const {
        for (int turns = 0; turns < patient; ++turns) {
            for (int i = 0; i < looks; ++i) {
                if (waiting(seen) || stopping_.load(std::memory_order_relaxed)) return true;
                HB_PAUSE();
            }
            if (turns > eager) std::this_thread::yield();
        }
        return false;
    }

    void sleep(uint64_t seen) {
        std::unique_lock<std::mutex> bed(bed_);
        // Said before the gate is looked at once more: the caller opens the gate before it looks for sleepers.
        asleep_.fetch_add(1);
        wake_.wait(bed, [&] { return stopping_.load() || waiting(seen); });
        asleep_.fetch_sub(1);
    }

    std::atomic<int> count_;
    std::mutex turn_;  // one job at a time; further callers wait here, asleep
    std::vector<std::thread> helpers_;

    void (*body_)(void*, int64_t, int64_t) = nullptr;
    void* context_ = nullptr;
    int64_t items_ = 0, grain_ = 1;
    alignas(64) std::atomic<uint64_t> gate_{0};
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<int> asleep_{0};
    std::atomic<bool> stopping_{false}, failed_{false};
    std::mutex bed_;
    std::condition_variable wake_;
};

std::atomic<Pool*> the_pool{nullptr};

// Never destroyed: a thread of Python that is still inside a step while the process ends finds it whole. A process that was
// forked has none of its parent's helpers, and perhaps a lock that nobody will open: it begins with a new pool.
Pool& pool() {
    Pool* now = the_pool.load(std::memory_order_acquire);
    if (now) return *now;
    std::unique_ptr<Pool> made(new Pool(physical_cores()));
    if (the_pool.compare_exchange_strong(now, made.get())) return *made.release();
    return *now;
}

#if !defined(_WIN32)
void after_fork_in_child() {
    at_work = false;
    Pool* old = the_pool.load(std::memory_order_relaxed);
    if (old) the_pool.store(new Pool(old->count()), std::memory_order_relaxed);
}

struct Hooks {
    Hooks() { pthread_atfork(nullptr, nullptr, after_fork_in_child); }
    ~Hooks() {
        if (Pool* now = the_pool.load()) now->close();
    }
} hooks;
#endif

}  // namespace

int threads() { return pool().count(); }

void set_threads(int count) { pool().resize(count > 0 ? count : physical_cores()); }

void parallel(int64_t items, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
    if (items > 0) pool().run(items, grain < 1 ? 1 : grain, body, context);
}

}  // namespace hb

int hb_threads(void) { return hb::threads(); }

int hb_set_threads(int count) {
    if (count < 0 || count > hb::most_threads) return hb::fail("%d threads: 0 .. %d can be had", count, hb::most_threads);
    hb::set_threads(count);
    return 0;
}
