// A library of kernels as any program finds it: loaded by its path, its functions called by their names. What stands here
// of the interface is written anew, not taken from the sources that it tests.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <tuple>
#include <type_traits>

namespace abi {

enum Answer { kDone = 0, kOutOfMemory = 1, kRefused = 2, kNotFinite = 3 };

// A pointer and the number of values behind it; `bytes` of them, which the interface does not see.
struct Given {
  void* data;
  int64_t count;
  int64_t bytes;
};
const Given kNone{nullptr, 0, 0};

// A whole number that only a few values are right for.
struct Choice {
  int value;
};
struct Threads {
  int value;
};

struct GivenTable {
  const void* data;
  int64_t count, of_sample, of_channel;
};
struct Span {
  void* data;
  int64_t count;
};

inline std::tuple<void*, int64_t> flat(const Given& g) { return {g.data, g.count}; }
inline std::tuple<int> flat(const Choice& c) { return {c.value}; }
inline std::tuple<int> flat(const Threads& t) { return {t.value}; }
template <class V, class = std::enable_if_t<std::is_scalar_v<V>>>
std::tuple<V> flat(V value) {
  return {value};
}

class Library {
 public:
  Library(const char* path, std::string element) : handle_(dlopen(path, RTLD_NOW | RTLD_LOCAL)), element_(std::move(element)) {
    if (!handle_) std::fprintf(stderr, "%s\n", dlerror()), std::exit(3);
  }
  template <class... V>
  int call(const char* name, const V&... values) const {
    return std::apply(
        [&](auto... each) { return reinterpret_cast<int (*)(decltype(each)...)>(find(name))(each...); },
        std::tuple_cat(flat(values)...));
  }
  const std::string& element() const { return element_; }

 private:
  void* find(const char* name) const {
    void* found = dlsym(handle_, (std::string(name) + "_" + element_).c_str());
    if (!found) std::fprintf(stderr, "%s\n", dlerror()), std::exit(3);
    return found;
  }
  void* handle_;
  std::string element_;
};

}  // namespace abi
