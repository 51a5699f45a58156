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
        (10, "Q2_K"),
        (11, "Q3_K"),
        (12, "Q4_K"),
        (13, "Q5_K"),
        (14, "Q6_K"),
        (20, "IQ4_NL"),
        (23, "IQ4_XS"),
        (39, "MXFP4"),
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
fn quantize_gives_ggmls_bits_where_nothing_is_searched() {
    let source = floats(&read("source.f32"));
    for format in ["F16", "BF16", "Q8_0"].map(ops::format) {
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

#[test]
fn search_beats_the_obvious_scales() {
    // Those that ggml's reference takes, for blocks of all kinds. A fit is rounded to halves, too.
    let source = floats(&read("source.f32"));
    for format in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"].map(ops::format) {
        let (ours, theirs) = (quantize(format, &source), read(&format!("{format}.quantized")));
        let (ours, theirs) = (dequantize(format, &ours), dequantize(format, &theirs));
        // Errors count as the weights' own sizes say.
        let square = |found: &[f32], i: usize| -> f64 {
            let block = &source[32 * i..][..32];
            let twice_mean = block.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / 16.0;
            let error = |(f, w): (&f32, &f32)| (f64::from(*w).powi(2) + twice_mean).sqrt() * f64::from(f - w).powi(2);
            found[32 * i..].iter().zip(block).map(error).sum()
        };
        let n = source.len() / 32;
        for i in 0..n {
            let (ours, theirs) = (square(&ours, i), square(&theirs, i));
            assert!(ours <= 1.001 * theirs, "{format}, block {i}: Σ e² is {ours:e}, with ggml's scale {theirs:e}");
        }
        let better = (0..n).filter(|&i| square(&ours, i) < 0.98 * square(&theirs, i)).count();
        assert!(better >= n / 8, "{format}: better in {better} of {n} blocks");
    }
}

/// Root of the mean squared error, relative to the root of the mean square, both weighted.
fn relative_error(found: &[f32], expected: &[f32], importance: &[f32]) -> f64 {
    let weigh = |x: &[f32]| -> Vec<f64> {
        x.iter().zip(importance.iter().cycle()).map(|(&x, &k)| f64::from(x) * f64::from(k).sqrt()).collect()
    };
    let found: Vec<f32> = weigh(found).into_iter().map(|f| f as f32).collect();
    crate::common::nmse(&found, &weigh(expected)).sqrt()
}

/// What `llama-quantize` makes of the two matrices of `weights.f16`.
#[derive(serde::Deserialize)]
struct Theirs {
    normal: f64,
    real: f64,
    normal_weighted: f64,
    real_weighted: f64,
}

#[test]
#[expect(clippy::print_stderr, reason = "figures for those who ask for them")]
fn errors_are_not_larger_than_llama_cpps() {
    let theirs: std::collections::BTreeMap<String, Theirs> = crate::golden::read("quant/errors.json");
    let weights = dequantize(ops::format("F16"), &read("weights.f16"));
    let (normal, real) = weights.split_at(weights.len() / 2);
    let importance = floats(&read("importance.f32"));
    let searched: Vec<_> = ALL.iter().filter(|f| f.block_len > 1).map(|f| f.name.to_owned()).collect();
    assert!(searched.iter().all(|name| theirs.contains_key(name)), "{searched:?}");

    let mut wrong = Vec::new();
    for (name, theirs) in theirs {
        let format = ops::format(&name);
        let cases = [
            ("normal", normal, None, theirs.normal),
            ("real", real, None, theirs.real),
            ("normal, weighted", normal, Some(&importance), theirs.normal_weighted),
            ("real, weighted", real, Some(&importance), theirs.real_weighted),
        ];
        for (what, matrix, importance, theirs) in cases {
            let importance = importance.map(Vec::as_slice);
            let mut blocks = vec![0xa5; format.bytes(matrix.len())];
            (format.quantize)(matrix, importance, &mut blocks);
            let ours = relative_error(&dequantize(format, &blocks), matrix, importance.unwrap_or(&[1.0]));
            let found = format!("{format}, {what}: {ours:.6}, llama.cpp's is {theirs}");
            eprintln!("{found}");
            // Its figures have six digits.
            let is_right = ours <= theirs + 1e-6;
            wrong.extend((!is_right).then_some(found));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn importance_is_of_columns_and_only_relative() {
    let mut random = Random::new(11);
    let weights: Vec<f32> = (0..4 * 512).map(|_| random.normal()).collect();
    let importance: Vec<f32> = (0..512).map(|_| (2.0 * random.normal()).exp()).collect();
    let with = |format: &Format, weights: &[f32], importance: &[f32]| {
        let mut blocks = vec![0xa5; format.bytes(weights.len())];
        (format.quantize)(weights, Some(importance), &mut blocks);
        blocks
    };
    for format in ALL {
        let together = with(format, &weights, &importance);
        let rows: Vec<u8> = weights.chunks(512).flat_map(|row| with(format, row, &importance)).collect();
        assert_eq!(together, rows, "{format}: each row begins with the first column");
        for factor in [2f32.powi(-90), 16.0, 2f32.powi(90)] {
            let scaled: Vec<f32> = importance.iter().map(|k| factor * k).collect();
            assert_eq!(with(format, &weights, &scaled), together, "{format}, {factor:e} times the importance");
        }
        let plain = quantize(format, &weights);
        assert_eq!(with(format, &weights, &[0.0; 512]), plain, "{format}: nothing counts");
        assert_eq!(with(format, &weights, &[1.0; 512]), plain, "{format}: all count alike");
    }
}

#[test]
#[should_panic(expected = "rows and columns")]
fn importance_has_whole_blocks() {
    let mut blocks = [0; 36];
    (ops::format("Q4_0").quantize)(&[0.0; 64], Some(&[1.0; 48]), &mut blocks);
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
    fn any_importance_will_do(bits in proptest::collection::vec(any::<u32>(), 256), weights in proptest::collection::vec(-1.0f32..1.0, 256)) {
        let importance: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for format in ALL {
            (format.quantize)(&weights, Some(&importance), &mut vec![0; format.bytes(256)]);
        }
    }

    #[test]
    fn errors_are_within_a_step(scale in 0..12, values in proptest::collection::vec(-1.0f32..1.0, 256)) {
        // Errors in units of the largest magnitude of all: of each where numbers are rounded to the nearest, their root mean
        // square where a search may make some larger for the sake of others, but makes no weighted sum of squares larger than
        // the obvious scale does: half a step, or a whole one where the far end of the range is out of reach. (These limits are
        // of errors that are all as large as they can be. Those of the obvious scale are 0.29 steps in the mean, and the weights
        // of numbers like these differ by a factor of 1.6.) Rounded to halves,
        // a scale is off by 2⁻¹¹ of the range, which is up to twice the magnitude, and an offset by 2⁻¹¹ of the magnitude.
        const HALVES: f32 = 3.0 / 2048.0;
        let each = [("F32", 0.0), ("F16", 1.0 / 2048.0), ("BF16", 1.0 / 256.0), ("Q8_0", 0.5 / 127.0 + HALVES)];
        // Scales of 6 bits are off by half a 32nd, and so is then the largest weight; offsets by half a 63rd, or a 15th.
        let mean = [
            ("Q4_0", 1.0 / 8.0 + HALVES),
            ("Q4_1", 1.0 / 15.0 + HALVES),
            ("Q5_0", 1.0 / 16.0 + HALVES),
            ("Q5_1", 1.0 / 31.0 + HALVES),
            ("Q2_K", 1.0 / 3.0 + 2.0 / 15.0 + HALVES),
            ("Q3_K", 1.0 / 4.0 + 0.5 / 32.0 + HALVES),
            ("Q4_K", 1.0 / 15.0 + 2.0 / 63.0 + HALVES),
            ("Q5_K", 1.0 / 31.0 + 2.0 / 63.0 + HALVES),
            ("Q6_K", 1.0 / 32.0 + 0.5 / 128.0 + HALVES),
            ("IQ4_NL", 14.0 / 127.0 + HALVES),
            ("IQ4_XS", 14.0 / 127.0 + 0.5 / 32.0 + HALVES),
            ("MXFP4", 2.0 / 6.0),
        ];
        let weights = scaled(&values, scale);
        for (name, limit) in each {
            for (error, expected) in errors(ops::format(name), &weights).iter().zip(&weights) {
                prop_assert!(*error <= limit, "{}: {} is off by {} (limit {})", name, expected, error, limit);
            }
        }
        for (name, limit) in mean {
            let errors = errors(ops::format(name), &weights);
            let rms = (errors.iter().map(|e| e * e).sum::<f32>() / errors.len() as f32).sqrt();
            prop_assert!(rms <= limit, "{}: off by {} in the mean (limit {})", name, rms, limit);
        }
        prop_assert_eq!(each.len() + mean.len(), ALL.len());
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
