// Tables of low_pass: waves of both sides, and the factors of the disc on the waves. This header does not use torch.
// The tables are built at every call, in less time than one image takes.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu_body.h"

namespace fastmim {

class SideTables {
 public:
  // The disc keeps frequencies f with |f + shift| <= radius.
  SideTables(int64_t size, double radius, double shift) : size_(size), parts_(size % 2 ? 2 : 4) {
    const double largest = radius + shift;
    const int64_t most = largest < static_cast<double>(size / 2) ? static_cast<int64_t>(largest) : size / 2;
    groups_ = parts_ == 4 ? (size + 2) / 4 : (size + 1) / 2;
    waves_ = round_up(parts_ == 4 ? most / 2 + 1 : most + 1, 3);
    const int64_t rows = round_up(groups_, 3);
    // Every angle is a multiple of pi / size, so a table of all angles is small, and exact for large angles.
    std::vector<double> cosines(2 * size), sines(2 * size);
    for (int64_t i = 0; i < 2 * size; ++i) {
      const double angle = 3.14159265358979323846 * static_cast<double>(i) / static_cast<double>(size);
      cosines[i] = std::cos(angle);
      sines[i] = std::sin(angle);
    }
    forward_.resize(parts_ * waves_ * groups_);
    inverse_.resize(parts_ * rows * waves_);
    for (int64_t q = 0; q < parts_; ++q) {
      for (int64_t i = 0; i < waves_; ++i) {
        const int64_t f = frequency(q % (parts_ / 2) * waves_ + i);
        if (f > most) continue;
        for (int64_t k = 0; k < groups_; ++k) {
          const int64_t angle = f * (parts_ == 4 ? 2 * k + 1 : 2 * k) % (2 * size);
          const double wave = q < parts_ / 2 ? cosines[angle] : sines[angle];
          const bool twice = parts_ == 4 ? size % 4 == 2 && k == groups_ - 1 : k == 0;
          forward_[(q * waves_ + i) * groups_ + k] = static_cast<float>(twice ? wave / 2 : wave);
          inverse_[(q * rows + k) * waves_ + i] = static_cast<float>(wave);
        }
      }
    }
  }

  Side side() const { return {size_, parts_, groups_, waves_, forward_.data(), inverse_.data()}; }
  int64_t frequencies() const { return parts_ / 2 * waves_; }

  // Frequency of the i-th cosine and of the i-th sine.
  int64_t frequency(int64_t i) const { return parts_ == 4 ? 2 * (i % waves_) + i / waves_ : i; }

 private:
  int64_t size_, parts_, groups_, waves_;
  std::vector<float> forward_, inverse_;
};

class LowPassTables {
 public:
  LowPassTables(int64_t height, int64_t width, double radius, bool official)
      : height_(height),
        width_(width),
        radius_(radius),
        shift_down_(official && height % 2 == 0 ? 0.5 : 0.0),
        shift_across_(official && width % 2 == 0 ? 0.5 : 0.0),
        down_(height, radius, shift_down_),
        across_(width, radius, shift_across_) {
    const int64_t down = down_.frequencies(), across = across_.frequencies();
    for (auto* weights : {&even_same_, &even_opposite_, &odd_same_, &odd_opposite_}) weights->resize(down * across);
    for (int64_t i = 0; i < across; ++i) {
      for (int64_t j = 0; j < down; ++j) {
        const int64_t v = across_.frequency(i), u = down_.frequency(j), at = i * down + j;
        // Frequency 0 has no sign, so it counts once.
        for (int64_t a : {1, -1}) {
          for (int64_t b : {1, -1}) {
            if ((u == 0 && a < 0) || (v == 0 && b < 0) || !exists(height, a * u) || !exists(width, b * v)) continue;
            const double kept = keeps(a * u, b * v), mirrored = keeps(-a * u, -b * v);
            const double scale = 1 / (static_cast<double>(height) * static_cast<double>(width));
            (a == b ? even_same_ : even_opposite_)[at] += static_cast<float>(scale * kept);
            const double odd = a * (kept - mirrored) / 2 * scale;
            (a == b ? odd_same_ : odd_opposite_)[at] += static_cast<float>(odd);
            complex_ = complex_ || odd != 0;
          }
        }
      }
    }
  }

  // Points `work` at the tables.
  void lend(LowPass& work) const {
    work.vertical = down_.side();
    work.horizontal = across_.side();
    work.even_same = even_same_.data();
    work.even_opposite = even_opposite_.data();
    work.odd_same = complex_ ? odd_same_.data() : nullptr;
    work.odd_opposite = odd_opposite_.data();
  }

 private:
  // True if the discrete transform has frequency f. Of the frequencies n/2 and -n/2, the transform has only -n/2.
  static bool exists(int64_t size, int64_t f) { return -(size / 2) <= f && f <= (size - 1) / 2; }

  bool keeps(int64_t u, int64_t v) const {
    const auto around = [](int64_t f, int64_t size) { return exists(size, f) ? f : f - size; };
    const double y = static_cast<double>(around(u, height_)) + shift_down_;
    const double x = static_cast<double>(around(v, width_)) + shift_across_;
    return y * y + x * x <= radius_ * radius_;
  }

  int64_t height_, width_;
  double radius_, shift_down_, shift_across_;
  SideTables down_, across_;
  std::vector<float> even_same_, even_opposite_, odd_same_, odd_opposite_;
  bool complex_ = false;
};

}  // namespace fastmim
