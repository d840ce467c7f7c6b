// Makes a short video through the library: example MODEL_FOLDER OUT.mp4 PROMPT
#include <cstdio>

#include "zoetrope.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: example MODEL_FOLDER OUT.mp4 PROMPT\n");
    return 2;
  }
  try {
    zoe::Session session = zoe::open_session(argv[1]);
    zoe::Request request;
    request.prompts = {argv[3]};
    request.height = request.width = 64;
    request.num_frames = 9;
    request.num_inference_steps = 4;
    const zoe::Generated made = zoe::generate(session, request, argv[2]);
    std::printf("%d steps, %zu MiB planned, %.2f s\n", made.settled.num_inference_steps, made.memory.peak() >> 20,
                made.timings.denoise);
  } catch (const zoe::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
