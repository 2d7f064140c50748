// A machine that runs CUDA's blocks on the host, for tests where there is no GPU.
//
// A block's threads are fibers on one thread of the host. One warp after another runs as far as it can, in an
// order that changes at each barrier, and so do the lanes of a warp: a missing barrier shows. Blocks come one
// after another. What it cannot show: speed, races between blocks, how the threads of a warp share memory.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <functional>

namespace simt {

constexpr unsigned kWarp = 32, kMostThreads = 1024;
constexpr size_t kMostShared = 48 * 1024;  // what every device has

// Runs `body` for each thread of each block. Throws std::runtime_error where a thread traps, where a launch
// is impossible, and where the threads wait for each other in different places.
void run(unsigned blocks, unsigned threads, size_t shared, const std::function<void()>& body);

// For the code within `body`.
extern unsigned thread, block, threads;
void* shared_memory();
bool block_barrier(bool vote);  // whether any thread voted so
// What the lanes of the warp have brought, once all that `mask` names are here; `operation` tells which one.
const uint64_t* warp_exchange(uint32_t mask, uint64_t value, const char* operation);
void print(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void trap();  // its message is what the block printed last

}  // namespace simt
