// Platforms, their memory, and plans that run there.
#include <algorithm>
#include <chrono>
#include <span>
#include <vector>

#include "apps/capi/handles.h"
#include "compiler/run.h"
#include "compiler/weights.h"

namespace zoe::capi {

namespace {

// Memory of somebody else's.
struct BorrowedBuffer : Buffer {
  BorrowedBuffer(void* at, std::size_t size) {
    data = at;
    size_bytes = size;
  }
};

Type type_of(const char* dtype, const std::int64_t* shape, std::size_t rank) {
  Json extents = Json::array();
  for (std::size_t i = 0; i < rank; ++i) extents.push_back((&given(shape, "shape"))[i]);
  return {parse_dtype(&given(dtype, "dtype"), "tensor"), parse_shape(extents, "tensor")};
}

void check_size(const Tensor& tensor, std::size_t bytes) {
  check(bytes == tensor.size_bytes(), ErrorKind::invalid_argument, "tensor", "got {} bytes, expected {} for {}.", bytes,
        tensor.size_bytes(), tensor.type.str());
}

struct PlanChoice {
  CompileOptions options;
};

const std::vector<Option<PlanChoice>>& plan_option_table() {
  static const std::vector<Option<PlanChoice>> table = {
      {"compile", "true or false", "", [](PlanChoice& choice, const Json& value) { choice.options.compile = value; }},
      {"excluded_ops", "texts", "",
       [](PlanChoice& choice, const Json& value) { choice.options.excluded_ops = value.get<std::vector<std::string>>(); }},
      {"keep_passes", "true or false", "", [](PlanChoice& choice, const Json& value) { choice.options.keep_passes = value; }},
  };
  return table;
}

}  // namespace

}  // namespace zoe::capi

// Runs of one plan take turns: they share its workspace.
struct zoe_plan {
  std::shared_ptr<zoe::Platform> platform;
  zoe::Plan plan;
  std::unique_ptr<zoe::WeightStore> weights;
  std::unique_ptr<zoe::Stream> stream;
  zoe::Tensor workspace;
  std::mutex turn;
};

using namespace zoe;
using namespace zoe::capi;

zoe_status zoe_platform_open(const char* options, zoe_platform** platform) {
  return guarded([&] {
    PlatformChoice choice;
    set_options(choice, platform_option_table(), parse_object(options, "platform"), "platform");
    given(platform, "platform") = new zoe_platform{open_platform(choice.platform, choice.options)};
  });
}

void zoe_platform_close(zoe_platform* platform) { delete platform; }

zoe_status zoe_platform_info(const zoe_platform* platform, char** json) {
  return guarded([&] {
    const Platform& of = *given(platform, "platform").platform;
    Json info = device_json(of);
    // Buffers of opencl are objects of its driver's.
    const bool has_addresses = given(platform, "platform").platform->allocate(1, "an address")->data != nullptr;
    info["has_addresses"] = has_addresses;
    given(json, "json") = copy_text(info);
  });
}

zoe_status zoe_tensor_make(zoe_platform* platform, const char* dtype, const int64_t* shape, size_t rank, zoe_tensor** tensor) {
  return guarded([&] {
    const std::shared_ptr<Platform>& on = given(platform, "platform").platform;
    Tensor made = make_tensor(*on, type_of(dtype, shape, rank), "a tensor of the caller's");
    given(tensor, "tensor") = new zoe_tensor{on, std::move(made)};
  });
}

zoe_status zoe_tensor_borrow(zoe_platform* platform, void* data, const char* dtype, const int64_t* shape, size_t rank,
                             zoe_tensor** tensor) {
  return guarded([&] {
    const std::shared_ptr<Platform>& on = given(platform, "platform").platform;
    check(on->allocate(1, "an address")->data != nullptr, ErrorKind::unsupported, "tensor",
          "memory on {} has no address. Copy what is to be read there.", on->info().platform);
    Type type = type_of(dtype, shape, rank);
    const std::size_t alignment = size_of(type.dtype),
                      address = reinterpret_cast<std::uintptr_t>(&given(static_cast<char*>(data), "data"));
    check(address % alignment == 0, ErrorKind::invalid_argument, "tensor", "lies at no multiple of {} bytes. Copy it.", alignment);
    auto buffer = std::make_shared<BorrowedBuffer>(data, type.size_bytes());
    given(tensor, "tensor") = new zoe_tensor{on, {std::move(type), std::move(buffer), 0}};
  });
}

void zoe_tensor_close(zoe_tensor* tensor) { delete tensor; }
void* zoe_tensor_data(const zoe_tensor* tensor) { return tensor->tensor.buffer->data; }

zoe_status zoe_tensor_upload(zoe_tensor* tensor, const void* host, size_t bytes) {
  return guarded([&] {
    zoe_tensor& to = given(tensor, "tensor");
    check_size(to.tensor, bytes);
    const auto stream = to.platform->make_stream();
    to.platform->upload(*stream, &given(static_cast<const char*>(host), "host"), to.tensor.slot(), bytes);
    stream->synchronize();
  });
}

zoe_status zoe_tensor_download(const zoe_tensor* tensor, void* host, size_t bytes) {
  return guarded([&] {
    const zoe_tensor& from = given(tensor, "tensor");
    check_size(from.tensor, bytes);
    const auto stream = from.platform->make_stream();
    from.platform->download(*stream, from.tensor.slot(), &given(static_cast<char*>(host), "host"), bytes);
    stream->synchronize();
  });
}

zoe_status zoe_plan_compile(const zoe_graph* graph, zoe_platform* platform, const char* options, zoe_plan** plan) {
  return guarded([&] {
    PlanChoice choice;
    set_options(choice, plan_option_table(), parse_object(options, "compile"), "compile");
    auto made = std::make_unique<zoe_plan>();
    made->platform = given(platform, "platform").platform;
    made->plan = compile(given(graph, "graph").graph, *made->platform, choice.options);
    made->weights = std::make_unique<WeightStore>(*made->platform, [](const std::string& name) -> WeightPtr {
      fail(ErrorKind::invalid_argument, "plan", "has a weight {}, which nothing gives. Make it an input.", name);
    });
    made->stream = made->platform->make_stream();
    const Plan* const plans[] = {&made->plan};
    made->workspace = make_workspace(*made->platform, plans);
    given(plan, "plan") = made.release();
  });
}

void zoe_plan_close(zoe_plan* plan) { delete plan; }

zoe_status zoe_plan_info(const zoe_plan* plan, char** json) {
  return guarded([&] {
    const Plan& of = given(plan, "plan").plan;
    Json sources = Json::array(), passes = Json::array();
    std::vector<const Kernel*> seen;
    for (const Step& step : of.steps) {
      if (!step.kernel || step.kernel->source().empty() || std::find(seen.begin(), seen.end(), step.kernel.get()) != seen.end())
        continue;
      seen.push_back(step.kernel.get());
      sources.push_back({{"name", step.node->name}, {"what", headline(*step.node)}, {"source", step.kernel->source()}});
    }
    for (const auto& [name, text] : of.passes) passes.push_back({{"name", name}, {"text", text}});
    given(json, "json") = copy_text(Json{{"text", describe(of)},
                                         {"steps", of.steps.size()},
                                         {"kernels", of.kernel_count},
                                         {"workspace_bytes", of.workspace_bytes},
                                         {"notes", of.fusion_notes},
                                         {"sources", std::move(sources)},
                                         {"passes", std::move(passes)}});
  });
}

zoe_status zoe_plan_run(zoe_plan* plan, const zoe_tensor* const* inputs, size_t input_count, zoe_tensor* const* outputs,
                        size_t output_count, size_t repeat, double* seconds) {
  return guarded([&] {
    zoe_plan& of = given(plan, "plan");
    const Graph& graph = of.plan.graph;
    const auto tensors = [&](auto handles, std::size_t count, const std::vector<Value>& values, std::string_view what) {
      check(count == values.size(), ErrorKind::invalid_argument, graph.name, "got {} {}s, expected {}.", count, what,
            values.size());
      std::vector<Tensor> all;
      for (std::size_t i = 0; i < count; ++i) {
        const zoe_tensor& tensor = given((&given(handles, what))[i], what);
        check(tensor.tensor.type == values[i].type(), ErrorKind::invalid_argument, graph.name, "{} {}: got {}, expected {}.", what,
              i, tensor.tensor.type.str(), values[i].type().str());
        check(tensor.platform == of.platform, ErrorKind::invalid_argument, graph.name,
              "{} {} is of another platform than the plan. Make it on the plan's.", what, i);
        all.push_back(tensor.tensor);
      }
      return all;
    };
    const std::vector<Tensor> arguments = tensors(inputs, input_count, graph.inputs, "input");
    const std::vector<Tensor> results = tensors(outputs, output_count, graph.outputs, "output");
    const std::lock_guard lock(of.turn);
    for (std::size_t i = 0; i < std::max<std::size_t>(repeat, 1); ++i) {
      const auto begin = std::chrono::steady_clock::now();
      run(of.plan, *of.stream, *of.weights, arguments, results, of.workspace);
      if (seconds) seconds[i] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
  });
}
