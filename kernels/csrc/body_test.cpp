// Runs the C++ tests of all ops, or of the ops named on the command line. Made for the sanitizers (FASTMIM_SANITIZE),
// which need a program free of torch. tests/kernels checks values more thoroughly.
#include "body_test.h"

#include <cstring>

using namespace fastmim;

int main(int count, char** arguments) {
  const auto wanted = [&](const char* op) {
    return count == 1 || std::any_of(arguments + 1, arguments + count, [&](char* name) { return !strcmp(name, op); });
  };
  int runs = 0;
  for (const BodyTest& test : body_tests()) {
    if (!wanted(test.op)) continue;
    test.run("plain", false);
    if (FASTMIM_HAS_AVX2) test.run("best", true);
    ++runs;
  }
  check(runs > 0, "no op has such a test", "plain");
  std::printf(failures ? "%d failures\n" : "all passed\n", failures);
  return failures != 0;
}
