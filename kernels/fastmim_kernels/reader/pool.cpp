#include "pool.h"

#include <new>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <system_error>

#include "xxh64.h"

namespace fastmim::reader {
namespace {

constexpr int retries = 3;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string words(const char* what, int error) {
  return std::string(what) + ": " + std::generic_category().message(error);
}

const char* kind_of(mode_t mode) {
  return S_ISDIR(mode) ? "a directory" : S_ISFIFO(mode) ? "a pipe" : S_ISSOCK(mode) ? "a socket" : "a device";
}

bool transient(int error) { return error == EIO || error == ESTALE || error == EINTR || error == EAGAIN; }

// Thrown if the reader was closed or the batch dropped, so that nobody needs the file any more.
struct Unwanted {};

// Waits until the file fits under the bound.
void reserve(Batch& batch, File& file, uint64_t size) {
  Shared& shared = *batch.shared;
  std::unique_lock lock(shared.mutex);
  shared.room.wait(lock, [&] {
    return shared.stopped || batch.dropped || batch.number <= shared.urgent || shared.held + size <= shared.bound;
  });
  if (shared.stopped || batch.dropped) throw Unwanted{};
  shared.held += size;
  file.reserved = size;
}

void release(File& file) {
  std::free(file.data);
  file.data = nullptr;
  file.size = 0;
  if (file.reserved == 0 || file.shared->forked()) return;
  {
    std::lock_guard lock(file.shared->mutex);
    file.shared->held -= file.reserved;
  }
  file.reserved = 0;
  file.shared->room.notify_all();
}

// Tries once to read the file. Returns the errno of a failure that may pass, else 0. A lasting failure sets file.error.
int try_read(Batch& batch, const std::string& path, File& file) {
  file.error.clear();
  const auto failed = [&](const char* what) {
    const int error = errno;
    file.error = words(what, error);
    return transient(error) ? error : 0;
  };
  // Opening a pipe without O_NONBLOCK would wait for a writer.
  const Descriptor descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat status;
  if (descriptor.get() < 0) return failed("cannot be opened");
  if (fstat(descriptor.get(), &status) != 0) return failed("cannot be examined");
  if (!S_ISREG(status.st_mode)) {
    file.error = std::string("not a file but ") + kind_of(status.st_mode);
    return 0;
  }
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  if (size > batch.shared->largest) {
    file.error = "too large: the file has " + std::to_string(size) + " bytes, at most " +
                 std::to_string(batch.shared->largest) + " are read" + batch.shared->advice;
    return 0;
  }
  reserve(batch, file, size);
  file.data = static_cast<uint8_t*>(std::malloc(size ? size : 1));
  if (!file.data) {
    file.error = "no memory for its " + std::to_string(size) + " bytes";
    return 0;
  }
  while (file.size < size) {
    const ssize_t n = pread(descriptor.get(), file.data + file.size, size - file.size, static_cast<off_t>(file.size));
    if (n < 0) return failed("cannot be read");
    if (n == 0) break;  // the file shrank meanwhile; the header check will notice
    file.size += static_cast<uint64_t>(n);
  }
  file.readable = true;
  return 0;
}

void read(Batch& batch, size_t i, File& file) {
  const std::string& path = batch.paths[i];
  for (int attempt = 0; try_read(batch, path, file) && attempt < retries; ++attempt) {
    release(file);
    std::unique_lock lock(batch.shared->mutex);
    batch.shared->room.wait_for(lock, std::chrono::milliseconds(10 << 2 * attempt),
                                [&] { return batch.shared->stopped || batch.dropped; });
  }
  if (!file.readable) return release(file);
  const Bytes bytes{file.data, static_cast<size_t>(file.size)};
  if (batch.shared->checksum) file.checksum = xxh64(bytes);
  file.error = parse(bytes, file.header, batch.pixels[i]);
}

void work(std::shared_ptr<Shared> shared) {
  for (;;) {
    std::shared_ptr<Batch> batch;
    size_t i;
    {
      std::unique_lock lock(shared->mutex);
      shared->work.wait(lock, [&] { return shared->stopped || !shared->queue.empty(); });
      if (shared->stopped) return;
      batch = shared->queue.front();
      i = batch->taken++;
      if (batch->taken == batch->paths.size() || batch->dropped) shared->queue.pop_front();
      if (batch->dropped) continue;
    }
    auto file = std::make_unique<File>(shared);
    try {
      read(*batch, i, *file);
    } catch (const Unwanted&) {
      continue;
    } catch (const std::bad_alloc&) {
      file->error = "no memory is left to examine it";
    }
    std::lock_guard lock(shared->mutex);
    batch->files[i] = std::move(file);
    if (--batch->unfinished == 0) shared->done.notify_all();
  }
}

}  // namespace

bool Shared::forked() const { return getpid() != process; }

File::~File() { release(*this); }

Pool::Pool(int threads, uint64_t bound, bool checksum, uint64_t largest, std::string advice)
    : shared_(std::make_shared<Shared>()) {
  shared_->bound = bound;
  shared_->checksum = checksum;
  shared_->largest = largest;
  shared_->advice = std::move(advice);
  shared_->process = getpid();
  // Signals go to the threads of the program, which expect them.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (int i = 0; i < threads; ++i) threads_.emplace_back(work, shared_);
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    stop();
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  // Emptied outside the lock, since the destructors of files take the lock.
  std::deque<std::shared_ptr<Batch>> queue;
  {
    std::lock_guard lock(shared_->mutex);
    shared_->stopped = true;
    queue.swap(shared_->queue);
  }
  shared_->work.notify_all();
  shared_->room.notify_all();
  shared_->done.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::shared_ptr<Batch> Pool::submit(std::vector<std::string> paths, std::vector<bool> pixels) {
  auto batch = std::make_shared<Batch>();
  batch->shared = shared_;
  batch->unfinished = paths.size();
  batch->files.resize(paths.size());
  batch->paths = std::move(paths);
  batch->pixels = std::move(pixels);
  {
    std::lock_guard lock(shared_->mutex);
    batch->number = ++shared_->submitted;
    if (batch->unfinished) shared_->queue.push_back(batch);
  }
  shared_->work.notify_all();
  return batch;
}

Wait wait(Batch& batch, int milliseconds) {
  Shared& shared = *batch.shared;
  std::unique_lock lock(shared.mutex);
  if (batch.number > shared.urgent) {
    shared.urgent = batch.number;
    shared.room.notify_all();
  }
  shared.done.wait_for(lock, std::chrono::milliseconds(milliseconds),
                       [&] { return batch.unfinished == 0 || shared.stopped; });
  return batch.unfinished == 0 ? Wait::finished : shared.stopped ? Wait::closed : Wait::pending;
}

void drop(Batch& batch) {
  if (batch.shared->forked()) return;
  std::lock_guard lock(batch.shared->mutex);
  batch.dropped = true;
  batch.shared->room.notify_all();
}

}  // namespace fastmim::reader
