// Banks of perturbations as int8 codes, on the CPU.
#include "common/checks.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "cpu/storage.h"

namespace pst::cpu {

constexpr int64_t kGrain = 16384;

static void quantize_bank_(const Tensor& bank, const MaybeTensor& index, const Tensor& delta,
                           double epsilon) {
  check_bank(bank, index, epsilon);
  const Rows rows("quantize_bank_", index, bank.size(0));
  check_bank_delta(bank, rows.count, delta);
  if (delta.numel() == 0) return;
  const BallCode code(epsilon);
  const int64_t channels = delta.size(1), height = delta.size(2), width = delta.size(3);
  const int64_t size = channels * height * width;
  const Layout layout = layout_of(delta);
  // Runs of pixels: a whole image where it is dense, else a row of it.
  CodeRow run{delta.const_data_ptr<float>(), width, delta.stride(3), channels, delta.stride(1)};
  if (layout == Layout::kContiguous) run.count = height * width;
  if (layout == Layout::kChannelsLast) run = {run.from, size, 1, 1, 0};
  const int64_t pieces = layout == Layout::kOther ? height : 1;
  const int64_t sample_stride = delta.stride(0), row_stride = delta.stride(2);
  int8_t* to = bank.mutable_data_ptr<int8_t>();
  torch::stable::parallel_for(
      0, rows.count, grain_size(kGrain, delta.numel(), rows.count), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          for (int64_t h = 0; h < pieces; ++h) {
            CodeRow piece = run;
            piece.from += i * sample_stride + h * row_stride;
            kernels().encode_row(piece, code, to + rows[i] * size + h * width * channels);
          }
        }
      });
}

static Tensor gather_bank(const Tensor& bank, const MaybeTensor& index, double epsilon) {
  check_bank(bank, index, epsilon);
  const Rows rows("gather_bank", index, bank.size(0));
  const int64_t height = bank.size(1), width = bank.size(2), channels = bank.size(3);
  Tensor delta =
      new_empty(bank, {rows.count, channels, height, width}, ScalarType::Float, MemoryFormat::ChannelsLast);
  if (delta.numel() == 0) return delta;
  const BallCode code(epsilon);
  const int64_t size = channels * height * width;
  const int8_t* from = bank.const_data_ptr<int8_t>();
  float* to = delta.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, rows.count, grain_size(kGrain, delta.numel(), rows.count),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; ++i) {
                                  kernels().decode_row(from + rows[i] * size, size, code, to + i * size);
                                }
                              });
  return delta;
}

}  // namespace pst::cpu

STABLE_TORCH_LIBRARY_IMPL(pst_fast, CPU, m) {
  m.impl("quantize_bank_", TORCH_BOX(&pst::cpu::quantize_bank_));
  m.impl("gather_bank", TORCH_BOX(&pst::cpu::gather_bank));
}
