// SPDX-License-Identifier: Apache-2.0
// Vectors of one register, and loads and stores of the four storage types.
// Included once per instruction set, inside that set's namespace: nothing here may be shared
// between objects, or the linker could keep an AVX-512 copy for a CPU that has none.

// RSVHEAT_VECTOR_BYTES is the register width of the instruction set.
template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(RSVHEAT_VECTOR_BYTES)));
  typedef T unaligned __attribute__((vector_size(RSVHEAT_VECTOR_BYTES), aligned(sizeof(T))));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
inline constexpr int kLanes = RSVHEAT_VECTOR_BYTES / sizeof(T);

template <class T>
RSVHEAT_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VectorOf<T>::unaligned*>(p);
}

template <class T>
RSVHEAT_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VectorOf<T>::unaligned*>(p) = v;
}

template <class T>
RSVHEAT_INLINE Vec<T> splat(T value) {
  return value - Vec<T>{};  // not value + 0: keeps -0.0
}

template <class To, class From>
RSVHEAT_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

using Int32s = Vec<int32_t>;
using UInt32s = Vec<uint32_t>;
using Float32s = Vec<float>;
typedef uint16_t UInt16s __attribute__((vector_size(RSVHEAT_VECTOR_BYTES / 2)));

// All ones in the lanes where a comparison holds.
template <class T>
using Mask = decltype(Vec<T>{} < Vec<T>{});

template <class T>
RSVHEAT_INLINE bool any(Mask<T> mask) {
  bool found = false;
  for (int i = 0; i < kLanes<T>; ++i) found |= mask[i] != 0;
  return found;
}

// Storage types that are not arithmetic types here: their bits.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

RSVHEAT_INLINE UInt32s select(UInt32s mask, UInt32s a, UInt32s b) {
  return (a & mask) | (b & ~mask);
}

RSVHEAT_INLINE UInt32s load_bits(const void* p) {
  UInt16s half;
  __builtin_memcpy(&half, p, sizeof(half));
  return __builtin_convertvector(half, UInt32s);
}

RSVHEAT_INLINE void store_bits(void* p, UInt32s bits) {
  const UInt16s half = __builtin_convertvector(bits, UInt16s);
  __builtin_memcpy(p, &half, sizeof(half));
}

// Storage<S>::load and ::store move kLanes<Compute> elements between memory and a register,
// rounding to nearest even.
template <class S>
struct Storage {
  using Compute = S;  // float, double
  RSVHEAT_INLINE static Vec<S> load(const S* p) { return RSVHEAT_ISA::load(p); }
  RSVHEAT_INLINE static void store(S* p, Vec<S> v) { RSVHEAT_ISA::store(p, v); }
};

template <>
struct Storage<BFloat16> {
  using Compute = float;
  RSVHEAT_INLINE static Float32s load(const BFloat16* p) {
    return bit_cast<Float32s>(load_bits(p) << 16);
  }
  RSVHEAT_INLINE static void store(BFloat16* p, Float32s v) {
    const UInt32s bits = bit_cast<UInt32s>(v);
    const UInt32s rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    // Not select(): GCC loads its mask of ones under the comparison's mask, and where no value is
    // NaN and nothing else lies on the constant's page, that page never becomes resident: every
    // such load then takes the processor's slow path, a hundred times the rest.
    const UInt32s quiet = (bits >> 16) | 0x40u;
    store_bits(p, (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
};

template <>
struct Storage<Float16> {
  using Compute = float;
#if defined(__AVX512F__)
  // The zero-masked forms: GCC 12 warns that the plain ones read an uninitialised register.
  RSVHEAT_INLINE static Float32s load(const Float16* p) {
    return bit_cast<Float32s>(
        _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  }
  RSVHEAT_INLINE static void store(Float16* p, Float32s v) {
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(p),
        _mm512_maskz_cvtps_ph(0xffff, bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__F16C__) && defined(__AVX2__)
  RSVHEAT_INLINE static Float32s load(const Float16* p) {
    return bit_cast<Float32s>(
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  RSVHEAT_INLINE static void store(Float16* p, Float32s v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
  }
#else
  RSVHEAT_INLINE static Float32s load(const Float16* p) {
    const UInt32s half = load_bits(p);
    // Moving the exponent by multiplication also normalizes subnormals.
    const Float32s scaled = bit_cast<Float32s>((half & 0x7fffu) << 13) * 0x1p112f;
    const UInt32s special = bit_cast<UInt32s>((half & 0x7c00u) == 0x7c00u);
    const UInt32s magnitude = bit_cast<UInt32s>(scaled) | (special & 0x7f800000u);
    return bit_cast<Float32s>(magnitude | ((half & 0x8000u) << 16));
  }
  RSVHEAT_INLINE static void store(Float16* p, Float32s v) {
    const UInt32s bits = bit_cast<UInt32s>(v);
    const UInt32s magnitude = bits & 0x7fffffffu;
    // Adding 0.5 aligns the last kept bit of a float16 subnormal with float32's last bit.
    const UInt32s subnormal = bit_cast<UInt32s>(bit_cast<Float32s>(magnitude) + 0.5f) - 0x3f000000u;
    const UInt32s normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    UInt32s half = select(bit_cast<UInt32s>(magnitude < (113u << 23)), subnormal, normal);
    half = select(bit_cast<UInt32s>(magnitude >= 0x477ff000u), UInt32s{} + 0x7c00u, half);
    half = select(bit_cast<UInt32s>(magnitude > 0x7f800000u), UInt32s{} + 0x7e00u, half);
    store_bits(p, half | ((bits >> 16) & 0x8000u));
  }
#endif
};

template <class S>
using Compute = typename Storage<S>::Compute;

// The first `count` (at most kLanes) elements; the other lanes are zero.
template <class S>
RSVHEAT_INLINE Vec<Compute<S>> load_first(const S* p, int64_t count) {
  if (count >= kLanes<Compute<S>>) return Storage<S>::load(p);
  S buffer[kLanes<Compute<S>>] = {};
  __builtin_memcpy(buffer, p, count * sizeof(S));
  return Storage<S>::load(buffer);
}

template <class S>
RSVHEAT_INLINE void store_first(S* p, Vec<Compute<S>> v, int64_t count) {
  if (count >= kLanes<Compute<S>>) return Storage<S>::store(p, v);
  S buffer[kLanes<Compute<S>>];
  Storage<S>::store(buffer, v);
  __builtin_memcpy(p, buffer, count * sizeof(S));
}

// exp(x) for x <= 0, to about 1 unit in the last place; arguments below the logarithm of the
// smallest normal number, and NaN, count as that. 2^n * exp(r) with n = round(x / ln 2) and a
// polynomial in |r| <= ln(2) / 2.
RSVHEAT_INLINE Float32s exp_nonpositive(Float32s x) {
  x = x > -87.3f ? x : splat(-87.3f);
  constexpr float kShift = 0x1.8p23f;  // adding it rounds to an integer held in the low bits
  const Float32s shifted = x * 0x1.715476p0f + kShift;
  const Float32s n = shifted - kShift;
  Float32s r = x - n * 0x1.62e4p-1f;
  r = r - n * 0x1.7f7d1cp-20f;
  // exp(r) = 1 + r + r^2 q(r); q is the Chebyshev fit of degree 4, relative error 1.1e-8.
  Float32s p = r * 0x1.6d110ap-10f + 0x1.120b6ep-7f;
  p = p * r + 0x1.55551ap-5f;
  p = p * r + 0x1.5554dcp-3f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  return bit_cast<Float32s>(bit_cast<UInt32s>(p) + (bit_cast<UInt32s>(shifted) << 23));
}

RSVHEAT_INLINE Vec<double> exp_nonpositive(Vec<double> x) {
  using UInt64s = Vec<uint64_t>;
  x = x > -708.0 ? x : splat(-708.0);
  constexpr double kShift = 0x1.8p52;
  const Vec<double> shifted = x * 0x1.71547652b82fep0 + kShift;
  const Vec<double> n = shifted - kShift;
  Vec<double> r = x - n * 0x1.62e42fefa3800p-1;
  r = r - n * 0x1.ef35793c76730p-45;
  // Taylor to degree 13: the remainder at |r| = ln(2) / 2 is below 2^-57.
  Vec<double> p = splat(1.0 / 6227020800.0);
  constexpr double kInverseFactorials[] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1.0};
  for (double c : kInverseFactorials) p = p * r + c;
  p = p * r + 1.0;
  return bit_cast<Vec<double>>(bit_cast<UInt64s>(p) + (bit_cast<UInt64s>(shifted) << 52));
}

template <int kBit, class T, size_t... kLane>
RSVHEAT_INLINE void swap_lane_bit(Vec<T>& a, Vec<T>& b, std::index_sequence<kLane...>) {
  constexpr int kCount = kLanes<T>;
  const Vec<T> low =
      __builtin_shufflevector(a, b, ((kLane & kBit) ? kCount + kLane - kBit : kLane)...);
  b = __builtin_shufflevector(a, b, ((kLane & kBit) ? kCount + kLane : kLane + kBit)...);
  a = low;
}

// Transposes a kLanes x kLanes block: exchanges one bit of the row number with one of the lane's.
template <class T, int kBit = kLanes<T> / 2>
RSVHEAT_INLINE void transpose(Vec<T>* rows) {
  RSVHEAT_UNROLL
  for (int i = 0; i < kLanes<T>; ++i) {
    if (!(i & kBit)) {
      swap_lane_bit<kBit, T>(rows[i], rows[i + kBit], std::make_index_sequence<kLanes<T>>{});
    }
  }
  if constexpr (kBit > 1) transpose<T, kBit / 2>(rows);
}
