// Convolution and its gradients.
#pragma once
#include "kernels/args/matmul.h"

namespace quernel {

// Geometry of a 2-D convolution, NHWC. Padding is that above and to the left; what lies below and to the right follows
// from the sizes.
struct ConvShape {
  int64_t n, h, w, c;  // input; c = channels of all groups
  int64_t oh, ow, o;   // output; o = channels of all groups
  int64_t kh, kw;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t groups;
};

// Result pixels that a work item takes, at most, along each axis.
struct ConvBlock {
  int64_t images, rows, cols;
};

// y = epilogue(conv(x, w)); w packed per group as B[KH·KW·C/g, O/g]. Also its adjoint, dx from g: then x is g, y is dx,
// `s` still the forward shape, and w is packed as B[KH·KW·O/g, C/g] with both kernel axes reversed. Items: (images, row
// block, column block, group, `panels` panels of 64 columns), the last ones fastest; in the adjoint for each phase
// (pixel coordinates modulo the strides). Depthwise kernels (groups = C = O): w is packed as B[KH·KW, C], items are
// (image, row), `block` and `panels` are unused.
struct ConvArgs : Epilogue {
  const void* x = nullptr;
  const void* w = nullptr;
  void* y = nullptr;
  ConvShape s{};
  ConvBlock block{};
  int64_t panels = 1;
};

// How Winograd's algorithm (kernels/winograd.h) cuts the results of 3 x 3 taps, stride 1: into tiles of 2 x 2 or 4 x 4;
// stride 2: of 2 x 2; the adjoint of stride 2, where padding is odd or even: of 4 x 4.
enum class WinogradTiles : int64_t { kNone, kTwo, kFour, kStrided, kSpreadOdd, kSpreadEven };

constexpr int64_t tile_edge(WinogradTiles t) {
  return t == WinogradTiles::kTwo || t == WinogradTiles::kStrided ? 2 : 4;
}
// Along an axis, at which a tile's source and the weights are multiplied.
constexpr int64_t tile_points(WinogradTiles t) {
  return t == WinogradTiles::kTwo ? 4 : t == WinogradTiles::kFour ? 6 : 5;
}

// y = epilogue(conv(x, w)) of 3 x 3 taps, one group, by Winograd's algorithm. Tiles are counted row by row, image by
// image. Item = (`block` of them, `panels` panels of 64 columns), the last ones fastest. u: the weights as
// WinogradPackArgs leaves them. An adjoint is given as the forward pass that it is, from g to dx; padding is then that
// of the first tile's source.
struct WinogradArgs : Epilogue {
  const void* x = nullptr;
  const void* u = nullptr;
  void* y = nullptr;
  ConvShape s{};
  WinogradTiles tiles{};
  int64_t block = 0, panels = 1;
};

// Weights B[tap][C, O], tap by tap anywhere, transformed: a matrix [C, O] per point, packed as B of a product. Item =
// panel of 64 columns.
struct WinogradPackArgs {
  const void* src = nullptr;
  void* dst = nullptr;
  int64_t c = 0, o = 0;
  int64_t src_row = 0, src_col = 0, src_tap = 0;  // strides of C, of O (one of these is 1), of taps
  int64_t src_offset = 0;
  WinogradTiles tiles{};
};

// du[split][point] (C, O padded to whole groups of packed columns): per point of the transforms the sum over a share of
// the blocks of `block` tiles, numbered as in WinogradArgs. Item = (split, `rows` rows of du).
struct WinogradGradWeightArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  void* du = nullptr;
  ConvShape s{};
  WinogradTiles tiles{};
  int64_t block = 0, splits = 1, rows = 0;
};

// dw (O, 3, 3, C) from du: splits added up in order, and transformed. Item = 16 output channels.
struct WinogradSumArgs {
  const void* du = nullptr;
  void* dw = nullptr;
  int64_t c = 0, o = 0, splits = 1;
  WinogradTiles tiles{};
};

// dw[split][group]: each the sum over a share of the blocks of output pixels, (O/g, KH·KW·C/g) or turned (KH·KW·C/g,
// pitch), rows padded to whole groups of packed columns. Item = (split, group, `rows` of KH·KW·C/g); not turned, C/g
// and `rows` are whole panels. Depthwise turned (KH·KW, C), not padded; item = split, `block` and `rows` are unused.
struct ConvGradWeightArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  void* dw = nullptr;
  ConvShape s{};
  ConvBlock block{};
  int64_t splits = 1, rows = 0;
  bool turned = true;
};

// sum[batch][j][i] = parts[0][batch][i][j] + parts[1][batch][i][j] + …, in this order, for i < rows and j < cols; rows
// of parts are `pitch` apart. Item = (batch, panel of 64 columns).
struct SumSplitsArgs {
  const void* parts = nullptr;
  void* sum = nullptr;
  int64_t splits = 1, batch = 1, rows = 0, cols = 0, pitch = 0;
};

}  // namespace quernel
