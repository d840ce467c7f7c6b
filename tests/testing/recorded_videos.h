// Recorded videos of fixtures: their cases, and the frames of a request to compare with them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "pipeline/session.h"

namespace zoe::testing {

// The cases of these folders below fixtures/models, each with its folder's name as "folder".
inline std::vector<nlohmann::json> recorded_cases(const std::vector<std::string>& folders) {
  std::vector<nlohmann::json> all;
  for (const std::string& folder : folders) {
    std::ifstream file(std::filesystem::path(ZOE_FIXTURES) / "models" / folder / "cases.json");
    const nlohmann::json recorded = nlohmann::json::parse(file);
    for (nlohmann::json c : recorded.at("cases")) {
      c["folder"] = folder;
      all.push_back(std::move(c));
    }
  }
  return all;
}

// All frames of a request's videos, one after the other.
inline std::vector<std::uint8_t> frames_of(Session& session, const Request& request) {
  Job job = session.prepare(request);
  std::vector<std::uint8_t> stacked;
  Callbacks callbacks;
  callbacks.frame = [&](std::size_t, std::int64_t, std::span<const std::uint8_t> rgb) {
    stacked.insert(stacked.end(), rgb.begin(), rgb.end());
  };
  session.run(job, callbacks);
  return stacked;
}

}  // namespace zoe::testing
