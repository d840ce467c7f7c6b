#include "schedulers/unipc.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "base/error.h"
#include "ir/trace.h"
#include "schedulers/sigmas.h"

namespace zoe {
namespace {

// Diffusers computes the coefficients in f32. For short steps that loses digits (the phi functions are differences of nearly
// equal numbers), so the tables repeat it rounding by rounding: exact ones would differ from it by more than 1e-6.
float log_f32(float x) { return static_cast<float>(std::log(static_cast<double>(x))); }
float expm1_f32(float x) { return static_cast<float>(std::expm1(static_cast<double>(x))); }
float lambda_of(float sigma) { return log_f32(1.0f - sigma) - log_f32(sigma); }  // half the log signal-to-noise ratio

// What predictor and corrector share: the step from sigmas[s] to sigmas[s + 1] with `order` known points.
struct Transition {
  float ratio;                       // sigma_t / sigma_s
  float phi;                         // alpha_t (e^-h - 1)
  float b_h;                         // alpha_t B(h)
  std::array<double, 3> r{1, 1, 1};  // relative positions of the older points, then 1 (rows of R are powers of these)
  std::array<double, 3> b{};         // right-hand side

  Transition(const std::vector<float>& sigmas, std::size_t s, int order, SolverType type) {
    const float sigma_t = sigmas[s + 1], alpha_t = 1.0f - sigma_t, lambda_s = lambda_of(sigmas[s]);
    const float h = lambda_of(sigma_t) - lambda_s;
    const float h_phi_1 = expm1_f32(-h), b_of_h = type == SolverType::bh1 ? -h : h_phi_1;
    ratio = sigma_t / sigmas[s];
    phi = alpha_t * h_phi_1;
    b_h = alpha_t * b_of_h;
    float h_phi = h_phi_1 / -h - 1.0f, factorial = 1.0f;
    for (int k = 0; k < order; ++k) {
      if (k + 1 < order) r[static_cast<std::size_t>(k)] = (lambda_of(sigmas[s - static_cast<std::size_t>(k) - 1]) - lambda_s) / h;
      b[static_cast<std::size_t>(k)] = h_phi * factorial / b_of_h;
      factorial *= static_cast<float>(k + 2);
      h_phi = h_phi / -h - 1.0f / factorial;
    }
    r[static_cast<std::size_t>(order - 1)] = 1;
  }

  // Solves sum_j r_j^i rho_j = b_i for i, j < n (a Vandermonde system with n <= 3).
  std::array<double, 3> solve(std::size_t n) const {
    std::array<std::array<double, 4>, 3> m{};
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) m[i][j] = i == 0 ? 1.0 : m[i - 1][j] * r[j];
      m[i][n] = b[i];
    }
    for (std::size_t c = 0; c < n; ++c) {
      std::size_t pivot = c;
      for (std::size_t i = c + 1; i < n; ++i) pivot = std::abs(m[i][c]) > std::abs(m[pivot][c]) ? i : pivot;
      std::swap(m[c], m[pivot]);
      for (std::size_t i = 0; i < n; ++i) {
        if (i == c) continue;
        const double factor = m[i][c] / m[c][c];
        for (std::size_t j = c; j <= n; ++j) m[i][j] -= factor * m[c][j];
      }
    }
    std::array<double, 3> rho{};
    for (std::size_t i = 0; i < n; ++i) rho[i] = m[i][n] / m[i][i];
    return rho;
  }
};

}  // namespace

UniPCScheduler::UniPCScheduler(const SchedulerConfig& config, int steps) : order_(config.solver_order) {
  std::vector<double> levels = shifted_sigmas(config, steps);
  if (std::abs(levels[0] - 1.0) < 1e-6) levels[0] -= 1e-6;  // pure noise has no finite signal-to-noise ratio
  for (const double sigma : levels) {
    sigmas_.push_back(static_cast<float>(sigma));
    timesteps_.push_back(static_cast<float>(static_cast<std::int64_t>(sigma * static_cast<double>(config.num_train_timesteps))));
  }
  sigmas_.push_back(config.final_sigma == FinalSigma::zero ? 0.0f : sigmas_.back());

  steps -= config.skipped;
  int order = 0;  // of the step before
  for (int i = 0; i < steps; ++i) {
    const auto s = static_cast<std::size_t>(i);
    Step step{.sigma = sigmas_[s], .corrected = {}, .next = {}};
    const auto& skip = config.disable_corrector;
    if (i > 0 && std::find(skip.begin(), skip.end(), i - 1 + config.skipped) == skip.end()) {
      const Transition t(sigmas_, s - 1, order, config.solver_type);
      const auto last = static_cast<std::size_t>(order - 1);
      const auto rho = order == 1 ? std::array<double, 3>{0.5} : t.solve(static_cast<std::size_t>(order));
      double newest = rho[last];
      for (std::size_t k = 0; k < last; ++k) {
        newest += rho[k] / t.r[k];
        step.corrected.past[k + 1] = static_cast<float>(-t.b_h * rho[k] / t.r[k]);
      }
      step.corrected.sample = 0;
      step.corrected.last = t.ratio;
      step.corrected.past[0] = static_cast<float>(t.b_h * newest - t.phi);
      step.corrected.x0 = static_cast<float>(-t.b_h * rho[last]);
    }
    order = std::min(config.solver_order, i + 1);
    if (config.lower_order_final) order = std::min(order, steps - i);
    const Transition t(sigmas_, s, order, config.solver_type);
    double newest = 0;
    if (order > 1) {
      const auto rho = order == 2 ? std::array<double, 3>{0.5} : t.solve(static_cast<std::size_t>(order - 1));
      for (std::size_t k = 0; k + 1 < static_cast<std::size_t>(order); ++k) {
        newest += rho[k] / t.r[k];
        step.next.past[k] = static_cast<float>(-t.b_h * rho[k] / t.r[k]);
      }
      newest *= t.b_h;
    }
    step.next.corrected = t.ratio;
    step.next.x0 = static_cast<float>(newest - t.phi);
    float sum = step.corrected.last + step.corrected.x0 + step.next.corrected + step.next.x0;
    for (std::size_t k = 0; k < kMaxOrder; ++k) sum += step.corrected.past[k] + step.next.past[k];
    check(std::isfinite(sum), ErrorKind::unsupported, "scheduler",
          "unipc has no finite coefficients at step {} of {}: got solver_order {}, flow_shift {}, lower_order_final {}, expected "
          "noise levels that differ. Use lower_order_final true, fewer steps or a smaller flow_shift.",
          i, steps, config.solver_order, config.flow_shift, config.lower_order_final);
    table_.push_back(step);
  }
}

std::vector<float> UniPCScheduler::coefficients(int i) const {
  const Step& k = table_[static_cast<std::size_t>(i)];
  return {k.sigma,        k.corrected.sample, k.corrected.last, k.corrected.past[0], k.corrected.past[1], k.corrected.past[2],
          k.corrected.x0, k.next.corrected,   k.next.x0,        k.next.past[0],      k.next.past[1]};
}

std::vector<int> UniPCScheduler::reads(int i) const {
  std::vector<int> kept{i % 2};
  // Beyond the order the coefficient is 0 and any entry will do.
  for (int back = 0; back < kMaxOrder; ++back) kept.push_back(2 + (i + ring() - back % order_ - 1) % ring());
  return kept;
}

std::vector<Value> UniPCScheduler::trace_step(const Value& sample, const Value& model_output, const Value& coefficients,
                                              std::span<const Value> kept) const {
  const auto k = [&](std::int64_t number) { return slice(coefficients, 0, number, number + 1); };
  const Value &last = kept[0], &p1 = kept[1], &p2 = kept[2], &p3 = kept[3];
  const Value x0 = sample - k(0) * model_output;
  const Value corrected = k(1) * sample + k(2) * last + k(3) * p1 + k(4) * p2 + k(5) * p3 + k(6) * x0;
  return {k(7) * corrected + k(8) * x0 + k(9) * p1 + k(10) * p2, corrected, x0};
}

}  // namespace zoe
