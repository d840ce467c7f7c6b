// Makes a short video through the library: example MODEL_FOLDER OUT.mp4 PROMPT
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "media/video_writer.h"
#include "pipeline/generate.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: example MODEL_FOLDER OUT.mp4 PROMPT\n");
    return 2;
  }
  try {
    const auto platform = zoe::open_platform("auto");
    zoe::Pipeline pipeline(zoe::read_model_config(argv[1]), *platform, zoe::DType::f32);

    zoe::Request request;
    request.prompts = {argv[3]};
    request.height = request.width = 64;
    request.num_frames = 9;
    request.num_inference_steps = 4;
    zoe::Job job = pipeline.prepare(request);
    std::printf("will need %zu MiB\n", job.memory.peak() >> 20);

    const auto writer = zoe::VideoWriter::open(argv[2], {.width = 64, .height = 64, .frames = 9, .fps = job.fps});
    zoe::Callbacks callbacks;
    callbacks.frame = [&](std::size_t, std::int64_t, std::span<const std::uint8_t> rgb) { writer->write(rgb); };
    pipeline.run(job, callbacks);
    writer->finish();
  } catch (const zoe::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
