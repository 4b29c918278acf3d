// Bounds-checked reading of hostile bytes. The parsers touch memory only here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastmim::reader {

struct Bytes {
  const uint8_t* data;
  size_t size;
  bool starts_with(const char* text, size_t length) const {
    return size >= length && std::memcmp(data, text, length) == 0;
  }
};

// Thrown by Cursor if the bytes end too early.
struct OutOfBytes {};

class Cursor {
 public:
  explicit Cursor(Bytes bytes, bool big_endian = true) : bytes_(bytes), big_(big_endian) {}

  size_t at() const { return at_; }
  size_t left() const { return bytes_.size - at_; }

  void seek(uint64_t to) {
    if (to > bytes_.size) throw OutOfBytes{};
    at_ = static_cast<size_t>(to);
  }
  void skip(uint64_t n) { take(n); }

  // Moves past the next byte with this value.
  void skip_to(uint8_t value) {
    const void* found = left() ? std::memchr(bytes_.data + at_, value, left()) : nullptr;
    if (!found) throw OutOfBytes{};
    at_ = static_cast<size_t>(static_cast<const uint8_t*>(found) - bytes_.data) + 1;
  }

  // Returns the next n bytes.
  Bytes take(uint64_t n) {
    if (n > left()) throw OutOfBytes{};
    const Bytes taken{bytes_.data + at_, static_cast<size_t>(n)};
    at_ += static_cast<size_t>(n);
    return taken;
  }

  uint64_t number(int bytes) {
    const Bytes taken = take(static_cast<uint64_t>(bytes));
    uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) value = value << 8 | taken.data[big_ ? i : bytes - 1 - i];
    return value;
  }
  uint8_t u8() { return static_cast<uint8_t>(number(1)); }
  uint16_t u16() { return static_cast<uint16_t>(number(2)); }
  uint32_t u32() { return static_cast<uint32_t>(number(4)); }

 private:
  Bytes bytes_;
  bool big_;
  size_t at_ = 0;
};

}  // namespace fastmim::reader
