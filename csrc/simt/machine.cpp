#include "simt/machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#ifndef __x86_64__
#error "fibers are switched in x86-64's instructions"
#endif

// Saves what a call must keep and the stack, and goes on where another stack was left.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.local simt_switch
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace simt {

unsigned thread, block, threads;

namespace {

constexpr size_t kStack = 128 * 1024;
constexpr char kApart[] = "simt: threads wait for each other in different places";

enum class State { kReady, kAtBarrier, kAtExchange, kDone };

struct Fiber {
  char* stack = nullptr;
  void* pointer = nullptr;  // of the stack, while another one runs
  State state = State::kDone;
  uint32_t mask = 0;
  uint64_t value = 0;
  const char* operation = nullptr;
};

struct Machine {
  std::vector<Fiber> fibers{kMostThreads};
  void* scheduler = nullptr;
  const std::function<void()>* body = nullptr;
  uint64_t exchanged[kMostThreads / kWarp][kWarp];
  bool vote = false, voted = false;
  bool is_trapped = false;
  char message[512];
  alignas(64) unsigned char shared[kMostShared];
  std::mt19937 random{20230604};
};

Machine& machine() {
  static Machine one;
  return one;
}

void leave() {
  Machine& m = machine();
  simt_switch(&m.fibers[thread].pointer, m.scheduler);
}

void enter() {
  (*machine().body)();
  machine().fibers[thread].state = State::kDone;
  leave();
  abort();
}

void start(Fiber& fiber) {
  if (fiber.stack == nullptr) {
    void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    fiber.stack = static_cast<char*>(memory);
  }
  // What simt_switch pops: six registers, and where to go; one word more leaves the stack as after a call.
  constexpr int kWords = 8;
  void* words[kWords] = {};
  words[6] = reinterpret_cast<void*>(&enter);
  fiber.pointer = fiber.stack + kStack - sizeof words;
  memcpy(fiber.pointer, words, sizeof words);
  fiber.state = State::kReady;
}

// Lets lanes go on whose exchange is complete: all that its mask names, but for those that have ended.
bool release_warp(Machine& m, unsigned first) {
  const unsigned lanes = std::min(kWarp, threads - first);
  Fiber* warp = &m.fibers[first];
  for (unsigned lane = 0; lane < lanes; ++lane) {
    if (warp[lane].state != State::kAtExchange) continue;
    const uint32_t mask = warp[lane].mask;
    const auto is_named = [&](unsigned other) { return (mask >> other & 1) != 0; };
    bool is_complete = true;
    for (unsigned other = 0; other < lanes; ++other) {
      const Fiber& fiber = warp[other];
      const bool is_here =
          fiber.state == State::kAtExchange && fiber.mask == mask && fiber.operation == warp[lane].operation;
      is_complete &= !is_named(other) || fiber.state == State::kDone || is_here;
    }
    if (!is_complete) continue;
    for (unsigned other = 0; other < kWarp; ++other) {
      const bool is_here = other < lanes && is_named(other) && warp[other].state == State::kAtExchange;
      m.exchanged[first / kWarp][other] = is_here ? warp[other].value : 0;
      if (is_here) warp[other].state = State::kReady;
    }
    return true;
  }
  return false;
}

// Lets all threads go on once each has ended or is at the barrier; returns whether there are any.
bool release_block(Machine& m) {
  const auto begin = m.fibers.begin(), end = begin + threads;
  bool is_any = false;
  for (auto f = begin; f != end; ++f) {
    if (f->state == State::kAtExchange) throw std::runtime_error(kApart);
    is_any |= f->state == State::kAtBarrier;
  }
  for (auto f = begin; f != end; ++f) {
    if (f->state == State::kAtBarrier) f->state = State::kReady;
  }
  m.voted = m.vote;
  m.vote = false;
  return is_any;
}

// Runs a warp until each of its lanes has ended or waits for other warps.
void run_warp(Machine& m, unsigned first) {
  std::array<unsigned, kWarp> lanes;
  std::iota(lanes.begin(), lanes.end(), first);
  do {
    std::shuffle(lanes.begin(), lanes.end(), m.random);
    for (unsigned t : lanes) {
      if (t >= threads || m.fibers[t].state != State::kReady) continue;
      thread = t;
      simt_switch(&m.scheduler, m.fibers[t].pointer);
      if (m.is_trapped) throw std::runtime_error(m.message);
    }
  } while (release_warp(m, first));
}

void run_block(Machine& m) {
  for (unsigned t = 0; t < threads; ++t) start(m.fibers[t]);
  std::vector<unsigned> warps;
  for (unsigned first = 0; first < threads; first += kWarp) warps.push_back(first);
  m.vote = false;
  do {
    std::shuffle(warps.begin(), warps.end(), m.random);
    for (unsigned first : warps) run_warp(m, first);
  } while (release_block(m));
}

}  // namespace

void run(unsigned blocks, unsigned count, size_t shared, const std::function<void()>& body) {
  if (blocks < 1 || count < 1 || count > kMostThreads || shared > kMostShared) {
    throw std::runtime_error("simt: no device launches " + std::to_string(blocks) + " blocks of " +
                             std::to_string(count) + " threads with " + std::to_string(shared) + " bytes");
  }
  Machine& m = machine();
  threads = count;
  m.body = &body;
  m.is_trapped = false;
  strcpy(m.message, "simt: a thread trapped");
  for (block = 0; block < blocks; ++block) {
    memset(m.shared, 0xff, shared);  // NaN: nothing may count on what it finds
    run_block(m);
  }
}

void* shared_memory() {
  return machine().shared;
}

bool block_barrier(bool vote) {
  Machine& m = machine();
  m.vote |= vote;
  m.fibers[thread].state = State::kAtBarrier;
  leave();
  return m.voted;
}

const uint64_t* warp_exchange(uint32_t mask, uint64_t value, const char* operation) {
  Machine& m = machine();
  Fiber& fiber = m.fibers[thread];
  fiber.mask = mask;
  fiber.value = value;
  fiber.operation = operation;
  fiber.state = State::kAtExchange;
  leave();
  return m.exchanged[thread / kWarp];
}

void print(const char* format, ...) {
  Machine& m = machine();
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(m.message, sizeof m.message, format, arguments);
  va_end(arguments);
}

void trap() {
  machine().is_trapped = true;
  leave();
  abort();
}

}  // namespace simt
