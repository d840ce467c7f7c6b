/* The C interface of Zoetrope: sessions and requests, graphs and plans, for other languages (docs/c-interface.md).
 *
 *   zoe_session* session;
 *   zoe_job* job;
 *   if (zoe_session_open("{\"model\": \"Wan2.1-T2V-1.3B-Diffusers\"}", NULL, NULL, &session)) puts(zoe_error_text());
 *   zoe_job_prepare(session, "{\"prompt\": \"a fox in the snow\"}", "fox.mp4", 0, &job);
 *   zoe_job_run(job, NULL, NULL, NULL);
 *
 * What has many parts is JSON, in and out: a request's fields are those of zoe_request_fields(). Texts are UTF-8. Every function
 * that can fail returns a zoe_status; zoe_error_text() is then one line about it. A `char**` gets a text to be freed with
 * zoe_free(). Handles may be used from any thread; one is closed when nothing uses it any more. Nothing is printed, and no signal
 * handler is installed.
 */
#ifndef ZOETROPE_C_H
#define ZOETROPE_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ZOE_API __attribute__((visibility("default")))

typedef enum zoe_status {
  ZOE_OK = 0,
  ZOE_INVALID_ARGUMENT, /* the request or a file makes no sense */
  ZOE_UNSUPPORTED,      /* it makes sense, but this build or device cannot do it */
  ZOE_OUT_OF_MEMORY,    /* it does not fit; the text names what is free */
  ZOE_IO,               /* reading or writing failed */
  ZOE_COMPILE,          /* a generated kernel did not build */
  ZOE_DEVICE,           /* a platform's library reported a failure */
  ZOE_CANCELLED,        /* the caller asked to stop */
  ZOE_INTERNAL          /* a bug of Zoetrope's */
} zoe_status;

ZOE_API const char* zoe_error_text(void);               /* of the calling thread's last failure; until its next one */
ZOE_API const char* zoe_status_name(zoe_status status); /* "invalid_argument" */
ZOE_API const char* zoe_version(void);                  /* "0.1.0" */
ZOE_API void zoe_free(void* text);

/* The table of a request's fields: a list of {"name", "type", "min", "max", "unit", "default", "help", "choices", "aliases",
 * "hints", "taken_by", "is_list", "is_flag", "is_file"} in its order. */
ZOE_API zoe_status zoe_request_fields(char** json);
/* What zoe_session_open and zoe_platform_open take, as a list of {"name", "type", "help"}. */
ZOE_API zoe_status zoe_session_options(char** json);
/* Devices of this machine: a list of {"name", "opens", "detail"}. */
ZOE_API zoe_status zoe_platforms(char** json);
/* The folder of a model that comes with the engine: "text_to_video" or "image_to_video". */
ZOE_API zoe_status zoe_embedded_model(const char* which, char** path);

/* --- Sessions: a model on a platform, kept from request to request. Requests of one session take turns. */
typedef struct zoe_session zoe_session;
typedef struct zoe_job zoe_job;

/* is_notice: something is done otherwise than it was asked for; else a detail. May come from any thread, one at a time. */
typedef void (*zoe_log)(void* user, int is_notice, const char* text);

/* `log` may be null; else it is called while calls about this session run. */
ZOE_API zoe_status zoe_session_open(const char* options, zoe_log log, void* user, zoe_session** session);
ZOE_API void zoe_session_close(zoe_session* session); /* its jobs may still be closed behind it */
/* {"model", "recipe", "experts", "dtype", "platform", "device", "free_bytes", "defaults", "latent_rgb", ...}; waits for no
 * run. latent_rgb: what makes a small picture of clean latents: of each channel its red, green and blue, and a row that is added,
 * of -1 to 1; empty where nobody knows. */
ZOE_API zoe_status zoe_session_info(zoe_session* session, char** json);
/* Since it was opened: {"plans_compiled", "plans_kept", "tensors_made", "weight_bytes_loaded"}; waits for a run to end. */
ZOE_API zoe_status zoe_session_counts(zoe_session* session, char** json);

/* Checks a request (a JSON object of its fields), compiles, states the memory. `output`: null, or where the videos go: a path as
 * the command's -o, numbered where there are several. `plan_only`: what does not fit is no error, and the job cannot run. */
ZOE_API zoe_status zoe_job_prepare(zoe_session* session, const char* request, const char* output, int plan_only, zoe_job** job);
ZOE_API void zoe_job_close(zoe_job* job);
/* {"settled": {...}, "memory": {...}, "refusal", "latents": [C,T,h,w], "request": {...}} */
ZOE_API zoe_status zoe_job_info(zoe_job* job, char** json);

typedef struct zoe_step {
  size_t video;
  int32_t step, total;  /* 0-based */
  double sigma;         /* the noise level that is left, 1 to 0 */
  const void* internal; /* for zoe_step_latents, while the callback runs */
} zoe_step;
/* Copies [C,T,h,w] floats from the device: the latents, or (clean) what the step took the video for, without noise. */
ZOE_API zoe_status zoe_step_latents(const zoe_step* step, int clean, float* latents, size_t count);

/* All from the thread that runs the job. Each may be null; nonzero stops the run, which is then ZOE_CANCELLED. */
typedef struct zoe_callbacks {
  void* user;
  int (*progress)(void* user, const char* phase, size_t video, size_t done, size_t total);
  int (*step)(void* user, const zoe_step* step); /* behind every denoising step, which then waits for the device */
} zoe_callbacks;

/* Where results go; each may be null. Sizes are in bytes and must be exact. */
typedef struct zoe_results {
  uint8_t* frames; /* [videos, num_frames, height, width, 3], 8-bit RGB */
  size_t frames_bytes;
  float* latents; /* [videos, C,T,h,w], what the frames are decoded from */
  size_t latents_bytes;
} zoe_results;

/* `timings` (may be null): {"load", "encode", "denoise", "decode", "first_step"} in seconds. A job may run again. */
ZOE_API zoe_status zoe_job_run(zoe_job* job, const zoe_callbacks* callbacks, const zoe_results* results, char** timings);
/* From any thread: ends the run within two blocks of layers, or the next one at once if none runs. */
ZOE_API void zoe_job_cancel(zoe_job* job);

/* The plan of one part of the model, for people. options: {"part", "height", "width", "num_frames", "text_tokens", "batch",
 * "source"}; parts are those of `zoe explain --part`. */
ZOE_API zoe_status zoe_session_explain(zoe_session* session, const char* options, char** text);

/* Writes frames [frames,height,width,3] as the file that the path's suffix names (.mp4 .mov .mkv .webm .gif .png, or a folder of
 * pictures). crf: below 0 the format's own. */
ZOE_API zoe_status zoe_write_video(const char* path, const uint8_t* frames, size_t count, size_t height, size_t width, double fps,
                                   int crf);

/* --- Values and graphs: a computation as src/ir/trace.h writes it. dtypes: "f32", "bf16", "i32", "u8". */
typedef struct zoe_value zoe_value;
typedef struct zoe_graph zoe_graph;

/* The element-wise functions: a list of {"name", "operands"}. */
ZOE_API zoe_status zoe_elementwise(char** json);
/* `what`: an element-wise function, or input, constant, cast, sum, reshape, slice, concat, permute, swap_pairs, flip, gather,
 * linear, conv, attention. `attributes`: a JSON object of what trace.h calls them; null for none. Operands that are absent are
 * null. */
ZOE_API zoe_status zoe_value_make(const char* what, const zoe_value* const* operands, size_t count, const char* attributes,
                                  zoe_value** value);
ZOE_API void zoe_value_close(zoe_value* value);
ZOE_API const char* zoe_value_dtype(const zoe_value* value);
ZOE_API size_t zoe_value_shape(const zoe_value* value, const int64_t** extents); /* returns the rank; valid as long as the value */

ZOE_API zoe_status zoe_graph_make(const char* name, const zoe_value* const* inputs, size_t input_count,
                                  const zoe_value* const* outputs, size_t output_count, zoe_graph** graph);
ZOE_API void zoe_graph_close(zoe_graph* graph);
/* {"name", "inputs": [{"name", "dtype", "shape"}], "outputs": [{"dtype", "shape"}], "text"} */
ZOE_API zoe_status zoe_graph_info(const zoe_graph* graph, char** json);
/* A named op: its native definition is `graph`, whose inputs the arguments stand for. `results`: as many as the graph has outputs.
 */
ZOE_API zoe_status zoe_graph_call(const zoe_graph* graph, const char* op, const zoe_value* const* arguments, size_t count,
                                  zoe_value** results);
/* The source that a dialect ("cpp", "cuda", "opencl") has for the graph's generated kernels, without any device. */
ZOE_API zoe_status zoe_graph_source(const zoe_graph* graph, const char* dialect, char** text);
/* The reference run: every node in f64, rounded only where a value is stored in a narrower dtype. Row-major. */
ZOE_API zoe_status zoe_graph_interpret(const zoe_graph* graph, const double* const* inputs, double* const* outputs);

/* --- Platforms and plans */
typedef struct zoe_platform zoe_platform;
typedef struct zoe_plan zoe_plan;
typedef struct zoe_tensor zoe_tensor;

ZOE_API zoe_status zoe_platform_open(const char* options, zoe_platform** platform); /* {"platform", "threads", "cache_dir", ...} */
ZOE_API void zoe_platform_close(zoe_platform* platform);
/* {"platform", "device", "features", "host_addressable", "has_addresses", "exact_bits", "free_bytes"} */
ZOE_API zoe_status zoe_platform_info(const zoe_platform* platform, char** json);

/* Memory of the platform, dense; lives until it is closed. */
ZOE_API zoe_status zoe_tensor_make(zoe_platform* platform, const char* dtype, const int64_t* shape, size_t rank,
                                   zoe_tensor** tensor);
/* Memory that somebody else owns, at the platform's own address, which outlives the tensor. unsupported where a platform's
 * buffers have no address. */
ZOE_API zoe_status zoe_tensor_borrow(zoe_platform* platform, void* data, const char* dtype, const int64_t* shape, size_t rank,
                                     zoe_tensor** tensor);
ZOE_API void zoe_tensor_close(zoe_tensor* tensor);
ZOE_API void* zoe_tensor_data(const zoe_tensor* tensor);
ZOE_API zoe_status zoe_tensor_upload(zoe_tensor* tensor, const void* host, size_t bytes);
ZOE_API zoe_status zoe_tensor_download(const zoe_tensor* tensor, void* host, size_t bytes);

/* options: {"compile": true, "excluded_ops": [...], "keep_passes": false}; null for these. */
ZOE_API zoe_status zoe_plan_compile(const zoe_graph* graph, zoe_platform* platform, const char* options, zoe_plan** plan);
ZOE_API void zoe_plan_close(zoe_plan* plan);
/* {"text", "steps", "kernels", "workspace_bytes", "sources": [{"name", "source"}], "passes": [{"name", "text"}]} */
ZOE_API zoe_status zoe_plan_info(const zoe_plan* plan, char** json);
/* Tensors of the plan's platform, of the graph's types, in its order. Waits until the results are there. `seconds` (may be null):
 * of each of `repeat` runs, from when it is queued until the device is done. */
ZOE_API zoe_status zoe_plan_run(zoe_plan* plan, const zoe_tensor* const* inputs, size_t input_count, zoe_tensor* const* outputs,
                                size_t output_count, size_t repeat, double* seconds);

#ifdef __cplusplus
}
#endif

#endif
