// Every kernel of a library over sizes around its vectors and tiles, against scalar code in double; wrong sizes and missing
// tensors are refused.
//
//     abi LIBRARY ELEMENT [SEED [CASES [DUMP]]]
//
// CASES of random sizes come after the fixed ones; DUMP gets every result, for another machine's to be compared.
#include "formulas.hpp"
#include "squash.hpp"

namespace abi {

void check_maps(Suite& suite, const Case& c, int act, bool flip) {
  check_apply(suite, c, act, flip, !flip);
  check_backward(suite, c, act, !flip, flip, act % 3 != 0);
  Standardization how{0, act, act % 3, flip, !flip, false};
  check_standardize(suite, c, how);
  how.groups = 1, how.known = act % 4 == 3;
  check_standardize(suite, c, how);
  for (int64_t groups = 2; groups <= c.C; ++groups)
    if (c.C % groups == 0) {
      how.groups = groups, how.affine = !flip, how.added = flip;
      check_standardize(suite, c, how);
      break;
    }
  if (c.S > 0) check_formula(suite, c, -1, act, flip, false);
}

void check_all(Suite& suite, const Case& c) {
  for (bool masked : {false, true}) check_moments(suite, c, masked);
  for (int act = 0; act < kActivations; ++act) check_maps(suite, c, act, (act + c.last) % 2);
  for (int number = 0; number < kResponses; ++number)
    for (bool flip : {false, true}) {
      check_response(suite, c, number, flip, !flip, true);
      check_formula(suite, c, number, 0, !flip, false);
    }
  check_response(suite, c, 1, true, false, false);
  check_formula(suite, c, -1, 7, true, true);
  for (int kept = 0; kept < 3; ++kept) {
    const RowOptions how{kept % 2, kept, kept != 0, false, kept ? 7 + kept : 0}, other{1 - kept % 2, kept, true, true, 0};
    for (const RowOptions& o : {how, other}) check_rows(suite, c, o), check_columns(suite, c, o);
    for (int number = 0; number < 2; ++number) check_squash(suite, c, number, number ? how : other);
    check_remember(suite, c.C, kept, (kept + c.last) % 3);
  }
}

// What a library says of itself.
void check_answers(Suite& suite, const Library& library) {
  for (int list = -1; list < 5; ++list) {
    const char* names = nullptr;
    const bool known = list >= 0 && list < 4;
    if (library.call("nw_names", list, static_cast<const char**>(&names)) != (known ? kDone : kRefused) || known != (names != nullptr))
      suite.fail("names: list %d", list);
  }
  if (library.call("nw_names", 0, static_cast<const char**>(nullptr)) != kRefused) suite.fail("names: %s", "no place for them");
  if (library.call("nw_threaded") / 2 != 0) suite.fail("threaded: %s", "neither yes nor no");
}

}  // namespace abi

int main(int count, char** arguments) {
  using namespace abi;
  if (count < 3) return std::fprintf(stderr, "usage: abi LIBRARY ELEMENT [SEED [CASES [DUMP]]]\n"), 3;
  const Library library(arguments[1], arguments[2]);
  const int64_t seed = count > 3 ? std::atoll(arguments[3]) : 1, cases = count > 4 ? std::atoll(arguments[4]) : 0;
  std::FILE* dump = count > 5 ? std::fopen(arguments[5], "wb") : nullptr;
  Suite suite(library, dump);
  suite.random = Random(uint64_t(seed));
  const int64_t sizes[][3] = {{3, 8, 5}, {1, 1, 2}, {2, 3, 1}, {1, 5, 49}, {3, 17, 33}, {2, 64, 9}, {1, 130, 130}};
  for (const auto& s : sizes)
    for (int last = 0; last < 2; ++last) {
      suite.refusing = s[1] == 8;
      check_all(suite, {s[0], s[1], s[2], last, 1 + last, last});
    }
  suite.refusing = true;
  check_answers(suite, library);
  check_operations(suite, 3, 8), check_operations(suite, 2, 19);
  for (int64_t i = 0; i < cases; ++i) {
    Random& random = suite.random;
    const Case c{1 + random.below(4), 1 + random.below(70), 1 + random.below(i % 5 ? 90 : 1100), int(random.below(2)),
                 int(1 + random.below(3)), random.below(3)};
    suite.refusing = false;
    check_all(suite, c);
  }
  if (dump) std::fclose(dump);
  return suite.report();
}
