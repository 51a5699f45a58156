//! Formats on the CPU: the bits that ggml gives, error limits of quantization, planes, and hostile bytes.

use std::sync::Arc;

use halfbyte::quant::{self, ALL, Format, SharedBytes, Weight};
use proptest::prelude::*;

use crate::common::{Random, golden};
use crate::ops;

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn read(name: &str) -> Vec<u8> {
    let path = golden("quant").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn dequantize(format: &Format, blocks: &[u8]) -> Vec<f32> {
    let mut weights = vec![f32::NAN; blocks.len() / format.block_bytes * format.block_len];
    (format.dequantize)(blocks, &mut weights);
    weights
}

fn quantize(format: &Format, weights: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0xa5; format.bytes(weights.len())];
    (format.quantize)(weights, None, &mut blocks);
    blocks
}

/// Planes of whole blocks, as on a device.
fn pack(format: &Format, blocks: &[u8]) -> Vec<Vec<u8>> {
    let n = blocks.len() / format.block_bytes;
    let mut planes: Vec<Vec<u8>> = format.planes.iter().map(|p| vec![0xa5; n * p.block_bytes]).collect();
    (format.pack)(blocks, &mut planes.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
    planes
}

#[test]
fn table_is_consistent() {
    let ids_and_names = [
        (0, "F32"),
        (1, "F16"),
        (30, "BF16"),
        (2, "Q4_0"),
        (3, "Q4_1"),
        (6, "Q5_0"),
        (7, "Q5_1"),
        (8, "Q8_0"),
        (12, "Q4_K"),
        (13, "Q5_K"),
        (14, "Q6_K"),
    ];
    assert_eq!(ALL.iter().map(|f| (f.id, f.name)).collect::<Vec<_>>(), ids_and_names);
    for format in ALL {
        assert_eq!(quant::by_id(format.id), Some(*format));
        assert_eq!(format.planes.iter().map(|p| p.block_bytes).sum::<usize>(), format.block_bytes, "{format}");
        assert!(32 % format.block_len == 0 || format.block_len % 32 == 0, "{format}: groups of 32 lie in one block");
    }
    assert_eq!(quant::by_id(99), None);
}

#[test]
fn dequantize_gives_ggmls_bits() {
    for format in ALL {
        let found = dequantize(format, &read(&format!("{format}.blocks")));
        let expected = floats(&read(&format!("{format}.f32")));
        assert_eq!(found.len(), expected.len(), "{format}");
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{format}[{i}]: {found:e}, ggml has {expected:e}");
        }
    }
}

#[test]
fn quantize_gives_ggmls_bits() {
    let source = floats(&read("source.f32"));
    for format in ALL.iter().filter(|f| f.name != "F32" && !f.name.ends_with("_K")) {
        let found = quantize(format, &source);
        let expected = read(&format!("{format}.quantized"));
        assert_eq!(found.len(), expected.len(), "{format}");
        for (i, (found, expected)) in
            found.chunks(format.block_bytes).zip(expected.chunks(format.block_bytes)).enumerate()
        {
            assert_eq!(found, expected, "{format}, block {i}");
        }
    }
}

/// Root of the mean squared error, relative to the root of the mean square.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let expected: Vec<f64> = expected.iter().map(|&e| f64::from(e)).collect();
    crate::common::nmse(found, &expected).sqrt()
}

#[test]
fn quantize_keeps_the_error_low() {
    let mut random = Random::new(7);
    let normal: Vec<f32> = (0..1 << 15).map(|_| 0.02 * random.normal()).collect();
    // Measured, and 2 % more. The simple formats have ggml's bits anyway; what ggml's own search makes of normal
    // numbers is 0.0713 for Q4_K, 0.0361 for Q5_K and 0.0178 for Q6_K.
    let limits = [
        ("F32", 0.0),
        ("F16", 2.12e-4),
        ("BF16", 1.7e-3),
        ("Q4_0", 0.0877),
        ("Q4_1", 0.0799),
        ("Q5_0", 0.0434),
        ("Q5_1", 0.0386),
        ("Q8_0", 0.0055),
        ("Q4_K", 0.0734),
        ("Q5_K", 0.0367),
        ("Q6_K", 0.0182),
    ];
    for (format, (name, limit)) in ALL.iter().zip(limits) {
        assert_eq!(format.name, name);
        let error = relative_error(&dequantize(format, &quantize(format, &normal)), &normal);
        assert!(error <= limit, "{format}: {error:.5} (limit {limit})");
    }
}

#[test]
fn scale_search_beats_plain_rounding() {
    // What the search is for: its error against that of the obvious scale, which the simple formats take.
    let mut random = Random::new(8);
    let normal: Vec<f32> = (0..1 << 15).map(|_| random.normal()).collect();
    let error = |name: &str| {
        let format = ALL.iter().find(|f| f.name == name).expect("a format of the table");
        relative_error(&dequantize(format, &quantize(format, &normal)), &normal)
    };
    assert!(error("Q4_K") < error("Q4_1"), "4.5 bits with a search against 5 bits without");
    assert!(error("Q5_K") < error("Q5_1"), "5.5 bits with a search against 6 bits without");
}

#[test]
fn constant_blocks_survive_quantization() {
    for format in ALL {
        for value in [0.0, 0.25, -0.25, 1.0] {
            let weights = vec![value; 512];
            let back = dequantize(format, &quantize(format, &weights));
            for w in back {
                assert!((w - value).abs() <= 0.02 * value.abs(), "{format}: {value} became {w}");
            }
        }
    }
}

#[test]
fn planes_hold_the_bits_of_their_blocks() {
    // What a plane has in place of a field of the file; the GPU's tests show that the bits are where shaders look.
    let n_ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let mut random = Random::new(9);
    for format in ALL {
        let blocks = random.bytes(7 * format.block_bytes);
        let together = pack(format, &blocks);
        for (b, block) in blocks.chunks(format.block_bytes).enumerate() {
            for ((alone, together), plane) in pack(format, block).iter().zip(&together).zip(format.planes) {
                let at = b * plane.block_bytes;
                assert_eq!(alone, &together[at..at + plane.block_bytes], "{format}.{}, block {b}", plane.name);
            }
        }
        let mut expected = blocks.clone();
        if format.name == "Q8_0" {
            // Signs are flipped on the way.
            expected.chunks_mut(34).for_each(|block| block[2..].iter_mut().for_each(|q| *q ^= 0x80));
        }
        assert_eq!(together.iter().map(|p| n_ones(p)).sum::<u32>(), n_ones(&expected), "{format}: every bit once");
    }
}

#[test]
fn a_weight_is_sliced_by_rows_without_a_copy() {
    let mut random = Random::new(10);
    for format in ALL {
        let (n_rows, row_len) = (5, 512);
        let bytes = random.bytes(3 + format.bytes(n_rows * row_len));
        let file = SharedBytes::new(Arc::new(bytes.clone()));
        let weight = Weight {
            shape: vec![n_rows, row_len],
            format,
            bytes: file.slice(3..bytes.len()).slice(0..bytes.len() - 3),
        };
        drop(file);
        assert_eq!((weight.n_rows(), weight.row_len(), weight.row_bytes()), (n_rows, row_len, format.bytes(row_len)));

        let part = weight.rows(1..3);
        assert_eq!(part.shape, [2, row_len]);
        assert_eq!(part.bytes.as_ptr(), weight.bytes[weight.row_bytes()..].as_ptr(), "no copy");
        let (all, part) = (weight.to_f32(), part.to_f32());
        let bits = |w: &[f32]| w.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&part), bits(&all[row_len..3 * row_len]));
        assert!(weight.rows(5..5).to_f32().is_empty());
    }
    let vector = Weight {
        shape: vec![4],
        format: ALL[0],
        bytes: SharedBytes::new(Arc::new([1.5f32; 4].map(f32::to_le_bytes).concat())),
    };
    assert_eq!((vector.n_rows(), vector.row_len(), vector.to_f32()), (1, 4, vec![1.5; 4]));
}

#[test]
#[should_panic(expected = "2..9 of 8 bytes")]
fn shared_bytes_end_where_they_end() {
    SharedBytes::new(Arc::new(vec![0; 20])).slice(0..8).slice(2..9);
}

proptest! {
    #[test]
    fn any_bytes_are_numbers(bytes in proptest::collection::vec(any::<u8>(), 1024..2048), offset in 0..16usize) {
        for format in ALL {
            let n = (bytes.len() - offset) / format.block_bytes;
            let blocks = &bytes[offset..][..n * format.block_bytes];
            let found = dequantize(format, blocks);
            // Block by block and from another place in memory: the same bits.
            for (block, found) in blocks.chunks(format.block_bytes).zip(found.chunks(format.block_len)) {
                let again = dequantize(format, &[&[0], block].concat()[1..]);
                prop_assert!(found.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
            }
        }
    }

    #[test]
    fn any_numbers_can_be_quantized(bits in proptest::collection::vec(any::<u32>(), 256)) {
        let weights: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for format in ALL {
            quantize(format, &weights);
        }
    }

    #[test]
    fn errors_are_within_a_step(scale in 0..12, values in proptest::collection::vec(-1.0f32..1.0, 256)) {
        // The largest error, in units of the largest magnitude of a block: half a step, or a whole one where the far end
        // of the range is out of reach. Rounded to halves, a scale is off by 2⁻¹¹ of the range, which is up to twice
        // the magnitude, and an offset by 2⁻¹¹ of the magnitude.
        const HALVES: f32 = 3.0 / 2048.0;
        let limits = [
            ("F32", 0.0),
            ("F16", 1.0 / 2048.0),
            ("BF16", 1.0 / 256.0),
            ("Q4_0", 1.0 / 8.0 + HALVES),
            ("Q4_1", 1.0 / 15.0 + HALVES),
            ("Q5_0", 1.0 / 16.0 + HALVES),
            ("Q5_1", 1.0 / 31.0 + HALVES),
            ("Q8_0", 0.5 / 127.0 + HALVES),
            ("Q6_K", 2.0 / 32.0),
        ];
        let weights = scaled(&values, scale);
        for (name, limit) in limits {
            let format = ops::format(name);
            for (error, expected) in errors(format, &weights).iter().zip(&weights) {
                prop_assert!(*error <= limit, "{}: {} is off by {} (limit {})", format, expected, error, limit);
            }
        }
    }

    #[test]
    fn searched_offsets_are_as_good_as_the_obvious_ones(scale in 0..12, values in proptest::collection::vec(-1.0f32..1.0, 256)) {
        // The search makes Σ (m + |w|) e² of a sub-block no larger than the whole range in equal steps does, m the root
        // mean square, where it is at most 2 · 32 · m · (a step / 2)²; a single error may well be larger. A step is at most
        // two of the largest magnitude over the largest q. Scale and offset are then rounded to 63rds of the largest ones
        // and to halves.
        const ROUNDED: f32 = 1.0 / 63.0 + 1.0 / 63.0 + 3.0 / 2048.0;
        let weights = scaled(&values, scale);
        for (name, steps) in [("Q4_K", 15.0), ("Q5_K", 31.0)] {
            let errors = errors(ops::format(name), &weights);
            let rms = (errors.iter().map(|e| e * e).sum::<f32>() / errors.len() as f32).sqrt();
            let limit = std::f32::consts::SQRT_2 / steps + ROUNDED;
            prop_assert!(rms <= limit, "{}: off by {} in the mean (limit {})", name, rms, limit);
        }
    }
}

/// `values` with one of magnitude 1 among them, times 2^scale.
fn scaled(values: &[f32], scale: i32) -> Vec<f32> {
    let largest = 2f32.powi(scale);
    let mut weights: Vec<f32> = values.iter().map(|v| v * largest).collect();
    weights[17] = largest;
    weights
}

/// What quantization changes, in units of the largest magnitude.
fn errors(format: &'static Format, weights: &[f32]) -> Vec<f32> {
    let largest = weights.iter().fold(0f32, |largest, w| largest.max(w.abs()));
    let found = dequantize(format, &quantize(format, weights));
    found.iter().zip(weights).map(|(found, expected)| (found - expected).abs() / largest).collect()
}
