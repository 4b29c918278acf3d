// The threads that read image files ahead of their use.
//
// Files are read in the order of submission. The bytes held (read and not yet released) stay within a bound, at which
// the threads wait for releases. Batches that somebody waits for, and batches submitted before them, may exceed the
// bound: otherwise a consumer that holds many files could wait for ever.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <sys/types.h>

#include "header.h"

namespace fastmim::reader {

// State shared by all threads, batches and files of a reader. It lives until the last of them is gone.
struct Shared {
  std::mutex mutex;
  std::condition_variable work, room, done;
  std::deque<std::shared_ptr<struct Batch>> queue;  // batches with files that no thread has taken
  uint64_t held = 0, bound = 0, largest = 0;
  uint64_t submitted = 0, urgent = 0;  // numbers of batches; batches up to `urgent` may exceed the bound
  bool checksum = false, stopped = false;
  std::string advice;  // end of the reason why a file above `largest` bytes is refused
  pid_t process = 0;

  // A forked child has no threads, and perhaps a mutex that stays locked for ever.
  bool forked() const;
};

struct File {
  explicit File(std::shared_ptr<Shared> of) : shared(std::move(of)) {}
  File(const File&) = delete;
  ~File();

  std::shared_ptr<Shared> shared;
  uint64_t reserved = 0;  // bytes of this file in shared->held
  uint8_t* data = nullptr;
  uint64_t size = 0, checksum = 0;
  bool readable = false;  // true if the bytes could be read, good or not
  Header header;
  std::string error;
};

struct Batch {
  std::shared_ptr<Shared> shared;
  uint64_t number = 0;
  std::vector<std::string> paths;
  std::vector<bool> pixels;  // for each file: true = its pixels are checked
  std::vector<std::unique_ptr<File>> files;
  size_t taken = 0, unfinished = 0;
  bool dropped = false;
};

class Pool {
 public:
  // Throws std::system_error when a thread cannot be started.
  Pool(int threads, uint64_t bound, bool checksum, uint64_t largest, std::string advice);
  ~Pool();
  std::shared_ptr<Batch> submit(std::vector<std::string> paths, std::vector<bool> pixels);

 private:
  void stop();
  std::shared_ptr<Shared> shared_;
  std::vector<std::thread> threads_;
};

enum class Wait { pending, finished, closed };
Wait wait(Batch& batch, int milliseconds);
void drop(Batch& batch);

}  // namespace fastmim::reader
