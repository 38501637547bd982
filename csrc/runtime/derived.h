// Tensors derived from weights: packed layouts. Normally they are computed where they are needed, as part of the op.
// While a frozen model is recorded its weights are constants, so they are computed once, outside the plan, and shared
// by all its plans through a DerivedCache.
#pragma once
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "core/tensor.h"

namespace quernel {

class DerivedCache {
 public:
  // The tensor made from `source`, keyed by its identity, version and `kind`.
  Tensor get(const Tensor& source, const std::string& kind, const std::function<Tensor()>& make);
  int64_t nbytes() const;

 private:
  struct Entry {
    Tensor source;  // keeps the identity from being reused
    Tensor derived;
  };
  mutable std::mutex mutex_;
  std::map<std::tuple<const void*, uint64_t, std::string>, Entry> entries_;
};

// Whether tensors derived from `source` are made once and kept: it is a constant of a frozen model being recorded.
bool keeps_derived(const Tensor& source);

// The tensor that `make` derives from `source`; kept ones are keyed by `kind`.
Tensor derived(const Tensor& source, const char* kind, const std::function<Tensor()>& make);

}  // namespace quernel
