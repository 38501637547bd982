// The int8 kernels beside products: packing, conversion, residual add, lookup, pooling; a thread an element. Every
// float step is one IEEE operation, so that the bits are those of the CPU and of NumPy.
#include "core/launch.h"
#include "kernels/requantize.h"

namespace quernel::cuda {
namespace {

// Columns of weights as rows along k, which is what tensor cores read, in as many bytes as the CPU's panels take.
struct Pack {
  PackArgs p;
  int64_t padded, batch_bytes;  // padded: k, to whole words

  __device__ void operator()(int64_t at) const {
    const int64_t batch = at / batch_bytes, rest = at % batch_bytes;
    const int64_t column = rest / padded, k = rest % padded;
    const int8_t* src = static_cast<const int8_t*>(p.src) + batch * p.src_batch;
    static_cast<int8_t*>(p.dst)[batch * p.dst_batch + rest] =
        column < p.n && k < p.k ? src[k * p.src_row + column * p.src_col] : int8_t{0};
  }
};

struct Quantize {
  QuantizeArgs p;

  __device__ void operator()(int64_t i) const {
    const float v = static_cast<const float*>(p.x)[i] / p.scale;
    const float lo = static_cast<float>(-p.zero_point), hi = static_cast<float>(255 - p.zero_point);
    static_cast<uint8_t*>(p.y)[i] = static_cast<uint8_t>(round_clamped(v == v ? v : 0.0f, lo, hi) + p.zero_point);
  }
};

struct Dequantize {
  QuantizeArgs p;

  __device__ void operator()(int64_t i) const {
    static_cast<float*>(p.y)[i] = static_cast<float>(static_cast<const uint8_t*>(p.x)[i] - p.zero_point) * p.scale;
  }
};

struct Add {
  QAddArgs p;

  __device__ void operator()(int64_t i) const {
    const float a = static_cast<float>(static_cast<const uint8_t*>(p.a)[i] - p.a_zero_point) * p.a_scale;
    const float b = static_cast<float>(static_cast<const uint8_t*>(p.b)[i] - p.b_zero_point) * p.b_scale;
    const float lo = static_cast<float>(p.lo - p.y_zero_point), hi = static_cast<float>(p.hi - p.y_zero_point);
    static_cast<uint8_t*>(p.y)[i] = static_cast<uint8_t>(round_clamped((a + b) / p.y_scale, lo, hi) + p.y_zero_point);
  }
};

struct Lookup {
  QLookupArgs p;

  __device__ void operator()(int64_t i) const {
    static_cast<uint8_t*>(p.y)[i] = static_cast<const uint8_t*>(p.table)[static_cast<const uint8_t*>(p.x)[i]];
  }
};

// The taps of one output pixel that lie inside the image, at one channel.
struct Window {
  const uint8_t* first;
  int64_t rows, cols;

  __device__ Window(const PoolArgs& p, int64_t at) {
    const int64_t c = at % p.c, ox = at / p.c % p.ow, oy = at / p.c / p.ow % p.oh, image = at / p.c / p.ow / p.oh;
    const int64_t y = oy * p.stride_h - p.pad_h, x = ox * p.stride_w - p.pad_w;
    const int64_t y0 = most(0, y), x0 = most(0, x);
    rows = least(y + p.kh, p.h) - y0;
    cols = least(x + p.kw, p.w) - x0;
    first = static_cast<const uint8_t*>(p.x) + ((image * p.h + y0) * p.w + x0) * p.c + c;
  }
};

struct MaxPool {
  PoolArgs p;

  __device__ void operator()(int64_t at) const {
    const Window taps(p, at);
    uint8_t best = 0;
    for (int64_t i = 0; i < taps.rows; ++i) {
      for (int64_t j = 0; j < taps.cols; ++j) {
        const uint8_t x = taps.first[(i * p.w + j) * p.c];
        best = x > best ? x : best;
      }
    }
    static_cast<uint8_t*>(p.y)[at] = best;
  }
};

// Rounded half to even, in whole numbers.
struct AvgPool {
  QAvgPoolArgs p;

  __device__ void operator()(int64_t at) const {
    const Window taps(p, at);
    const int64_t all = p.kh * p.kw, inside = taps.rows * taps.cols;
    int64_t total = p.count_include_pad ? (all - inside) * p.zero_point : 0;
    for (int64_t i = 0; i < taps.rows; ++i)
      for (int64_t j = 0; j < taps.cols; ++j) total += taps.first[(i * p.w + j) * p.c];
    const int64_t count = p.count_include_pad ? all : inside;
    const int64_t quotient = total / count, twice = 2 * (total - quotient * count);
    const bool up = twice > count || (twice == count && quotient % 2 != 0);
    static_cast<uint8_t*>(p.y)[at] = static_cast<uint8_t>(quotient + up);
  }
};

}  // namespace

Status pack_s8(const PackArgs& p, Range, const Ctx& ctx) {
  const int64_t padded = ceil_div(p.k, 4) * 4, batch = ceil_div(p.n, kQPanel) * kQPanel * padded;
  for_each(ctx, p.batch * batch, Pack{p, padded, batch});
  return {};
}

Status quantize(const QuantizeArgs& p, Range, const Ctx& ctx) {
  for_each(ctx, p.size, Quantize{p});
  return {};
}

Status dequantize(const QuantizeArgs& p, Range, const Ctx& ctx) {
  for_each(ctx, p.size, Dequantize{p});
  return {};
}

Status qadd(const QAddArgs& p, Range, const Ctx& ctx) {
  for_each(ctx, p.size, Add{p});
  return {};
}

Status qlookup(const QLookupArgs& p, Range, const Ctx& ctx) {
  for_each(ctx, p.size, Lookup{p});
  return {};
}

Status max_pool2d_u8(const PoolArgs& p, Range, const Ctx& ctx) {
  for_each(ctx, p.n * p.oh * p.ow * p.c, MaxPool{p});
  return {};
}

Status avg_pool2d_u8(const QAvgPoolArgs& p, Range, const Ctx& ctx) {
  for_each(ctx, p.n * p.oh * p.ow * p.c, AvgPool{p});
  return {};
}

}  // namespace quernel::cuda
