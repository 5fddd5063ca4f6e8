// What every check needs: the library, numbers, a comparison whose bound follows from the element type, and refusals.
#pragma once

#include <map>

#include "scalar.hpp"
#include "tensor.hpp"

namespace abi {

// Sizes and layout of x[N, C, S], how it starts in memory, and the threads.
struct Case {
  int64_t N, C, S;
  int last;
  int threads;
  int64_t unaligned;

  int64_t values() const { return N * C * S; }
  int64_t planes() const { return N * C; }
  int64_t at(int64_t n, int64_t c, int64_t s) const { return last ? (n * S + s) * C + c : (n * C + c) * S + s; }
  template <class F>
  void each(F f) const {
    for (int64_t n = 0; n < N; ++n)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t s = 0; s < S; ++s) f(n, c, s, at(n, c, s));
  }
};

// Roundings of the accumulator's type, and of the output's own, that a result may be off by.
constexpr double kRoundings = 8, kLast = 1.001;

class Suite {
 public:
  Suite(const Library& library, std::FILE* dump) : library(library), kind(kind_named(library.element())), dump_(dump) {}

  const Library& library;
  const Kind kind;
  Random random{1};

  Tensor input(const Case& c, double mean = 0.5) {
    Tensor t(kind, c.values(), c.unaligned);
    return t.fill([&] { return random.normal() + mean; });
  }
  Tensor output(const Case& c) { return Tensor(kind, c.values(), c.unaligned); }
  Tensor table(Kind of, int64_t count, double low = 0.3, double high = 1.3) {
    Tensor t(of, count);
    return t.fill([&] { return low + random.uniform() * (high - low); });
  }
  Tensor mask(const Case& c) {
    Tensor t(kByte, c.N * c.S, c.unaligned);
    return t.fill([&] { return random.uniform() < 0.7; });
  }

  // What an activation, or a curve made of exponentials, is off by itself: bf16's are polynomials that are off by 1 in 30,000,
  // and a slope such as tanh-GELU's has as many factors as everything else that is computed for a value.
  double inexact(bool exponential) const {
    return !exponential ? 0 : kind == kBf16 ? 1.0 / 30000 : kRoundings * unit_of(wide(kind));
  }
  // Each value within its bound of what it must be: `size` is the magnitude of the terms that it was made of, `inexact` what
  // they are off by beside their roundings.
  void expect(const std::string& what, const Tensor& got, const std::vector<double>& want, const std::vector<double>& size,
              double inexact = 0) {
    std::vector<double> values, bounds;
    for (int64_t i = 0; i < got.count(); ++i) {
      const double terms = size[size_t(i)] + std::fabs(want[size_t(i)]);
      const double bound = kLast * unit_of(got.kind()) * std::fabs(want[size_t(i)]) +
                           (kRoundings * unit_of(wide(kind)) + inexact) * terms + 1e-30;
      const double error = std::fabs(got[i] - want[size_t(i)]);
      if (!(error <= bound)) {
        fail("%s[%lld]: %.9g instead of %.9g, off by %.2g of %.2g", what.c_str(), (long long)i, got[i], want[size_t(i)], error,
             bound);
        break;
      }
      double& worst = worst_[what.substr(0, what.find(' '))];
      worst = std::max(worst, error / bound);
      values.push_back(got[i]), bounds.push_back(bound);
    }
    if (!got.guarded()) fail("%s: written beside the tensor", what.c_str());
    write(what, values, bounds);
  }
  void done(const std::string& what, int answer) {
    ++calls_;
    if (answer != kDone) fail("%s: answered %d", what.c_str(), answer);
  }
  template <class... V>
  void fail(const char* format, const V&... values) {
    if (++failures_ <= 20) std::fprintf(stderr, "%s: ", library.element().c_str()), std::fprintf(stderr, format, values...), std::fputc('\n', stderr);
  }
  int report() const {
    std::printf("%s: %lld calls, %lld refusals, %lld failures; worst error of its bound:", library.element().c_str(),
                (long long)calls_, (long long)refusals_, (long long)failures_);
    for (const auto& [name, worst] : worst_) std::printf(" %s %.2f", name.c_str(), worst);
    std::puts("");
    return failures_ != 0;
  }

  // The call as given, then with every argument wrong in turn: refused, and nothing written.
  template <class... V>
  void call(const std::string& name, const V&... values) {
    done(name, library.call(name.c_str(), values...));
    if (refusing) wrong<0>(name, std::make_tuple(values...));
  }
  // Whether `call` tries wrong arguments, too.
  bool refusing = false;

 private:
  template <size_t I, class... V>
  void wrong(const std::string& name, const std::tuple<V...>& right) {
    if constexpr (I < sizeof...(V)) {
      using A = std::tuple_element_t<I, std::tuple<V...>>;
      const A& a = std::get<I>(right);
      const auto refuse = [&](const A& instead) {
        auto arguments = right;
        std::get<I>(arguments) = instead;
        refused(name, int(I), arguments);
      };
      if constexpr (std::is_same_v<A, Given>) {
        if (a.count) {
          for (int64_t count : {a.count - 1, a.count + 1, int64_t(0), -a.count, int64_t(1) << 62}) refuse({a.data, count, a.bytes});
          refuse({nullptr, a.count, 0});
        }
      } else if constexpr (std::is_same_v<A, Choice>) {
        for (int value : {-1, 16, 1 << 20}) refuse({value});
      } else if constexpr (std::is_same_v<A, Threads>) {
        for (int value : {0, -1}) refuse({value});
      } else if constexpr (std::is_same_v<A, int64_t>) {
        for (int64_t value : {int64_t(-1), a + 1, int64_t(1) << 40, int64_t(1) << 62}) refuse(value);
      }
      wrong<I + 1>(name, right);
    }
  }
  template <class Tuple>
  void refused(const std::string& name, int at, const Tuple& arguments) {
    ++refusals_;
    std::vector<std::pair<Given, std::string>> before;
    std::apply([&](const auto&... each) { (keep(before, each), ...); }, arguments);
    const int answer =
        std::apply([&](const auto&... each) { return library.call(name.c_str(), each...); }, arguments);
    if (answer != kRefused) fail("%s: wrong argument %d is answered by %d", name.c_str(), at, answer);
    for (const auto& [given, bytes] : before)
      if (std::memcmp(given.data, bytes.data(), bytes.size()) != 0)
        fail("%s: refused for argument %d, and wrote", name.c_str(), at);
  }
  template <class A>
  static void keep(std::vector<std::pair<Given, std::string>>& kept, const A& argument) {
    if constexpr (std::is_same_v<A, Given>)
      if (argument.data) kept.emplace_back(argument, std::string(static_cast<char*>(argument.data), size_t(argument.bytes)));
  }

  // name, number of values, values, bounds: for another machine's to be compared.
  void write(const std::string& what, const std::vector<double>& values, const std::vector<double>& bounds) {
    if (!dump_) return;
    const int64_t sizes[2] = {int64_t(what.size()), int64_t(values.size())};
    std::fwrite(sizes, sizeof sizes, 1, dump_);
    std::fwrite(what.data(), 1, what.size(), dump_);
    std::fwrite(values.data(), sizeof(double), values.size(), dump_);
    std::fwrite(bounds.data(), sizeof(double), bounds.size(), dump_);
  }

  std::FILE* dump_;
  std::map<std::string, double> worst_;
  int64_t calls_ = 0, refusals_ = 0, failures_ = 0;
};

}  // namespace abi
