#include "models/wan_dit/model.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "base/error.h"
#include "models/gelu_erf.h"
#include "models/wan_dit/normalized_guidance.h"
#include "ops/mul_add.h"
#include "ops/norm_scale_shift.h"
#include "ops/rms_norm.h"
#include "ops/rotary_interleaved.h"
#include "ops/scale_residual_norm_scale_shift.h"

namespace zoe {

namespace {

// Tokens along time, height and width.
std::array<std::int64_t, 3> token_grid(const WanDitConfig& config, std::int64_t frames, std::int64_t height, std::int64_t width) {
  const std::array<std::int64_t, 3> extents{frames, height, width};
  std::array<std::int64_t, 3> grid{};
  constexpr std::array kAxes{"frames", "height", "width"};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const std::int64_t patch = config.patch_size[axis], most = patch * config.rope_max_seq_len;
    check(extents[axis] >= patch && extents[axis] <= most && extents[axis] % patch == 0, ErrorKind::invalid_argument, "wan_dit",
          "bad {} of the latent: got {}, expected a multiple of {} up to {}.", kAxes[axis], extents[axis], patch, most);
    grid[axis] = extents[axis] / patch;
  }
  constexpr std::int64_t kMost = 1 << 26;
  const std::int64_t tokens = grid[0] * grid[1] * grid[2];
  check(tokens <= kMost, ErrorKind::invalid_argument, "wan_dit",
        "bad size of the latent: got {} x {} x {} patches, expected at most {} in all.", grid[0], grid[1], grid[2], kMost);
  return grid;
}

void check_texts(std::int64_t batch, std::int64_t text_rows) {
  constexpr std::int64_t kMostTexts = 1 << 8, kMostRows = 1 << 16;
  check(batch >= 1 && batch <= kMostTexts, ErrorKind::invalid_argument, "wan_dit", "bad number of texts: got {}, expected 1 to {}.",
        batch, kMostTexts);
  check(text_rows >= 1 && text_rows <= kMostRows, ErrorKind::invalid_argument, "wan_dit",
        "bad number of text rows: got {}, expected 1 to {}.", text_rows, kMostRows);
}

// The weights under one prefix of names, and what is made with them.
struct Weights {
  const WanDitConfig& config;
  Precision precision;
  std::string prefix;
  int block;

  Value weight(std::string_view name, DType kind, Shape shape, Shape stored = {}) const {
    return parameter(fmt::format("{}{}", prefix, name), kind, std::move(shape), block, std::move(stored));
  }

  // x [..,K] -> [..,out], in x's dtype. Operands are narrower where those of products are than the stream. `stored`: see
  // parameter().
  Value project(std::string_view name, const Value& x, std::int64_t out, ProductOptions options = {}, Shape stored = {}) const {
    const DType operands = x.dtype() == precision.stream ? precision.product : x.dtype();
    const Value matrix = weight(fmt::format("{}.weight", name), operands, {out, x.dim(-1)}, std::move(stored));
    options.bias = weight(fmt::format("{}.bias", name), operands, {out});
    options.codes = precision.product_codes;
    if (operands == x.dtype()) return linear(x, matrix, options);
    const Value residual = std::exchange(options.residual, {});  // it stays as wide as the stream
    const Value y = cast(linear(cast(x, operands), matrix, options), x.dtype());
    return residual ? y + residual : y;
  }

  // [B,L,D] -> [B,L,N,Dh]
  Value split_heads(const Value& x) const { return reshape(x, {x.dim(0), x.dim(1), config.num_heads, config.head_dim}); }
  Value normed(std::string_view name, const Value& x) const {
    return split_heads(rms_norm(x, weight(fmt::format("{}.weight", name), precision.stream, {config.dim()}), config.eps));
  }
  // The same, but for what stays as it is whatever becomes codes.
  Weights exact() const { return {config, precision.without_codes(), prefix, block}; }
  // Keys or values as attention takes them.
  Value attended(const Value& x) const { return cast(x, precision.attention); }

  Value attend(const Value& q, const Value& k, const Value& v, const Value& bias = {}, Codes codes = Codes::none) const {
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.dim(3)));
    return attention(attended(q), attended(k), attended(v), scale, bias, codes);
  }
  // [B,L,N,Dh] -> [B,L,D] in the stream's dtype.
  Value merge_heads(const Value& y) const { return cast(reshape(y, {y.dim(0), y.dim(1), y.dim(2) * y.dim(3)}), precision.stream); }
};

Weights block_weights(const WanDitConfig& config, const ComponentPrecision& precision, std::int64_t block) {
  return {config, precision.of_block(static_cast<int>(block)), fmt::format("blocks.{}.", block), static_cast<int>(block) + 1};
}
// The one whose hint is the i-th: it comes and goes with the block that the hint is added behind.
Weights vace_weights(const WanDitConfig& config, const ComponentPrecision& precision, std::size_t i) {
  const auto block = static_cast<int>(config.vace_layers[i]);
  return {config, precision.of_block(block), fmt::format("vace_blocks.{}.", i), block + 1};
}

// [1,..] -> [B,..], each the same.
Value repeat(const Value& x, std::int64_t batch) { return concat(std::vector<Value>(static_cast<std::size_t>(batch), x), 0); }

// Row i of a table of modulations [F,n,D] for a batch of B -> [1,1,D], or [B,F,1,D] where frames differ.
Value row(const Value& table, std::int64_t i, std::int64_t batch) {
  const Value rows = slice(table, 1, i, i + 1);
  return table.dim(0) == 1 ? rows : repeat(reshape(rows, {1, table.dim(0), 1, table.dim(2)}), batch);
}

void check_images(const WanDitConfig& config, std::int64_t rows) {
  constexpr std::int64_t kMostRows = 1 << 16;
  const bool fits = config.image_dim == 0 ? rows == 0 : rows >= 1 && rows <= kMostRows;
  check(fits && (config.image_positions == 0 || rows == config.image_positions), ErrorKind::invalid_argument, "wan_dit",
        "bad number of image rows: got {}, expected {}.", rows,
        config.image_dim == 0    ? 0
        : config.image_positions ? config.image_positions
                                 : kMostRows);
}

// image_tokens [1,S,image_dim] -> [1,S,D]: WanImageEmbedding of Diffusers.
Value embed_images(const WanDitConfig& config, const Precision& precision, const Value& tokens) {
  const DType dtype = precision.stream;
  const Weights embedder{config, precision, "condition_embedder.image_embedder.", 0};
  constexpr double kEps = 1e-5;
  const auto norm = [&](const std::string& name, const Value& x) {
    const auto vector = [&](const char* kind) { return embedder.weight(name + kind, DType::f32, {x.dim(2)}); };
    return norm_scale_shift(x, {}, {}, {.eps = kEps, .weight = vector(".weight"), .bias = vector(".bias")});
  };
  Value x = cast(tokens, dtype);
  if (config.image_positions) x = x + embedder.weight("pos_embed", dtype, {1, config.image_positions, config.image_dim});
  const Value hidden = gelu_erf(embedder.project("ff.net.0.proj", norm("norm1", x), config.image_dim));
  return norm("norm2", embedder.project("ff.net.2", hidden, config.dim()));
}

// How the devices of a group share the tokens [B,L,..] of a video.
struct TokenShares {
  std::int64_t devices = 1, device = 0, tokens = 0;
  std::int64_t share() const { return (tokens + devices - 1) / devices; }

  // The device's own tokens of all along `axis`; where they end early, the first ones fill up.
  Value own(const Value& all, int axis) const {
    if (devices == 1) return all;
    const std::int64_t begin = device * share(), end = begin + share();
    if (begin >= tokens) return slice(all, axis, begin - tokens, end - tokens);
    if (end <= tokens) return slice(all, axis, begin, end);
    return concat({slice(all, axis, begin, tokens), slice(all, axis, 0, end - tokens)}, axis);
  }
  // [B,share,N,Dh] of the device's tokens -> [B,L,N/devices,Dh] of its heads.
  Value heads_of(const Value& x) const { return unfilled(filled_heads_of(x)); }
  // The way back: [B,L,N/devices,Dh] -> [B,share,N,Dh].
  Value tokens_of(const Value& x) const {
    const std::int64_t fill = share() * devices - tokens;
    return by_token(sent_back(fill == 0 ? x : concat({x, slice(x, 1, 0, fill)}, 1)));
  }
  // Both for some of each device's tokens, with those that fill up.
  Value filled_heads_of(const Value& x) const {
    const std::int64_t batch = x.dim(0), rows = x.dim(1), heads = x.dim(2) / devices, width = x.dim(3);
    return joined(all_to_all(permute(reshape(x, {batch, rows, devices, heads, width}), {2, 0, 1, 3, 4})));
  }
  Value sent_back(const Value& x) const {
    const std::int64_t batch = x.dim(0), rows = x.dim(1) / devices, heads = x.dim(2), width = x.dim(3);
    const Value by_device = reshape(x, {batch, devices, rows, heads, width});
    return all_to_all(batch == 1 ? reshape(by_device, {devices, 1, rows, heads, width}) : permute(by_device, {1, 0, 2, 3, 4}));
  }
  // What comes of that, [devices,B,rows,N/devices,Dh] -> [B,rows,N,Dh].
  Value by_token(const Value& pieces) const {
    return reshape(permute(pieces, {1, 2, 0, 3, 4}), {pieces.dim(1), pieces.dim(2), devices * pieces.dim(3), pieces.dim(4)});
  }
  // [B,share,C] of each device -> [B,L,C] on all of them.
  Value gathered(const Value& x) const { return devices == 1 ? x : unfilled(joined(all_gather(x, devices))); }

 private:
  // [devices,B,rows,..] -> [B,devices * rows,..]
  Value joined(const Value& pieces) const {
    std::vector<std::int64_t> dims = pieces.shape().dims();
    std::vector<int> axes(dims.size());
    for (std::size_t i = 0; i < axes.size(); ++i) axes[i] = static_cast<int>(i < 2 ? 1 - i : i);
    dims.erase(dims.begin());
    dims[1] *= devices;
    return reshape(pieces.dim(1) == 1 ? pieces : permute(pieces, axes), Shape(dims));
  }
  Value unfilled(const Value& all) const { return slice(all, 1, 0, tokens); }
};

struct Conditions {
  Value modulation;            // f32 [1,6,D] or of each frame [F,6,D], to which each block adds its table
  Value cos_full, sin_signed;  // [L,1,Dh]
  Value text_bias;             // [B,1,1,R]
  Value nag;                   // f32 [3], where the second text is what not to show; else none
  TokenShares shares;
  std::int64_t texts;
};

// Keys and values of a block's cross-attention, those of images where there are any.
struct Seen {
  Value text_keys, text_values, image_keys, image_values;
};

// Where devices share tokens, v, k and q are exchanged one after the other, each beside the product of the next. Of a single text q
// comes in two parts, so that of the last exchange only a quarter has no product beside it, and its results go back so: the smaller
// part first, the other one beside the first one's product. Queries may stand in any order, so nothing is moved for that.
// 8-bit attention makes codes of some queries together, and keeps their order.
// n [B,L,D] -> [B,L,D]
Value trace_self_attention(const Weights& block, const Value& n, const Conditions& conditions) {
  const TokenShares& shares = conditions.shares;
  const std::int64_t dim = block.config.dim(), rows = n.dim(1);
  const Codes codes = block.precision.attention_codes;
  const auto rotated = [&](std::string_view projection, std::string_view norm, std::int64_t begin, std::int64_t end) {
    const Value x = block.normed(norm, block.project(projection, slice(n, 1, begin, end), dim));
    return rotary_interleaved(x, slice(conditions.cos_full, 0, begin, end), slice(conditions.sin_signed, 0, begin, end));
  };
  const auto projected = [&](const Value& y) { return block.project("attn1.to_out.0", block.merge_heads(y), dim); };
  if (shares.devices == 1) {
    const Value q = rotated("attn1.to_q", "attn1.norm_q", 0, rows), k = rotated("attn1.to_k", "attn1.norm_k", 0, rows);
    return projected(block.attend(q, k, block.split_heads(block.project("attn1.to_v", n, dim)), {}, codes));
  }
  const Value v = shares.heads_of(block.attended(block.split_heads(block.project("attn1.to_v", n, dim))));
  const Value k = shares.heads_of(block.attended(rotated("attn1.to_k", "attn1.norm_k", 0, rows)));
  constexpr std::int64_t kTile = 128;  // of rows, by which products go
  std::int64_t first = rows * 3 / 4;
  if (first > kTile) first -= first % kTile;
  if (n.dim(0) > 1 || conditions.texts > 1 || codes != Codes::none || first == 0) {
    const Value q = shares.heads_of(block.attended(rotated("attn1.to_q", "attn1.norm_q", 0, rows)));
    return projected(shares.tokens_of(block.attend(q, k, v, {}, codes)));
  }
  const auto part_of_q = [&](std::int64_t begin, std::int64_t end) {
    return shares.filled_heads_of(block.attended(rotated("attn1.to_q", "attn1.norm_q", begin, end)));
  };
  const Value first_q = part_of_q(0, first), y = block.attend(concat({first_q, part_of_q(first, rows)}, 1), k, v);
  const std::int64_t border = first * shares.devices;
  const Value last_back = shares.sent_back(slice(y, 1, border, y.dim(1))), first_back = shares.sent_back(slice(y, 1, 0, border));
  const Value last = projected(shares.by_token(last_back));
  return concat({projected(shares.by_token(first_back)), last}, 1);
}

// x [1|B,L,D] -> [B,L,D]
Value trace_block(const Weights& block, const Value& x, const Conditions& conditions, const Seen& seen) {
  const std::int64_t dim = block.config.dim();
  const Value table = block.weight("scale_shift_table", DType::f32, {1, 6, dim}) + conditions.modulation;
  const std::int64_t entering = x.dim(0), texts = conditions.nag ? 1 : seen.text_keys.dim(0);  // texts that have a stream
  const Value shift = row(table, 0, entering), scale = row(table, 1, entering), gate = row(table, 2, entering);
  const Value ffn_shift = row(table, 3, texts), ffn_scale = row(table, 4, texts), ffn_gate = row(table, 5, texts);
  const NormOptions plain{.eps = block.config.eps};

  const Value self = trace_self_attention(block, norm_scale_shift(x, scale, shift, plain), conditions);

  NormedResidual stream;
  if (block.config.cross_attn_norm) {
    NormOptions affine = plain;
    affine.weight = block.weight("norm2.weight", DType::f32, {dim});
    affine.bias = block.weight("norm2.bias", DType::f32, {dim});
    stream = scale_residual_norm_scale_shift(x, self, gate, {}, {}, affine);
  } else {
    stream.residual = stream.y = mul_add(self, gate, x);
  }
  Value cross_q = block.normed("attn2.norm_q", block.project("attn2.to_q", stream.y, dim));
  // Here the first block meets the texts: the stream becomes one a text.
  if (entering != texts) {
    cross_q = repeat(cross_q, texts);
    stream.residual = repeat(stream.residual, texts);
  }
  Value crossed = block.merge_heads(
      block.attend(conditions.nag ? repeat(cross_q, 2) : cross_q, seen.text_keys, seen.text_values, conditions.text_bias));
  if (conditions.nag) crossed = normalized_guidance(slice(crossed, 0, 0, 1), slice(crossed, 0, 1, 2), conditions.nag);
  if (seen.image_keys)
    crossed = crossed + block.merge_heads(block.attend(cross_q, repeat(seen.image_keys, texts), repeat(seen.image_values, texts)));
  // The ungated residual rides on the product: one rounding, and no pass of its own.
  const Value middle = block.project("attn2.to_out.0", crossed, dim, {.residual = stream.residual});

  const Value ffn_in = norm_scale_shift(middle, ffn_scale, ffn_shift, plain);
  const Value hidden = block.project("ffn.net.0.proj", ffn_in, block.config.ffn_dim, {.activation = Activation::gelu_tanh});
  return mul_add(block.project("ffn.net.2", hidden, dim), ffn_gate, middle);
}

}  // namespace

Graph trace_wan_context(const WanDitConfig& config, const ComponentPrecision& precision, std::int64_t text_rows, std::int64_t batch,
                        std::int64_t image_rows) {
  const DType dtype = precision.stream();
  check_texts(batch, text_rows);
  check_images(config, image_rows);
  const Weights embedder{config, precision.outside_blocks(), "condition_embedder.text_embedder.", 0};
  const Value text = input("text", DType::f32, {batch, text_rows, config.text_dim});
  const Value hidden = embedder.project("linear_1", cast(text, dtype), config.dim(), {.activation = Activation::gelu_tanh});
  const Value embedded = embedder.project("linear_2", hidden, config.dim());
  std::vector<Value> inputs{text}, outputs, of_vace, of_images;
  Value images;
  if (config.image_dim) {
    inputs.push_back(input("image_tokens", DType::f32, {1, image_rows, config.image_dim}));
    images = embed_images(config, precision.outside_blocks(), inputs.back());
  }
  const auto add_keys = [&](const Weights& block, std::vector<Value>& to) {
    to.push_back(block.attended(block.normed("attn2.norm_k", block.project("attn2.to_k", embedded, config.dim()))));
    to.push_back(block.attended(block.split_heads(block.project("attn2.to_v", embedded, config.dim()))));
  };
  // Block by block, though the results lie otherwise: weights of a block that are read behind those of a later one come with that.
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    const Weights block = block_weights(config, precision, i).exact();  // a prompt's keys are made once a video
    add_keys(block, outputs);
    for (std::size_t hint = 0; hint < config.vace_layers.size(); ++hint)
      if (config.vace_layers[hint] == i) add_keys(vace_weights(config, precision, hint).exact(), of_vace);
    if (!config.image_dim) continue;
    of_images.push_back(
        block.attended(block.normed("attn2.norm_added_k", block.project("attn2.add_k_proj", images, config.dim()))));
    of_images.push_back(block.attended(block.split_heads(block.project("attn2.add_v_proj", images, config.dim()))));
  }
  for (const auto& more : {of_vace, of_images}) outputs.insert(outputs.end(), more.begin(), more.end());
  return make_graph("wan_context", std::move(inputs), std::move(outputs));
}

std::vector<std::string> wan_context_outputs(const WanDitConfig& config) {
  std::vector<std::string> names;
  const auto add = [&](std::string_view prefix, std::int64_t blocks) {
    for (std::int64_t i = 0; i < blocks; ++i)
      for (const char* kind : {"k", "v"}) names.push_back(fmt::format("{}{}_{}", prefix, kind, i));
  };
  add("", config.num_layers);
  add("vace_", static_cast<std::int64_t>(config.vace_layers.size()));
  if (config.image_dim) add("image_", config.num_layers);
  return names;
}

Graph trace_wan_dit(const WanDitConfig& config, const ComponentPrecision& precision, const WanDitSizes& sizes, bool block_outputs) {
  const DType dtype = precision.stream();
  const auto [f, h, w] = token_grid(config, sizes.frames, sizes.height, sizes.width);
  check_texts(sizes.batch, sizes.text_rows);
  check_images(config, sizes.image_rows);
  const auto [pt, ph, pw] = config.patch_size;
  const std::int64_t tokens = f * h * w, dim = config.dim(), volume = config.patch_volume();
  const Support shared = shares_tokens(config, sizes, sizes.devices);
  check(static_cast<bool>(shared), ErrorKind::unsupported, "wan_dit", "{}", shared.reason());
  const TokenShares shares{sizes.devices, sizes.device, tokens};

  const Value latent = input("latent", DType::f32, {config.out_channels, sizes.frames, sizes.height, sizes.width});
  const Value timestep = input("timestep", DType::f32, {sizes.first_frame ? 2 : 1, config.freq_dim});
  const Value cos_full = input("cos_full", DType::f32, {tokens, 1, config.head_dim});
  const Value sin_signed = input("sin_signed", DType::f32, {tokens, 1, config.head_dim});
  const Value text_bias = input("text_bias", DType::f32, {sizes.batch, sizes.text_rows});
  std::vector<Value> inputs{latent, timestep, cos_full, sin_signed, text_bias};
  std::map<std::string, Value, std::less<>> keys;  // and values
  for (const std::string& name : wan_context_outputs(config)) {
    const bool of_images = name.starts_with("image_"), of_vace = name.starts_with("vace_");
    const int number = std::stoi(name.substr(name.rfind('_') + 1));
    const int block = of_vace ? static_cast<int>(config.vace_layers[static_cast<std::size_t>(number)]) : number;
    inputs.push_back(
        input(name, precision.of_block(block).attention,
              {of_images ? 1 : sizes.batch, of_images ? sizes.image_rows : sizes.text_rows, config.num_heads, config.head_dim}));
    keys[name] = inputs.back();
  }
  Value seen = cast(latent, dtype);
  if (const std::int64_t extra = config.condition_channels(); extra > 0) {
    inputs.push_back(input("condition", DType::f32, {extra, sizes.frames, sizes.height, sizes.width}));
    seen = concat({seen, cast(inputs.back(), dtype)}, 0);
  }

  Value of_frame;
  if (sizes.first_frame) {
    check(pt == 1, ErrorKind::unsupported, "wan_dit", "a first frame needs patches of one frame: got {}, expected 1.", pt);
    of_frame = input("timestep_of_frame", DType::i32, {sizes.frames});
    const Value first = input("first_frame", DType::f32, {config.out_channels, 1, sizes.height, sizes.width});
    inputs.insert(inputs.end(), {of_frame, first});
    seen = sizes.frames == 1 ? cast(first, dtype) : concat({cast(first, dtype), slice(seen, 1, 1, sizes.frames)}, 1);
  }
  Value nag;
  if (sizes.negative_keys) {
    check(sizes.batch == 2, ErrorKind::invalid_argument, "wan_dit",
          "bad number of texts beside a negative one: got {}, expected 2.", sizes.batch);
    nag = inputs.emplace_back(input("nag", DType::f32, {3}));
  }
  // Of each timestep [T,n] -> of each frame [F,n], where frames differ.
  const auto by_frame = [&](const Value& rows) { return of_frame ? gather(rows, of_frame) : rows; };
  const std::int64_t distinct = of_frame ? sizes.frames : 1;

  // The convolution whose stride is its kernel is a product with the patches as rows.
  const Weights embeddings{config, precision.outside_blocks(), "", 0};
  const auto embed_patches = [&, f = f, h = h, w = w, pt = pt, ph = ph, pw = pw](std::string_view name, const Value& pictures) {
    const std::int64_t channels = pictures.dim(0);
    const Value by_patch = permute(reshape(pictures, {channels, f, pt, h, ph, w, pw}), {1, 3, 5, 0, 2, 4, 6});
    const Value rows = shares.own(reshape(by_patch, {1, tokens, channels * volume}), 1);
    return embeddings.project(name, rows, dim, {}, {dim, channels, pt, ph, pw});
  };
  Value x = embed_patches("patch_embedding", seen);

  const Weights embedder{config, {dtype, dtype, dtype}, "condition_embedder.", 0};  // what it makes of time reaches every block
  const Value hidden = embedder.project("time_embedder.linear_1", timestep, dim, {.activation = Activation::silu});
  const Value time = cast(embedder.project("time_embedder.linear_2", hidden, dim), dtype);  // [T,D]
  const Value modulation = by_frame(cast(embedder.project("time_proj", silu(time), 6 * dim), DType::f32));
  const Conditions conditions{reshape(modulation, {distinct, 6, dim}),
                              shares.own(cos_full, 0),
                              shares.own(sin_signed, 0),
                              reshape(text_bias, {sizes.batch, 1, 1, sizes.text_rows}),
                              nag,
                              shares,
                              sizes.batch};

  // VACE's blocks hand on a stream of their own, which begins with what the first block sees; each makes a hint of it. They run
  // beside the block whose hint they make, not all in front: one hint is kept at a time.
  Value control, control_scale;
  if (!config.vace_layers.empty()) {
    const auto hints = static_cast<std::int64_t>(config.vace_layers.size());
    inputs.push_back(input("control", DType::f32, {config.vace_channels, sizes.frames, sizes.height, sizes.width}));
    inputs.push_back(input("control_scale", DType::f32, {hints}));
    control_scale = inputs.back();
    const Value embedded = embed_patches("vace_patch_embedding", cast(inputs[inputs.size() - 2], dtype));
    control = vace_weights(config, precision, 0).exact().project("proj_in", embedded, dim, {.residual = x});
  }
  std::size_t next_hint = 0;
  const auto trace_hint = [&] {
    const Weights weights = vace_weights(config, precision, next_hint);
    control = trace_block(weights, in_block(control, weights.block), conditions,
                          {keys.at(fmt::format("vace_k_{}", next_hint)), keys.at(fmt::format("vace_v_{}", next_hint)), {}, {}});
    return weights.exact().project("proj_out", control, dim);
  };

  std::vector<Value> blocks;
  for (std::int64_t i = 0; i < config.num_layers; ++i) {
    Seen by_block{keys.at(fmt::format("k_{}", i)), keys.at(fmt::format("v_{}", i)), {}, {}};
    if (config.image_dim)
      by_block.image_keys = keys.at(fmt::format("image_k_{}", i)), by_block.image_values = keys.at(fmt::format("image_v_{}", i));
    x = trace_block(block_weights(config, precision, i), x, conditions, by_block);
    blocks.push_back(x);
    if (next_hint == config.vace_layers.size() || config.vace_layers[next_hint] != i) continue;
    const auto place = static_cast<std::int64_t>(next_hint);
    const Value scale = reshape(slice(control_scale, 0, place, place + 1), {});
    x = mul_add(trace_hint(), scale, x);
    ++next_hint;
  }

  const Weights head{config, precision.outside_blocks(), "", static_cast<int>(config.num_layers) + 1};
  const Value table =
      head.weight("scale_shift_table", DType::f32, {1, 2, dim}) + reshape(by_frame(cast(time, DType::f32)), {distinct, 1, dim});
  const Value n = norm_scale_shift(x, row(table, 1, x.dim(0)), row(table, 0, x.dim(0)), {.eps = config.eps});
  // A patch's columns: pt, ph, pw, channel.
  const Value patches = shares.gathered(head.project("proj_out", n, config.out_channels * volume));
  std::vector<Value> outputs;
  for (std::int64_t text = 0; text < patches.dim(0); ++text) {
    const Value own = reshape(slice(patches, 0, text, text + 1), {f, h, w, pt, ph, pw, config.out_channels});
    const Value unpatched = permute(own, {6, 0, 3, 1, 4, 2, 5});
    outputs.push_back(cast(reshape(unpatched, {config.out_channels, sizes.frames, sizes.height, sizes.width}), DType::f32));
  }
  if (block_outputs) outputs.insert(outputs.end(), blocks.begin(), blocks.end());
  return make_graph("wan_dit", std::move(inputs), std::move(outputs));
}

Support shares_tokens(const WanDitConfig& config, const WanDitSizes& sizes, std::int64_t devices) {
  if (devices == 1) return Support::yes();
  const auto grid = token_grid(config, sizes.frames, sizes.height, sizes.width);
  if (sizes.first_frame)
    return Support::no("the tokens of a first frame that is given are modulated apart: they stay on one device");
  if (config.num_heads % devices != 0)
    return Support::no("{} heads are no multiple of {} devices: each takes as many heads as the others", config.num_heads, devices);
  if (const std::int64_t tokens = grid[0] * grid[1] * grid[2]; tokens < devices)
    return Support::no("{} tokens are fewer than {} devices", tokens, devices);
  return Support::yes();
}

std::vector<ExpectedTensor> wan_dit_tensors(const WanDitConfig& config) {
  const auto [pt, ph, pw] = config.patch_size;
  const std::int64_t images = config.image_dim == 0 ? 0 : config.image_positions ? config.image_positions : 1;
  std::vector<ExpectedTensor> tensors = parameters_of(trace_wan_dit(config, DType::f32, {pt, ph, pw, 1, 1, images}));
  for (ExpectedTensor& tensor : parameters_of(trace_wan_context(config, DType::f32, 1, 1, images)))
    tensors.push_back(std::move(tensor));
  return tensors;
}

std::vector<float> timestep_sinusoid(const WanDitConfig& config, float timestep) {
  const auto half = static_cast<std::size_t>(config.freq_dim / 2);
  std::vector<float> sinusoid(2 * half);
  const auto log_period = static_cast<float>(-std::log(10000.0));
  for (std::size_t i = 0; i < half; ++i) {
    const float exponent = log_period * static_cast<float>(i) / static_cast<float>(half);
    const float angle = timestep * static_cast<float>(std::exp(static_cast<double>(exponent)));
    sinusoid[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    sinusoid[half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
  return sinusoid;
}

RotaryTables rotary_tables(const WanDitConfig& config, std::int64_t frames, std::int64_t height, std::int64_t width) {
  const auto grid = token_grid(config, frames, height, width);
  const std::int64_t side = 2 * (config.head_dim / 6);
  const std::array<std::int64_t, 3> columns{config.head_dim - 2 * side, side, side};
  // Per axis: cosine and sine of every position and pair, [grid][columns/2].
  std::array<std::vector<std::array<float, 2>>, 3> angles;
  for (std::size_t axis = 0; axis < 3; ++axis)
    for (std::int64_t position = 0; position < grid[axis]; ++position)
      for (std::int64_t pair = 0; pair < columns[axis] / 2; ++pair) {
        const double frequency = 1.0 / std::pow(10000.0, static_cast<double>(2 * pair) / static_cast<double>(columns[axis]));
        const double angle = static_cast<double>(position) * frequency;
        angles[axis].push_back({static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))});
      }
  RotaryTables tables;
  const auto count = static_cast<std::size_t>(grid[0] * grid[1] * grid[2] * config.head_dim);
  tables.cos_full.reserve(count);
  tables.sin_signed.reserve(count);
  const auto append = [&](std::size_t axis, std::int64_t position) {
    for (std::int64_t pair = 0; pair < columns[axis] / 2; ++pair) {
      const auto [cosine, sine] = angles[axis][static_cast<std::size_t>(position * (columns[axis] / 2) + pair)];
      tables.cos_full.insert(tables.cos_full.end(), {cosine, cosine});
      tables.sin_signed.insert(tables.sin_signed.end(), {-sine, sine});
    }
  };
  for (std::int64_t f = 0; f < grid[0]; ++f)
    for (std::int64_t h = 0; h < grid[1]; ++h)
      for (std::int64_t w = 0; w < grid[2]; ++w) {
        append(0, f);
        append(1, h);
        append(2, w);
      }
  return tables;
}

}  // namespace zoe
