// C interface of the reader for ctypes. __init__.py declares the same functions and structures.
#include <cstring>
#include <system_error>

#include "pool.h"
#include "xxh64.h"

using namespace fastmim::reader;

extern "C" {

struct Taken {
  File* file;  // release with fastmim_file_release
  const uint8_t* data;
  uint64_t size, checksum;
  int64_t readable;
  const char* error;  // empty if there is none; lives as long as the file
  Header header;
};

#define EXPORT __attribute__((visibility("default")))

// Returns NULL if the system has no more threads.
EXPORT Pool* fastmim_reader_open(int threads, uint64_t bound, int checksum, uint64_t largest, const char* advice) {
  try {
    return new Pool(threads, bound, checksum != 0, largest, advice);
  } catch (const std::system_error&) {
    return nullptr;
  }
}

EXPORT void fastmim_reader_close(Pool* pool) { delete pool; }

// `paths` holds `count` strings, each ended by a zero byte; `pixels` one byte each, not 0 = check the pixels.
EXPORT std::shared_ptr<Batch>* fastmim_reader_submit(Pool* pool, const char* paths, const char* pixels,
                                                     uint64_t count) {
  std::vector<std::string> list;
  list.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    list.emplace_back(paths);
    paths += list.back().size() + 1;
  }
  return new std::shared_ptr<Batch>(pool->submit(std::move(list), std::vector<bool>(pixels, pixels + count)));
}

// Returns 0 = not finished yet, 1 = finished, 2 = never, because the reader was closed.
EXPORT int fastmim_batch_wait(std::shared_ptr<Batch>* batch, int milliseconds) {
  return static_cast<int>(wait(**batch, milliseconds));
}

// Hands over the files of a finished batch, once.
EXPORT void fastmim_batch_take(std::shared_ptr<Batch>* batch, Taken* taken) {
  for (std::unique_ptr<File>& owner : (*batch)->files) {
    File* file = owner.release();
    *taken++ = {file, file->data, file->size, file->checksum, file->readable, file->error.c_str(), file->header};
  }
}

EXPORT void fastmim_batch_release(std::shared_ptr<Batch>* batch) {
  drop(**batch);
  delete batch;
}

EXPORT void fastmim_file_release(File* file) { delete file; }

EXPORT void fastmim_parse_header(const uint8_t* data, uint64_t size, int pixels, Header* header, char* error,
                                 uint64_t room) {
  const std::string why = parse({data, static_cast<size_t>(size)}, *header, pixels != 0);
  std::strncpy(error, why.c_str(), room - 1);
  error[room - 1] = 0;
}

EXPORT uint64_t fastmim_xxh64(const uint8_t* data, uint64_t size) { return xxh64({data, static_cast<size_t>(size)}); }

}  // extern "C"
