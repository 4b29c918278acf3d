// Helpers for the C++ tests of op bodies. The test of an op stands in its folder, in cpu_test.cpp; body_test.cpp runs
// the tests of all ops. Each test compares a body with a plain computation in double, on small cases.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "body.h"

namespace fastmim {

struct BodyTest {
  const char* op;
  void (*run)(const char* isa, bool best);
};

inline std::vector<BodyTest>& body_tests() {
  static std::vector<BodyTest> tests;
  return tests;
}

inline bool add_body_test(BodyTest test) {
  body_tests().push_back(test);
  return true;
}

inline int failures = 0;

// Prints and counts a failure unless `ok`.
inline void check(bool ok, const char* what, const char* isa) {
  if (!ok) {
    std::printf("FAILED: %s (%s)\n", what, isa);
    ++failures;
  }
}

namespace {

inline double uniform() { return std::rand() / (RAND_MAX + 1.0); }

// m tanh(alpha m / 2)^gamma.
inline double focal_of(double m, double alpha, double gamma) { return m * std::pow(std::tanh(alpha * m / 2), gamma); }

// Values of one type in an allocation of exactly their size, so that a sanitizer sees any access beyond the values.
struct Array {
  Type type;
  std::unique_ptr<char[]> bytes;
  Array(Type t, int64_t n) : type(t), bytes(new char[n * size_of(t)]) {}
  double at(int64_t i) const {
    float x;
    load(type, bytes.get(), i, &x, 1);
    return x;
  }
  void set(int64_t i, float x) {
    if (type == Type::u8) {
      bytes[i] = static_cast<char>(static_cast<uint8_t>(x));
    } else {
      store(type, &x, bytes.get(), i, 1);
    }
  }
};

// Cuts [0, n) into `parts` and runs body(begin, end) on all of them at the same time.
template <class F>
void split(int64_t n, int parts, F body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < parts; ++i) threads.emplace_back([=] { body(n * i / parts, n * (i + 1) / parts); });
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace fastmim

// Begins the test of an op. The test runs once for plain code and, where the machine has more, once for the best
// instruction set: `isa` names the set for `check`, and FASTMIM_BODY chooses the body.
#define FASTMIM_TEST(op)                                                    \
  static void op##_test(const char* isa, bool best);                        \
  static const bool op##_test_added = add_body_test({#op, op##_test});      \
  static void op##_test(const char* isa, [[maybe_unused]] bool best)
#define FASTMIM_BODY(name) (best ? FASTMIM_CHOOSE(name) : plain::name)
