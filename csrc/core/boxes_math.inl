// SPDX-License-Identifier: Apache-2.0
// Intersection of rotated boxes, the arithmetic that all kernels share: the CPU kernels include it
// with V = a vector of float64, the CUDA kernels with V = double. The including file defines
// RSVHEAT_MATH (the function specifier) and, for its V,
//   product_error(a, b, a * b)   the rounding error of a product, exactly
//   any_lane(mask)               whether a comparison holds in any lane.
// It must be compiled without contraction to fused multiply-adds: then every instruction set, CUDA
// and the reference implementation (rsvheat/ops/_boxes_reference.py) give the same bits.
//
// How the intersection is computed. One box (the frame) is |x| <= a, |y| <= b in its own
// coordinates. The other one is convex: an upper chain left -> top -> right and a lower chain
// left -> bottom -> right. The intersection's area is
//   integral over -a <= x <= a of clamp(upper(x), -b, b) - clamp(lower(x), -b, b),
// a sum over four edges of the integral of a clamped linear function. No polygon is built and no
// two edges are intersected, so coinciding edges and corners are no special cases, and each term is
// bounded by the frame's area: the sum's error is a few units in the last place of the union.
//
// What remains is the position of the other box in the frame. Differences of center coordinates,
// sines and cosines are therefore kept as pairs high + low: cos(p - q) and sin(p - q) come out to
// the last place even for nearly parallel boxes, and so does the offset across a long and thin one.
// The longer box is the frame, so that what is not exact, the position along the longer side,
// matters at its short ends only. Error of the ratio against 60 digits: below 1e-15 for all
// families in tests/ops/test_boxes_iou.py, slivers of 1e-6 by 60 included.

template <class V>
struct Exact {  // the unevaluated sum high + low, |low| at most half a unit of high's last place
  V high, low;
};

template <class V>
RSVHEAT_MATH V absolute_value(V a) {
  return a < 0.0 ? -a : a;
}
template <class V>
RSVHEAT_MATH V smaller(V a, V b) {
  return a < b ? a : b;
}
template <class V>
RSVHEAT_MATH V larger(V a, V b) {
  return a > b ? a : b;
}
// `value`, or the bound beyond which it is; `low` where low > high.
template <class V>
RSVHEAT_MATH V within(V value, V low, V high) {
  return larger(smaller(value, high), low);
}

template <class V>
RSVHEAT_MATH Exact<V> exact_sum(V a, V b) {
  const V total = a + b;
  const V other = total - a;
  return {total, (a - (total - other)) + (b - other)};
}

template <class V>
RSVHEAT_MATH Exact<V> exact_product(V a, V b) {
  const V product = a * b;
  return {product, product_error(a, b, product)};
}

template <class V>
RSVHEAT_MATH Exact<V> renormalized(V high, V low) {
  const V total = high + low;
  return {total, low - (total - high)};
}

template <class V>
RSVHEAT_MATH Exact<V> multiply(Exact<V> a, Exact<V> b) {
  const Exact<V> p = exact_product(a.high, b.high);
  return renormalized(p.high, p.low + (a.high * b.low + a.low * b.high));
}

// a * b + c * d.
template <class V>
RSVHEAT_MATH V dot(Exact<V> a, Exact<V> b, Exact<V> c, Exact<V> d) {
  const Exact<V> p = exact_product(a.high, b.high), q = exact_product(c.high, d.high);
  const Exact<V> total = exact_sum(p.high, q.high);
  const V low = (a.high * b.low + a.low * b.high) + (c.high * d.low + c.low * d.high);
  return total.high + (total.low + (p.low + q.low) + low);
}

template <class V>
RSVHEAT_MATH Exact<V> operator-(Exact<V> a) {
  return {-a.high, -a.low};
}

template <class V>
RSVHEAT_MATH Exact<V> constant(double high, double low) {
  return {V{} + high, V{} + low};
}

// One step of Horner's rule in pairs.
template <class V>
RSVHEAT_MATH Exact<V> next_term(Exact<V> total, Exact<V> x, double high, double low) {
  const Exact<V> product = multiply(total, x);
  const Exact<V> sum = exact_sum(product.high, V{} + high);
  return renormalized(sum.high, sum.low + (product.low + low));
}

// Taylor series; from the eighth term on, below 1e-13 of the first, float64 is enough.
template <class V>
RSVHEAT_MATH Exact<V> sine(Exact<V> x, Exact<V> squared) {
  V plain = V{} + 0x1.3f3ccdd165fa9p-84;
  plain = plain * squared.high - 0x1.761b41316381ap-75;
  plain = plain * squared.high + 0x1.71b8ef6dcf572p-66;
  plain = plain * squared.high - 0x1.2f49b46814157p-57;
  plain = plain * squared.high + 0x1.952c77030ad4ap-49;
  plain = plain * squared.high - 0x1.ae7f3e733b81fp-41;
  Exact<V> total{plain, V{}};
  total = next_term(total, squared, 0x1.6124613a86d09p-33, 0x1.f28e0cc748ebep-87);
  total = next_term(total, squared, -0x1.ae64567f544e4p-26, 0x1.c062e06d1f209p-80);
  total = next_term(total, squared, 0x1.71de3a556c734p-19, -0x1.c154f8ddc6c00p-73);
  total = next_term(total, squared, -0x1.a01a01a01a01ap-13, -0x1.a01a01a01a01ap-73);
  total = next_term(total, squared, 0x1.1111111111111p-7, 0x1.1111111111111p-63);
  total = next_term(total, squared, -0x1.5555555555555p-3, -0x1.5555555555555p-57);
  total = next_term(total, squared, 1.0, 0.0);
  return multiply(total, x);
}

template <class V>
RSVHEAT_MATH Exact<V> cosine(Exact<V> squared) {
  V plain = V{} - 0x1.88e85fc6a4e5ap-89;
  plain = plain * squared.high + 0x1.f2cf01972f578p-80;
  plain = plain * squared.high - 0x1.0ce396db7f853p-70;
  plain = plain * squared.high + 0x1.e542ba4020225p-62;
  plain = plain * squared.high - 0x1.6827863b97d97p-53;
  plain = plain * squared.high + 0x1.ae7f3e733b81fp-45;
  plain = plain * squared.high - 0x1.93974a8c07c9dp-37;
  Exact<V> total{plain, V{}};
  total = next_term(total, squared, 0x1.1eed8eff8d898p-29, -0x1.2aec959e14c06p-83);
  total = next_term(total, squared, -0x1.27e4fb7789f5cp-22, -0x1.cbbc05b4fa99ap-76);
  total = next_term(total, squared, 0x1.a01a01a01a01ap-16, 0x1.a01a01a01a01ap-76);
  total = next_term(total, squared, -0x1.6c16c16c16c17p-10, 0x1.f49f49f49f49fp-65);
  total = next_term(total, squared, 0x1.5555555555555p-5, 0x1.5555555555555p-59);
  total = next_term(total, squared, -0.5, 0.0);
  return next_term(total, squared, 1.0, 0.0);
}

// A box made ready for pairs: y upward, so that its angle turns the usual way; a quarter turn
// counts as an exchange of the sides, so that the angle is in [-45, 45) degrees. x and y are NaN
// where the box is invalid, which is apart from none then. All areas are in quarters: half a side
// times half a side.
template <class V>
struct Box {
  V x, y, half_w, half_h;
  Exact<V> cos, sin;
  V extent_x, extent_y;  // half the sides of the axis-aligned box around it
};

// Sides and coordinates beyond these count as invalid: their products would overflow, or vanish.
constexpr double kLargestCoordinate = 1e150;
constexpr double kSmallestSide = 1e-150;
// Angles beyond this many degrees are reduced by the C library before they come here.
constexpr double kLargestPlainAngle = 0x1p40;

// |angle| <= kLargestPlainAngle, or NaN. Returns also whether the sides were exchanged: the
// gradients of w and h have to be exchanged back.
template <class V>
RSVHEAT_MATH Box<V> prepare(V x, V y, V w, V h, V angle, V* exchanged) {
  constexpr double kRounding = 0x1.8p52;  // adding and subtracting it rounds to an integer
  const auto valid = (absolute_value(x) <= kLargestCoordinate) &
                     (absolute_value(y) <= kLargestCoordinate) &
                     (absolute_value(angle) <= kLargestPlainAngle) & (w <= kLargestCoordinate) &
                     (h <= kLargestCoordinate) & ((w >= kSmallestSide) | (w == 0.0)) &
                     ((h >= kSmallestSide) | (h == 0.0));
  const V safe = valid ? angle : V{};
  V turns = (safe * (1.0 / 90.0) + kRounding) - kRounding;
  V rest = safe - turns * 90.0;  // exact
  const V one = V{} + 1.0, none{};
  const V correction = rest >= 45.0 ? one : rest < -45.0 ? -one : none;
  rest = rest - correction * 90.0;
  turns = turns + correction;
  const auto swap = ((turns * 0.5 + kRounding) - kRounding) * 2.0 != turns;
  *exchanged = swap ? one : none;

  Box<V> box;
  box.x = valid ? x : V{} + __builtin_nan("");
  box.y = valid ? -y : V{} + __builtin_nan("");
  box.half_w = (swap ? h : w) * 0.5;
  box.half_h = (swap ? w : h) * 0.5;
  const Exact<V> radians =
      multiply(Exact<V>{rest, V{}}, constant<V>(0x1.1df46a2529d39p-6, 0x1.5c1d8becdd291p-62));
  const Exact<V> squared = multiply(radians, radians);
  box.sin = sine(radians, squared);
  box.cos = cosine(squared);
  const V s = absolute_value(box.sin.high);
  box.extent_x = box.half_w * box.cos.high + box.half_h * s;
  box.extent_y = box.half_w * s + box.half_h * box.cos.high;
  return box;
}

// Whether the axis-aligned boxes around both do not touch. NaN does not tell.
template <class V>
RSVHEAT_MATH auto apart_along_axes(const V& x_p, const V& y_p, const V& extent_x_p,
                                   const V& extent_y_p, const V& x_q, const V& y_q,
                                   const V& extent_x_q, const V& extent_y_q) {
  return (absolute_value(x_p - x_q) > extent_x_p + extent_x_q) |
         (absolute_value(y_p - y_q) > extent_y_p + extent_y_q);
}

// A total order of boxes, whichever is called p: true where p comes before q.
template <class V>
RSVHEAT_MATH auto comes_first(const Box<V>& p, const Box<V>& q) {
  const V side_p = larger(p.half_w, p.half_h), side_q = larger(q.half_w, q.half_h);
  auto first = side_p > side_q;
  const auto tie = side_p == side_q;
  if (any_lane(tie)) {
    const V keys[][2] = {
        {p.y, q.y},           {p.x, q.x},          {p.sin.low, q.sin.low}, {p.sin.high, q.sin.high},
        {p.half_h, q.half_h}, {p.half_w, q.half_w}};
    auto below = p.y > p.y;  // false
    for (const auto& key : keys) below = (key[0] > key[1]) | ((key[0] == key[1]) & below);
    first = first | (tie & below);
  }
  return first;
}

// A sine or cosine below this counts as zero, so that no slope overflows.
constexpr double kParallel = 1e-100;

// A box in the coordinates of another one, the frame, mirrored there if need be so that its angle
// is in [0, 90] degrees: center, half sides, cosine and sine; half sides of the frame.
template <class V>
struct Placed {
  V x, y, w, h, c, s, a, b;
  V mirrored;  // 1 or 0
};

template <class V>
RSVHEAT_MATH Placed<V> place(Exact<V> dx, Exact<V> dy, V c, V s, V w, V h, Exact<V> frame_cos,
                             Exact<V> frame_sin, V a, V b) {
  const V x = dot(dx, frame_cos, dy, frame_sin);
  const V y = dot(dy, frame_cos, -dx, frame_sin);
  const auto negative = s < 0.0;
  return {x, negative ? -y : y, w, h, c, negative ? -s : s, a, b, negative ? V{} + 1.0 : V{}};
}

// Whether a side of one of the two separates them.
template <class V>
RSVHEAT_MATH auto separated(const Placed<V>& t) {
  const V across_x = t.x * t.c + t.y * t.s, across_y = t.y * t.c - t.x * t.s;
  return (absolute_value(t.x) >= t.a + (t.w * t.c + t.h * t.s)) |
         (absolute_value(t.y) >= t.b + (t.w * t.s + t.h * t.c)) |
         (absolute_value(across_x) >= t.w + (t.a * t.c + t.b * t.s)) |
         (absolute_value(across_y) >= t.h + (t.a * t.s + t.b * t.c));
}

// The integral, over a stretch `width` of x, of a linear function that goes between `low` and
// `high` there (low <= high but for rounding), clamped to [-b, b].
template <class V>
RSVHEAT_MATH V clamped_integral(V width, V low, V high, V b) {
  const V bottom = within(-b, low, high), top = within(b, low, high);
  const V length = high - low;
  const V total = (top - bottom) * (0.5 * (top + bottom)) + b * ((high - top) - (bottom - low));
  const V flat = within(0.5 * (low + high), -b, b);
  const auto rising = length > 0.0;
  return width * (rising ? total / (rising ? length : V{} + 1.0) : flat);
}

template <class V>
RSVHEAT_MATH V quarter_of_intersection(const Placed<V>& t) {
  const V uc = t.w * t.c, us = t.w * t.s, vc = t.h * t.c, vs = t.h * t.s, one = V{} + 1.0;
  // Slopes; the edges of an infinite one have no width.
  const auto leans = t.c > kParallel, turned = t.s > kParallel;
  const V rise = leans ? t.s / (leans ? t.c : one) : V{};
  const V fall = turned ? t.c / (turned ? t.s : one) : V{};
  const V x_left = t.x - (uc + vs), x_right = t.x + (uc + vs);
  const V x_top = t.x + (uc - vs), x_bottom = t.x - (uc - vs);
  const V y_left = t.y + (vc - us), y_right = t.y - (vc - us);
  const V y_top = t.y + (us + vc), y_bottom = t.y - (us + vc);
  const V left = within(x_left, -t.a, t.a), right = within(x_right, -t.a, t.a);
  const V top = within(x_top, -t.a, t.a), bottom = within(x_bottom, -t.a, t.a);
  // Heights at the ends of each edge, from the corner that is nearer: exact where it is inside.
  const V upper_rise = clamped_integral(top - left, y_left + (left - x_left) * rise,
                                        y_top - (x_top - top) * rise, t.b);
  const V upper_fall = clamped_integral(right - top, y_right + (x_right - right) * fall,
                                        y_top - (top - x_top) * fall, t.b);
  const V lower_fall = clamped_integral(bottom - left, y_bottom + (x_bottom - bottom) * fall,
                                        y_left - (left - x_left) * fall, t.b);
  const V lower_rise = clamped_integral(right - bottom, y_bottom + (bottom - x_bottom) * rise,
                                        y_right - (x_right - right) * rise, t.b);
  return 0.25 * ((upper_rise - lower_rise) + (upper_fall - lower_fall));
}

// Intersection over union, in [0, 1]: the same for (p, q) and (q, p), 1 for equal boxes, 0 where
// they do not overlap or the union has no area, NaN if a box is invalid.
template <class V>
RSVHEAT_MATH V intersection_over_union(const Box<V>& p, const Box<V>& q) {
  const Exact<V> dx = exact_sum(p.x, -q.x), dy = exact_sum(p.y, -q.y);
  const V c = dot(p.cos, q.cos, p.sin, q.sin);
  const V s = dot(p.sin, q.cos, -p.cos, q.sin);
  const auto first = comes_first(p, q);  // then p is the frame
  const V sign = first ? V{} - 1.0 : V{} + 1.0;
  const Placed<V> placed =
      place(Exact<V>{dx.high * sign, dx.low * sign}, Exact<V>{dy.high * sign, dy.low * sign}, c,
            s * sign, first ? q.half_w : p.half_w, first ? q.half_h : p.half_h,
            Exact<V>{first ? p.cos.high : q.cos.high, first ? p.cos.low : q.cos.low},
            Exact<V>{first ? p.sin.high : q.sin.high, first ? p.sin.low : q.sin.low},
            first ? p.half_w : q.half_w, first ? p.half_h : q.half_h);
  const V area_p = p.half_w * p.half_h, area_q = q.half_w * q.half_h;
  const auto apart = separated(placed) | apart_along_axes(p.x, p.y, p.extent_x, p.extent_y, q.x,
                                                          q.y, q.extent_x, q.extent_y);
  const V found = quarter_of_intersection(placed);
  const V limit = smaller(area_p, area_q);
  const V quarter = (apart | (found < 0.0)) ? V{} : smaller(found, limit);
  const V total = (area_p + area_q) - quarter;
  const auto some = total > 0.0;
  const V ratio = some ? quarter / (some ? total : V{} + 1.0) : V{};
  return ((p.x == p.x) & (q.x == q.x)) ? ratio : V{} + __builtin_nan("");
}

// The part of an edge that lies in the frame, by its length and by the integral of the position
// along it. A side that coincides with one of the frame's counts half: the derivative of the
// intersection is one-sided there, and this is the mean of both.
template <class V>
struct Part {
  V length, moment;
};

// The edge is (x + x_per_t * t, y + y_per_t * t), |t| <= half.
template <class V>
RSVHEAT_MATH Part<V> part_of_edge(V x, V x_per_t, V a, V y, V y_per_t, V b, V half) {
  const V one = V{} + 1.0;
  const V huge = V{} + 1e300;
  const auto moves_x = absolute_value(x_per_t) > kParallel;
  const auto moves_y = absolute_value(y_per_t) > kParallel;
  const V per_x = one / (moves_x ? x_per_t : one), per_y = one / (moves_y ? y_per_t : one);
  const V x_one = (-a - x) * per_x, x_two = (a - x) * per_x;
  const V y_one = (-b - y) * per_y, y_two = (b - y) * per_y;
  const V x_begin = moves_x ? smaller(x_one, x_two) : -huge;
  const V x_end = moves_x ? larger(x_one, x_two) : huge;
  const V y_begin = moves_y ? smaller(y_one, y_two) : -huge;
  const V y_end = moves_y ? larger(y_one, y_two) : huge;
  const V begin = larger(larger(x_begin, y_begin), -half);
  const V end = smaller(smaller(x_end, y_end), half);
  const V distance_x = absolute_value(x), distance_y = absolute_value(y);
  const V share_x = (moves_x | (distance_x < a)) ? one : distance_x == a ? 0.5 * one : V{};
  const V share_y = (moves_y | (distance_y < b)) ? one : distance_y == b ? 0.5 * one : V{};
  const V length = (end > begin ? end - begin : V{}) * (share_x * share_y);
  return {length, length * (0.5 * (begin + end))};
}

// Derivatives of the intersection over union by x, y (downward, as given), w, h and the angle in
// degrees of p. By the boundary's motion: what an edge's part inside q sweeps.
template <class V>
struct BoxGradient {
  V x, y, w, h, angle;
};

template <class V>
RSVHEAT_MATH BoxGradient<V> gradient_of_first(const Box<V>& p, const Box<V>& q, V exchanged) {
  const Exact<V> dx = exact_sum(p.x, -q.x), dy = exact_sum(p.y, -q.y);
  const V c = dot(p.cos, q.cos, p.sin, q.sin);
  const V s = dot(p.sin, q.cos, -p.cos, q.sin);
  const Placed<V> t = place(dx, dy, c, s, p.half_w, p.half_h, q.cos, q.sin, q.half_w, q.half_h);
  const V area_p = t.w * t.h, area_q = t.a * t.b;
  const V uc = t.w * t.c, us = t.w * t.s, vc = t.h * t.c, vs = t.h * t.s;
  const Part<V> right = part_of_edge(t.x + uc, -t.s, t.a, t.y + us, t.c, t.b, t.h);
  const Part<V> left = part_of_edge(t.x - uc, -t.s, t.a, t.y - us, t.c, t.b, t.h);
  const Part<V> top = part_of_edge(t.x - vs, t.c, t.a, t.y + vc, t.s, t.b, t.w);
  const Part<V> bottom = part_of_edge(t.x + vs, t.c, t.a, t.y - vc, t.s, t.b, t.w);

  const auto apart = separated(t) | apart_along_axes(p.x, p.y, p.extent_x, p.extent_y, q.x, q.y,
                                                     q.extent_x, q.extent_y);
  const V found = quarter_of_intersection(t);
  const V limit = smaller(area_p, area_q);
  const V quarter = (apart | (found < 0.0)) ? V{} : smaller(found, limit);
  const V total = (area_p + area_q) - quarter;
  const auto some = (total > 0.0) & ((p.x != p.x) | (q.x != q.x) | (quarter > 0.0));
  // From a change of the intersection to one of the ratio, in quarters of the area. Not by the
  // square of the union, which could underflow.
  const V divisor = some ? total : V{} + 1.0;
  const V scale = some ? 0.25 * (((area_p + area_q) / divisor) / divisor) : V{};
  const V by_area = some ? (quarter / divisor) / divisor : V{};

  const V sign = t.mirrored > 0.0 ? V{} - 1.0 : V{} + 1.0;
  const V along_u = (right.length - left.length) * scale;
  const V along_v = (top.length - bottom.length) * scale * sign;
  const V turn = ((top.moment - bottom.moment) - (right.moment - left.moment)) * scale * sign;
  // By the half sides; the areas' own derivatives are the other half sides.
  const V by_w = (right.length + left.length) * scale - by_area * t.h;
  const V by_h = (top.length + bottom.length) * scale - by_area * t.w;
  const auto swap = exchanged > 0.0;
  const V nothing = ((p.x == p.x) & (q.x == q.x)) ? V{} : V{} + __builtin_nan("");
  return {along_u * p.cos.high - along_v * p.sin.high + nothing,
          -(along_u * p.sin.high + along_v * p.cos.high) + nothing,
          0.5 * (swap ? by_h : by_w) + nothing, 0.5 * (swap ? by_w : by_h) + nothing,
          turn * 0x1.1df46a2529d39p-6 + nothing};
}
