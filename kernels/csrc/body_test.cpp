// Runs the torch-free op bodies on small cases, in one thread and in several, on every instruction set of this machine.
// Made for the sanitizers (FASTMIM_SANITIZE): every array is allocated at exactly its size. The values are checked here
// only against a plain double computation; tests/kernels does that thoroughly.
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "block_mask/cpu_body.h"
#include "composite_residual/cpu_body.h"
#include "composite_residual_backward/cpu_body.h"
#include "focal_spectrum_/cpu_body.h"
#include "low_pass/cpu_body.h"
#include "low_pass/cpu_tables.h"
#include "mask_token/cpu_body.h"
#include "mask_token_backward/cpu_body.h"
#include "mean_fill/cpu_body.h"
#include "patch_gather/cpu_body.h"
#include "patch_loss/cpu_body.h"
#include "patch_scatter/cpu_body.h"
#include "philox/cpu_body.h"
#include "random_mask/cpu_body.h"
#include "scale_/cpu_body.h"
#include "uniform_mask/cpu_body.h"
#include "unshuffle/cpu_body.h"
#include "unshuffle_backward/cpu_body.h"
#include "window_attention/cpu_body.h"
#include "window_attention_backward/cpu_body.h"

using namespace fastmim;

namespace {

int failures = 0;

void check(bool ok, const char* what, const char* isa) {
  if (!ok) {
    std::printf("FAILED: %s (%s)\n", what, isa);
    ++failures;
  }
}

double uniform() { return std::rand() / (RAND_MAX + 1.0); }

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

// Runs body(begin, end) on parts of [0, n) at the same time.
template <class F>
void split(int64_t n, int parts, F body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < parts; ++i) threads.emplace_back([=] { body(n * i / parts, n * (i + 1) / parts); });
  for (auto& thread : threads) thread.join();
}

void test_patch_loss(PatchLossRows* body, const char* isa, Type pred_type, Type image_type, int64_t p, ElementLoss loss,
                     int flags) {
  const bool norm_pix = flags & 1, with_grad = flags & 2, channels_first = flags & 4, every = flags & 8;
  const int64_t channels = norm_pix || channels_first ? 3 : 1;
  const int64_t batch = 2, rows_of = 2, columns = 3, height = rows_of * p, width = columns * p;
  const int64_t line = p * channels, values = p * line, n = batch * rows_of * columns;
  const bool bytes = image_type == Type::u8;
  Array pred(pred_type, n * values), grad(pred_type, n * values), images(image_type, n * values);
  for (int64_t i = 0; i < n * values; ++i) pred.set(i, static_cast<float>(uniform() * 4 - 2));
  for (int64_t i = 0; i < n * values; ++i) {
    images.set(i, static_cast<float>(bytes ? uniform() * 256 : uniform() * 4 - 2));
  }
  std::vector<int64_t> rows(n);
  for (int64_t i = 0; i < n; ++i) rows[i] = n - 1 - i;
  std::vector<float> scale(values, 1 / 64.0f), shift(values, -2.0f);
  // Of every patch: as the maps of a convolution lie.
  const int64_t patches = rows_of * columns, row_stride = every ? 1 : values, value_stride = every ? patches : 1;
  const FocalL1 focal{0.2f, p == 3 ? 1.5f : 1.0f};
  const PatchLoss work{{pred.bytes.get(), pred_type, images.bytes.get(), image_type, {height, width, channels, p},
                        scale.data(), shift.data()},
                       rows.data(), with_grad ? grad.bytes.get() : nullptr, every, patches * values, row_stride,
                       value_stride, norm_pix, channels_first, loss, focal, 0.25f};
  std::vector<double> sums(n, -1.0), threaded(n, -1.0);
  split(n, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * values);
    body(work, begin, end, scratch.data(), sums.data());
  });
  split(n, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * values);
    body(work, begin, end, scratch.data(), threaded.data());
  });
  check(sums == threaded, "same bits from one thread and from three", isa);

  const double grad_tolerance = pred_type == Type::f32 ? 1e-5 : 2e-2;
  std::vector<double> target(values);
  for (int64_t k = 0; k < n; ++k) {
    const int64_t image = rows[k] / (rows_of * columns), patch = rows[k] % (rows_of * columns);
    double mean = 0, variance = 0, sum = 0;
    for (int64_t i = 0; i < values; ++i) {
      const int64_t y = patch / columns * p + i / line, x = patch % columns * line + i % line;
      target[i] = images.at((image * height + y) * width * channels + x);
      if (bytes) target[i] = target[i] / 64 - 2;
      mean += target[i] / static_cast<double>(values);
    }
    for (double t : target) variance += (t - mean) * (t - mean) / static_cast<double>(values - 1);
    for (int64_t i = 0; i < values; ++i) {
      const double t = norm_pix ? (target[i] - mean) / std::sqrt(variance + 1e-6) : target[i];
      const int64_t j = channels_first ? i % channels * (p * p) + i / channels : i;
      const int64_t place = every ? image * patches * values + j * patches + patch : k * values + j;
      const double d = pred.at(place) - t, m = std::fabs(d), sign = (d > 0) - (d < 0);
      double value = m, slope = sign;
      if (loss == ElementLoss::l2) {
        value = d * d;
        slope = 2 * d;
      } else if (loss == ElementLoss::focal_l1) {
        const double u = std::tanh(0.1 * m), gamma = focal.gamma;
        value = m * std::pow(u, gamma);
        slope = sign * (std::pow(u, gamma) + m * gamma * std::pow(u, gamma - 1) * 0.1 * (1 - u * u));
      }
      sum += value;
      if (with_grad && m > 1e-4) {
        check(std::fabs(grad.at(place) - 0.25 * slope) < grad_tolerance, "gradient", isa);
      }
    }
    check(std::fabs(sums[k] - sum) < 1e-4 * (1 + sum), "loss", isa);
  }
}

double focal(double m, double alpha, double gamma) { return m * std::pow(std::tanh(alpha * m / 2), gamma); }

double element_loss(ElementLoss loss, FocalL1 a, double d) {
  const double m = std::fabs(d);
  return loss == ElementLoss::l1 ? m : loss == ElementLoss::l2 ? m * m : focal(m, a.alpha, a.gamma);
}

void test_composite_residual(CompositeResidualPatches* body, CompositeResidualBackwardRows* backward, const char* isa,
                             Type pred_type, Type image_type, int64_t p, ElementLoss loss, float gamma,
                             bool with_fill) {
  const int64_t batch = 4, average = 2, patches = 6, keep = 2, channels = p == 1 ? 1 : 3, values = p * p * channels;
  const Images shape{2 * p, 3 * p, channels, p};
  const int64_t size = patches * values;
  const FocalL1 numbers{0.5f, gamma};
  Array pred(pred_type, batch * size), grad(pred_type, batch * size), images(image_type, batch * size);
  for (int64_t i = 0; i < batch * size; ++i) {
    pred.set(i, static_cast<float>(uniform() * 4 - 2));
    images.set(i, static_cast<float>(image_type == Type::u8 ? uniform() * 256 : uniform() * 4 - 2));
  }
  std::vector<int64_t> ids(batch * patches), inverse(batch * patches);
  for (int64_t i = 0; i < batch * patches; ++i) {
    ids[i] = (5 * i + i / patches) % patches;
    inverse[i / patches * patches + ids[i]] = i % patches;
  }
  const std::vector<float> scale(values, 1 / 64.0f), shift(values, -2.0f), fill(batch * channels, 0.25f);
  const Residuals in{pred.bytes.get(), pred_type, images.bytes.get(), image_type, shape, scale.data(), shift.data()};
  std::vector<float> residual(batch / average * size), expected(batch / average * size);
  std::vector<double> sums(batch / average * patches);
  const CompositeResidual work{in, inverse.data(), with_fill ? fill.data() : nullptr, residual.data(), keep, patches,
                               average, loss, numbers, 0.5f, 0.75f};
  split(batch / average * patches, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(3 * values);
    body(work, begin, end, scratch.data(), sums.data());
  });
  const CompositeResidualBackward reverse{in, ids.data(), residual.data(), grad.bytes.get(), keep, patches, average,
                                          loss, numbers, 0.25f, 0.5f};
  split(batch * patches, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(3 * values);
    backward(reverse, begin, end, scratch.data());
  });
  double sum = 0, expected_sum = 0;
  for (double part : sums) sum += part;
  for (int64_t n = 0; n < batch * patches; ++n) {
    const int64_t image = n / patches, start = start_of(shape, image, ids[n]);
    const bool hidden = n % patches >= keep;
    for (int64_t i = 0; i < values; ++i) {
      const int64_t at = start + i / (p * channels) * 3 * p * channels + i % (p * channels);
      const int64_t to = at - (image - image / average) * size;
      double t = images.at(at);
      if (image_type == Type::u8) t = t / 64 - 2;
      const double d = pred.at(n * values + i) - t;
      const double composed = hidden ? d : 0.5 * d + (with_fill ? 0.75 * (0.25 - t) : 0);
      expected[to] += static_cast<float>(composed / average);
      double slope = 0;
      if (hidden) {
        expected_sum += element_loss(loss, numbers, d);
        slope = (element_loss(loss, numbers, d + 1e-4) - element_loss(loss, numbers, d - 1e-4)) / 2e-4;
      }
      const double gradient = 0.5 * slope + residual[to] * (hidden ? 1.0 : 0.25) / average;
      const double tolerance = pred_type == Type::f32 ? 1e-4 : 4e-2;
      if (std::fabs(d) > 1e-3) {
        check(std::fabs(grad.at(n * values + i) - gradient) < tolerance, "composite residual: gradient", isa);
      }
    }
  }
  check(std::fabs(sum - expected_sum) < 1e-4 * (1 + expected_sum), "composite residual: loss", isa);
  for (int64_t i = 0; i < batch / average * size; ++i) {
    check(std::fabs(residual[i] - expected[i]) < 1e-5, "composite residual", isa);
  }
}

void test_focal_spectrum(FocalSpectrumRows* body, const char* isa, int64_t width, bool frequency, bool log, float alpha,
                         float gamma) {
  const int64_t rows = 5, half = width / 2 + 1;
  std::vector<float> spectrum(rows * half * 2), peaks(rows);
  for (float& x : spectrum) x = static_cast<float>(uniform() * 8 - 4);
  spectrum[0] = spectrum[1] = 0;
  const std::vector<float> before = spectrum;
  std::vector<double> sums(rows);
  const FocalSpectrum work{spectrum.data(), half, width % 2 == 0, frequency, log, alpha, gamma};
  split(rows, 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * half);
    body(work, begin, end, scratch.data(), sums.data(), peaks.data());
  });
  for (int64_t n = 0; n < rows; ++n) {
    double sum = 0, peak = frequency ? 0 : 1;
    for (int64_t x = 0; x < half; ++x) {
      const int64_t i = 2 * (n * half + x);
      const double m = std::hypot(before[i], before[i + 1]), raised = std::pow(m, alpha);
      const double s = log ? std::log1p(raised) : raised;
      double value = s * m * m, factor = 2 * s;
      if (frequency) {
        peak = std::max(peak, s);
      } else {
        value = focal(m, alpha, gamma);
        factor = m > 0 ? (focal(m + 1e-5, alpha, gamma) - focal(m - 1e-5, alpha, gamma)) / (2e-5 * m) : 0;
      }
      sum += x == 0 || (width % 2 == 0 && x == half - 1) ? value : 2 * value;
      for (int64_t k = i; k < i + 2; ++k) {
        check(std::fabs(spectrum[k] - factor * before[k]) < 1e-4 * (1 + factor), "spectrum", isa);
      }
    }
    check(std::fabs(sums[n] - sum) < 1e-5 * (1 + sum), "spectrum: loss", isa);
    check(std::fabs(peaks[n] - peak) < 1e-5 * (1 + peak), "spectrum: peak", isa);
  }
}

struct Fourier {
  CompositeResidualPatches* patches;
  CompositeResidualBackwardRows* backward;
  FocalSpectrumRows* spectrum;
};

void test_fourier(const Fourier& ops, const char* isa) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (Type image : {Type::u8, Type::f32, Type::f16}) {
      for (int64_t p : {1, 3, 16}) {
        for (bool fill : {false, true}) {
          const auto test = [&](ElementLoss loss, float gamma) {
            test_composite_residual(ops.patches, ops.backward, isa, type, image, p, loss, gamma, fill);
          };
          test(ElementLoss::l1, 1);
          test(ElementLoss::l2, 1);
          test(ElementLoss::focal_l1, 1);
          test(ElementLoss::focal_l1, 2.5f);
        }
      }
    }
  }
  for (int64_t width : {1, 2, 7, 32}) {
    for (float power : {1.0f, 0.5f}) {
      for (bool log : {false, true}) test_focal_spectrum(ops.spectrum, isa, width, true, log, power, 0);
    }
    for (float gamma : {0.0f, 1.0f, 2.5f}) test_focal_spectrum(ops.spectrum, isa, width, false, false, 0.2f, gamma);
  }
}

void test_scale(Scale* body, const char* isa, Type type) {
  const int64_t n = 2777;
  Array x(type, n), before(type, n);
  for (int64_t i = 0; i < n; ++i) {
    x.set(i, static_cast<float>(uniform() * 4 - 2));
    before.set(i, static_cast<float>(x.at(i)));
  }
  split(n, 3, [&](int64_t begin, int64_t end) { body(type, x.bytes.get(), begin, end, 0.5f); });
  for (int64_t i = 0; i < n; ++i) check(x.at(i) == 0.5 * before.at(i), "scale", isa);
}

// The known answers of Random123 (kat_vectors, "philox4x32 10"): the counter is (block, id, stream), the key the seed.
void test_philox_answers(PhiloxBlocks* body, const char* isa) {
  const struct {
    uint64_t seed, block, id;
    uint32_t stream;
    std::vector<int64_t> words;
  } answers[] = {
      {0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {~0ull, 0xffffffff, ~0ull, 0xffffffff, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {0x299f31d0a4093822, 0x243f6a88, 0x13198a2e85a308d3, 0x03707344, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const auto& answer : answers) {
    const int64_t id = static_cast<int64_t>(answer.id), block = static_cast<int64_t>(answer.block);
    std::vector<int64_t> words(4);
    body({answer.seed, answer.stream, &id, int64_t{1} << 34}, block, block + 1, words.data());
    check(words == answer.words, "known answer of philox", isa);
  }
}

std::vector<int64_t> draw(PhiloxBlocks* body, const std::vector<int64_t>& ids, int64_t n, int parts) {
  const int64_t blocks = (n + 3) / 4;
  std::vector<int64_t> words(ids.size() * n);
  split(ids.size() * blocks, parts, [&](int64_t begin, int64_t end) {
    body({7, 3, ids.data(), n}, begin, end, words.data() + begin / blocks * n + begin % blocks * 4);
  });
  return words;
}

void test_random_mask(PhiloxBlocks* philox, RandomMaskRows* body, const char* isa, int64_t patches, int64_t keep,
                      bool raster) {
  const std::vector<int64_t> ids{0, -1, 5, int64_t{1} << 40, 9};
  const std::vector<int64_t> draws = draw(philox, ids, patches, 1);
  check(draws == draw(philox, ids, patches, 3), "same draws from one thread and from three", isa);
  std::vector<int64_t> expected(draws.size()), masks(draws.size());
  for (size_t n = 0; n < ids.size(); ++n) {
    const auto row = expected.begin() + n * patches;
    for (int64_t l = 0; l < patches; ++l) row[l] = l;
    std::stable_sort(row, row + patches, [&](int64_t i, int64_t j) {
      return draws[n * patches + i] < draws[n * patches + j];
    });
    if (raster) {
      std::sort(row, row + keep);
      std::sort(row + keep, row + patches);
    }
  }
  const RandomMask work{7, 3, ids.data(), patches, keep, raster, masks.data()};
  split(ids.size(), 3, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(draws_scratch(patches) / sizeof(uint64_t));
    body(work, begin, end, scratch.data());
  });
  check(masks == expected, "random mask", isa);
}

void test_uniform_mask(UniformMaskRows* body, const char* isa, int64_t rows, int64_t columns, int64_t kept,
                       bool stratified) {
  const std::vector<int64_t> ids{0, -1, 5};
  const int64_t blocks = rows * columns / 4, across = columns / 2;
  std::vector<int64_t> order(ids.size() * 4 * blocks);
  const std::unique_ptr<bool[]> secondary(new bool[ids.size() * blocks]);
  const UniformMask work{7, 3, 6, ids.data(), rows, columns, kept, stratified, order.data(), secondary.get()};
  split(ids.size(), 3, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(draws_scratch(uniform_mask_pool(rows, columns)) / sizeof(uint64_t));
    body(work, begin, end, scratch.data());
  });
  for (size_t n = 0; n < ids.size(); ++n) {
    const int64_t* patches = order.data() + n * 4 * blocks;
    int64_t replaced = 0;
    for (int64_t k = 0; k < blocks; ++k) {
      const int64_t block = patches[k] / columns / 2 * across + patches[k] % columns / 2;
      check(block == k, "uniform mask: one visible patch in each block", isa);
      replaced += secondary[n * blocks + k];
    }
    check(replaced == blocks - kept, "uniform mask: replaced patches", isa);
    check(std::is_sorted(patches + blocks, patches + 4 * blocks), "uniform mask: hidden patches", isa);
    std::vector<int64_t> all(patches, patches + 4 * blocks);
    std::sort(all.begin(), all.end());
    for (int64_t l = 0; l < 4 * blocks; ++l) check(all[l] == l, "uniform mask: a permutation", isa);
  }
}

void test_block_mask(RandomMaskRows* random_mask, BlockMaskRows* body, const char* isa, int64_t rows, int64_t columns,
                     int64_t side) {
  const std::vector<int64_t> ids{0, -1, 5};
  const int64_t blocks = block_mask_blocks(rows, columns, side), across = (columns + side - 1) / side;
  std::vector<int64_t> order(ids.size() * rows * columns), drawn(ids.size() * blocks), expected;
  split(ids.size(), 3, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch(draws_scratch(blocks) / sizeof(uint64_t));
    body({7, 3, ids.data(), rows, columns, side, order.data()}, begin, end, scratch.data());
    random_mask({7, 3, ids.data(), blocks, 1, false, drawn.data()}, begin, end, scratch.data());
  });
  for (int64_t block : drawn) {
    for (int64_t i = 0; i < side * side; ++i) {
      const int64_t r = block / across * side + i % side, c = block % across * side + i / side;
      if (r < rows && c < columns) expected.push_back(r * columns + c);
    }
  }
  check(order == expected, "block mask", isa);
}

struct Masks {
  RandomMaskRows* random;
  UniformMaskRows* uniform;
  BlockMaskRows* block;
};

void test_draws(PhiloxBlocks* philox, const Masks& masks, const char* isa) {
  test_philox_answers(philox, isa);
  for (int64_t patches : {1, 2, 3, 4, 63, 64, 65, 196, 1009}) {
    for (int64_t keep : {int64_t{1}, (patches + 3) / 4, patches}) {
      for (bool raster : {false, true}) test_random_mask(philox, masks.random, isa, patches, keep, raster);
    }
  }
  for (int64_t rows : {2, 6, 16}) {
    for (int64_t columns : {2, 14, 16}) {
      const int64_t blocks = rows * columns / 4;
      for (bool stratified : {false, true}) {
        test_uniform_mask(masks.uniform, isa, rows, columns, blocks, stratified);
        test_uniform_mask(masks.uniform, isa, rows, columns, (blocks + 1) / 2, stratified);
      }
      for (int64_t side : {1, 2, 5}) test_block_mask(masks.random, masks.block, isa, rows, columns, side);
    }
  }
}

void test_patches(PatchGatherRows* gather, PatchScatterImages* scatter, const char* isa, Type image_type, Type type,
                  int64_t p, int64_t t, int64_t channels) {
  const int64_t batch = 2, patches = 6, num_ids = 4;
  const Images shape{2 * p, 3 * p, channels, p};
  const TokenMap map{shape, t, 2};
  const int64_t values = p * p * channels, pixels = batch * patches * values;
  const bool bytes = image_type == Type::u8;
  Array images(image_type, pixels), out(type, batch * num_ids * values), back(type, pixels);
  for (int64_t i = 0; i < pixels; ++i) images.set(i, static_cast<float>(bytes ? i % 256 : uniform() * 4 - 2));
  const std::vector<int64_t> ids{5, 0, 3, 1, 2, 1, 0, 5};
  std::vector<int64_t> rows(batch * patches, -1);
  for (int64_t n = 0; n < batch * num_ids; ++n) rows[n / num_ids * patches + ids[n]] = n;
  const std::vector<float> mean(strip_of(map), 0.456f), std(strip_of(map), 0.224f);
  const PatchGather work{map, images.bytes.get(), image_type, ids.data(), num_ids, mean.data(), std.data(),
                         out.bytes.get(), type};
  split(batch * num_ids, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * values);
    gather(work, begin, end, scratch.data());
  });
  const PatchScatter reverse{map, out.bytes.get(), type, rows.data(), back.bytes.get(), type};
  split(batch, 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(p * channels);
    scatter(reverse, begin, end, scratch.data());
  });
  for (int64_t image = 0; image < batch; ++image) {
    for (int64_t y = 0; y < 2 * p; ++y) {
      for (int64_t x = 0; x < 3 * p; ++x) {
        const bool named = rows[image * patches + y / p * 3 + x / p] >= 0;
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t i = ((image * 2 * p + y) * 3 * p + x) * channels + c;
          const float value = static_cast<float>(images.at(i));
          Array expected(type, 1);
          expected.set(0, bytes ? (value / 255.0f - 0.456f) / 0.224f : value);
          check(back.at(i) == (named ? expected.at(0) : 0), "patch gathered and scattered back", isa);
        }
      }
    }
  }
}

void test_unshuffle(UnshuffleHidden* hidden, UnshuffleTokens* tokens, UnshuffleBackwardImages* backward,
                    SumRows* sum_rows, const char* isa, Type type, Type pos_type, int64_t dim, bool raster) {
  const int64_t batch = 3, patches = 13, keep = 3, prefix = 1, total = prefix + patches, given = prefix + keep;
  Array latent(type, batch * given * dim), pos(pos_type, total * dim), table(pos_type, patches * dim);
  Array out(pos_type, batch * total * dim), grad(type, batch * given * dim);
  std::vector<float> token(dim, 0.5f);
  for (int64_t i = 0; i < batch * given * dim; ++i) latent.set(i, static_cast<float>(uniform() * 4 - 2));
  for (int64_t i = 0; i < total * dim; ++i) pos.set(i, static_cast<float>(uniform() * 4 - 2));
  std::vector<int64_t> ids(batch * patches);
  for (int64_t i = 0; i < batch * patches; ++i) ids[i] = (5 * i + i / patches) % patches;
  const Unshuffle work{latent.bytes.get(), type, token.data(), pos.bytes.get(), pos_type, ids.data(),
                       table.bytes.get(), out.bytes.get(), prefix, keep, patches, dim, raster};
  split(patches, 2, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    hidden(work, begin, end, scratch.data());
  });
  split(batch * total, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    tokens(work, begin, end, scratch.data());
  });
  const UnshuffleBackward reverse{out.bytes.get(), pos_type, ids.data(), grad.bytes.get(), type,
                                  prefix, keep, patches, dim, raster};
  std::vector<float> sums(batch * dim), positions(dim);
  split(batch, 3, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> rows(patches - keep);
    std::vector<float> scratch(8 * dim);
    backward(reverse, begin, end, sums.data(), rows.data(), scratch.data());
  });
  std::vector<double> expected(batch * dim), first(dim);
  const double tolerance = type == Type::f32 && pos_type == Type::f32 ? 1e-6 : 4e-2;
  for (int64_t image = 0; image < batch; ++image) {
    for (int64_t j = 0; j < total; ++j) {
      const int64_t place = j < prefix ? j : prefix + ids[image * patches + j - prefix];
      const int64_t row = image * total + (raster ? place : j);
      for (int64_t d = 0; d < dim; ++d) {
        const double x = out.at(row * dim + d), was = j < given ? latent.at((image * given + j) * dim + d) : 0.5;
        check(std::fabs(x - was - pos.at(place * dim + d)) < tolerance, "unshuffle", isa);
        if (j < given) {
          check(std::fabs(grad.at((image * given + j) * dim + d) - x) < tolerance, "unshuffle: latent", isa);
        } else {
          expected[image * dim + d] += x;
        }
        if (j == 0) first[d] += x;
      }
    }
  }
  const std::vector<int64_t> rows{0, total, 2 * total};
  std::vector<float> scratch(8 * dim);
  sum_rows(pos_type, out.bytes.get(), dim, rows.data(), batch, positions.data(), scratch.data());
  for (int64_t d = 0; d < dim; ++d) check(std::fabs(positions[d] - first[d]) < 1e-5, "unshuffle: positions", isa);
  for (int64_t i = 0; i < batch * dim; ++i) {
    check(std::fabs(sums[i] - expected[i]) < 1e-4, "unshuffle: mask token", isa);
  }
}

void test_mean_fill(MeanFillImages* body, const char* isa, Type image_type, Type type, bool fill) {
  const int64_t batch = 3, height = 6, width = 10, channels = 3, line = width * channels, pixels = height * width;
  const std::unique_ptr<bool[]> hidden(new bool[batch * 4]);
  for (int64_t i = 0; i < batch * 4; ++i) hidden[i] = i % 3 == 0;
  Array images(image_type, batch * pixels * channels), out(type, batch * pixels * channels);
  for (int64_t i = 0; i < batch * pixels * channels; ++i) images.set(i, static_cast<float>(i * 7 % 200));
  const std::vector<float> mean(line, 0.456f), std(line, 0.224f);
  const MeanFill work{images.bytes.get(), image_type, fill ? hidden.get() : nullptr, mean.data(), std.data(),
                      out.bytes.get(), type, height, width, channels, fill ? 2 : 1, fill ? 2 : 1};
  split(batch, 2, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> lines(height);
    std::vector<float> scratch(11 * line);
    body(work, begin, end, lines.data(), scratch.data());
  });
  const auto value = [&](double x) { return image_type == Type::u8 ? (x / 255 - 0.456) / 0.224 : x; };
  for (int64_t i = 0; i < batch * pixels * channels; ++i) {
    const int64_t image = i / (pixels * channels), y = i / line % height, x = i % line / channels;
    double expected = images.at(i), total = 0;
    for (int64_t j = 0; j < pixels; ++j) total += images.at((image * pixels + j) * channels + i % channels);
    if (fill && hidden[image * 4 + y / 3 * 2 + x / 5]) expected = total / pixels;
    const double tolerance = (type == Type::f32 ? 1e-5 : 1e-2) * (1 + std::fabs(value(expected)));
    check(std::fabs(out.at(i) - value(expected)) < tolerance, "mean fill", isa);
  }
}

void test_mask_token(MaskTokenLines* body, MaskTokenBackwardImages* backward, const char* isa, Type type, int64_t dim,
                     bool add, bool gated) {
  const int64_t batch = 3, height = 4, width = 6, n = batch * height * width;
  const std::unique_ptr<bool[]> hidden(new bool[batch * 6]);
  for (int64_t i = 0; i < batch * 6; ++i) hidden[i] = i % 3 != 1;
  const Map map{hidden.get(), height, width, dim, 2, 3};
  Array x(type, n * dim), out(type, n * dim), grad(type, n * dim), replacement(type, dim);
  for (int64_t i = 0; i < n * dim; ++i) x.set(i, static_cast<float>(uniform() * 4 - 2));
  for (int64_t d = 0; d < dim; ++d) replacement.set(d, 0.5f);
  const std::vector<float> token(dim, 0.5f), gamma(dim, 0.25f);
  const float* scale = gated ? gamma.data() : nullptr;
  split(batch * height, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(2 * dim);
    body({map, x.bytes.get(), type, replacement.bytes.get(), token.data(), scale, add, out.bytes.get()}, begin, end,
         scratch.data());
  });
  std::vector<float> sums(2 * batch * dim);
  void* to = gated || !add ? grad.bytes.get() : nullptr;
  split(batch, 3, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> rows(width);
    std::vector<float> scratch(10 * dim);
    backward({map, out.bytes.get(), type, x.bytes.get(), type, scale, to}, begin, end, sums.data(), rows.data(),
             scratch.data());
  });
  const double tolerance = type == Type::f32 ? 1e-5 : 4e-2;
  std::vector<double> expected(2 * batch * dim);
  for (int64_t i = 0; i < n * dim; ++i) {
    const int64_t position = i / dim, image = position / (height * width), y = position / width % height;
    const bool where = hidden[image * 6 + y / 2 * 3 + position % width / 2];
    const double mixed = add ? (gated ? 0.25 : 1) * x.at(i) + 0.5 : 0.5, g = out.at(i);
    check(std::fabs(g - (where ? mixed : x.at(i))) < tolerance, "mask token", isa);
    if (to) check(std::fabs(grad.at(i) - (where ? (gated ? 0.25 * g : 0) : g)) < tolerance, "mask token: x", isa);
    if (where) {
      expected[2 * image * dim + i % dim] += g;
      expected[(2 * image + 1) * dim + i % dim] += gated ? g * x.at(i) : 0;
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) check(std::fabs(sums[i] - expected[i]) < 1e-4, "mask token: sums", isa);
}

struct Dense {
  MeanFillImages* mean_fill;
  MaskTokenLines* mask_token;
  MaskTokenBackwardImages* backward;
};

void test_dense(const Dense& ops, const char* isa) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (Type image : {Type::u8, type}) {
      for (bool fill : {false, true}) test_mean_fill(ops.mean_fill, isa, image, type, fill);
    }
    for (int64_t dim : {1, 24, 37}) {
      for (int mode = 0; mode < 3; ++mode) {
        test_mask_token(ops.mask_token, ops.backward, isa, type, dim, mode > 0, mode > 1);
      }
    }
  }
}

// Against the sum over the frequencies that the disc keeps, by definition.
void test_low_pass(LowPassImages* body, const char* isa, int64_t height, int64_t width, double radius, bool official,
                   Type type) {
  const int64_t batch = 3, channels = 2, p = height % 2 || width % 2 ? 1 : 2, values = height * width * channels;
  Array images(type, batch * values);
  std::vector<float> out(batch * values);
  for (int64_t i = 0; i < batch * values; ++i) {
    images.set(i, static_cast<float>(type == Type::u8 ? uniform() * 256 : uniform() * 4 - 2));
  }
  std::vector<float> scale(width * channels, 1 / 64.0f), shift(width * channels, -2.0f), mean(width * channels, 0.5f);
  const int64_t patches = height / p * (width / p);
  const std::unique_ptr<bool[]> wanted(new bool[batch * patches]);
  for (int64_t i = 0; i < batch * patches; ++i) wanted[i] = i % 3 != 0 && i / patches != 1;
  const LowPassTables tables(height, width, radius, official);
  LowPass work{};
  work.images = {height, width, channels, p};
  work.source = images.bytes.get();
  work.source_type = type;
  work.scale = scale.data();
  work.shift = shift.data();
  work.mean = mean.data();
  work.wanted = wanted.get();
  work.out = out.data();
  tables.lend(work);
  split(batch, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(low_pass_scratch(work));
    body(work, begin, end, scratch.data());
  });

  const double turn = 6.283185307179586;
  for (int64_t image = 0; image < batch; ++image) {
    for (int64_t c = 0; c < channels; ++c) {
      std::vector<std::complex<double>> sums(height * width);
      for (int64_t u = -(height / 2); u <= (height - 1) / 2; ++u) {
        for (int64_t v = -(width / 2); v <= (width - 1) / 2; ++v) {
          const double down = u + (official && height % 2 == 0 ? 0.5 : 0);
          const double across = v + (official && width % 2 == 0 ? 0.5 : 0);
          if (down * down + across * across > radius * radius) continue;
          std::complex<double> coefficient = 0;
          const auto wave = [&](int64_t y, int64_t x) {
            return std::polar(1.0, turn * (static_cast<double>(u * y) / height + static_cast<double>(v * x) / width));
          };
          for (int64_t i = 0; i < height * width; ++i) {
            const double x = images.at((image * height * width + i) * channels + c);
            coefficient += (type == Type::u8 ? x / 64 - 2 : x) * std::conj(wave(i / width, i % width));
          }
          for (int64_t i = 0; i < height * width; ++i) {
            sums[i] += coefficient * wave(i / width, i % width) / static_cast<double>(height * width);
          }
        }
      }
      for (int64_t i = 0; i < height * width; ++i) {
        const int64_t patch = i / width / p * (width / p) + i % width / p;
        const double expected = wanted[image * patches + patch] ? std::abs(sums[i] + 0.5) - 0.5 : 0;
        const double got = out[(image * height * width + i) * channels + c];
        check(std::fabs(got - expected) < 1e-5, "low pass", isa);
      }
    }
  }
}

void test_low_pass(LowPassImages* body, const char* isa) {
  for (Type type : {Type::u8, Type::f32, Type::bf16, Type::f16}) {
    for (bool official : {true, false}) {
      test_low_pass(body, isa, 8, 20, 2.5, official, type);
      test_low_pass(body, isa, 6, 10, 4, official, type);
      test_low_pass(body, isa, 7, 9, 3, official, type);
      test_low_pass(body, isa, 14, 1, 100, official, type);
    }
  }
}

void test_window_attention(WindowAttentionItems* forward, WindowAttentionGradients* backward, const char* isa,
                           Type type, int64_t dim, int64_t shift) {
  const int64_t batch = 2, height = 4, width = 12, tokens = height * width, heads = 2, offsets = 7 * 23, origin = 80;
  const int64_t rows = 2, columns = 6, items = batch * 4 * heads;
  Array qkv(type, batch * tokens * 3 * heads * dim), out(type, batch * tokens * heads * dim);
  Array grad(type, batch * tokens * heads * dim), qkv_grad(type, batch * tokens * 3 * heads * dim);
  for (int64_t i = 0; i < batch * tokens * 3 * heads * dim; ++i) qkv.set(i, static_cast<float>(uniform() * 2 - 1));
  for (int64_t i = 0; i < batch * tokens * heads * dim; ++i) grad.set(i, static_cast<float>(uniform() * 2 - 1));
  std::vector<int32_t> codes(tokens);
  for (int64_t i = 0; i < tokens; ++i) codes[i] = static_cast<int32_t>(i / width * 23 + i % width);
  std::vector<float> table(heads * offsets), table_grads(2 * heads * offsets);
  for (float& x : table) x = static_cast<float>(uniform() * 2 - 1);
  const WindowAttention work{qkv.bytes.get(), type, codes.data(), 0, table.data(), offsets, out.bytes.get(),
                             {height, width}, {rows, columns}, {shift, shift}, heads, dim, origin, 0.5f};
  split(items, 3, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(window_attention_scratch(work));
    forward(work, begin, end, scratch.data());
  });
  const WindowAttentionBackward reverse{work, grad.bytes.get(), type, qkv_grad.bytes.get()};
  split(2, 2, [&](int64_t begin, int64_t) {
    std::vector<float> scratch(window_attention_scratch(work));
    backward(reverse, begin * items / 2, (begin + 1) * items / 2, table_grads.data() + begin * heads * offsets,
             scratch.data());
  });

  const double tolerance = type == Type::f32 ? 1e-5 : 6e-2;
  std::vector<double> expected(batch * tokens * 3 * heads * dim), pairs(heads * offsets), weights(tokens);
  for (int64_t n = 0; n < batch * tokens * heads; ++n) {
    const int64_t head = n % heads, i = n / heads % tokens, image = n / heads / tokens;
    const auto at = [&](int64_t token, int64_t part) {
      return (((image * tokens + token) * 3 + part) * heads + head) * dim;
    };
    const auto dot = [&](const Array& x, int64_t a, const Array& y, int64_t b) {
      double sum = 0;
      for (int64_t d = 0; d < dim; ++d) sum += x.at(a + d) * y.at(b + d);
      return sum;
    };
    const auto rolled = [&](int64_t token, bool row) {
      return row ? (token / width + height - shift) % height : (token % width + width - shift) % width;
    };
    double total = 0, inner = 0;
    for (int64_t j = 0; j < tokens; ++j) {
      weights[j] = 0;
      if (rolled(i, true) / rows != rolled(j, true) / rows) continue;
      if (rolled(i, false) / columns != rolled(j, false) / columns) continue;
      const bool apart = (rolled(i, true) >= height - shift) != (rolled(j, true) >= height - shift) ||
                         (rolled(i, false) >= width - shift) != (rolled(j, false) >= width - shift);
      const double bias = table[head * offsets + origin + codes[j] - codes[i]];
      weights[j] = std::exp(0.5 * dot(qkv, at(i, 0), qkv, at(j, 1)) + bias - (apart ? 100 : 0));
      total += weights[j];
    }
    for (double& weight : weights) weight /= total;
    for (int64_t d = 0; d < dim; ++d) {
      double sum = 0;
      for (int64_t j = 0; j < tokens; ++j) sum += weights[j] * qkv.at(at(j, 2) + d);
      check(std::fabs(out.at(n * dim + d) - sum) < tolerance, "window attention", isa);
    }
    for (int64_t j = 0; j < tokens; ++j) inner += weights[j] * dot(grad, n * dim, qkv, at(j, 2));
    for (int64_t j = 0; j < tokens; ++j) {
      if (weights[j] == 0) continue;
      const double score = weights[j] * (dot(grad, n * dim, qkv, at(j, 2)) - inner);
      pairs[head * offsets + origin + codes[j] - codes[i]] += score;
      for (int64_t d = 0; d < dim; ++d) {
        expected[at(i, 0) + d] += 0.5 * score * qkv.at(at(j, 1) + d);
        expected[at(j, 1) + d] += 0.5 * score * qkv.at(at(i, 0) + d);
        expected[at(j, 2) + d] += weights[j] * grad.at(n * dim + d);
      }
    }
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    check(std::fabs(qkv_grad.at(static_cast<int64_t>(i)) - expected[i]) < tolerance, "window attention: qkv", isa);
  }
  for (int64_t i = 0; i < heads * offsets; ++i) {
    const double sum = table_grads[i] + table_grads[heads * offsets + i];
    check(std::fabs(sum - pairs[i]) < 1e-4, "window attention: table", isa);
  }
}

void test_attention(WindowAttentionItems* forward, WindowAttentionGradients* backward, const char* isa) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (int64_t dim : {1, 8, 29, 32}) {
      for (int64_t shift : {0, 1}) test_window_attention(forward, backward, isa, type, dim, shift);
    }
  }
}

struct DataPath {
  PatchGatherRows* gather;
  PatchScatterImages* scatter;
  UnshuffleHidden* hidden;
  UnshuffleTokens* tokens;
  UnshuffleBackwardImages* backward;
  SumRows* sum_rows;
};

void test_data_path(const DataPath& ops, const char* isa) {
  for (Type type : {Type::f32, Type::bf16, Type::f16}) {
    for (int64_t p : {1, 3, 7, 16}) {
      for (int64_t t : {int64_t{1}, p == 16 ? 4 : p, p}) {
        for (Type image : {Type::u8, type}) {
          test_patches(ops.gather, ops.scatter, isa, image, type, p, t, p == 1 ? 1 : 3);
        }
      }
    }
    for (int64_t dim : {1, 24, 37}) {
      for (int flags = 0; flags < 4; ++flags) {
        test_unshuffle(ops.hidden, ops.tokens, ops.backward, ops.sum_rows, isa, type, flags & 1 ? type : Type::f32, dim,
                       flags & 2);
      }
    }
  }
}

void test(PatchLossRows* patch_loss, Scale* scale, const char* isa) {
  for (Type pred : {Type::f32, Type::bf16, Type::f16}) {
    test_scale(scale, isa, pred);
    for (Type image : {Type::u8, Type::f32, Type::bf16, Type::f16}) {
      for (int64_t p : {1, 3, 7, 16}) {
        for (ElementLoss loss : {ElementLoss::l1, ElementLoss::l2, ElementLoss::focal_l1}) {
          for (int flags = 0; flags < 16; ++flags) test_patch_loss(patch_loss, isa, pred, image, p, loss, flags);
        }
      }
    }
  }
}

}  // namespace

int main() {
  test(plain::patch_loss_rows, plain::scale, "plain");
  test_draws(plain::philox_blocks, {plain::random_mask_rows, plain::uniform_mask_rows, plain::block_mask_rows}, "plain");
  test_data_path({plain::patch_gather_rows, plain::patch_scatter_images, plain::unshuffle_hidden,
                  plain::unshuffle_tokens, plain::unshuffle_backward_images, plain::sum_rows},
                 "plain");
  test_fourier({plain::composite_residual_patches, plain::composite_residual_backward_rows, plain::focal_spectrum_rows},
               "plain");
  test_dense({plain::mean_fill_images, plain::mask_token_lines, plain::mask_token_backward_images}, "plain");
  test_low_pass(plain::low_pass_images, "plain");
  test_attention(plain::window_attention_items, plain::window_attention_gradients, "plain");
  if (FASTMIM_CHOOSE(scale) != plain::scale) {
    test(FASTMIM_CHOOSE(patch_loss_rows), FASTMIM_CHOOSE(scale), "best");
    test_draws(FASTMIM_CHOOSE(philox_blocks),
               {FASTMIM_CHOOSE(random_mask_rows), FASTMIM_CHOOSE(uniform_mask_rows), FASTMIM_CHOOSE(block_mask_rows)},
               "best");
    test_data_path({FASTMIM_CHOOSE(patch_gather_rows), FASTMIM_CHOOSE(patch_scatter_images),
                    FASTMIM_CHOOSE(unshuffle_hidden), FASTMIM_CHOOSE(unshuffle_tokens),
                    FASTMIM_CHOOSE(unshuffle_backward_images), FASTMIM_CHOOSE(sum_rows)},
                   "best");
    test_fourier({FASTMIM_CHOOSE(composite_residual_patches), FASTMIM_CHOOSE(composite_residual_backward_rows),
                  FASTMIM_CHOOSE(focal_spectrum_rows)},
                 "best");
    test_dense({FASTMIM_CHOOSE(mean_fill_images), FASTMIM_CHOOSE(mask_token_lines),
                FASTMIM_CHOOSE(mask_token_backward_images)},
               "best");
    test_low_pass(FASTMIM_CHOOSE(low_pass_images), "best");
    test_attention(FASTMIM_CHOOSE(window_attention_items), FASTMIM_CHOOSE(window_attention_gradients), "best");
  }
  std::printf(failures ? "%d failures\n" : "all passed\n", failures);
  return failures != 0;
}
