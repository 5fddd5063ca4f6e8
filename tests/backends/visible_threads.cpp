// GCC's OpenMP entry points on plain threads, for the thread sanitizer: it does not see where libgomp's own threads begin
// and end, and would report every loop. Task i goes to thread i modulo their number, so that neighbouring tasks are on
// different threads in every run; a thread shares nothing with another but what the start and the end of a region order.
#include <algorithm>
#include <thread>
#include <vector>

namespace {

struct Loop {
  long next, step, end;
};
thread_local long number = 0, threads = 1;
thread_local Loop loop{0, 1, 0};

bool take(long* first, long* last) {
  if (loop.next >= loop.end) return false;
  *first = loop.next;
  *last = std::min(loop.next + loop.step / threads, loop.end);
  loop.next += loop.step;
  return true;
}

bool start(long from, long to, long size, long* first, long* last) {
  loop = {from + number * size, threads * size, to};
  return take(first, last);
}

}  // namespace

extern "C" {

void GOMP_parallel(void (*body)(void*), void* data, unsigned count, unsigned) {
  auto member = [=](long i) {
    number = i;
    threads = long(count);
    body(data);
  };
  std::vector<std::thread> others;
  for (long i = 1; i < long(count); ++i) others.emplace_back(member, i);
  member(0);
  for (std::thread& other : others) other.join();
}

bool GOMP_loop_nonmonotonic_dynamic_start(long from, long to, long, long size, long* first, long* last) {
  return start(from, to, size, first, last);
}
bool GOMP_loop_nonmonotonic_dynamic_next(long* first, long* last) { return take(first, last); }
void GOMP_loop_end_nowait() {}

void GOMP_parallel_loop_nonmonotonic_dynamic(void (*body)(void*), void* data, unsigned count, long from, long to, long,
                                             long size, unsigned flags) {
  struct Region {
    void (*body)(void*);
    void* data;
    long from, to, size;
  } region{body, data, from, to, size};
  auto begin = [](void* opaque) {
    const Region& r = *static_cast<Region*>(opaque);
    loop = {r.from + number * r.size, threads * r.size, r.to};
    r.body(r.data);
  };
  GOMP_parallel(begin, &region, count, flags);
}

}
