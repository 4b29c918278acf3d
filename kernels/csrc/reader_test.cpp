// A test of the file reader for the sanitizers (FASTMIM_SANITIZE). Runs the header check on damaged copies of the files
// named on the command line, each in an allocation of exactly its size, and the reader's threads on the files
// themselves. Python tests compare the verdicts of the header check with Pillow.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "reader/header.h"
#include "reader/pool.h"
#include "reader/xxh64.h"

using namespace fastmim::reader;

namespace {

int failures = 0;

void check(bool ok, const char* what, const std::string& where) {
  if (!ok) {
    std::printf("FAILED: %s (%s)\n", what, where.c_str());
    ++failures;
  }
}

void parse_copy(const std::vector<uint8_t>& bytes, const std::string& path) {
  const std::unique_ptr<uint8_t[]> copy(new uint8_t[bytes.size()]);
  std::copy(bytes.begin(), bytes.end(), copy.get());
  Header header;
  parse({copy.get(), bytes.size()}, header, true);
  const std::string why = parse({copy.get(), bytes.size()}, header);
  const bool pixels = header.width > 0 && header.height > 0 && header.channels > 0;
  check(!why.empty() || pixels, "a header without pixels", path);
  check(header.orientation >= 1 && header.orientation <= 8, "orientation", path);
}

void damage(std::vector<uint8_t>& bytes, std::mt19937& random) {
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  for (size_t n = 1 + below(4); n > 0 && !bytes.empty(); --n) {
    // Mostly near the start, where the structure is.
    const size_t at = below(2) ? below(bytes.size()) : below(std::min<size_t>(bytes.size(), 256));
    const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xfe, 0xff, static_cast<uint8_t>(random())};
    switch (below(5)) {
      case 0: bytes.erase(bytes.begin() + static_cast<long>(at)); break;
      case 1: bytes.insert(bytes.begin() + static_cast<long>(at), values[below(7)]); break;
      case 2: bytes.resize(at); break;
      default: bytes[at] = values[below(7)];
    }
  }
}

void test_header(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::vector<uint8_t> whole{std::istreambuf_iterator<char>(stream), {}};
  Header header;
  const std::string why = parse({whole.data(), whole.size()}, header);
  check(why.empty(), why.c_str(), path);
  for (size_t n = 0; n < whole.size(); n += 1 + whole.size() / 1000) {
    parse_copy({whole.begin(), whole.begin() + static_cast<long>(n)}, path);
  }
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::vector<uint8_t> bytes = whole;
    damage(bytes, random);
    parse_copy(bytes, path);
  }
}

void test_pool(const std::vector<std::string>& paths) {
  for (uint64_t bound : {uint64_t{1}, uint64_t{1} << 30}) {
    for (int cycle = 0; cycle < 20; ++cycle) {
      Pool pool(3, bound, true, uint64_t{1} << 28, "");
      std::vector<std::shared_ptr<Batch>> batches;
      for (int i = 0; i < 4; ++i) batches.push_back(pool.submit(paths, std::vector<bool>(paths.size(), true)));
      if (cycle % 4 == 0) continue;  // closes the pool while it reads
      drop(*batches[1]);
      batches.erase(batches.begin() + 1);
      for (const std::shared_ptr<Batch>& batch : batches) {
        while (wait(*batch, 1) == Wait::pending) {
        }
        for (size_t i = 0; i < paths.size(); ++i) {
          const File& file = *batch->files[i];
          check(file.readable && file.error.empty(), file.error.c_str(), paths[i]);
          check(file.checksum == xxh64({file.data, static_cast<size_t>(file.size)}), "checksum", paths[i]);
        }
      }
      const std::unique_ptr<File> survivor = std::move(batches.back()->files[0]);
      batches.clear();
      if (cycle % 4 == 1) pool.submit(paths, std::vector<bool>(paths.size(), true));  // dropped before the pool reads it
      check(survivor->size > 0, "a file outlives its batch", paths[0]);
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> paths(arguments + 1, arguments + count);
  for (const std::string& path : paths) test_header(path);
  test_pool(paths);
  std::printf(failures ? "%d failures\n" : "all passed\n", failures);
  return failures != 0;
}
