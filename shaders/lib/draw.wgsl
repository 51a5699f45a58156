//! draw — how a token is drawn, and the fixed-point arithmetic of it.
//!
//! exports  Draw, K_MOST, ONE, distance, weight, part, sum_add, sum_less
//! import   candidate
//! cpu      src/backend/draw.rs

/// Most candidates.
const K_MOST = 256u;

/// A power of two times a mantissa that has its highest bit set, or is 0.
struct Scale { mantissa: u32, exponent: i32 }

/// log2(e), for temperature 1.
const ONE = Scale(0xb8aa3b29u, -31i);

struct Draw {
    /// Candidates, 1 to K_MOST.
    k: u32,
    /// In units of 2⁻³²; 0 for all.
    top_p: u32,
    /// The largest distance at temperature 1.
    min_p: u32,
    random: u32,
    /// log2(e) / temperature
    scale: Scale,
}

/// The high word of a product.
fn mul_high(a: u32, b: u32) -> u32 {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let middle = a1 * b0 + ((a0 * b0) >> 16u);
    let other = a0 * b1 + (middle & 0xffffu);
    return a1 * b1 + (middle >> 16u) + (other >> 16u);
}

/// A sum of weights is two words, the low one first.
fn sum_add(sum: vec2<u32>, weight: u32) -> vec2<u32> {
    let low = sum.x + weight;
    return vec2<u32>(low, sum.y + select(0u, 1u, low < weight));
}

fn sum_less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

/// total · fraction / 2³²
fn part(total: vec2<u32>, fraction: u32) -> vec2<u32> {
    return sum_add(vec2<u32>(total.y * fraction, mul_high(total.y, fraction)), mul_high(total.x, fraction));
}

fn mantissa(bits: u32) -> u32 {
    return ((bits & 0x007fffffu) | select(0u, 0x00800000u, bits >= 0x00800000u)) << 7u;
}

/// How far below the logit `best` another one is, times `scale`: a power of two by which it is less likely, in units of
/// 2⁻²⁴. 2³² - 1 from 128 or 256 on, and where the other is -∞. Both are keys of candidates.
fn distance(best: u32, other: u32, scale: Scale) -> u32 {
    let a = select(~best, best ^ 0x80000000u, best >= 0x80000000u);
    let b = select(~other, other ^ 0x80000000u, other >= 0x80000000u);
    let high = max(a & 0x7fffffffu, b & 0x7fffffffu);
    let low = min(a & 0x7fffffffu, b & 0x7fffffffu);
    let high_exponent = max(high >> 23u, 1u);
    let low_exponent = max(low >> 23u, 1u);
    // Mantissas with seven bits to spare for what is shifted out of the lower one.
    let shifted = mantissa(low) >> min(high_exponent - low_exponent, 31u);
    let difference = mantissa(high) + select(~shifted + 1u, shifted, ((a ^ b) >> 31u) == 1u);
    let shift = countLeadingZeros(difference);
    let product = mul_high(difference << (shift & 31u), scale.mantissa);
    // The difference is in units of 2^(exponent - 157), the product is 2³² times smaller, the result in units of 2⁻²⁴.
    let up = i32(high_exponent) - i32(shift) - 101i + scale.exponent;
    let result = select(0u, product >> (u32(-up) & 31u), up > -32i);
    let small = select(result, 0xffffffffu, up > 0i && product > 0u);
    return select(small, 0xffffffffu, high_exponent == 255u);
}

/// 2^-distance in units of 2⁻³¹.
fn weight(distance: u32) -> u32 {
    let t = distance << 8u;
    var sum = 0x09c200u - mul_high(t, 0xbda6u);
    sum = 0x5728b0u - mul_high(t, sum);
    sum = 0x027641a9u - mul_high(t, sum);
    sum = 0x0e358127u - mul_high(t, sum);
    sum = 0x3d7f7bcbu - mul_high(t, sum);
    sum = 0xb17217f7u - mul_high(t, sum);
    let shift = distance >> 24u;
    return select(0u, (0x80000000u - (mul_high(t, sum) >> 1u)) >> (shift & 31u), shift < 32u);
}
