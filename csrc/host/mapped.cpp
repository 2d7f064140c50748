// Rows of a file that is mapped into memory: gathered and scattered by index, without Python's lock, by
// several threads. No PyTorch in here. pst_fast/data/mapped.py is the documented face.
#include <errno.h>
#include <fcntl.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace py = pybind11;

namespace pst::host {

using Index = py::array_t<int64_t, py::array::c_style>;
using Values = py::array_t<int8_t, py::array::c_style>;

[[noreturn]] static void fail(const std::string& path) {
  PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
  throw py::error_already_set();
}

class MappedRows {
 public:
  MappedRows(const std::string& path, int64_t offset, int64_t rows, int64_t row_bytes, int64_t resident_bytes,
             bool writable)
      : rows_(rows),
        row_bytes_(row_bytes),
        resident_bytes_(resident_bytes),
        offset_(offset),
        writable_(writable) {
    if (offset < 1 || rows < 0 || row_bytes < 1 || rows > (INT64_MAX - offset) / row_bytes) {
      throw py::value_error("offset, rows and row_bytes must describe a file");
    }
    const int file = open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (file < 0) fail(path);
    struct stat status{};
    const int64_t expected = offset + rows * row_bytes;
    if (fstat(file, &status) != 0 || status.st_size != expected) {
      close(file);
      throw py::value_error(path + ": expected " + std::to_string(expected) + " bytes, got " +
                            std::to_string(status.st_size));
    }
    length_ = static_cast<size_t>(expected);
    void* start = mmap(nullptr, length_, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file, 0);
    const int error = errno;
    close(file);
    if (start == MAP_FAILED) {
      errno = error;
      fail(path);
    }
    start_ = static_cast<char*>(start);
  }

  MappedRows(const MappedRows&) = delete;
  MappedRows& operator=(const MappedRows&) = delete;
  ~MappedRows() { munmap(start_, length_); }

  void gather(const Index& index, Values& values, int threads) {
    check(index, values);
    const int64_t* rows = index.data();
    int8_t* to = values.mutable_data();
    move(index.shape(0), threads,
         [=](int64_t i) { memcpy(to + i * row_bytes_, at(rows[i]), static_cast<size_t>(row_bytes_)); });
  }

  void scatter(const Index& index, const Values& values, int threads) {
    if (!writable_) throw py::value_error("the rows were opened for reading");
    check(index, values);
    const int64_t* rows = index.data();
    const int8_t* from = values.data();
    move(index.shape(0), threads,
         [=](int64_t i) { memcpy(at(rows[i]), from + i * row_bytes_, static_cast<size_t>(row_bytes_)); });
  }

  // Waits until what was written is on the disk.
  void flush() {
    py::gil_scoped_release unlocked;
    if (writable_ && msync(start_, length_, MS_SYNC) != 0) {
      py::gil_scoped_acquire locked;
      fail("msync");
    }
  }

 private:
  char* at(int64_t row) const { return start_ + offset_ + row * row_bytes_; }

  void check(const Index& index, const Values& values) const {
    if (index.ndim() != 1 || values.size() != index.shape(0) * row_bytes_) {
      throw py::value_error("expected an index [B] and values of B rows");
    }
    for (int64_t i = 0; i < index.shape(0); ++i) {
      if (index.at(i) < 0 || index.at(i) >= rows_) {
        throw py::index_error("index must be in [0, " + std::to_string(rows_) + "), got " +
                              std::to_string(index.at(i)));
      }
    }
  }

  template <typename Copy>
  void move(int64_t count, int threads, Copy copy) {
    py::gil_scoped_release unlocked;
    // A thread is worth its start from some megabytes on.
    constexpr int64_t kBytesEach = int64_t{4} << 20;
    const int64_t most = count * row_bytes_ / kBytesEach + 1;
    const int64_t workers = std::max<int64_t>(1, std::min<int64_t>({threads, count, most}));
    const auto part = [&](int64_t worker) {
      for (int64_t i = count * worker / workers; i < count * (worker + 1) / workers; ++i) copy(i);
    };
    std::vector<std::thread> others;
    for (int64_t worker = 1; worker < workers; ++worker) others.emplace_back(part, worker);
    part(0);
    for (std::thread& other : others) other.join();
    release(count * row_bytes_);
  }

  // Pages that were touched stay mapped, and count as this process's memory, until they are given back; the
  // system writes them to the disk in its own time.
  void release(int64_t touched) {
    if (touched_.fetch_add(touched) + touched > resident_bytes_) {
      touched_ = 0;
      madvise(start_, length_, MADV_DONTNEED);
    }
  }

  int64_t rows_, row_bytes_, resident_bytes_, offset_;
  bool writable_;
  char* start_ = nullptr;
  size_t length_ = 0;
  std::atomic<int64_t> touched_{0};
};

}  // namespace pst::host

PYBIND11_MODULE(_host, m) {
  using pst::host::MappedRows;
  py::class_<MappedRows>(m, "MappedRows")
      .def(py::init<const std::string&, int64_t, int64_t, int64_t, int64_t, bool>(), py::arg("path"),
           py::arg("offset"), py::arg("rows"), py::arg("row_bytes"), py::arg("resident_bytes"),
           py::arg("writable"))
      .def("gather", &MappedRows::gather, py::arg("index"), py::arg("values").noconvert(), py::arg("threads"))
      .def("scatter", &MappedRows::scatter, py::arg("index"), py::arg("values"), py::arg("threads"))
      .def("flush", &MappedRows::flush);
}
