"""The Wan transformer in plain PyTorch, with the names and the arithmetic of Diffusers' `WanTransformer3DModel`.

It exists to train fast: the blocks compile, and a prompt's padding is one key.  The pipeline pads a prompt with zero rows
to 512; behind the text projection these rows are all alike, so a softmax over them is one over a single row whose logit is
raised by the logarithm of their number.  `check.py` compares it with Diffusers.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIG = dict(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=128, in_channels=36, out_channels=16,
              text_dim=128, freq_dim=256, ffn_dim=640, num_layers=5, cross_attn_norm=True,
              qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=1024)
TEXT_ROWS = 512


class Norm(nn.LayerNorm):
    """Layer norm in f32 of an input of any type."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.float()
        weight = None if self.weight is None else self.weight.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)


def rotate(x, cos, sin):
    """Rotary embedding over pairs of neighbouring channels; x [B, L, heads, d], cos and sin [L, 1, d / 2]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).type_as(x)


class Attention(nn.Module):
    def __init__(self, dim, heads, eps):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=eps), nn.RMSNorm(dim, eps=eps)

    def forward(self, x, context=None, bias=None, rope=None):
        """Self-attention with `rope`, or attention to `context` [B, n, dim] whose logits `bias` [n] is added to."""
        source = x if context is None else context
        q, k, v = self.norm_q(self.to_q(x)), self.norm_k(self.to_k(source)), self.to_v(source)
        q, k, v = (y.unflatten(2, (self.heads, -1)).type_as(v) for y in (q, k, v))
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        if context is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            logits = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1]) + bias
            out = logits.softmax(-1).type_as(v) @ v
        return self.to_out[0](out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(dim, inner)
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(inner, dim)])

    def forward(self, x):
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, dim, inner, heads, eps):
        super().__init__()
        self.norm1 = Norm(dim, eps, elementwise_affine=False)
        self.attn1 = Attention(dim, heads, eps)
        self.attn2 = Attention(dim, heads, eps)
        self.norm2 = Norm(dim, eps)
        self.ffn = FeedForward(dim, inner)
        self.norm3 = Norm(dim, eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, x, context, bias, times, cos, sin):
        shift, scale, gate, shift2, scale2, gate2 = (self.scale_shift_table + times.float()).chunk(6, 1)
        y = self.attn1((self.norm1(x) * (1 + scale) + shift).type_as(x), rope=(cos, sin))
        x = (x.float() + y * gate).type_as(x)
        x = x + self.attn2(self.norm2(x).type_as(x), context, bias)
        y = self.ffn((self.norm3(x) * (1 + scale2) + shift2).type_as(x))
        return (x.float() + y.float() * gate2).type_as(x)


class Embedder(nn.Module):
    def __init__(self, dim, text_dim, freq_dim):
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder, self.text_embedder = nn.Module(), nn.Module()
        self.time_embedder.linear_1, self.time_embedder.linear_2 = nn.Linear(freq_dim, dim), nn.Linear(dim, dim)
        self.text_embedder.linear_1, self.text_embedder.linear_2 = nn.Linear(text_dim, dim), nn.Linear(dim, dim)
        self.time_proj = nn.Linear(dim, dim * 6)

    def forward(self, timestep, text):
        half = self.freq_dim // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, device=text.device, dtype=torch.float32) / half)
        angles = timestep.float().view(-1, 1) * freqs
        with torch.autocast(text.device.type, enabled=False):  # the time path stays in f32, as in the published pipelines
            t = self.time_embedder
            time = t.linear_2(F.silu(t.linear_1(torch.cat([angles.cos(), angles.sin()], 1))))
        p = self.text_embedder
        context = p.linear_2(F.gelu(p.linear_1(text), approximate="tanh"))
        return time, self.time_proj(F.silu(time)).unflatten(1, (6, -1)), context


class Wan(nn.Module):
    def __init__(self, patch_size, num_attention_heads, attention_head_dim, in_channels, out_channels, text_dim, freq_dim,
                 ffn_dim, num_layers, eps, **_):
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        self.patch, self.head_dim, self.tables = patch_size, attention_head_dim, {}
        self.patch_embedding = nn.Conv3d(in_channels, dim, patch_size, patch_size)
        self.condition_embedder = Embedder(dim, text_dim, freq_dim)
        self.blocks = nn.ModuleList([Block(dim, ffn_dim, num_attention_heads, eps) for _ in range(num_layers)])
        self.norm_out = Norm(dim, eps, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels * math.prod(patch_size))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def rope(self, grid, device):
        """Tables [L, 1, d / 2] of a grid of patches (frames, rows, columns), made in f64 and kept."""
        if (grid, device) not in self.tables:
            side = 2 * (self.head_dim // 6)
            parts = []
            for axis, size in enumerate((self.head_dim - 2 * side, side, side)):
                freqs = 1.0 / 10000.0 ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
                angles = torch.outer(torch.arange(grid[axis], dtype=torch.float64), freqs)
                shape = [1, 1, 1, angles.shape[1]]
                shape[axis] = grid[axis]
                parts.append(angles.view(shape).expand(*grid, -1))
            angles = torch.cat(parts, -1).reshape(math.prod(grid), 1, -1)
            self.tables[grid, device] = angles.cos().float().to(device), angles.sin().float().to(device)
        return self.tables[grid, device]

    def forward(self, x, timestep, text):
        """Noise and condition x [B, 36, f, h, w], timestep [B] in 0..1000, text [B, n, text_dim] with zeros behind its end.

        Returns the velocity [B, 16, f, h, w]. Rows n..511 of the padded text are taken as one.
        """
        batch, _, f, h, w = x.shape
        grid = (f // self.patch[0], h // self.patch[1], w // self.patch[2])
        cos, sin = self.rope(grid, x.device)
        text = F.pad(text, (0, 0, 0, 1))
        bias = torch.zeros(text.shape[1], device=x.device)
        bias[-1] = math.log(TEXT_ROWS - text.shape[1] + 1)
        time, times, context = self.condition_embedder(timestep, text)
        x = self.patch_embedding(x).flatten(2).transpose(1, 2).contiguous()
        for block in self.blocks:
            x = block(x, context, bias, times, cos, sin)
        shift, scale = (self.scale_shift_table + time.unsqueeze(1)).chunk(2, 1)
        x = self.proj_out((self.norm_out(x) * (1 + scale) + shift).type_as(x))
        x = x.view(batch, *grid, *self.patch, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class Lora(nn.Module):
    """A linear layer and a product of two narrow ones beside it, which starts at zero."""

    def __init__(self, base, rank):
        super().__init__()
        self.base, self.on = base.requires_grad_(False), True
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(self.lora_A.weight, std=base.in_features**-0.5)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x):
        return self.base(x) + self.lora_B(self.lora_A(x)) if self.on else self.base(x)


def add_lora(model, rank):
    """Put a LoRA on every linear layer of the blocks and freeze the rest. Returns the parameters to train."""
    model.requires_grad_(False)
    for block in model.blocks:
        for parent, name in [(m, n) for m in block.modules() for n, child in m.named_children() if type(child) is nn.Linear]:
            setattr(parent, name, Lora(getattr(parent, name), rank).to(next(parent.parameters()).device))
    return [p for p in model.parameters() if p.requires_grad]


def switch_lora(model, on):
    for m in model.modules():
        if isinstance(m, Lora):
            m.on = on


def lora_state(model):
    """The LoRA's tensors under the names of Diffusers' files: transformer.blocks.0.attn1.to_q.lora_A.weight and so on."""
    return {f"transformer.{name}.{half}.weight": getattr(m, half).weight.detach()
            for name, m in model.named_modules() if isinstance(m, Lora) for half in ("lora_A", "lora_B")}


def narrow_lora(state):
    """A LoRA in F8_E4M3. A pair's parts are scaled to one size, rank by rank, and the second is fitted to the first as stored."""
    stored = {}
    for key in (k for k in state if "lora_A" in k):
        other = key.replace("lora_A", "lora_B")
        a, b = state[key].float(), state[other].float()
        sizes = b.pow(2).mean(0).sqrt() / a.pow(2).mean(1).sqrt().clamp_min(1e-12)
        stored[key] = (a * sizes.sqrt().clamp_min(1e-6).unsqueeze(1)).to(torch.float8_e4m3fn)
        fitted = torch.linalg.lstsq(stored[key].double().T, (b @ a).double().T).solution.T
        stored[other] = fitted.float().to(torch.float8_e4m3fn).contiguous()
    return stored


def load_lora(model, state):
    for name, m in model.named_modules():
        if isinstance(m, Lora):
            for half in ("lora_A", "lora_B"):
                getattr(m, half).weight.data.copy_(state[f"transformer.{name}.{half}.weight"])


def eight_bit(weight):
    """A matrix as Q8_0 stores it and reads it back: 32 values of a row share a half-precision scale, each is one of 255."""
    rows = weight.float().reshape(weight.shape[0], -1, 32)
    scale = rows.abs().amax(-1, keepdim=True) / 127
    codes = torch.where(scale > 0, rows / scale, 0).round()
    return (codes * scale.half().float()).view(weight.shape).to(weight.dtype)


def is_stored_in_eight_bit(name, tensor):
    """Matrices of the blocks, of the text projection and of what spreads the time over the blocks; the rest stays as it is."""
    return tensor.ndim == 2 and name.endswith(".weight") and not name.startswith("proj_out") and "time_embedder" not in name


def write_gguf(path, state):
    """Store weights as a GGUF file under Diffusers' names: matrices in Q8_0, the time embedder in f16, all else in f32."""
    import gguf
    kind, writer = gguf.GGMLQuantizationType, gguf.GGUFWriter(path, "wan")
    for name, tensor in state.items():
        value = tensor.detach().float().cpu().numpy()
        if is_stored_in_eight_bit(name, tensor):
            writer.add_tensor(name, gguf.quants.quantize(value, kind.Q8_0), raw_dtype=kind.Q8_0)
        else:
            writer.add_tensor(name, value.astype("float16") if "time_embedder" in name and value.ndim == 2 else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path):
    """The stored weights, widened in f32."""
    import gguf
    state = {}
    for tensor in gguf.GGUFReader(path).tensors:
        value = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("float32")
        state[tensor.name] = torch.from_numpy(value).reshape(tensor.shape[::-1].tolist())
    return state
