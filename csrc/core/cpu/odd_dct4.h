// SPDX-License-Identifier: Apache-2.0
// For odd n, a DCT-IV is a DCT-II of the same length between signed permutations and one layer of
// butterflies, which halves the work of the dense product.
//
// Both are real DFTs in disguise. Let z sit at position p of a signal of length n, and
//   C[j] = sum z cos(2 pi j p / n),   S[j] = sum z sin(2 pi j p / n).
// Writing the kernel's angle as 2 pi e / (4 n) (DCT-II) or 2 pi e / (8 n) (DCT-IV) and splitting e
// by the Chinese remainder theorem (4 and 8 are coprime to n) leaves an angle modulo n and a
// rotation by quarters or odd eighths of a turn, whose cosine and sine are signs. Every DCT-II
// output is then one C or S, every DCT-IV output a sum of one C and one S over sqrt(2).
#pragma once

namespace rsvheat {

// Codelets count on the compiler to fold these: left to its heuristics, GCC does so or not by how
// much else is compiled, and some codelets then take 30 % more time.
#define RSVHEAT_FOLDED __attribute__((always_inline)) constexpr

// Characters modulo 8 of an odd number: sqrt(2) cos and sin of pi a / 4, and modulo 4: sin(pi a /
// 2).
RSVHEAT_FOLDED int cosine_sign_eighth(int a) { return a % 8 == 1 || a % 8 == 7 ? 1 : -1; }
RSVHEAT_FOLDED int sine_sign_eighth(int a) { return a % 8 == 1 || a % 8 == 3 ? 1 : -1; }
RSVHEAT_FOLDED int sine_sign_quarter(int a) { return a % 4 == 1 ? 1 : -1; }

// Where a DCT-II of odd length n has its input i in the signal of the real DFT.
RSVHEAT_FOLDED int odd_dct2_position(int n, int i) {
  const int inverse_of_2 = (n + 1) / 2;
  const int inverse_of_4 = static_cast<int>(1LL * inverse_of_2 * inverse_of_2 % n);
  const int position = static_cast<int>(1LL * (2 * i + 1) * inverse_of_4 % n);
  return i % 2 == 0 ? position : (n - position) % n;
}

// Its output k is this sign times C[k] for even k and S[k] for odd k, or C[n - k] and S[n - k]
// where k > n / 2.
RSVHEAT_FOLDED int odd_dct2_sign(int n, int k) {
  if (k % 2 == 0) return k % 4 == 0 ? 1 : -1;
  const int sign = -sine_sign_quarter(k) * sine_sign_quarter(n);
  return k <= n / 2 ? sign : -sign;
}

struct OddDct4Entry {
  int source;  // the DCT-II's input i is dct4_input[source] * source_sign
  int source_sign;
  int cosine, cosine_sign;  // DCT-IV output = (cosine_sign * X[cosine] + sine_sign * X[sine])
  int sine, sine_sign;      //                 / sqrt(2); sine_sign is 0 where S vanishes
};

// Fills entries[0 .. n-1] for odd n.
constexpr void make_odd_dct4(int n, OddDct4Entry* entries) {
  const int inverse_of_2 = (n + 1) / 2;
  for (int i = 0; i < n; ++i) {
    // Where the DCT-II has its input i, the DCT-IV must have the source: equal positions modulo n.
    const int position = odd_dct2_position(n, i);
    // Invert position = +-(2 s + 1) / 8 for s of either parity.
    for (int parity = 0; parity < 2; ++parity) {
      const int p8 = parity == 0 ? position : (n - position) % n;
      const int doubled = static_cast<int>((8LL * p8 - 1 + n) % n);  // 2 s modulo n
      const int s = static_cast<int>(1LL * doubled * inverse_of_2 % n);
      if (s % 2 == parity) {
        entries[i].source = s;
        entries[i].source_sign = cosine_sign_eighth(2 * s + 1);
      }
    }
    const int q = 2 * i + 1;
    const int j = q % n;
    const int even = j % 2 == 0 ? j : n - j;
    entries[i].cosine = even;
    entries[i].cosine_sign =
        cosine_sign_eighth(q) * cosine_sign_eighth(n) * (even % 4 == 0 ? 1 : -1);
    const int odd = j % 2 == 1 ? j : n - j;
    entries[i].sine = j == 0 ? 0 : odd;
    entries[i].sine_sign = j == 0 ? 0
                                  : sine_sign_eighth(q) * sine_sign_eighth(n) *
                                        sine_sign_quarter(odd) * sine_sign_quarter(n) *
                                        (j % 2 == 1 ? 1 : -1);
  }
}

#undef RSVHEAT_FOLDED

}  // namespace rsvheat
