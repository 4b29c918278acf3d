// The threads that read image files ahead of their use.
//
// Files are read in the order of submission. Memory: what is held (read and not yet released) stays within a bound;
// at the bound the threads wait for releases, except for batches that somebody waits for and those submitted before
// them, which may exceed it: otherwise a consumer that holds much could wait for ever.
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

// What all threads, batches and files of a reader share; it lives until the last of them is gone.
struct Shared {
  std::mutex mutex;
  std::condition_variable work, room, done;
  std::deque<std::shared_ptr<struct Batch>> queue;  // those with files that no thread has taken
  uint64_t held = 0, bound = 0, largest = 0;
  uint64_t submitted = 0, urgent = 0;  // numbers of batches; up to `urgent` they may exceed the bound
  bool checksum = false, stopped = false;
  std::string advice;  // ends the reason of a file of more bytes than `largest`
  pid_t process = 0;

  // A forked child has none of the threads, and perhaps a mutex that was locked for ever.
  bool forked() const;
};

struct File {
  explicit File(std::shared_ptr<Shared> of) : shared(std::move(of)) {}
  File(const File&) = delete;
  ~File();

  std::shared_ptr<Shared> shared;
  uint64_t reserved = 0;  // its part of shared->held
  uint8_t* data = nullptr;
  uint64_t size = 0, checksum = 0;
  bool readable = false;  // the bytes are there, whatever they are
  Header header;
  std::string error;
};

struct Batch {
  std::shared_ptr<Shared> shared;
  uint64_t number = 0;
  std::vector<std::string> paths;
  std::vector<std::unique_ptr<File>> files;
  size_t taken = 0, unfinished = 0;
  bool dropped = false;
};

class Pool {
 public:
  // Throws std::system_error when a thread cannot be started.
  Pool(int threads, uint64_t bound, bool checksum, uint64_t largest, std::string advice);
  ~Pool();
  std::shared_ptr<Batch> submit(std::vector<std::string> paths);

 private:
  void stop();
  std::shared_ptr<Shared> shared_;
  std::vector<std::thread> threads_;
};

enum class Wait { pending, finished, closed };
Wait wait(Batch& batch, int milliseconds);
void drop(Batch& batch);

}  // namespace fastmim::reader
