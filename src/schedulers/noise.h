// The initial noise: standard normal values equal, bit for bit, to those PyTorch draws on the CPU for the same seed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace zoe {

// Fills `out` with the values of `torch.randn(out.size(), generator=torch.Generator("cpu").manual_seed(seed))` (float32).
//
// PyTorch's own bits depend on the machine from 16 values up; these are the ones of torch 2.13 on a CPU with AVX2 and without
// AVX-512 (ATEN_CPU_CAPABILITY=avx2), on every machine. Like there, only the low 32 bits of the seed count, a shorter draw is
// no prefix of a longer one, and a count that 16 does not divide draws its last 16 values a second time.
void standard_normal(std::uint64_t seed, std::span<float> out);

// The same as draws that follow one another of one torch.Generator: the first is standard_normal's. Each of at least 16 values.
class NormalNoise {
 public:
  explicit NormalNoise(std::uint64_t seed);
  ~NormalNoise();
  NormalNoise(NormalNoise&&) noexcept;
  NormalNoise& operator=(NormalNoise&&) noexcept;
  void draw(std::span<float> out);

 private:
  struct Generator;
  std::unique_ptr<Generator> generator_;
};

}  // namespace zoe
